//! Prints to stdout and stderr without panicking: `println!` and `eprintln!` panic if the pipe was closed, which would
//! end a training.

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

#[doc(hidden)]
pub fn say_line(line: Arguments<'_>) {
    match writeln!(std::io::stdout().lock(), "{line}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            note_line(format_args!("error: stdout: {error}"));
            std::process::exit(1);
        }
        _ => {}
    }
}

#[doc(hidden)]
pub fn note_line(line: Arguments<'_>) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Sends the log to stderr: what RUST_LOG names, such as `emg_pipeline=debug`, or errors alone.
pub fn log_to_stderr() {
    let wanted = std::env::var("RUST_LOG").ok().and_then(|targets| targets.parse().ok());
    let targets: Targets = wanted.unwrap_or_else(|| Targets::new().with_default(LevelFilter::ERROR));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    tracing_subscriber::registry().with(lines.with_filter(targets)).init();
}
