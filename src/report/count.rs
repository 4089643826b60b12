//! Progress of a count on stderr: a bar on a terminal, one line elsewhere.

use crate::{note, say};
use std::io::IsTerminal;

use indicatif::ProgressBar;

use super::bar;
use super::say::printable;

/// Shows how many of something are done.
#[derive(Debug)]
pub struct CountProgress(Option<ProgressBar>);

impl CountProgress {
    /// Begins to show `what` is done, of `total` `units`.
    pub fn start(what: &str, total: u64, units: &str) -> Self {
        if !std::io::stderr().is_terminal() {
            note!("{what}");
            return Self(None);
        }
        let style = bar::style(&format!("{{bar:24}} {{pos}}/{{len}} {units} {{left}}  {{wide_msg}}"));
        Self(Some(ProgressBar::new(total).with_style(style).with_message(printable(what).into_owned())))
    }

    pub fn advance(&self, done: u64) {
        self.0.iter().for_each(|bar| bar.inc(done));
    }

    /// Says something on stderr meanwhile.
    pub fn line(&self, line: &str) {
        self.aside(|| note!("{line}"));
    }

    /// Prints a result on stdout meanwhile.
    pub fn result(&self, line: &str) {
        self.aside(|| say!("{line}"));
    }

    fn aside(&self, say: impl FnOnce()) {
        match &self.0 {
            Some(bar) => bar.suspend(say),
            None => say(),
        }
    }

    /// Clears the bar.
    pub fn finish(self) {
        self.0.into_iter().for_each(|bar| bar.finish_and_clear());
    }
}
