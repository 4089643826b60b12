//! Staging: segments copied from a slow or shared store to local disk, verified on the way, under their own names.
//!
//! A folder is shared by all runs of a machine. A copy in progress is `<key>.part`; it is taken up again where it was
//! left, and renamed once every block has matched its hash. What was used longest ago goes when room is needed: a run
//! that has it open keeps it until it ends.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rayon::prelude::*;

use super::error::CacheError;
use super::key::Key;
use super::manifest::Manifest;
use super::segment::{BLOCK_BYTES, FileBlocks, INDEX_FILE, SegmentIndex};
use super::store::{Store, bytes_below};
use crate::files::sync_folder;

/// Where to copy segments to.
#[derive(Debug, Clone)]
pub struct Stage {
    folder: PathBuf,
    /// Most bytes that the folder may hold.
    limit: u64,
    /// Called with the numbers of segments and bytes that are about to be copied.
    announce: fn(usize, u64),
}

impl Stage {
    pub fn new(folder: PathBuf, limit: u64, announce: fn(usize, u64)) -> Self {
        Self { folder, limit, announce }
    }

    /// Brings a manifest's segments to the folder; gives where each lies, and a lock that keeps others from evicting
    /// them until they are open.
    pub(super) fn bring(
        &self,
        store: &Store,
        manifest: &Manifest,
        indexes: &[SegmentIndex],
    ) -> Result<(Vec<PathBuf>, File), CacheError> {
        fs::create_dir_all(&self.folder).map_err(CacheError::io(&self.folder))?;
        let canonical = |path: &Path| path.canonicalize().map_err(CacheError::io(path));
        if canonical(&self.folder)?.starts_with(canonical(store.root())?) {
            let message = "the staging folder is inside the store; choose another folder".into();
            return Err(CacheError::Stage { path: self.folder.clone(), message });
        }
        let lock = self.folder.join("lock");
        let held = File::create(&lock).map_err(CacheError::io(&lock))?;
        held.lock().map_err(CacheError::io(&lock))?;
        let keys: Vec<_> = manifest.segments.iter().map(|segment| segment.key.clone()).collect();
        let here = |key: &Key| self.folder.join(key.to_string());
        let missing: Vec<_> =
            (0..keys.len()).filter(|i| indexes[*i].check_lengths(&here(&keys[*i])).is_err()).collect();
        self.make_room(&keys, indexes)?;
        if !missing.is_empty() {
            (self.announce)(missing.len(), missing.iter().map(|i| indexes[*i].bytes()).sum());
        }
        for i in missing {
            copy_segment(&store.segment_path(&keys[i]), &here(&keys[i]), &indexes[i])?;
        }
        for key in &keys {
            // Used now: only the order of eviction depends on it.
            let _ = File::open(here(key)).and_then(|folder| folder.set_modified(SystemTime::now()));
        }
        Ok((keys.iter().map(here).collect(), held))
    }

    /// Removes what was used longest ago and is not `wanted`, until all that is wanted fits.
    fn make_room(&self, wanted: &[Key], indexes: &[SegmentIndex]) -> Result<(), CacheError> {
        let needed: u64 = indexes.iter().map(SegmentIndex::bytes).sum();
        if needed > self.limit {
            let message = format!("the cache needs {needed} bytes, but --stage-bytes is {}", self.limit);
            return Err(CacheError::Stage { path: self.folder.clone(), message });
        }
        let mut others = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(CacheError::io(&self.folder))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // Only what staging made is counted or removed.
            let key = Key::parse(name.strip_suffix(".part").unwrap_or(&name));
            let Ok(key) = key else { continue };
            if !wanted.contains(&key) {
                let used = entry.metadata().and_then(|stat| stat.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
                others.push((used, bytes_below(&entry.path()), entry.path()));
            }
        }
        others.sort();
        let mut held = needed + others.iter().map(|(_, bytes, _)| bytes).sum::<u64>();
        for (_, bytes, path) in others {
            if held <= self.limit {
                break;
            }
            fs::remove_dir_all(&path).map_err(CacheError::io(&path))?;
            held -= bytes;
        }
        Ok(())
    }
}

fn copy_segment(from: &Path, to: &Path, index: &SegmentIndex) -> Result<(), CacheError> {
    let part = to.with_extension("part");
    for file in &index.files {
        copy_file(&from.join(&file.path), &part.join(&file.path), file)?;
    }
    let (json, copy) = (from.join(INDEX_FILE), part.join(INDEX_FILE));
    fs::copy(&json, &copy).map_err(CacheError::io(&copy))?;
    if to.exists() {
        // Of the wrong length, so not one of ours.
        fs::remove_dir_all(to).map_err(CacheError::io(to))?;
    }
    fs::rename(&part, to).map_err(CacheError::io(to))?;
    Ok(sync_folder(to.parent().expect("a folder in the staging folder"))?)
}

/// Copies the blocks that the copy does not have yet, each checked against its hash.
fn copy_file(from: &Path, to: &Path, file: &FileBlocks) -> Result<(), CacheError> {
    let parent = to.parent().expect("a file in a folder");
    fs::create_dir_all(parent).map_err(CacheError::io(parent))?;
    let source = File::open(from).map_err(CacheError::io(from))?;
    let copy = File::options().read(true).write(true).create(true).truncate(false).open(to);
    let copy = copy.map_err(CacheError::io(to))?;
    copy.set_len(file.bytes).map_err(CacheError::io(to))?;
    (0..file.blocks.len()).into_par_iter().try_for_each(|block| {
        let start = block as u64 * BLOCK_BYTES;
        let mut bytes = vec![0; BLOCK_BYTES.min(file.bytes - start) as usize];
        let matches = |bytes: &[u8]| Key::from(blake3::hash(bytes)) == file.blocks[block];
        if copy.read_exact_at(&mut bytes, start).is_ok() && matches(&bytes) {
            return Ok(());
        }
        source.read_exact_at(&mut bytes, start).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => CacheError::damaged(from, "is shorter than its segment says"),
            _ => CacheError::io(from)(error),
        })?;
        if !matches(&bytes) {
            return Err(CacheError::damaged(from, format!("block {block} does not match its hash")));
        }
        copy.write_all_at(&bytes, start).map_err(CacheError::io(to))
    })?;
    copy.sync_all().map_err(CacheError::io(to))
}
