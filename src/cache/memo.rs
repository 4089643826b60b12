//! The stat memo: what is known about unchanged files, so that a build with nothing to do reads no data.
//!
//! It is local to the machine and only ever saves work: a lost memo means reading again, and so does a damaged one, which
//! its digest tells.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::key::Key;
use super::sealed;
use crate::files::{FileError, exact_text, open_lock, put_in_place_with_mode};
use crate::recording::{Attributes, FileStamp};

/// What a file's content means under one set of segment settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Facts {
    Usable {
        rows: u64,
        longest_run: u64,
        attributes: Attributes,
    },
    Bad {
        /// Why the file cannot be used.
        reason: String,
        /// Whether it should have been a recording.
        is_recording: bool,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    stamp: FileStamp,
    blake3: Key,
    /// By the key of the settings they hold under.
    facts: BTreeMap<Key, Facts>,
}

impl Entry {
    /// Takes in what another process knows of the same file.
    fn merge(&mut self, theirs: Self) {
        if self.stamp == theirs.stamp && self.blake3 == theirs.blake3 {
            for (settings, facts) in theirs.facts {
                self.facts.entry(settings).or_insert(facts);
            }
        } else if theirs.stamp.changed_ns > self.stamp.changed_ns {
            *self = theirs;
        }
    }
}

/// Entries by absolute path.
#[derive(Debug)]
pub(crate) struct Memo {
    /// Where it may lie, the usual place first.
    files: Vec<PathBuf>,
    /// Why it could not be written.
    pub(crate) trouble: Option<String>,
    /// By their exact text.
    entries: BTreeMap<String, Entry>,
    changed: bool,
    saved: Instant,
}

/// How long a build that is killed may have hashed in vain.
const SAVE_EVERY: Duration = Duration::from_secs(20);

impl Memo {
    /// Reads the memo of the store at `root`; what cannot be read is empty.
    pub(crate) fn load(root: &Path) -> Self {
        let files = memo_files(root);
        let mut memo = Self { files, trouble: None, entries: BTreeMap::new(), changed: false, saved: Instant::now() };
        memo.files.clone().iter().filter_map(|file| read(file)).for_each(|entries| memo.merge(entries));
        memo
    }

    /// What is known of `path`, if it has not changed since.
    pub(crate) fn get(&self, path: &Path, stamp: &FileStamp, settings: &Key) -> Option<(&Key, &Facts)> {
        let entry = self.entries.get(&exact_text(path)).filter(|entry| entry.stamp == *stamp)?;
        Some((&entry.blake3, entry.facts.get(settings)?))
    }

    pub(crate) fn insert(&mut self, path: &Path, stamp: FileStamp, blake3: Key, settings: Key, facts: Facts) {
        self.changed = true;
        let entry = self.entries.entry(exact_text(path)).or_insert_with(|| Entry {
            stamp,
            blake3: blake3.clone(),
            facts: BTreeMap::new(),
        });
        // A bad file was not hashed, and what it is under other settings still holds.
        let other = entry.blake3 != blake3 && !matches!(facts, Facts::Bad { .. });
        if entry.stamp != stamp || other {
            *entry = Entry { stamp, blake3, facts: BTreeMap::new() };
        }
        entry.facts.insert(settings, facts);
    }

    /// Writes the memo if that was long ago.
    pub(crate) fn save_now_and_then(&mut self) {
        if self.saved.elapsed() > SAVE_EVERY {
            self.save();
        }
    }

    /// Writes the memo if anything is new. Failure costs time at the next build, nothing else.
    pub(crate) fn save(&mut self) {
        self.saved = Instant::now();
        if !self.changed {
            return;
        }
        let mut trouble = "neither XDG_CACHE_HOME nor HOME is set".to_owned();
        for file in self.files.clone() {
            match self.write(&file) {
                Ok(()) => {
                    (self.changed, self.trouble) = (false, None);
                    return;
                }
                Err(error) => trouble = error.to_string(),
            }
        }
        self.trouble = Some(trouble);
    }

    fn merge(&mut self, entries: BTreeMap<String, Entry>) {
        for (path, theirs) in entries {
            match self.entries.entry(path) {
                Slot::Vacant(slot) => drop(slot.insert(theirs)),
                Slot::Occupied(mut slot) => slot.get_mut().merge(theirs),
            }
        }
    }

    fn write(&mut self, file: &Path) -> Result<(), FileError> {
        // Another builder may have learned something meanwhile. Without the lock, the memo is only poorer.
        let lock = file.with_extension("lock");
        if file.starts_with(private_folder()) {
            make_private_folder().map_err(FileError::at(file))?;
        }
        std::fs::create_dir_all(file.parent().expect("a file in a folder")).map_err(FileError::at(file))?;
        let _held = open_lock(&lock).and_then(|lock| lock.lock().map(|()| lock));
        self.merge(read(file).unwrap_or_default());
        let bytes = sealed::seal(&Document { entries: &self.entries });
        // The names of recordings are nobody else's business.
        put_in_place_with_mode(file, 0o600, |out| out.write_all(&bytes))
    }
}

/// Where the memo of a store may lie: in the user's cache folder, or where there is none (containers, compute nodes), in
/// a folder for temporary files that nobody else can write to.
fn memo_files(root: &Path) -> Vec<PathBuf> {
    // The XDG specification says to ignore paths that are not absolute.
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
    let private = Some(private_folder()).filter(|folder| is_private(folder) || !folder.exists());
    let bases = cache.map(|cache| cache.join("emg-cache")).into_iter().chain(private);
    let Ok(canonical) = root.canonicalize() else { return Vec::new() };
    let name = blake3::hash(canonical.as_os_str().as_encoded_bytes()).to_hex();
    bases.map(|base| base.join(name.as_str()).join("memo.json")).collect()
}

/// A folder for temporary files of this user.
fn private_folder() -> PathBuf {
    std::env::temp_dir().join(format!("emg-cache-{}", rustix::process::geteuid().as_raw()))
}

fn make_private_folder() -> std::io::Result<()> {
    let path = private_folder();
    let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
    if is_private(&path) { Ok(()) } else { made.and(Err(std::io::Error::other("is another user's"))) }
}

/// Whether nobody else can have written to a folder.
fn is_private(path: &Path) -> bool {
    let user = rustix::process::geteuid().as_raw();
    let stat = std::fs::symlink_metadata(path);
    stat.is_ok_and(|stat| stat.is_dir() && stat.uid() == user && stat.mode() & 0o077 == 0)
}

/// memo.json.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<E> {
    entries: E,
}

fn read(file: &Path) -> Option<BTreeMap<String, Entry>> {
    let document: Document<_> = sealed::unseal(&mut sealed::read(file).ok()?).ok()?;
    Some(document.entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_memo_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("memo.json");
        let stamp = FileStamp { bytes: 1, modified_ns: 2, changed_ns: 3, inode: 4 };
        let mut memo = Memo {
            files: vec![file.clone()],
            trouble: None,
            entries: BTreeMap::new(),
            changed: false,
            saved: Instant::now(),
        };
        let attributes = Attributes { user: Some("anna".into()), ..Attributes::default() };
        let facts = Facts::Usable { rows: 5, longest_run: 5, attributes };
        memo.insert(Path::new("a.hdf5"), stamp, Key::of(&1), Key::of(&2), facts);
        memo.save();
        let whole = std::fs::read(&file).unwrap();
        assert_eq!(read(&file).unwrap().len(), 1);
        for bit in 0..8 * whole.len() {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&file, damaged).unwrap();
            assert!(read(&file).is_none(), "bit {bit}");
        }
        // As versions without a digest wrote it.
        std::fs::write(&file, "{}").unwrap();
        assert!(read(&file).is_none());
    }
}
