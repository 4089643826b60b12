//! The store's folder: its layout, and how things are published in it so that no reader ever sees a part.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::build_folder::{BuildFolder, dead_builds, touch};
use super::error::CacheError;
use super::gc;
use super::key::Key;
use super::segment::SegmentIndex;
use crate::files::{open_regular, read_regular, replace_file, sync_folder, write_synced};

const FORMAT_BYTES: &[u8] = br#"{"format": 1}"#;

/// A store of format 1.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens an existing store.
    ///
    /// # Errors
    /// The folder is missing or no store of format 1.
    pub fn open(root: &Path) -> Result<Self, CacheError> {
        let path = root.join("format.json");
        let not_a_store = |message: String| CacheError::NotAStore { path: root.to_owned(), message };
        match read_regular(&path) {
            Ok(bytes) if bytes == FORMAT_BYTES => Ok(Self { root: root.to_owned() }),
            Ok(bytes) => {
                let found = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
                Err(not_a_store(format!("format.json: expected {{\"format\": 1}}, found {found}")))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(not_a_store("it has no format.json; `emg-cache build` makes a store".into()))
            }
            Err(error) => Err(CacheError::io(&path)(error)),
        }
    }

    /// Opens the store, making it first where there is none.
    ///
    /// # Errors
    /// The folder cannot be made, or holds something else.
    pub fn create(root: &Path) -> Result<Self, CacheError> {
        if !root.join("format.json").exists() {
            fs::create_dir_all(root).map_err(CacheError::io(root))?;
            let foreign = fs::read_dir(root).map_err(CacheError::io(root))?.flatten().any(|entry| {
                let name = entry.file_name();
                let of_store = ["segments", "caches", "pins", "tmp", "format.json"];
                !is_of_system(&name) && !of_store.iter().any(|known| name == *known)
            });
            if foreign {
                let message = "the folder is not empty and holds no store".into();
                return Err(CacheError::NotAStore { path: root.to_owned(), message });
            }
            let store = Self { root: root.to_owned() };
            let tmp = store.begin()?;
            store.publish_file(&tmp, FORMAT_BYTES, &root.join("format.json"))?;
        }
        Self::open(root)
    }

    /// Opens the store; a format.json that is damaged or missing beside caches is written anew, and added to `mended`.
    pub(super) fn open_or_mend(root: &Path, mended: &mut Vec<PathBuf>) -> Result<Self, CacheError> {
        let store = Self { root: root.to_owned() };
        let is_format_1 = || -> Result<bool, CacheError> {
            // Segments say what format they are of; those of another cannot be read.
            let segment = |key: &Key| SegmentIndex::read(&store.segment_path(key), key).is_ok();
            Ok(store.segment_keys()?.iter().any(segment))
        };
        match Self::open(root) {
            Err(CacheError::NotAStore { .. }) if is_format_1()? => {
                let path = root.join("format.json");
                replace_file(&path, FORMAT_BYTES)?;
                mended.push(path);
                Self::open(root)
            }
            result => result,
        }
    }

    /// Keeps cache `key` from `gc`.
    ///
    /// # Errors
    /// The pin cannot be written; there is no such cache, perhaps since a moment ago.
    pub fn pin(&self, key: &Key) -> Result<(), CacheError> {
        let _held = self.share();
        let folder = self.root.join("pins");
        fs::create_dir_all(&folder).map_err(CacheError::io(&folder))?;
        let path = folder.join(key.to_string());
        let is_new = match File::create_new(&path) {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(error) => return Err(CacheError::io(&path)(error)),
        };
        sync_folder(&folder)?;
        // A `gc` that had set the manifest aside puts it back once it sees the pin.
        for _ in 0..100 {
            if self.manifest_path(key).exists() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if is_new {
            let _ = fs::remove_file(&path);
        }
        Err(self.no_cache(&key.to_string()))
    }

    fn no_cache(&self, key: &str) -> CacheError {
        let hint = "; `emg-cache list` shows the caches of a store".into();
        CacheError::NoCache { store: self.root.clone(), key: key.to_owned(), hint }
    }

    /// Removes a pin; false if there was none.
    ///
    /// # Errors
    /// The pin cannot be removed.
    pub fn unpin(&self, key: &Key) -> Result<bool, CacheError> {
        let path = self.root.join("pins").join(key.to_string());
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(CacheError::io(&path)(error)),
        }
    }

    /// Keys of pinned caches, sorted.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn pins(&self) -> Result<Vec<Key>, CacheError> {
        self.keys_in("pins", "")
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn segment_path(&self, key: &Key) -> PathBuf {
        self.root.join("segments").join(key.to_string())
    }

    pub fn manifest_path(&self, key: &Key) -> PathBuf {
        self.root.join("caches").join(format!("{key}.json"))
    }

    /// Keys of all published manifests, sorted.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn cache_keys(&self) -> Result<Vec<Key>, CacheError> {
        self.keys_in("caches", ".json")
    }

    /// Keys of all published segments, sorted.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn segment_keys(&self) -> Result<Vec<Key>, CacheError> {
        self.keys_in("segments", "")
    }

    fn keys_in(&self, folder: &str, suffix: &str) -> Result<Vec<Key>, CacheError> {
        let path = self.root.join(folder);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(CacheError::io(&path)(error)),
        };
        let mut keys = Vec::new();
        for entry in entries {
            let name = entry.map_err(CacheError::io(&path))?.file_name();
            keys.extend(
                name.to_str().and_then(|name| name.strip_suffix(suffix)).and_then(|name| Key::parse(name).ok()),
            );
        }
        keys.sort();
        Ok(keys)
    }

    /// The cache whose key starts with `prefix` (8 digits or more).
    ///
    /// # Errors
    /// No such cache, or several.
    pub fn resolve(&self, prefix: &str) -> Result<Key, CacheError> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if prefix.len() < 8 || prefix.len() > 64 || !prefix.bytes().all(hex) {
            return Err(CacheError::BadKey { given: prefix.to_owned() });
        }
        let keys: Vec<_> = self.cache_keys()?.into_iter().filter(|key| key.to_string().starts_with(prefix)).collect();
        match keys.as_slice() {
            [key] => Ok(key.clone()),
            [] => Err(self.no_cache(prefix)),
            _ => Err(CacheError::Ambiguous {
                store: self.root.clone(),
                prefix: prefix.to_owned(),
                keys: keys.iter().map(ToString::to_string).collect(),
            }),
        }
    }

    /// Starts a build: makes a folder of its own under `tmp/`, after clearing those of dead processes and putting back
    /// what an interrupted `gc` had set aside.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub(crate) fn begin(&self) -> Result<BuildFolder, CacheError> {
        let own = BuildFolder::make(&self.tmp())?;
        for dead in dead_builds(&self.tmp(), own.made) {
            // Another builder may be clearing it too.
            let _ = dead.remove();
        }
        gc::put_back(self);
        Ok(own)
    }

    /// The time by the file server's clock; `None` where nothing can be written, not even a time.
    pub(super) fn now(&self) -> Option<SystemTime> {
        if let Ok(folder) = BuildFolder::make(&self.tmp()) {
            return Some(folder.made);
        }
        // On a full disk.
        let tmp = File::open(self.tmp()).ok()?;
        touch(&tmp).ok()?;
        tmp.metadata().ok()?.modified().ok()
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Holds `gc` off, from looking at what is published to relying on it. `None` where the file system has no locks;
    /// publishing and `gc` look twice, so that one of them then sees the other.
    pub(super) fn share(&self) -> Option<File> {
        self.lock(|file| file.try_lock_shared())
    }

    /// Holds builds off while something published is removed.
    pub(super) fn exclude(&self) -> Option<File> {
        self.lock(|file| file.try_lock())
    }

    /// Waits for a lock, but not for ever: whoever holds it may have been stopped.
    fn lock(&self, lock: fn(&File) -> Result<(), TryLockError>) -> Option<File> {
        const PATIENCE: Duration = Duration::from_secs(20);
        // Once in vain is enough: what holds it does not go away.
        static GAVE_UP: AtomicBool = AtomicBool::new(false);
        let file = self.lock_file()?;
        let begin = Instant::now();
        loop {
            match lock(&file) {
                Ok(()) => return Some(file),
                Err(TryLockError::WouldBlock) if begin.elapsed() < PATIENCE && !GAVE_UP.load(Relaxed) => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(_) => {
                    GAVE_UP.store(true, Relaxed);
                    return None;
                }
            }
        }
    }

    /// format.json, which is locked; on NFS only what is open for writing can be.
    fn lock_file(&self) -> Option<File> {
        let path = self.root.join("format.json");
        let open = |write: bool| File::options().read(true).write(write).open(&path);
        open(true).or_else(|_| open(false)).ok()
    }

    /// Makes a published file as young as a new one, so that `gc` leaves it alone. False if it is not there.
    ///
    /// # Errors
    /// Its time cannot be changed, and it cannot be written anew either.
    pub(super) fn refresh(&self, tmp: &BuildFolder, path: &Path) -> Result<bool, CacheError> {
        let file = match open_regular(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            result => result.map_err(CacheError::io(path))?,
        };
        let stat = file.metadata().map_err(CacheError::io(path))?;
        if touch(&file).is_ok() {
            // It may have been removed meanwhile.
            return Ok(fs::metadata(path).is_ok_and(|found| found.ino() == stat.ino()));
        }
        // Another user's file, in a folder that both may write to: the same bytes once more.
        self.replace(tmp, &read_regular(path).map_err(CacheError::io(path))?, path)?;
        Ok(true)
    }

    /// Replaces a published file by one of the same meaning, which the same people may read.
    ///
    /// # Errors
    /// The file cannot be written; the old one is then intact.
    pub(super) fn replace(&self, tmp: &BuildFolder, bytes: &[u8], path: &Path) -> Result<(), CacheError> {
        let part = tmp.fresh("file");
        write_synced(&part, bytes)?;
        let permissions = fs::metadata(path).map_err(CacheError::io(path))?.permissions();
        fs::set_permissions(&part, permissions).map_err(CacheError::io(path))?;
        fs::rename(&part, path).map_err(CacheError::io(path))?;
        Ok(sync_folder(path.parent().expect("published things lie in a folder"))?)
    }

    /// Publishes the finished folder `from` as `to`. If another builder was first, theirs stays.
    ///
    /// # Errors
    /// The folder could be neither published nor found published.
    pub(crate) fn publish_folder(&self, from: &Path, to: &Path) -> Result<(), CacheError> {
        let parent = to.parent().expect("published things lie in a folder");
        fs::create_dir_all(parent).map_err(CacheError::io(parent))?;
        let result = fs::rename(from, to);
        // On NFS a rename may report failure after success, so the target decides.
        if let Err(error) = result
            && !to.is_dir()
        {
            return Err(CacheError::io(to)(error));
        }
        Ok(sync_folder(parent)?)
    }

    /// Publishes a file with these bytes as `to`. If another builder was first, theirs stays.
    ///
    /// # Errors
    /// The file could be neither published nor found published.
    pub(crate) fn publish_file(&self, tmp: &BuildFolder, bytes: &[u8], to: &Path) -> Result<(), CacheError> {
        let parent = to.parent().expect("published things lie in a folder");
        fs::create_dir_all(parent).map_err(CacheError::io(parent))?;
        let part = tmp.fresh("file");
        write_synced(&part, bytes)?;
        let result = link(&part, to);
        if part.exists() {
            fs::remove_file(&part).map_err(CacheError::io(&part))?;
        }
        // Another builder may have been first, and on NFS failure may be reported after success: the target decides.
        if let Err(error) = result
            && !to.is_file()
        {
            return Err(CacheError::io(to)(error));
        }
        Ok(sync_folder(parent)?)
    }
}

/// Gives a file a second name that nothing has yet, or where the file system knows no such names, another one.
fn link(from: &Path, to: &Path) -> std::io::Result<()> {
    let Err(error) = fs::hard_link(from, to) else { return Ok(()) };
    if error.kind() == ErrorKind::AlreadyExists || to.exists() {
        return Err(error);
    }
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Neither is known here. If two builders come this far at once, the second one's file, as good as the first's, stays.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) if !to.exists() => fs::rename(from, to),
        result => Ok(result?),
    }
}

/// What a file system, or a desktop, puts into a folder that is empty otherwise.
fn is_of_system(name: &OsStr) -> bool {
    let names = ["lost+found", "System Volume Information", "$RECYCLE.BIN", "@eaDir"];
    name.as_encoded_bytes().starts_with(b".") || names.iter().any(|known| name == *known)
}

/// Bytes of the files at or below `path`, as far as they can be looked at.
pub(super) fn bytes_below(path: &Path) -> u64 {
    match fs::symlink_metadata(path) {
        Ok(stat) if stat.is_dir() => {
            fs::read_dir(path).into_iter().flatten().flatten().map(|entry| bytes_below(&entry.path())).sum()
        }
        Ok(stat) => stat.len(),
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_other_things_is_no_store() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("thesis.tex"), "").unwrap();
        assert!(Store::create(folder.path()).unwrap_err().to_string().contains("not empty"));
        assert!(Store::open(folder.path()).unwrap_err().to_string().contains("emg-cache build"));
        std::fs::write(folder.path().join("format.json"), "{\"format\": 2}").unwrap();
        assert!(Store::open(folder.path()).unwrap_err().to_string().contains("found {\"format\": 2}"));
    }

    #[test]
    fn prefixes_resolve() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path()).unwrap();
        let tmp = store.begin().unwrap();
        let keys = [Key::of(&1), Key::of(&2)];
        for key in &keys {
            store.publish_file(&tmp, b"x", &store.manifest_path(key)).unwrap();
        }
        assert_eq!(store.resolve(&keys[0].to_string()[..8]).unwrap(), keys[0]);
        assert!(matches!(store.resolve("00000000"), Err(CacheError::NoCache { .. })));
        assert!(matches!(store.resolve("abc"), Err(CacheError::BadKey { .. })));
        assert!(matches!(store.resolve("../../../etc"), Err(CacheError::BadKey { .. })));
    }
}
