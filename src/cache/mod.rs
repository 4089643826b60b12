//! The store: content-hashed, memory-mappable Zarr v3 segments of normalized rows, and the manifests that make
//! caches of them. The only place with memory mapping.

mod build;
mod encode;
mod error;
mod explain;
mod gc;
mod inputs;
mod keys;
mod manifest;
mod measure;
mod memo;
mod open;
mod options;
mod part;
mod pipeline;
mod plan;
mod repair;
mod rows;
mod sealed;
mod segment;
mod settings;
mod sink;
mod split;
mod stage;
mod store;
mod verify;
mod writer;
mod zarr;

pub use build::{Built, Events, NoEvents, build, locate};
pub use error::CacheError;
pub use explain::{Difference, Explanation, explain};
pub use gc::{GcPlan, Removal, plan_gc, run_gc};
pub use keys::Key;
pub use manifest::{Manifest, ManifestRecording, SegmentRef};
pub(crate) use measure::measure;
pub use open::{Access, Cache, CacheRecording};
pub use options::BuildOptions;
pub use part::{PartBuilt, build_part};
pub use repair::repair;
pub use rows::Io;
pub use segment::{Segment, SegmentIndex, SegmentRecording};
pub use settings::{CacheSettings, NORMALIZER, SegmentSettings, WindowShape};
pub use split::{Assignment, Candidate, Split};
pub use stage::Stage;
pub use store::Store;
pub use verify::{Damage, verify};
