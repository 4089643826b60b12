//! What can go wrong with stores and caches.

use std::path::{Path, PathBuf};

use crate::config::SplitBy;
use crate::files::FileError;
use crate::recording::RecordingError;

#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Recording(#[from] RecordingError),
    #[error("{path}: {message}")]
    Damaged { path: PathBuf, message: String },
    #[error("{path}: not a store of format 1: {message}")]
    NotAStore { path: PathBuf, message: String },
    #[error("{store}: no cache {key}{hint}")]
    NoCache { store: PathBuf, key: String, hint: String },
    #[error("{store}: `{prefix}` matches {} caches, give more digits: {}", .keys.len(), .keys.join(", "))]
    Ambiguous { store: PathBuf, prefix: String, keys: Vec<String> },
    #[error("{store}: cache {key} is not pinned")]
    NotPinned { store: PathBuf, key: String },
    #[error("`{given}` is not a cache key: expected at least 8 hexadecimal digits")]
    BadKey { given: String },
    #[error("{} of {total} recordings cannot be used (to skip them, set data.on_bad_recording: skip):\n{}{}", .bad.len(), list(.bad), also(.left_out))]
    BadRecordings { total: usize, bad: Vec<String>, left_out: Vec<String> },
    #[error("no recording is left for training{}", if .skipped.is_empty() { String::new() } else { format!("; skipped:\n{}", list(.skipped)) })]
    NoUsableRecordings { skipped: Vec<String> },
    #[error(
        "the same content is in two splits: `{first}` ({first_split}) and `{second}` ({second_split}) are identical; remove one, or put both in the same split"
    )]
    Leakage { first: String, first_split: String, second: String, second_split: String },
    #[error("{path}: cannot stage: {message}")]
    Stage { path: PathBuf, message: String },
    #[error("metadata.csv: recording {recording}: expected the split train, val or test, found `{found}`")]
    UnknownSplit { recording: String, found: String },
    #[error("data.split_by is {by}, but recording {recording} has no {by} in its attributes or in a metadata.csv")]
    MissingSplitUnit { recording: String, by: SplitBy },
    #[error(
        "data.split_by is {by}, but metadata.csv lists {name} in several splits, and leaves the split of other recordings of this {by} open"
    )]
    DividedUnit { by: SplitBy, name: String },
    #[error("no recordings given: set data.dataset_path, or name files or folders")]
    NoInput,
}

/// At most this many recordings are listed by name in one error.
const LISTED: usize = 20;

fn list(lines: &[String]) -> String {
    let mut text = lines.iter().take(LISTED).map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n");
    if lines.len() > LISTED {
        text += &format!("\n  and {} more", lines.len() - LISTED);
    }
    text
}

fn also(left_out: &[String]) -> String {
    if left_out.is_empty() { String::new() } else { format!("\nleft out:\n{}", list(left_out)) }
}

impl CacheError {
    /// Whether it is a usage error, rather than a failure at run time.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::BadKey { .. }
                | Self::NoInput
                | Self::NoCache { .. }
                | Self::NotPinned { .. }
                | Self::Ambiguous { .. }
        )
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::File(FileError::at(path)(source))
    }

    pub(crate) fn damaged(path: &Path, what: impl std::fmt::Display) -> Self {
        Self::Damaged { path: path.to_owned(), message: what.to_string() }
    }
}
