//! From an open cache to batches: splits, the window index, shuffled order, assembly ahead of the step.

mod batch;
mod index;
mod loader;
mod order;
mod random;
mod resident;
mod split;

pub use batch::{Augment, Batch, BatchShape, Gather, Targets};
pub use index::{Window, WindowIndex};
pub use loader::{Loader, Pass};
pub use order::{Order, Permutation};
pub use random::Random;
pub use resident::{Resident, RowBlock};
pub use split::{assign, build_options};
