//! Progress of a build on stderr: a bar on a terminal, a line at the start of each phase elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;

use indicatif::ProgressBar;

use super::{bar, quantity};
use crate::cache::Events;
use crate::note;

/// Shows how far a build, or a verification, has come.
#[derive(Debug)]
pub struct BuildProgress {
    bar: Mutex<Option<ProgressBar>>,
    terminal: bool,
}

impl Default for BuildProgress {
    fn default() -> Self {
        Self::new()
    }
}

impl BuildProgress {
    pub fn new() -> Self {
        Self { bar: Mutex::new(None), terminal: std::io::stderr().is_terminal() }
    }

    /// Starts a phase of `total` bytes.
    pub fn start(&self, what: &str, total: u64) {
        self.finish();
        if !self.terminal {
            note!("{what}");
            return;
        }
        let style = bar::style("{bar:24} {bytes}/{total_bytes} {binary_bytes_per_sec} {left}  {wide_msg}");
        let bar = ProgressBar::new(total).with_style(style).with_message(what.to_owned());
        *self.bar.lock().expect("drawing does not panic") = Some(bar);
    }

    /// Clears the bar.
    pub fn finish(&self) {
        if let Some(bar) = self.bar.lock().expect("drawing does not panic").take() {
            bar.finish_and_clear();
        }
    }
}

impl Events for BuildProgress {
    fn reading(&self, purpose: &str, recordings: usize, bytes: u64) {
        if recordings > 0 {
            self.start(&format!("{purpose} {recordings} recordings ({})", quantity::bytes(bytes)), bytes);
        }
    }

    fn advanced(&self, bytes: u64) {
        if let Some(bar) = &*self.bar.lock().expect("drawing does not panic") {
            bar.inc(bytes);
        }
    }
}
