//! What people and programs see of a run: progress and metrics.jsonl. Listens to the other layers' events.

mod build;
mod count;
mod fit;
mod picture;
mod units;

pub use build::BuildProgress;
pub use count::CountProgress;
pub use fit::FitReport;
pub use picture::{PictureError, draw_cache};
pub use units::{bytes, hours};
