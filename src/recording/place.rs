//! Where a recording's bytes lie: a file, or a member of an uncompressed tar archive.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::RecordingError;

/// A recording's bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The file, or the archive.
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

    /// What a memo knows the recording by: beside the archive's own stamp, where in it the member lies.
    pub fn memo_path(&self) -> PathBuf {
        match &self.member {
            None => self.path.clone(),
            Some(member) => {
                let mut path = self.label().into_os_string();
                path.push(format!("@{}+{}", member.offset, member.bytes));
                path.into()
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

/// Opens a file to read, if it is one: a pipe would wait for a writer, and a device need not end.
///
/// # Errors
/// It cannot be opened, or is no regular file.
pub(crate) fn open_regular(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(std::io::Error::other("not a regular file")) }
}
