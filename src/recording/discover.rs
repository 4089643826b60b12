//! Finding recordings below folders.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::error::RecordingError;
use super::place::{Member, Place, members};

/// A recording's file, not yet opened.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// File name without extension.
    pub name: String,
    /// Path relative to the input it was found in, with `/` between its parts.
    pub relative: String,
    pub place: Place,
}

/// Finds recordings: each input is a file, an uncompressed tar archive, or a folder; archives and folders (recursively)
/// are searched for `*.hdf5` and `*.h5`. Sorted by name, then path; the same file given twice counts once.
///
/// # Errors
/// An input that cannot be read, or a folder without recordings.
pub fn find(inputs: &[PathBuf]) -> Result<Vec<Found>, RecordingError> {
    let mut found = Vec::new();
    for input in inputs {
        let stat = std::fs::metadata(input).map_err(|error| RecordingError::io(input, error))?;
        let before = found.len();
        if stat.is_dir() {
            walk(input, input, &mut found)?;
        } else if input.extension().is_some_and(|extension| extension == "tar") {
            let members = members(input)?.into_iter().filter(|member| is_recording(Path::new(&member.name)));
            found.extend(members.map(|member| describe_member(input, member)));
        } else {
            let folder = input.parent().unwrap_or(Path::new(""));
            found.push(describe(folder, input));
        }
        if found.len() == before {
            return Err(RecordingError::Nothing { path: input.clone() });
        }
    }
    // One file may be named in several ways.
    let mut seen = HashSet::new();
    let canonical = |place: &Place| place.path.canonicalize().unwrap_or_else(|_| place.path.clone());
    found.retain(|f| seen.insert((canonical(&f.place), f.place.member.clone())));
    found.sort_by(|a, b| (&a.name, &a.place).cmp(&(&b.name, &b.place)));
    Ok(found)
}

fn describe(root: &Path, path: &Path) -> Found {
    let relative = path.strip_prefix(root).unwrap_or(path);
    let parts: Vec<_> = relative.components().map(|part| part.as_os_str().to_string_lossy()).collect();
    Found {
        name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        relative: parts.join("/"),
        place: path.to_owned().into(),
    }
}

fn describe_member(archive: &Path, member: Member) -> Found {
    let name = Path::new(&member.name).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    // Never absolute or above, whatever the archive says: it goes into the manifest.
    let parts = Path::new(&member.name).components().filter(|part| matches!(part, std::path::Component::Normal(_)));
    let relative = parts.map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/");
    Found { name, relative, place: Place { path: archive.to_owned(), member: Some(member) } }
}

fn is_recording(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "hdf5" || extension == "h5")
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<Found>) -> Result<(), RecordingError> {
    let io = |error| RecordingError::io(folder, error);
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(io)?);
        // Links to files are followed, links to folders are not: they could lead in circles.
        if kind.is_dir() {
            walk(root, &path, found)?;
        } else if is_recording(&path) && (kind.is_file() || path.is_file()) {
            found.push(describe(root, &path));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_files_below_folders_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("sub/deep")).unwrap();
        for name in ["b.hdf5", "sub/a.h5", "sub/deep/c.hdf5", "notes.txt"] {
            std::fs::write(root.join(name), "").unwrap();
        }
        let found = find(&[root.to_owned(), root.join("b.hdf5"), root.join("sub/../sub")]).unwrap();
        let names: Vec<_> = found.iter().map(|f| (f.name.as_str(), f.relative.as_str())).collect();
        assert_eq!(names, [("a", "sub/a.h5"), ("b", "b.hdf5"), ("c", "sub/deep/c.hdf5")]);
        std::fs::create_dir(root.join("empty")).unwrap();
        assert!(matches!(find(&[root.join("empty")]), Err(RecordingError::Nothing { .. })));
    }
}
