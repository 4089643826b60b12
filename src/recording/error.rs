//! What can be wrong with a recording. Every message names the file.

use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}: not readable as HDF5: {message}")]
    Hdf5 { path: PathBuf, message: String },
    #[error("{path}: cannot be written: {message}")]
    Write { path: PathBuf, message: String },
    #[error("{path}: {what}: expected {expected}, found {found}")]
    Layout { path: PathBuf, what: String, expected: String, found: String },
    #[error("{path}: damaged: {message}")]
    Damaged { path: PathBuf, message: String },
    #[error("{path}: changed while it was read; run the build again")]
    Changed { path: PathBuf },
    #[error("{path}: {message}")]
    Crashed { path: PathBuf, message: String },
    #[error("{path}: EMG row {row} holds a value that is not finite")]
    NonFinite { path: PathBuf, row: u64 },
    #[error("{path}: holds values too large for float16; set data.dtype: float32")]
    TooLarge { path: PathBuf },
    #[error("{path}: line {line}: {message}")]
    Metadata { path: PathBuf, line: u64, message: String },
    #[error("{path}: no HDF5 recordings (*.hdf5, *.h5) found")]
    Nothing { path: PathBuf },
}

impl RecordingError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn hdf5(path: &Path, source: &hdf5::Error) -> Self {
        Self::Hdf5 { path: path.to_owned(), message: source.to_string() }
    }

    pub(crate) fn layout(path: &Path, what: &str, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Layout { path: path.to_owned(), what: what.into(), expected: expected.into(), found: found.into() }
    }

    pub(crate) fn damaged(path: &Path, what: impl std::fmt::Display) -> Self {
        Self::Damaged { path: path.to_owned(), message: what.to_string() }
    }
}
