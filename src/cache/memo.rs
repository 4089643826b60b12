//! The stat memo: what is known about unchanged files, so that a build with nothing to do reads no data.
//!
//! It is local to the machine and only ever saves work: a lost or damaged memo means reading again. A file
//! whose times are not older than the memo itself may have changed within the same clock tick after it was read
//! (git's "racily clean" entries), so it is read again.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::key::Key;
use crate::files::{FileError, put_in_place};
use crate::recording::{Attributes, FileStamp};

/// What a file's content means under one set of segment settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Facts {
    Usable {
        rows: u64,
        longest_run: u64,
        attributes: Attributes,
    },
    /// Why the file cannot be used.
    Bad(String),
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
    file: Option<PathBuf>,
    entries: BTreeMap<PathBuf, Entry>,
    changed: bool,
    saved: Instant,
}

/// How long a build that is killed may have hashed in vain.
const SAVE_EVERY: Duration = Duration::from_secs(20);

impl Memo {
    /// Reads the memo of the store at `root`; what cannot be read is empty.
    pub(crate) fn load(root: &Path) -> Self {
        let file = memo_file(root);
        let entries = file.as_deref().and_then(read).unwrap_or_default();
        Self { file, entries, changed: false, saved: Instant::now() }
    }

    /// What is known of `path`, if it has not changed since.
    pub(crate) fn get(&self, path: &Path, stamp: &FileStamp, settings: &Key) -> Option<(&Key, &Facts)> {
        let entry = self.entries.get(path).filter(|entry| entry.stamp == *stamp)?;
        Some((&entry.blake3, entry.facts.get(settings)?))
    }

    pub(crate) fn insert(&mut self, path: PathBuf, stamp: FileStamp, blake3: Key, settings: Key, facts: Facts) {
        self.changed = true;
        let entry =
            self.entries.entry(path).or_insert_with(|| Entry { stamp, blake3: blake3.clone(), facts: BTreeMap::new() });
        // A bad file was not hashed, and what it is under other settings still holds.
        let other = entry.blake3 != blake3 && !matches!(facts, Facts::Bad(_));
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
        let Some(file) = self.file.as_deref().filter(|_| self.changed) else { return };
        // Another builder may have learned something meanwhile. Without the lock, the memo is only poorer.
        let lock = file.with_extension("lock");
        let lock =
            std::fs::create_dir_all(file.parent().expect("a file in a folder")).and_then(|()| File::create(lock));
        let _held = lock.and_then(|lock| lock.lock().map(|()| lock));
        for (path, theirs) in read(file).unwrap_or_default() {
            match self.entries.entry(path) {
                Slot::Vacant(slot) => drop(slot.insert(theirs)),
                Slot::Occupied(mut slot) => slot.get_mut().merge(theirs),
            }
        }
        let bytes = serde_json::to_vec(&self.entries).expect("plain data serializes");
        // The names of recordings are nobody else's business.
        let write = |part: &Path| {
            let open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(part);
            open.and_then(|mut part| part.write_all(&bytes)).map_err(FileError::at(file))
        };
        match put_in_place(file, write) {
            Ok(()) => self.changed = false,
            Err(error) => tracing::warn!("cannot write the memo, so the next build will read more: {error}"),
        }
    }
}

fn memo_file(root: &Path) -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")))?;
    let canonical = root.canonicalize().ok()?;
    let name = blake3::hash(canonical.as_os_str().as_encoded_bytes()).to_hex();
    Some(base.join("emg-cache").join(name.as_str()).join("memo.json"))
}

fn read(file: &Path) -> Option<BTreeMap<PathBuf, Entry>> {
    let stat = std::fs::metadata(file).ok()?;
    let saved = i128::from(stat.mtime()) * 1_000_000_000 + i128::from(stat.mtime_nsec());
    let mut entries: BTreeMap<PathBuf, Entry> = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    entries.retain(|_, entry| entry.stamp.modified_ns < saved && entry.stamp.changed_ns < saved);
    Some(entries)
}
