//! What can be wrong with a recording. Every message names the file.

use std::path::{Path, PathBuf};

use crate::files::FileError;

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
    /// It holds something else than the layout names, or is no HDF5 file.
    #[error("{path}: {message}")]
    Foreign { path: PathBuf, message: String },
    #[error("{path}: another program is writing it, or ended without closing it (`h5clear -s` marks it as closed)")]
    Locked { path: PathBuf },
    #[error("{path}: damaged: {message}")]
    Damaged { path: PathBuf, message: String },
    #[error("{path}: changed while it was read; run the build again")]
    Changed { path: PathBuf },
    #[error("{path}: {message}")]
    Crashed {
        path: PathBuf,
        message: String,
        /// Whether what the file holds made it crash, rather than the system.
        by_file: bool,
    },
    #[error(
        "{path}: needs the HDF5 filter {name} ({id}), for which there is no plugin: install one (hdf5plugin has most) and set \
         HDF5_PLUGIN_PATH to its folder, or rewrite the file with `h5repack -f GZIP=4`"
    )]
    MissingFilter { path: PathBuf, name: String, id: i32 },
    #[error("{path}: holds angles that emg-train predicted, not recorded ones")]
    Predicted { path: PathBuf },
    #[error("{path}: EMG row {row} holds a value that is not finite")]
    NonFinite { path: PathBuf, row: u64 },
    #[error("{path}: holds values too large for float16; set data.dtype: float32")]
    TooLarge { path: PathBuf },
    #[error("{path}: holds values too small for float16; set data.dtype: float32, or data.layout.emg_scale")]
    TooSmall { path: PathBuf },
    #[error("{path}: line {line}: {message}")]
    Metadata { path: PathBuf, line: u64, message: String },
    #[error("{path}: no HDF5 recordings (*.hdf5, *.h5, *.hdf, *.he5, *.nwb, *.mat, *.nc) found{}", after(.left_out))]
    Nothing { path: PathBuf, left_out: Vec<String> },
    #[error("{path}: there is another file here already; choose another folder")]
    Exists { path: PathBuf },
    #[error("{path}: {reason}")]
    Unreadable { path: PathBuf, reason: &'static str },
}

/// What an error says something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// What the file's bytes are: it will be so tomorrow.
    Content,
    /// Most likely what they are, but not for sure.
    Reading,
    /// This machine, now: the recording may be good.
    System,
}

/// What becomes of a file that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is no recording.
    LeftOut,
    /// It is a recording that cannot be used.
    Bad,
    /// It may be a good one.
    Unknown,
}

impl From<FileError> for RecordingError {
    fn from(FileError { path, source }: FileError) -> Self {
        Self::Io { path, source }
    }
}

impl RecordingError {
    /// `is_doubtful`: its name does not say that it is a recording.
    pub fn verdict(&self, is_doubtful: bool) -> Verdict {
        match self {
            Self::Predicted { .. } => Verdict::LeftOut,
            Self::Foreign { .. } if is_doubtful => Verdict::LeftOut,
            error if error.cause() == Cause::System => Verdict::Unknown,
            _ => Verdict::Bad,
        }
    }

    pub fn cause(&self) -> Cause {
        match self {
            Self::Layout { .. }
            | Self::Foreign { .. }
            | Self::Damaged { .. }
            | Self::NonFinite { .. }
            | Self::TooLarge { .. }
            | Self::TooSmall { .. }
            | Self::Predicted { .. }
            | Self::Unreadable { .. } => Cause::Content,
            Self::Hdf5 { .. } | Self::Crashed { by_file: true, .. } | Self::MissingFilter { .. } => Cause::Reading,
            _ => Cause::System,
        }
    }

    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn hdf5(path: &Path, source: &hdf5::Error) -> Self {
        if source.contains_major(hdf5::MajorErrorCode::Resource) {
            return Self::io(path, std::io::ErrorKind::OutOfMemory.into());
        }
        if source.to_string().contains("file is already open for") {
            return Self::Locked { path: path.to_owned() };
        }
        if source.contains_minor(hdf5::MinorErrorCode::NotHdf5) {
            return Self::foreign(path, format!("not readable as HDF5: {source}"));
        }
        Self::Hdf5 { path: path.to_owned(), message: source.to_string() }
    }

    pub(crate) fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::OutOfMemory)
    }

    pub(crate) fn layout(path: &Path, what: &str, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Layout { path: path.to_owned(), what: what.into(), expected: expected.into(), found: found.into() }
    }

    pub(crate) fn foreign(path: &Path, message: impl Into<String>) -> Self {
        Self::Foreign { path: path.to_owned(), message: message.into() }
    }

    /// A part that the layout names, but the file does not have.
    pub(crate) fn missing(path: &Path, what: &str, expected: &str, found: &str) -> Self {
        Self::foreign(path, format!("{what}: expected {expected}, found {found}"))
    }

    pub(crate) fn damaged(path: &Path, what: impl std::fmt::Display) -> Self {
        Self::Damaged { path: path.to_owned(), message: what.to_string() }
    }
}

/// What was found instead, a line each.
fn after(left_out: &[String]) -> String {
    /// More lines would hide the first.
    const MOST: usize = 20;
    if left_out.is_empty() {
        return String::new();
    }
    let more = left_out.len().saturating_sub(MOST);
    let lines = left_out.iter().take(MOST).map(|line| format!("\n  {line}")).collect::<String>();
    format!("; left out:{lines}{}", if more > 0 { format!("\n  and {more} more") } else { String::new() })
}
