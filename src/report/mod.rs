//! What people and programs see of a run: progress and metrics.jsonl. Listens to the other layers' events.

mod build;
mod fit;
mod units;

pub use build::BuildProgress;
pub use fit::FitReport;
pub use units::{bytes, hours};
