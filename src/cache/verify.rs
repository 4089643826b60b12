//! Verification: every byte of a cache against the hashes its manifest leads to.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;

use super::error::CacheError;
use super::keys::Key;
use super::manifest::Manifest;
use super::segment::{ANGLES_FILE, BLOCK_BYTES, EMG_FILE, FileBlocks, SegmentIndex};
use super::store::Store;

/// Something that is not as it was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    pub file: PathBuf,
    /// Damaged block of 16 MiB, where blocks could be compared.
    pub block: Option<u64>,
    pub what: String,
    /// Names of the recordings whose rows lie there.
    pub recordings: Vec<String>,
}

/// Verifies cache `key`: manifest, segment indexes, and every block of every file. `advanced` hears of bytes done.
///
/// # Errors
/// The store itself cannot be read. Damage is not an error but the result.
pub fn verify(store: &Store, key: &Key, advanced: &(dyn Fn(u64) + Sync)) -> Result<Vec<Damage>, CacheError> {
    let manifest = match Manifest::read(store, key) {
        Ok(manifest) => manifest,
        Err(CacheError::Damaged { path, message }) => {
            return Ok(vec![Damage { file: path, block: None, what: message, recordings: Vec::new() }]);
        }
        Err(error) => return Err(error),
    };
    let mut damage = Vec::new();
    for (i, segment) in manifest.segments.iter().enumerate() {
        let folder = store.segment_path(&segment.key);
        let all = || manifest.recordings.iter().filter(|r| r.segment == i).map(|r| r.name.clone()).collect();
        match SegmentIndex::read(&folder, &segment.key) {
            Ok((index, hash)) if hash == segment.blake3 => {
                damage.extend(verify_segment(&folder, &index, &manifest, i, advanced));
            }
            Ok(_) => damage.push(Damage {
                file: folder.join("segment.json"),
                block: None,
                what: "is not the one that the manifest names".into(),
                recordings: all(),
            }),
            Err(error) => damage.push(Damage {
                file: folder.join("segment.json"),
                block: None,
                what: error.to_string(),
                recordings: all(),
            }),
        }
    }
    Ok(damage)
}

fn verify_segment(
    folder: &Path,
    index: &SegmentIndex,
    manifest: &Manifest,
    segment: usize,
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
        Some(Damage { file: path, block: None, what, recordings: Vec::new() })
    });
    let mut damage: Vec<_> = lengths.collect();
    damage.par_extend(
        blocks
            .par_iter()
            .filter_map(|(file, block)| {
                let what = check_block(folder, file, *block).err()?;
                let recordings = affected(index, manifest, segment, &file.path, *block);
                Some(Damage { file: folder.join(&file.path), block: Some(*block), what, recordings })
            })
            .collect::<Vec<_>>(),
    );
    advanced(index.bytes());
    damage
}

fn check_block(folder: &Path, file: &FileBlocks, block: u64) -> Result<(), String> {
    let start = block * BLOCK_BYTES;
    let mut bytes = vec![0; BLOCK_BYTES.min(file.bytes - start) as usize];
    let open = File::open(folder.join(&file.path)).map_err(|error| error.to_string())?;
    open.read_exact_at(&mut bytes, start).map_err(|error| error.to_string())?;
    if Key::from(blake3::hash(&bytes)) == file.blocks[block as usize] {
        Ok(())
    } else {
        Err("does not match its hash".into())
    }
}

/// Names of the recordings with rows in a block of a shard; none for blocks of metadata, padding or index.
fn affected(index: &SegmentIndex, manifest: &Manifest, segment: usize, file: &str, block: u64) -> Vec<String> {
    let columns = match file {
        EMG_FILE => index.settings.emg_channels,
        ANGLES_FILE => index.settings.joint_angles_channels,
        _ => return Vec::new(),
    };
    let row_bytes = 4 * columns as u64;
    let (start, end) = (block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
    let touched = |first: u64, rows: u64| first * row_bytes < end && (first + rows) * row_bytes > start;
    let hit: std::collections::HashSet<_> =
        index.recordings.iter().filter(|r| touched(r.first_row, r.rows)).map(|r| &r.blake3).collect();
    let listed = manifest.recordings.iter().filter(|r| r.segment == segment && hit.contains(&r.blake3));
    listed.map(|recording| recording.name.clone()).collect()
}
