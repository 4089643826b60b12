//! From an open cache to batches: the window index, shuffled order, batches assembled ahead of the step.

mod batch;
mod loader;
mod order;
mod pass;
mod resident;
mod shape;
mod windows;

pub use batch::{Augment, Batch, Content, Gather, Needs, Places, RecordingStatistics, Rows};
pub use loader::Loader;
pub use order::{Order, Permutation};
pub use pass::Pass;
pub use resident::{Resident, RowBlock};
pub use shape::BatchShape;
pub(crate) use shape::valid_ranges;
pub use windows::{Window, WindowIndex};
