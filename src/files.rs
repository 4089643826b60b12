//! Atomic file writes: a file appears whole and synced, or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// An I/O error, with the file or folder it concerns.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct FileError {
    pub path: PathBuf,
    pub source: io::Error,
}

/// Why no file can be written to a path given by the user.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    #[error("{path}: expected the path of a file")]
    NotAFile { path: PathBuf },
    #[error("{path}: there is no folder {folder}")]
    NoFolder { path: PathBuf, folder: PathBuf },
}

/// Checks that a file can be written to a path given by the user.
///
/// # Errors
/// The path is a folder, a device or a pipe, or its folder does not exist.
pub fn check_file_path(path: &Path) -> Result<(), PathError> {
    // A device or a pipe would be replaced, not written to.
    if path.file_name().is_none() || (path.exists() && !path.is_file()) {
        return Err(PathError::NotAFile { path: path.to_owned() });
    }
    let folder = folder_of(path);
    if folder.is_dir() {
        return Ok(());
    }
    Err(PathError::NoFolder { path: path.to_owned(), folder: folder.to_owned() })
}

/// The folder that contains a path.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl FileError {
    pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self { path: path.to_owned(), source }
    }
}

/// Writes a new file and syncs it.
///
/// # Errors
/// The file already exists, or cannot be written.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut file = File::create_new(path).map_err(FileError::at(path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(FileError::at(path))
}

/// Writes a temporary file next to `path`, syncs it and renames it to `path`. Not for published files.
///
/// # Errors
/// The file cannot be written; an older one is then intact.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    put_in_place(path, |part| fs::write(part, bytes).map_err(FileError::at(path)))
}

/// Lets `write` fill a temporary file next to `path`, syncs it and renames it to `path`.
///
/// # Errors
/// `write`'s, or the file cannot be put there; an older one is then intact.
pub(crate) fn put_in_place<E: From<FileError>>(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    // What a link leads to is replaced, not the link.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let part = path.with_file_name(format!(".{name}.{:016x}", rand::random::<u64>()));
    let place = || -> Result<(), FileError> {
        File::open(&part).and_then(|file| file.sync_all()).map_err(FileError::at(path))?;
        fs::rename(&part, path).map_err(FileError::at(path))?;
        sync_folder(folder_of(path))
    };
    let result = write(&part).and_then(|()| Ok(place()?));
    if result.is_err() {
        let _ = fs::remove_file(&part);
    }
    result
}

/// Syncs a folder, so that the names in it survive a power loss.
///
/// # Errors
/// The folder cannot be opened or synced.
pub(crate) fn sync_folder(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(FileError::at(path))
}
