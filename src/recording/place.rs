//! Where a recording's bytes lie: a file, or a member of an uncompressed tar archive.

use std::collections::HashMap;
use std::fmt;
use std::os::unix::fs::FileExt;
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

/// The regular files of a tar archive with their names, in the archive's order; of several with one name the last, as
/// `tar` itself has it. Only headers are read.
///
/// # Errors
/// The archive cannot be read, is none, or is cut short.
pub(crate) fn members(archive: &Path) -> Result<Vec<Member>, RecordingError> {
    let io = |error| RecordingError::io(archive, error);
    let file = std::fs::File::open(archive).map_err(io)?;
    let mut reader = tar::Archive::new(&file);
    let (mut members, mut end): (Vec<Member>, u64) = (Vec::new(), 0);
    for entry in reader.entries_with_seek().map_err(io)? {
        let entry = entry.map_err(io)?;
        end = entry.raw_file_position().saturating_add(entry.size()).next_multiple_of(BLOCK);
        if entry.header().entry_type().is_file() {
            let name = entry.path().map_err(io)?.to_string_lossy().into_owned();
            members.push(Member { name, offset: entry.raw_file_position(), bytes: entry.size() });
        }
    }
    // An archive ends with zeros; a copy that was cut short does not.
    let mut block = [1; BLOCK as usize];
    if file.read_exact_at(&mut block, end).is_err() || block != [0; BLOCK as usize] {
        return Err(RecordingError::damaged(archive, "the archive has no end marker; it may be a partial copy"));
    }
    let last: HashMap<_, _> = members.iter().enumerate().map(|(i, member)| (member.name.clone(), i)).collect();
    let mut at = 0..;
    members.retain(|member| at.next() == last.get(&member.name).copied());
    Ok(members)
}

/// Bytes of a block of a tar archive.
const BLOCK: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_have_their_long_names_and_lie_where_their_bytes_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        let mut builder = tar::Builder::new(std::fs::File::create(&path).unwrap());
        let long = format!("{}b.hdf5", "deep/".repeat(40));
        for (name, content) in [("a.hdf5", "first"), (long.as_str(), "second"), ("empty", "")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        builder.finish().unwrap();
        drop(builder);
        let bytes = std::fs::read(&path).unwrap();
        let found = members(&path).unwrap();
        let contents: Vec<_> = found
            .iter()
            .map(|m| {
                (m.name.clone(), String::from_utf8_lossy(&bytes[m.offset as usize..][..m.bytes as usize]).into_owned())
            })
            .collect();
        let expected = [("a.hdf5", "first"), (long.as_str(), "second"), ("empty", "")];
        assert_eq!(contents, expected.map(|(name, content)| (name.to_owned(), content.to_owned())));
        // Beyond 8 GiB, where the size no longer fits into its octal digits; a hole takes no room.
        let far = folder.path().join("far.tar");
        let mut header = tar::Header::new_gnu();
        header.set_path("far.hdf5").unwrap();
        header.set_size(9 << 30);
        header.set_cksum();
        let mut after = tar::Header::new_gnu();
        after.set_path("after.hdf5").unwrap();
        after.set_size(3);
        after.set_cksum();
        let file = std::fs::File::create(&far).unwrap();
        file.write_all_at(header.as_bytes(), 0).unwrap();
        file.write_all_at(after.as_bytes(), 512 + (9 << 30)).unwrap();
        file.set_len(1024 + (9 << 30) + 512 + 1024).unwrap();
        let found_far: Vec<_> = members(&far).unwrap().into_iter().map(|m| (m.name, m.offset, m.bytes)).collect();
        assert_eq!(found_far, [("far.hdf5".into(), 512, 9 << 30), ("after.hdf5".into(), 1024 + (9 << 30), 3)]);
        std::fs::write(&path, &bytes[..bytes.len() - 1024]).unwrap();
        assert!(members(&path).unwrap_err().to_string().contains("no end"));
        std::fs::write(&path, &bytes[..700]).unwrap();
        let cut = Place { path: path.clone(), member: Some(found[1].clone()) };
        assert!(cut.bytes(700).unwrap_err().to_string().contains("b.hdf5: damaged: ends beyond its archive"));
        std::fs::write(&path, "not an archive, but long enough to be taken for one".repeat(20)).unwrap();
        assert!(members(&path).unwrap_err().to_string().contains("a.tar"));
    }
}
