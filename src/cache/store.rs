//! The store's folder: its layout, and how things are published in it so that no reader ever sees a part.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::error::CacheError;
use super::key::Key;
use super::segment::SegmentIndex;
use crate::files::{replace_file, sync_folder, write_synced};

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
        match fs::read(&path) {
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
                !["segments", "caches", "pins", "tmp", "format.json"].iter().any(|own| name == *own)
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
    /// The pin cannot be written.
    pub fn pin(&self, key: &Key) -> Result<(), CacheError> {
        let folder = self.root.join("pins");
        fs::create_dir_all(&folder).map_err(CacheError::io(&folder))?;
        let path = folder.join(key.to_string());
        match File::create_new(&path) {
            Ok(_) => Ok(sync_folder(&folder)?),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(CacheError::io(&path)(error)),
        }
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
            [] => Err(CacheError::NoCache {
                store: self.root.clone(),
                key: prefix.to_owned(),
                hint: "; `emg-cache list` shows the caches of a store".into(),
            }),
            _ => Err(CacheError::Ambiguous {
                store: self.root.clone(),
                prefix: prefix.to_owned(),
                keys: keys.iter().map(ToString::to_string).collect(),
            }),
        }
    }

    /// Starts a build: makes a folder of its own under `tmp/`, after clearing those of dead processes.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub(crate) fn begin(&self) -> Result<BuildFolder, CacheError> {
        let tmp = self.root.join("tmp");
        fs::create_dir_all(&tmp).map_err(CacheError::io(&tmp))?;
        for entry in self.dead_builds() {
            // Another builder may be clearing it too.
            let _ = fs::remove_dir_all(entry);
        }
        self.folder()
    }

    /// Makes a folder of this process's own under `tmp/`.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub(super) fn folder(&self) -> Result<BuildFolder, CacheError> {
        let tmp = self.root.join("tmp");
        let path = tmp.join(format!("{}-{}-{:016x}", owner(), std::process::id(), rand::random::<u64>()));
        fs::create_dir_all(&path).map_err(CacheError::io(&path))?;
        Ok(BuildFolder { path })
    }

    /// Folders of builds whose process ended, or in which nothing changed for a day.
    pub(super) fn dead_builds(&self) -> Vec<PathBuf> {
        let owner = owner();
        let entries = fs::read_dir(self.root.join("tmp")).into_iter().flatten().flatten();
        let dead =
            |entry: &fs::DirEntry| is_dead(&entry.file_name().to_string_lossy(), &owner) || is_abandoned(&entry.path());
        entries.filter(dead).map(|entry| entry.path()).collect()
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
        if let Err(error) = fs::hard_link(&part, to)
            && !to.is_file()
        {
            return Err(CacheError::io(to)(error));
        }
        fs::remove_file(&part).map_err(CacheError::io(&part))?;
        Ok(sync_folder(parent)?)
    }
}

/// A build's own folder under `tmp/`; removed with what is left in it when dropped.
#[derive(Debug)]
pub(crate) struct BuildFolder {
    pub(crate) path: PathBuf,
}

impl BuildFolder {
    /// A path in the folder that nothing has yet.
    pub(crate) fn fresh(&self, what: &str) -> PathBuf {
        self.path.join(format!("{what}-{:016x}", rand::random::<u64>()))
    }
}

impl Drop for BuildFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// `<host>-<boot id>`: processes of one owner can be told alive from dead.
fn owner() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let plain = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>();
    format!("{}-{}", plain(&host), plain(&boot))
}

fn is_dead(entry: &str, owner: &str) -> bool {
    let pid = entry.strip_prefix(owner).and_then(|rest| rest.strip_prefix('-')).and_then(|rest| rest.split('-').next());
    pid.and_then(|pid| pid.parse::<u32>().ok()).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

/// Whether nothing below `path` changed for a day: its builder's machine is gone.
fn is_abandoned(path: &Path) -> bool {
    const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 3600);
    let Ok(stat) = fs::symlink_metadata(path) else { return false };
    let old = stat.modified().ok().and_then(|time| time.elapsed().ok()).is_some_and(|age| age > DAY);
    old && (!stat.is_dir()
        || fs::read_dir(path).is_ok_and(|mut dir| dir.all(|e| e.is_ok_and(|e| is_abandoned(&e.path())))))
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

    #[test]
    fn folders_of_dead_builders_are_cleared_and_those_of_live_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path()).unwrap();
        let tmp = folder.path().join("tmp");
        let dead = tmp.join(format!("{}-4194305-0", owner()));
        let live = tmp.join(format!("{}-{}-0", owner(), std::process::id()));
        let elsewhere = tmp.join("otherhost-boot-1-0");
        for path in [&dead, &live, &elsewhere] {
            fs::create_dir(path).unwrap();
        }
        let own = store.begin().unwrap();
        let old = tmp.join("lost-boot-1-0");
        fs::create_dir(&old).unwrap();
        let day_before_yesterday = std::time::SystemTime::now() - std::time::Duration::from_secs(48 * 3600);
        File::open(&old).unwrap().set_modified(day_before_yesterday).unwrap();
        drop(store.begin().unwrap());
        assert!(!old.exists());
        assert!(!dead.exists() && live.exists() && elsewhere.exists() && own.path.exists());
        drop(own);
        assert_eq!(fs::read_dir(&tmp).unwrap().count(), 2);
    }
}
