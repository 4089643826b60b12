//! Where an epoch's time goes.

use std::time::Instant;

/// Seconds of an epoch's steps.
#[derive(Debug, Default)]
pub(super) struct Times {
    /// Starting steps; on the CPU, steps themselves.
    pub(super) launching: f64,
    /// Waiting for batches.
    pub(super) waiting: f64,
    /// Handing batches on.
    pub(super) loading: f64,
    /// Waiting for steps.
    pub(super) finishing: f64,
}

/// Adds the seconds that `work` takes.
pub(super) fn timed<R>(seconds: &mut f64, work: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let result = work();
    *seconds += start.elapsed().as_secs_f64();
    result
}
