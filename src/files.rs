//! Files that appear whole and synced or not at all, locks, and what file systems differ in.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::{Deserialize, Deserializer, Serializer};

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

/// Opens a file to read, if it is one: a pipe would wait for a writer, and a device need not end.
///
/// # Errors
/// It cannot be opened, or is no regular file.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}

/// Reads a whole file.
///
/// # Errors
/// As [`open_regular`]; it cannot be read, or memory does not suffice for it.
pub(crate) fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = open_regular(path)?;
    let length = usize::try_from(file.metadata()?.len()).map_err(|_| ErrorKind::FileTooLarge)?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).map_err(|_| ErrorKind::OutOfMemory)?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes a new file and syncs it.
///
/// # Errors
/// The file already exists, or cannot be written.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut file = File::create_new(path).map_err(FileError::at(path))?;
    file.write_all(bytes).and_then(|()| sync_and_close(file)).map_err(FileError::at(path))
}

/// Writes a temporary file next to `path`, syncs it and renames it to `path`. Not for published files. A link is replaced,
/// not what it leads to: the folder may come from somebody else.
///
/// # Errors
/// The file cannot be written; an older one is then intact.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    put_in_place(path, |out| out.write_all(bytes))
}

/// As [`replace_file`], for a path given by the user: what a link leads to is replaced, not the link.
///
/// # Errors
/// As [`replace_file`].
pub fn replace_named_file(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    replace_file(&followed(path), bytes)
}

/// What a link given by the user leads to.
pub(crate) fn followed(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Lets `write` fill a temporary file next to `path`, syncs it and renames it to `path`.
///
/// # Errors
/// The file cannot be written, or not be put there; an older one is then intact.
pub(crate) fn put_in_place(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), FileError> {
    put_in_place_with_mode(path, 0o666, write)
}

/// As [`put_in_place`], with the permissions that `mode` and the umask leave.
///
/// # Errors
/// As [`put_in_place`].
pub(crate) fn put_in_place_with_mode(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), FileError> {
    if let Ok(kind) = fs::symlink_metadata(path).map(|stat| stat.file_type())
        && !kind.is_file()
        && !kind.is_symlink()
    {
        return Err(FileError::at(path)(io::Error::other("there is something else than a file")));
    }
    let (part, file) = create_part(path, mode).map_err(FileError::at(path))?;
    let place = || {
        let inode = file.metadata()?.ino();
        let mut out = BufWriter::with_capacity(1 << 16, file);
        write(&mut out)?;
        sync_and_close(out.into_inner().map_err(io::IntoInnerError::into_error)?)?;
        match fs::rename(&part, path) {
            // On NFS a rename may report failure after success, so the target decides.
            Err(error) if !fs::metadata(path).is_ok_and(|target| target.ino() == inode) => Err(error),
            _ => Ok(()),
        }
    };
    if let Err(error) = place() {
        let _ = fs::remove_file(&part);
        return Err(FileError::at(path)(error));
    }
    sync_folder(folder_of(path))
}

/// Makes the temporary file that is to become `path`, locked, so that [`remove_leftovers`] sees that it is in use.
fn create_part(path: &Path, mode: u32) -> io::Result<(PathBuf, File)> {
    // A file system's names have 255 bytes at most, and a character four.
    const LONGEST: usize = 55;
    let name: String = path.file_name().unwrap_or_default().to_string_lossy().chars().take(LONGEST).collect();
    loop {
        let part = path.with_file_name(format!(".{name}.{:016x}", rand::random::<u64>()));
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&part)?;
        // Between its creation and its lock another process may have taken it for a leftover.
        let is_there = || Ok(try_lock(&file) != Lock::Taken && file.metadata()?.nlink() > 0);
        match is_there() {
            Ok(true) => return Ok((part, file)),
            Ok(false) => {}
            Err(error) => {
                let _ = fs::remove_file(&part);
                return Err(error);
            }
        }
    }
}

/// Removes temporary files of [`put_in_place`] that a process left in `folder` when it was killed, for the names that
/// `is_wanted` says. Where the file system has no locks they stay, because they may be in use.
pub(crate) fn remove_leftovers(folder: &Path, is_wanted: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let parts = name.to_str().and_then(|name| name.strip_prefix('.')?.rsplit_once('.'));
        let Some((of, random)) = parts else { continue };
        let is_random = random.len() == 16 && random.bytes().all(|byte| byte.is_ascii_hexdigit());
        // On NFS, only what is open for writing can be locked.
        let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
        let open = || OpenOptions::new().read(true).write(true).custom_flags(flags).open(entry.path());
        if is_random && is_wanted(of) && open().is_ok_and(|file| try_lock(&file) == Lock::Held) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Syncs a file that was written, and closes it: some file systems report only then that there was no room.
///
/// # Errors
/// Either fails.
pub(crate) fn sync_and_close(file: File) -> io::Result<()> {
    file.sync_all()?;
    match nix::unistd::close(file) {
        // It is closed all the same, and its content is synced.
        Ok(()) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Syncs a folder, so that the names in it survive a power loss; some file systems (CIFS, FUSE) cannot.
///
/// # Errors
/// The folder cannot be opened or synced.
pub(crate) fn sync_folder(path: &Path) -> Result<(), FileError> {
    match File::open(path).and_then(|folder| folder.sync_all()) {
        Err(error) if !cannot_sync_folders(&error) => Err(FileError::at(path)(error)),
        _ => Ok(()),
    }
}

fn cannot_sync_folders(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    // A folder that may be written to but not listed cannot even be opened.
    errno.is_some_and(|errno| {
        [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::NOTTY, Errno::BADF, Errno::ACCESS].contains(&errno)
    })
}

/// Serializes a path for people and scripts; bytes that are not UTF-8 are replaced.
///
/// # Errors
/// The serializer's.
pub fn as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// A path as text that gives the same path back: after a NUL, which no path has, come the digits of one that is not UTF-8.
pub(crate) fn exact_text(path: &Path) -> String {
    let digits = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    path.to_str().map_or_else(|| format!("\0{}", digits(path.as_os_str().as_bytes())), str::to_owned)
}

/// Paths as [`exact_text`], for serde's `with`.
pub(crate) mod exact {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&exact_text(path))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        let text = String::deserialize(deserializer)?;
        let Some(digits) = text.strip_prefix('\0') else { return Ok(text.into()) };
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes: Option<Vec<_>> = digits.as_bytes().chunks(2).map(byte).collect();
        Ok(OsString::from_vec(bytes.ok_or_else(|| serde::de::Error::custom("expected hexadecimal digits"))?).into())
    }
}

/// Opens a file that is there to be locked, and makes it if there is none; should it be a pipe, without waiting.
///
/// # Errors
/// It cannot be opened or made.
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// What came of asking for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lock {
    /// It is held until the file is closed.
    Held,
    /// Another process holds it.
    Taken,
    /// The file system has no locks, or cannot give any now.
    Unavailable,
}

/// Asks for a lock on a file that no other process then gets.
pub(crate) fn try_lock(file: &File) -> Lock {
    match file.try_lock() {
        Ok(()) => Lock::Held,
        Err(TryLockError::WouldBlock) => Lock::Taken,
        Err(TryLockError::Error(_)) => Lock::Unavailable,
    }
}

/// Whether an error of locking says that the file system has no locks, rather than that something went wrong.
pub(crate) fn has_no_locks(error: &io::Error) -> bool {
    // Lustre without -o flock; FUSE; NFS without a lock daemon, or a file that is open for reading only.
    let errno = Errno::from_io_error(error);
    errno
        .is_some_and(|errno| [Errno::NOSYS, Errno::OPNOTSUPP, Errno::NOLCK, Errno::INVAL, Errno::BADF].contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_go_and_what_is_in_use_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let dead = path(".last.safetensors.0123456789abcdef");
        for path in
            [&dead, &path(".last.safetensors.notes"), &path(".other.0123456789abcdef"), &path("last.safetensors")]
        {
            fs::write(path, "x").unwrap();
        }
        let (alive, _file) = create_part(&path("last.safetensors"), 0o666).unwrap();
        remove_leftovers(folder.path(), |of| of == "last.safetensors");
        assert!(!dead.exists() && alive.exists());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
    }

    #[test]
    fn a_file_is_replaced_only_by_a_whole_one() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("x".repeat(250));
        replace_file(&long, b"old").unwrap();
        let failed = put_in_place(&long, |out| {
            out.write_all(b"half of it")?;
            Err(io::Error::other("no more"))
        });
        assert!(failed.unwrap_err().to_string().contains("no more"));
        assert_eq!((fs::read(&long).unwrap(), fs::read_dir(folder.path()).unwrap().count()), (b"old".to_vec(), 1));
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(read_regular(&pipe).unwrap_err().to_string().contains("not a regular file"));
    }
}
