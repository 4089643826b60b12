//! Prints to stdout and stderr without panicking: `println!` and `eprintln!` panic if the pipe was closed, which would
//! end a training.

use std::borrow::Cow;
use std::fmt::Arguments;
use std::io::{ErrorKind, Write};

use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Prints a line of results on stdout. If the pipe was closed, the line is dropped; on any other error, the program
/// exits with code 1.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => { $crate::report::say_line(format_args!($($text)*)) };
}

/// Prints a line of progress or diagnostics on stderr, if anybody reads it.
#[macro_export]
macro_rules! note {
    ($($text:tt)*) => { $crate::report::note_line(format_args!($($text)*)) };
}

/// A text without characters that would do something to a terminal: names of files, users or operators may hold any. They
/// are written as in JSON.
pub fn printable(text: &str) -> Cow<'_, str> {
    // Marks that change the direction of writing make a text look like another.
    let is_mark = |c: char| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let acts = |c: char| (c.is_control() && c != '\n' && c != '\t') || is_mark(c);
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let escaped = |c: char| if acts(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    Cow::Owned(text.chars().map(escaped).collect())
}

#[doc(hidden)]
pub fn say_line(line: Arguments<'_>) {
    match writeln!(std::io::stdout().lock(), "{}", printable(&line.to_string())) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            note_line(format_args!("error: stdout: {error}"));
            std::process::exit(1);
        }
        _ => {}
    }
}

#[doc(hidden)]
pub fn note_line(line: Arguments<'_>) {
    let _ = writeln!(std::io::stderr().lock(), "{}", printable(&line.to_string()));
}

/// Sends the log to stderr: what RUST_LOG names, such as `emg_pipeline=debug`, or errors alone.
pub fn log_to_stderr() {
    let wanted = std::env::var("RUST_LOG").ok().and_then(|targets| targets.parse().ok());
    let targets: Targets = wanted.unwrap_or_else(|| Targets::new().with_default(LevelFilter::ERROR));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    tracing_subscriber::registry().with(lines.with_filter(targets)).init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_acts_on_the_terminal() {
        assert!(matches!(printable("µV, 3 °\n\tx"), Cow::Borrowed(_)));
        let hostile = "a\u{1b}[2Jb\rc\u{9b}d\u{202e}e\u{7f}";
        assert_eq!(printable(hostile), r"a\u001b[2Jb\u000dc\u009bd\u202ee\u007f");
        let json = serde_json::to_string(hostile).unwrap();
        assert_eq!(serde_json::from_str::<String>(&printable(&json)).unwrap(), hostile);
    }
}
