//! Errors of predicted angles over valid rows: streaming accumulators in float64, and their offline reference.

mod accumulator;
mod histogram;
mod offline;
mod summary;

pub use accumulator::Accumulator;
pub use histogram::Histogram;
pub use offline::{Window, gathered};
pub use summary::{Metrics, OverUsers, Smoothness, Spread};
