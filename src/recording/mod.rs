//! HDF5 recordings in and out: finding files, reading headers, decoding rows, IK validity, synthesis.

mod archive;
mod attributes;
mod chunks;
mod conventions;
mod dataset;
mod discover;
mod driver;
mod element;
mod error;
mod filters;
mod h5;
mod joined;
mod library;
mod links;
mod metadata;
mod metadata_table;
mod place;
mod pool;
mod ranges;
mod read;
mod rows;
mod sniff;
mod synth;
mod table;
mod validity;
mod worker;
mod write;

pub use attributes::Attributes;
pub(crate) use attributes::{PREDICTED_BY, PREDICTED_FROM};
pub use discover::{Found, LeftOut, Search, find};
pub use error::{Cause, RecordingError, Verdict};
pub use metadata::{Listing, Metadata, RowPlace};
pub use metadata_table::MetadataRow;
pub use place::{Member, Place};
pub use pool::{Buffer, Pool};
pub use read::{FileStamp, Reader, Recording, WHOLE_BYTES};
pub use rows::{Field, Number, Rows, Scale};
pub use synth::{SynthOptions, synthesize};
#[cfg(test)]
pub(crate) use synth::{fixture_layout, write_fixture};
pub use table::{TableLayout, TimeField, silence_hdf5_errors};
pub use validity::{RunsBuilder, ValidRun, Validity};
pub use worker::{Hdf5, WORKER_ARGUMENT, Workers, serve};
pub use write::NewRecording;
