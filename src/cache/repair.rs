//! Repair: rebuilds damaged files of a cache from its recordings.
//!
//! Only what `verify` finds damaged is rebuilt, block by block, and a file takes its place by rename once every
//! block has its recorded hash: the single exception to never replacing a published file.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::build::{Builder, Listed};
use super::build_folder::BuildFolder;
use super::encode::Prepared;
use super::error::CacheError;
use super::events::Events;
use super::key::Key;
use super::manifest::Manifest;
use super::options::BuildOptions;
use super::segment::Segments;
use super::segment::{ANGLES_FILE, BLOCK_BYTES, EMG_FILE, FileBlocks, INDEX_FILE, SegmentIndex};
use super::store::Store;
use super::verify::check_block;
use crate::files::{sync_and_close, sync_folder, write_synced};

/// Repairs cache `key` from the recordings in `options`; returns the files that were rebuilt.
///
/// # Errors
/// The recordings or settings are not the cache's, or do not give the recorded bytes. What could not be repaired is as
/// it was.
pub fn repair(root: &Path, key: &Key, options: &BuildOptions, events: &dyn Events) -> Result<Vec<PathBuf>, CacheError> {
    let mut repaired = Vec::new();
    let store = Store::open_or_mend(root, &mut repaired)?;
    let mut repair = Repair { tmp: store.begin()?, builder: Builder::new(&store, options, events)?, repaired };
    let result = repair.run(key);
    repair.builder.inputs.save();
    result?;
    Ok(repair.repaired)
}

struct Repair<'a> {
    tmp: BuildFolder,
    builder: Builder<'a>,
    repaired: Vec<PathBuf>,
}

impl Repair<'_> {
    fn run(&mut self, key: &Key) -> Result<(), CacheError> {
        let store = self.builder.store;
        let manifest = match Manifest::read(store, key) {
            // A file that cannot be read now may be intact: only damage is repaired.
            Err(CacheError::File(error)) if error.source.kind() != ErrorKind::NotFound => return Err(error.into()),
            Err(_) => {
                self.manifest(key)?;
                Manifest::read(store, key)?
            }
            Ok(manifest) => manifest,
        };
        for (i, segment) in manifest.segments.iter().enumerate() {
            let folder = self.builder.store.segment_path(&segment.key);
            match SegmentIndex::read(&folder, &segment.key) {
                Ok((index, hash)) if hash == segment.blake3 => self.files(&folder, &index)?,
                _ => self.whole_segment(&manifest, i)?,
            }
        }
        Ok(())
    }

    /// Plans the manifest anew.
    fn manifest(&mut self, key: &Key) -> Result<(), CacheError> {
        self.builder.inputs.know_all()?;
        let Listed { recordings, assigned, wanted, .. } = self.builder.listed()?;
        let path = self.builder.store.manifest_path(key);
        let found = self.builder.key(&recordings);
        if found != *key {
            let message = format!("cannot be rebuilt: these recordings and settings give a different cache, {found}");
            return Err(CacheError::damaged(&path, message));
        }
        let mut segments = Segments::new();
        self.builder.add_segments(&self.tmp, &wanted, &mut segments)?;
        let bytes = self.builder.manifest(recordings, assigned, &segments).to_bytes();
        self.put(&path, &bytes)
    }

    /// Makes a segment whose index is damaged again, and puts every damaged file of it in place.
    fn whole_segment(&mut self, manifest: &Manifest, i: usize) -> Result<(), CacheError> {
        self.builder.inputs.know_all()?;
        let segment = &manifest.segments[i];
        let target = self.builder.store.segment_path(&segment.key);
        let (index, hash, folder) = self.builder.rebuild(&self.tmp, manifest, i)?;
        if hash != segment.blake3 {
            return Err(CacheError::damaged(&target, "cannot be rebuilt: the recordings give different bytes"));
        }
        if !target.exists() {
            self.builder.store.publish_folder(&folder, &target)?;
            self.repaired.push(target);
            return Ok(());
        }
        let damaged = index.files.iter().filter(|file| !bad_blocks(&target, file).is_empty());
        let names: Vec<_> = damaged.map(|file| file.path.as_str()).chain([INDEX_FILE]).collect();
        for name in names {
            let (from, to) = (folder.join(name), target.join(name));
            self.move_to(&from, &to)?;
        }
        Ok(())
    }

    /// Makes the damaged blocks of a segment's files again.
    fn files(&mut self, folder: &Path, index: &SegmentIndex) -> Result<(), CacheError> {
        let metadata = index.metadata_files();
        for file in &index.files {
            let bad = bad_blocks(folder, file);
            if bad.is_empty() {
                continue;
            }
            let path = folder.join(&file.path);
            match metadata.iter().find(|(name, _)| *name == file.path) {
                Some((_, bytes)) => self.put(&path, bytes)?,
                None => self.shard(&path, file, index, &bad)?,
            }
        }
        Ok(())
    }

    fn shard(&mut self, path: &Path, file: &FileBlocks, index: &SegmentIndex, bad: &[u64]) -> Result<(), CacheError> {
        self.builder.inputs.know_all()?;
        let part = self.tmp.fresh("shard");
        let out = File::create_new(&part).map_err(CacheError::io(&part))?;
        let old = File::open(path).ok();
        let mut encoded = Encoded { index, shard: &file.path, last: None };
        for block in 0..file.blocks.len() as u64 {
            let start = block * BLOCK_BYTES;
            let mut bytes = vec![0; BLOCK_BYTES.min(file.bytes - start) as usize];
            match &old {
                Some(old) if !bad.contains(&block) => {
                    old.read_exact_at(&mut bytes, start).map_err(CacheError::io(path))?;
                }
                _ => encoded.fill(&mut self.builder, start, &mut bytes)?,
            }
            if Key::from(blake3::hash(&bytes)) != file.blocks[block as usize] {
                let message = format!("block {block} cannot be rebuilt: the recordings give different bytes");
                return Err(CacheError::damaged(path, message));
            }
            out.write_all_at(&bytes, start).map_err(CacheError::io(&part))?;
        }
        sync_and_close(out).map_err(CacheError::io(&part))?;
        self.move_to(&part, path)
    }

    /// Writes a file under `tmp/` and puts it in place.
    fn put(&mut self, path: &Path, bytes: &[u8]) -> Result<(), CacheError> {
        let part = self.tmp.fresh("file");
        write_synced(&part, bytes)?;
        self.move_to(&part, path)
    }

    fn move_to(&mut self, from: &Path, to: &Path) -> Result<(), CacheError> {
        let parent = to.parent().expect("a file in a folder");
        fs::create_dir_all(parent).map_err(CacheError::io(parent))?;
        fs::rename(from, to).map_err(CacheError::io(to))?;
        sync_folder(parent)?;
        self.repaired.push(to.to_owned());
        Ok(())
    }
}

/// Blocks that are missing or do not match; a file that is too long has its last block bad.
fn bad_blocks(folder: &Path, file: &FileBlocks) -> Vec<u64> {
    let too_long = fs::metadata(folder.join(&file.path)).is_ok_and(|stat| stat.len() > file.bytes);
    let last = file.blocks.len() as u64 - 1;
    (0..=last).filter(|block| (too_long && *block == last) || check_block(folder, file, *block).is_err()).collect()
}

/// A shard's bytes, from the recordings.
struct Encoded<'a> {
    index: &'a SegmentIndex,
    shard: &'a str,
    /// The recording encoded last, which the next block may begin in.
    last: Option<(Key, Vec<u8>)>,
}

impl Encoded<'_> {
    /// Fills `out` with the shard's bytes from `start` on: rows, then the padding's zeros and the shard index.
    fn fill(&mut self, builder: &mut Builder<'_>, start: u64, out: &mut [u8]) -> Result<(), CacheError> {
        let shape = match self.shard {
            EMG_FILE => self.index.emg_shape(),
            ANGLES_FILE => self.index.angles_shape(),
            other => unreachable!("{other} is no shard"),
        };
        for recording in &self.index.recordings {
            let first = recording.first_row * shape.row_bytes();
            if overlaps(first, recording.rows * shape.row_bytes(), start, out.len()) {
                let bytes = self.recording(builder, &recording.blake3)?;
                copy_overlap(&bytes.1, first, start, out);
            }
        }
        copy_overlap(&shape.index(), shape.data_bytes(), start, out);
        Ok(())
    }

    fn recording(&mut self, builder: &mut Builder<'_>, content: &Key) -> Result<&(Key, Vec<u8>), CacheError> {
        if self.last.as_ref().is_none_or(|(last, _)| last != content) {
            let input = builder.inputs.by_hash().get(content).copied();
            let input = input.ok_or_else(|| {
                let message = format!("the recording with BLAKE3 {content} is not among the inputs");
                CacheError::damaged(builder.store.root(), message)
            })?;
            let (settings, emg) = (builder.inputs.segment_settings.clone(), self.shard == EMG_FILE);
            let mut bytes = Vec::new();
            builder.prepare(&[input], &mut |_, prepared: &Prepared| match &prepared.rows {
                Some((e, a)) => {
                    bytes.extend_from_slice(if emg { e } else { a });
                    Ok(())
                }
                None => prepared.encode(&settings, &mut |e, a| {
                    bytes.extend_from_slice(if emg { e } else { a });
                    Ok(())
                }),
            })?;
            self.last = Some((content.clone(), bytes));
        }
        Ok(self.last.as_ref().expect("set above"))
    }
}

fn overlaps(first: u64, length: u64, start: u64, window: usize) -> bool {
    first < start + window as u64 && first + length > start
}

/// Copies to `out`, which begins at `start`, what it shares with `bytes`, which begin at `first`.
fn copy_overlap(bytes: &[u8], first: u64, start: u64, out: &mut [u8]) {
    let (from, to) = (first.max(start), (first + bytes.len() as u64).min(start + out.len() as u64));
    if from < to {
        out[(from - start) as usize..(to - start) as usize]
            .copy_from_slice(&bytes[(from - first) as usize..(to - first) as usize]);
    }
}
