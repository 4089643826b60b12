//! Tar archives: which members are files, by their headers alone.

use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::error::RecordingError;
use super::place::Member;
use super::sniff;
use crate::files::open_regular;

/// A member of an archive that is, or may be, a file.
#[derive(Debug)]
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

/// Bytes of a block of an archive.
const BLOCK: u64 = 512;
const SPARSE: &str = "stored as a sparse file, without its holes; pack the archive again without --sparse";
const LINK: &str = "a link to something that is not before it in the archive";
pub(crate) const SPECIAL: &str = "not a regular file";

/// The files of an archive with their names, in the archive's order; of several with one name the last, as `tar` itself has
/// it. A link to a member stands for its bytes. Only headers are read.
///
/// # Errors
/// The archive cannot be read, is none, is cut short, or is followed by another.
pub(crate) fn members(archive: &Path) -> Result<Vec<Entry>, RecordingError> {
    let io = |error| RecordingError::io(archive, error);
    let file = open_regular(archive).map_err(io)?;
    if let Some(found) = sniff::what_else(&archive.to_owned().into()) {
        return Err(RecordingError::layout(archive, "input", "a tar archive", found));
    }
    let mut reader = tar::Archive::new(&file);
    let mut entries: Vec<Entry> = Vec::new();
    let mut by_name: HashMap<String, usize> = HashMap::new();
    let mut end = 0;
    for entry in reader.entries_with_seek().map_err(io)? {
        let mut entry = entry.map_err(io)?;
        let name = plain(&entry.path_bytes());
        let (start, kind) = (entry.raw_file_position(), entry.header().entry_type());
        let sparse = sparse_name(&mut entry).map_err(io)?;
        let is_link = kind.is_hard_link() || kind.is_symlink();
        // Of a sparse member, as many bytes as the archive holds; a link has none.
        let stored = match (is_link, kind.is_gnu_sparse()) {
            (true, _) => 0,
            (false, true) => entry.header().entry_size().map_err(io)?,
            (false, false) => entry.size(),
        };
        end = start.saturating_add(stored).next_multiple_of(BLOCK);
        let described = if let Some(real) = sparse {
            Entry::Unreadable(real.unwrap_or(name), SPARSE)
        } else if is_link {
            let target = entry.link_name_bytes().unwrap_or_default();
            let target = if kind.is_symlink() { beside(&name, &target) } else { Some(plain(&target)) };
            match target.and_then(|target| by_name.get(&target)).map(|i| &entries[*i]) {
                Some(Entry::File(member)) => Entry::File(Member { name, ..member.clone() }),
                _ => Entry::Unreadable(name, LINK),
            }
        } else if kind.is_file() || kind.is_contiguous() {
            Entry::File(Member { name, offset: start, bytes: entry.size() })
        } else if kind.is_dir() {
            continue;
        } else {
            Entry::Unreadable(name, SPECIAL)
        };
        by_name.insert(described.name().to_owned(), entries.len());
        entries.push(described);
    }
    check_end(archive, &file, end)?;
    let mut at = 0..;
    entries.retain(|entry| at.next() == by_name.get(entry.name()).copied());
    Ok(entries)
}

/// Fails unless only zeros, and at least a block of them, follow the last member: a copy that was cut short has none, and
/// what follows is passed over by `tar`.
fn check_end(archive: &Path, file: &File, end: u64) -> Result<(), RecordingError> {
    const STEP: usize = 1 << 16;
    let (mut at, mut block) = (end, vec![0; STEP]);
    loop {
        let bytes = match file.read_at(&mut block, at) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(RecordingError::io(archive, error)),
        };
        if block[..bytes].iter().any(|byte| *byte != 0) {
            return Err(RecordingError::damaged(
                archive,
                "more than zeros follow its last member; it may be two archives",
            ));
        }
        if bytes == 0 {
            break;
        }
        at += bytes as u64;
    }
    if at < end + BLOCK {
        return Err(RecordingError::damaged(archive, "the archive has no end marker; it may be a partial copy"));
    }
    Ok(())
}

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
            let own = (extension.key_bytes() == b"GNU.sparse.name").then(|| plain(extension.value_bytes()));
            sparse = Some(own.or(name));
        }
    }
    Ok(sparse)
}

/// A member's name without `.` and empty parts. Bytes that are not UTF-8 are written as numbers, so that names stay apart.
fn plain(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        text += chunk.valid();
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text.split('/').filter(|part| !part.is_empty() && *part != ".").collect::<Vec<_>>().join("/")
}

/// Where a symbolic link of the member `name` leads; `None` for out of the archive.
fn beside(name: &str, target: &[u8]) -> Option<String> {
    if target.starts_with(b"/") {
        return None;
    }
    let mut parts: Vec<_> = name.split('/').collect();
    parts.pop();
    let target = plain(target);
    for part in target.split('/') {
        if part == ".." {
            parts.pop()?;
        } else {
            parts.push(part);
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::Place;

    #[test]
    fn links_lead_to_members_and_not_out_of_the_archive() {
        assert_eq!(beside("a/b/link", b"../c").as_deref(), Some("a/c"));
        assert_eq!(beside("link", b"./a//b").as_deref(), Some("a/b"));
        assert_eq!(beside("a/link", b"../../a/b"), None);
        assert_eq!(beside("link", b"/a/b"), None);
        assert_eq!((plain(b"./a\xe4/b"), plain(b"a\xf6//b")), ("a\\xe4/b".into(), "a\\xf6/b".into()));
    }

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
        std::fs::write(&path, [&bytes[..], &bytes[..]].concat()).unwrap();
        assert!(members(&path).err().unwrap().to_string().contains("may be two archives"));
        std::fs::write(&path, "not an archive, but long enough to be taken for one".repeat(20)).unwrap();
        assert!(members(&path).err().unwrap().to_string().contains("a.tar"));
    }
}
