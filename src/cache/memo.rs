//! The stat memo: what is known about unchanged files, so that a build with nothing to do reads no data.
//!
//! It is local to the machine and only ever saves work: a lost memo means reading again, and so does a damaged one, which
//! its digest tells.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::key::Key;
use super::sealed;
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
        let bytes = sealed::seal(&Document { entries: &self.entries });
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

/// memo.json.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<E> {
    entries: E,
}

fn read(file: &Path) -> Option<BTreeMap<PathBuf, Entry>> {
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
        let mut memo =
            Memo { file: Some(file.clone()), entries: BTreeMap::new(), changed: false, saved: Instant::now() };
        let attributes = Attributes { user: Some("anna".into()), ..Attributes::default() };
        let facts = Facts::Usable { rows: 5, longest_run: 5, attributes };
        memo.insert("a.hdf5".into(), stamp, Key::of(&1), Key::of(&2), facts);
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
