//! HDF5 recordings in and out: finding files, reading headers, decoding rows, IK validity, synthesis.

mod attributes;
mod chunks;
mod dataset;
mod discover;
mod driver;
mod error;
mod joined;
mod library;
mod metadata;
mod place;
mod pool;
mod ranges;
mod read;
mod rows;
mod synth;
mod table;
mod validity;
mod worker;
mod write;

pub use attributes::Attributes;
pub use discover::{Found, find};
pub use error::RecordingError;
pub use metadata::{Metadata, MetadataRow};
pub use place::{Member, Place};
pub use pool::{Buffer, Pool};
pub use read::{FileStamp, Reader, Recording, WHOLE_BYTES};
pub use rows::{Field, Rows};
#[cfg(test)]
pub(crate) use synth::write_fixture;
pub use synth::{SynthOptions, synthesize};
pub use table::{TableLayout, silence_hdf5_errors};
pub use validity::{Failure, RunsBuilder, ValidRun};
pub use worker::{Hdf5, WORKER_ARGUMENT, Workers, serve};
pub use write::NewRecording;
