//! Verification: every byte of a cache against the hashes its manifest leads to.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;

use super::error::CacheError;
use super::key::Key;
use super::manifest::Manifest;
use super::open::Cache;
use super::segment::{ANGLES_FILE, BLOCK_BYTES, EMG_FILE, FileBlocks, INDEX_FILE, SegmentIndex};
use super::store::Store;
use crate::files::open_regular;

/// Something that is not as it was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    #[serde(serialize_with = "crate::files::as_text")]
    pub file: PathBuf,
    /// Damaged block of 16 MiB, where blocks could be compared.
    pub block: Option<u64>,
    pub what: String,
    /// Names of the recordings whose rows lie there.
    pub recordings: Vec<String>,
}

/// Verifies the caches `keys`: manifests, segment indexes, and every block of every file, each segment once. With
/// `orphans`, segments that none of them names too. `advanced` is called with the bytes done.
///
/// # Errors
/// The store itself cannot be read. Damage is not an error but the result.
pub fn verify(
    store: &Store,
    keys: &[Key],
    orphans: bool,
    advanced: &(dyn Fn(u64) + Sync),
) -> Result<Vec<Damage>, CacheError> {
    let mut damage = Vec::new();
    let mut expected: BTreeMap<Key, Expected> = BTreeMap::new();
    for key in keys {
        match Manifest::read(store, key) {
            Ok(manifest) => expect(&mut expected, key, manifest),
            Err(CacheError::Damaged { path, message }) => damage.push(Damage::of_file(path, message)),
            // Removed since it was listed.
            Err(_) if orphans && !store.manifest_path(key).exists() => {}
            Err(error) => damage.push(Damage::of_file(store.manifest_path(key), error.to_string())),
        }
    }
    if orphans {
        for key in store.segment_keys()? {
            expected.entry(key).or_default();
        }
    }
    for (key, expected) in expected {
        let folder = store.segment_path(&key);
        let what = match SegmentIndex::read(&folder, &key) {
            Ok((index, hash)) if expected.blake3.as_ref().is_none_or(|blake3| hash == *blake3) => {
                let found = verify_segment(&folder, &index, &expected.names, advanced);
                if !found.is_empty() && !expected.was_removed(store, &key) {
                    damage.extend(found);
                }
                continue;
            }
            Ok(_) => "is not the one that the manifest names".to_owned(),
            Err(error) => error.to_string(),
        };
        if !expected.was_removed(store, &key) {
            let recordings = expected.names.into_values().flatten().collect();
            damage.push(Damage { file: folder.join(INDEX_FILE), block: None, what, recordings });
        }
    }
    if damage.is_empty() {
        // Every file is as it was written; whether they fit together is what opening a cache asks.
        let unfit = |key: &Key| {
            let error = Cache::check(store, key).err()?;
            let there = !orphans || store.manifest_path(key).exists();
            there.then(|| Damage::of_file(store.manifest_path(key), error.to_string()))
        };
        damage.extend(keys.iter().filter_map(unfit));
    }
    Ok(damage)
}

/// What manifests say of a segment.
#[derive(Default)]
struct Expected {
    /// BLAKE3 of its segment.json.
    blake3: Option<Key>,
    /// Names of the recordings by their content.
    names: BTreeMap<Key, BTreeSet<String>>,
    /// Caches that need it.
    caches: Vec<Key>,
}

impl Expected {
    /// Whether `gc` removed the segment since it was listed, and no cache needs it any more.
    fn was_removed(&self, store: &Store, segment: &Key) -> bool {
        !store.segment_path(segment).exists()
            && !self.caches.iter().any(|cache| Manifest::may_name(store, cache, segment))
    }
}

fn expect(expected: &mut BTreeMap<Key, Expected>, key: &Key, manifest: Manifest) {
    for segment in &manifest.segments {
        let expected = expected.entry(segment.key.clone()).or_default();
        expected.blake3 = Some(segment.blake3.clone());
        expected.caches.push(key.clone());
    }
    for recording in manifest.recordings {
        let segment = expected.get_mut(&manifest.segments[recording.segment].key).expect("entered above");
        segment.names.entry(recording.blake3).or_default().insert(recording.name);
    }
}

impl Damage {
    fn of_file(file: PathBuf, what: String) -> Self {
        Self { file, block: None, what, recordings: Vec::new() }
    }
}

fn verify_segment(
    folder: &Path,
    index: &SegmentIndex,
    names: &BTreeMap<Key, BTreeSet<String>>,
    advanced: &(dyn Fn(u64) + Sync),
) -> Vec<Damage> {
    let blocks: Vec<_> =
        index.files.iter().flat_map(|file| (0..file.blocks.len() as u64).map(move |block| (file, block))).collect();
    let lengths = index.files.iter().filter_map(|file| {
        let path = folder.join(&file.path);
        let what = match std::fs::metadata(&path) {
            Ok(stat) if stat.len() == file.bytes => return None,
            Ok(stat) => format!("expected {} bytes, found {}", file.bytes, stat.len()),
            Err(error) => error.to_string(),
        };
        Some(Damage::of_file(path, what))
    });
    let mut damage: Vec<_> = lengths.collect();
    damage.par_extend(
        blocks
            .par_iter()
            .filter_map(|(file, block)| {
                let what = check_block(folder, file, *block).err()?.to_string();
                let recordings = affected(index, names, &file.path, *block);
                Some(Damage { file: folder.join(&file.path), block: Some(*block), what, recordings })
            })
            .collect::<Vec<_>>(),
    );
    advanced(index.bytes());
    damage
}

/// What is wrong with a block of a file.
#[derive(Debug, thiserror::Error)]
pub(super) enum BlockError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("does not match its hash")]
    HashMismatch,
}

pub(super) fn check_block(folder: &Path, file: &FileBlocks, block: u64) -> Result<(), BlockError> {
    let start = block * BLOCK_BYTES;
    let mut bytes = vec![0; BLOCK_BYTES.min(file.bytes - start) as usize];
    let open = open_regular(&folder.join(&file.path))?;
    open.read_exact_at(&mut bytes, start)?;
    if Key::from(blake3::hash(&bytes)) == file.blocks[block as usize] { Ok(()) } else { Err(BlockError::HashMismatch) }
}

/// Names of the recordings with rows in a block of a shard; none for blocks of metadata, padding or index.
fn affected(index: &SegmentIndex, names: &BTreeMap<Key, BTreeSet<String>>, file: &str, block: u64) -> Vec<String> {
    let columns = match file {
        EMG_FILE => index.settings.emg_channels,
        ANGLES_FILE => index.settings.joint_angles_channels,
        _ => return Vec::new(),
    };
    let row_bytes = (index.settings.dtype.bytes() * columns) as u64;
    let (start, end) = (block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
    let touched = |first: u64, rows: u64| first * row_bytes < end && (first + rows) * row_bytes > start;
    let hit = index.recordings.iter().filter(|r| touched(r.first_row, r.rows));
    hit.flat_map(|recording| names.get(&recording.blake3).into_iter().flatten().cloned()).collect()
}
