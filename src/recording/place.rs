//! Where a recording's bytes lie: a file, or a member of an uncompressed tar archive.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
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

/// A member of a tar archive that is, or may be, a file.
pub(crate) enum Entry {
    File(Member),
    /// A file whose bytes do not lie in the archive as they are; and why.
    Unreadable(String, &'static str),
}

impl Entry {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::File(member) => &member.name,
            Self::Unreadable(name, _) => name,
        }
    }
}

/// The files of a tar archive with their names, in the archive's order; of several with one name the last, as `tar` itself
/// has it. A link to a member stands for its bytes. Only headers are read.
///
/// # Errors
/// The archive cannot be read, is none, or is cut short.
pub(crate) fn members(archive: &Path) -> Result<Vec<Entry>, RecordingError> {
    let io = |error| RecordingError::io(archive, error);
    let file = open_regular(archive).map_err(io)?;
    let mut reader = tar::Archive::new(&file);
    let mut entries: Vec<Entry> = Vec::new();
    let mut end: u64 = 0;
    for entry in reader.entries_with_seek().map_err(io)? {
        let mut entry = entry.map_err(io)?;
        let name = entry.path().map_err(io)?.to_string_lossy().into_owned();
        let (start, kind) = (entry.raw_file_position(), entry.header().entry_type());
        let sparse = sparse_name(&mut entry).map_err(io)?;
        // Of a sparse member, as many bytes as the archive holds.
        let stored = if kind.is_gnu_sparse() { entry.header().entry_size().map_err(io)? } else { entry.size() };
        end = start.saturating_add(stored).next_multiple_of(BLOCK);
        if let Some(real) = sparse {
            entries.push(Entry::Unreadable(real.unwrap_or(name), SPARSE));
        } else if kind.is_file() {
            entries.push(Entry::File(Member { name, offset: start, bytes: entry.size() }));
        } else if kind.is_hard_link() || kind.is_symlink() {
            end = start.next_multiple_of(BLOCK);
            let target = entry.link_name().map_err(io)?.unwrap_or_default().to_string_lossy().into_owned();
            let target = if kind.is_symlink() { beside(&name, &target) } else { plain(&target) };
            let found = entries.iter().rev().find_map(|entry| match entry {
                Entry::File(member) if plain(&member.name) == target => Some(member.clone()),
                _ => None,
            });
            entries.push(match found {
                Some(member) => Entry::File(Member { name, ..member }),
                None => Entry::Unreadable(name, "a link to a member that is not before it in the archive"),
            });
        }
    }
    // An archive ends with zeros; a copy that was cut short does not.
    let mut block = [1; BLOCK as usize];
    match file.read_exact_at(&mut block, end) {
        Ok(()) if block == [0; BLOCK as usize] => {}
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => return Err(io(error)),
        _ => return Err(RecordingError::damaged(archive, "the archive has no end marker; it may be a partial copy")),
    }
    let last: HashMap<_, _> = entries.iter().enumerate().map(|(i, entry)| (entry.name().to_owned(), i)).collect();
    let mut at = 0..;
    entries.retain(|entry| at.next() == last.get(entry.name()).copied());
    Ok(entries)
}

const SPARSE: &str = "stored as a sparse file, without its holes; pack the archive again without --sparse";

/// Whether a member is stored without its holes, and its own name, if only its extended header has it (GNU tar manual,
/// "Storing Sparse Files").
fn sparse_name<R: std::io::Read>(entry: &mut tar::Entry<'_, R>) -> std::io::Result<Option<Option<String>>> {
    if entry.header().entry_type().is_gnu_sparse() {
        return Ok(Some(None));
    }
    let Some(extensions) = entry.pax_extensions()? else { return Ok(None) };
    let mut sparse = None;
    for extension in extensions {
        let extension = extension?;
        if extension.key_bytes().starts_with(b"GNU.sparse.") {
            let name = sparse.take().flatten();
            let is_name = extension.key_bytes() == b"GNU.sparse.name";
            let own = is_name.then(|| String::from_utf8_lossy(extension.value_bytes()).into_owned());
            sparse = Some(own.or(name));
        }
    }
    Ok(sparse)
}

/// A member's name without `.` and empty parts.
fn plain(name: &str) -> String {
    name.split('/').filter(|part| !part.is_empty() && *part != ".").collect::<Vec<_>>().join("/")
}

/// Where a symbolic link of a member leads, in the archive.
fn beside(name: &str, target: &str) -> String {
    let name = plain(name);
    let mut parts: Vec<_> = name.split('/').collect();
    parts.pop();
    for part in target.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
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
        let files = |path: &Path| -> Vec<Member> {
            let entries = members(path).unwrap().into_iter();
            entries.filter_map(|entry| if let Entry::File(member) = entry { Some(member) } else { None }).collect()
        };
        let found = files(&path);
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
        let found_far: Vec<_> = files(&far).into_iter().map(|m| (m.name, m.offset, m.bytes)).collect();
        assert_eq!(found_far, [("far.hdf5".into(), 512, 9 << 30), ("after.hdf5".into(), 1024 + (9 << 30), 3)]);
        std::fs::write(&path, &bytes[..bytes.len() - 1024]).unwrap();
        assert!(members(&path).err().unwrap().to_string().contains("no end"));
        std::fs::write(&path, &bytes[..700]).unwrap();
        let cut = Place { path: path.clone(), member: Some(found[1].clone()) };
        assert!(cut.bytes(700).unwrap_err().to_string().contains("b.hdf5: damaged: ends beyond its archive"));
        std::fs::write(&path, "not an archive, but long enough to be taken for one".repeat(20)).unwrap();
        assert!(members(&path).err().unwrap().to_string().contains("a.tar"));
    }
}
