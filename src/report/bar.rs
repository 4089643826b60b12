//! What all progress bars have in common.

use std::fmt::Write;

use indicatif::{HumanDuration, ProgressState, ProgressStyle};

/// A style with this template, in which `{left}` is the time left, once it can be estimated. Lines never become longer than
/// the terminal is wide: the last part of a template is a `{wide_msg}`, which is cut.
pub(super) fn style(template: &str) -> ProgressStyle {
    let left = |state: &ProgressState, out: &mut dyn Write| {
        let _ = match state.per_sec() > 0.0 {
            true => write!(out, "{:#} left", HumanDuration(state.eta())),
            false => write!(out, "- left"),
        };
    };
    ProgressStyle::with_template(template).expect("a valid template").with_key("left", left)
}
