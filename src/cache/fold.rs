//! Folding: the rows of many small segments copied into few full ones, without the recordings they came from.

use std::collections::{HashMap, HashSet};
use std::fs::File;

use super::build_folder::{BuildFolder, touch};
use super::error::CacheError;
use super::key::Key;
use super::manifest::{Manifest, SegmentRef};
use super::open::Cache;
use super::segment::{INDEX_FILE, SegmentIndex, Segments, places_of};
use super::settings::NORMALIZER;
use super::sink::SegmentSink;
use super::store::Store;
use super::verify::check_block;

/// A build folds small segments when its cache would have more of them: each costs two mappings, and network storage is
/// slow per file.
pub(super) const MOST_SMALL: usize = 64;

/// Whether a segment is less than half full.
pub(super) fn is_small(index: &SegmentIndex, limit: u64) -> bool {
    index.settings.bytes(index.rows) < limit / 2
}

/// Copies the contents of `small` segments, in the order of `contents`, into as few segments as `limit` bytes each allow,
/// and publishes these.
///
/// # Errors
/// A segment is damaged or cannot be read; the new ones cannot be written.
pub(super) fn fold<'a>(
    store: &Store,
    tmp: &BuildFolder,
    small: &Segments,
    contents: impl Iterator<Item = &'a Key>,
    limit: u64,
) -> Result<Segments, CacheError> {
    let mut folded = Segments::new();
    let Some((first, _)) = small.values().next() else { return Ok(folded) };
    let settings = first.settings.clone();
    let mut places = HashMap::new();
    for (key, (index, _)) in small {
        check_shards(store, key, index)?;
        places.extend(index.recordings.iter().map(|recording| (&recording.blake3, (key, index, recording))));
    }
    let mut sink = SegmentSink::new(store, tmp, &settings, limit);
    for (key, index, recording) in contents.filter_map(|content| places.get(content)) {
        sink.copy(&store.segment_path(key), index, recording, &mut folded)?;
    }
    sink.publish(&mut folded)?;
    Ok(folded)
}

/// What is copied is hashed anew, so damage would become right.
fn check_shards(store: &Store, key: &Key, index: &SegmentIndex) -> Result<(), CacheError> {
    let folder = store.segment_path(key);
    for file in &index.files {
        for block in 0..file.blocks.len() as u64 {
            check_block(&folder, file, block).map_err(|error| {
                CacheError::damaged(&folder.join(&file.path), format!("block {block}: {error}; repair the cache first"))
            })?;
        }
    }
    Ok(())
}

/// What folding did to a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    pub segments_before: usize,
    pub segments_after: usize,
}

/// Folds the small segments of cache `key` into segments of up to `limit` bytes, and lets its manifest, which is replaced,
/// name these. The key stays: it covers what a cache holds, not where. Segments that no cache names any more are for
/// [`gc`](super::run_gc).
///
/// # Errors
/// The cache is damaged or cannot be read; the new segments or the manifest cannot be written. The cache is then as it was.
pub fn compact(store: &Store, key: &Key, limit: u64) -> Result<Compacted, CacheError> {
    let tmp = store.begin()?;
    // Young again, so that `gc` leaves it alone meanwhile.
    store.refresh(&tmp, &store.manifest_path(key))?;
    let manifest = Cache::check(store, key)?.manifest;
    let before = manifest.segments.len();
    let (mut small, mut segments) = (Segments::new(), Segments::new());
    for segment in &manifest.segments {
        let read = SegmentIndex::read(&store.segment_path(&segment.key), &segment.key)?;
        let into = if is_small(&read.0, limit) { &mut small } else { &mut segments };
        into.insert(segment.key.clone(), read);
    }
    let unchanged = Compacted { segments_before: before, segments_after: before };
    // Rows of an earlier normalizer belong under its keys only.
    if small.len() < 2 || manifest.normalizer != NORMALIZER {
        return Ok(unchanged);
    }
    let mut seen = HashSet::new();
    let contents = manifest.recordings.iter().map(|recording| &recording.blake3).filter(|key| seen.insert(*key));
    let folded = fold(store, &tmp, &small, contents, limit)?;
    if folded.len() >= small.len() {
        return Ok(unchanged);
    }
    segments.extend(folded);
    let after = segments.len();
    let manifest = placed(manifest, &segments);
    let _held = store.share();
    // All that the new manifest names must be there before it is.
    for segment in &manifest.segments {
        let folder = store.segment_path(&segment.key);
        SegmentIndex::read(&folder, &segment.key)?.0.check_lengths(&folder)?;
    }
    store.replace(&tmp, &manifest.to_bytes(), &store.manifest_path(key))?;
    // Others may be about to read what it named before: that keeps its day.
    for key in small.keys() {
        let folder = store.segment_path(key);
        for path in [folder.join(INDEX_FILE), folder] {
            let _ = File::open(path).map(|file| touch(&file));
        }
    }
    Ok(Compacted { segments_before: before, segments_after: after })
}

/// The manifest with its recordings in these segments.
fn placed(mut manifest: Manifest, segments: &Segments) -> Manifest {
    let places = places_of(segments);
    for recording in &mut manifest.recordings {
        recording.segment = places[&recording.blake3].0;
    }
    manifest.segments = SegmentRef::of(segments);
    manifest
}
