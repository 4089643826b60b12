//! Where a recording's bytes lie: a file, or a member of an uncompressed tar archive.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::RecordingError;

/// A recording's bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The file, or the archive.
    #[serde(with = "crate::files::exact")]
    pub path: PathBuf,
    pub member: Option<Member>,
}

/// A file inside an archive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member {
    pub name: String,
    /// Of its first byte in the archive.
    pub offset: u64,
    pub bytes: u64,
}

impl Member {
    /// A member whose bytes do not matter.
    pub(super) fn named(name: &str) -> Self {
        Self { name: name.to_owned(), offset: 0, bytes: 0 }
    }
}

impl From<PathBuf> for Place {
    fn from(path: PathBuf) -> Self {
        Self { path, member: None }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.label().display().fmt(f)
    }
}

impl Place {
    /// A path for messages: that of the file, or `ARCHIVE:MEMBER`.
    pub fn label(&self) -> PathBuf {
        match &self.member {
            None => self.path.clone(),
            Some(member) => {
                let mut label = self.path.clone().into_os_string();
                label.push(":");
                label.push(&member.name);
                label.into()
            }
        }
    }

    /// Offset of the first byte in the file.
    pub(crate) fn offset(&self) -> u64 {
        self.member.as_ref().map_or(0, |member| member.offset)
    }

    /// Length, in a file of `file_bytes`.
    ///
    /// # Errors
    /// The member ends beyond its archive.
    pub fn bytes(&self, file_bytes: u64) -> Result<u64, RecordingError> {
        match &self.member {
            None => Ok(file_bytes),
            Some(member) if member.offset.checked_add(member.bytes).is_some_and(|end| end <= file_bytes) => {
                Ok(member.bytes)
            }
            Some(_) => Err(RecordingError::damaged(&self.label(), "ends beyond its archive")),
        }
    }
}
