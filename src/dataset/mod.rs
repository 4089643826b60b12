//! From an open cache to batches: the window index, shuffled order, batches assembled ahead of the step.

mod batch;
mod loader;
mod order;
mod pass;
mod resident;
mod shape;
mod windows;

pub use batch::{AngleStatistics, Augment, Batch, Content, Gather, Places, Rows, Targets};
pub use loader::Loader;
pub use order::{Order, Permutation};
pub use pass::Pass;
pub use resident::{Resident, RowBlock};
pub use shape::BatchShape;
pub use windows::{Window, WindowIndex};
