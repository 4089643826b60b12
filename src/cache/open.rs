//! Opening a cache: the manifest and the segments it names, checked and mapped.

use std::collections::HashMap;
use std::path::Path;

use rayon::prelude::*;

use super::error::CacheError;
use super::key::Key;
use super::manifest::{Manifest, ManifestRecording, Totals};
use super::oddities;
use super::rows::Io;
use super::segment::{Segment, SegmentIndex, SegmentRecording, Verify};
use super::stage::Stage;
use super::store::Store;

/// How a cache's rows are accessed.
#[derive(Debug, Clone, Default)]
pub struct Access {
    pub io: Io,
    pub verify: Verify,
    /// Where to copy segments to, before they are opened there.
    pub stage: Option<Stage>,
}

/// An open cache.
#[derive(Debug)]
pub struct Cache {
    key: Key,
    manifest: Manifest,
    segments: Vec<Segment>,
    /// For each of the manifest's recordings, its position in its segment's index.
    positions: Vec<usize>,
}

/// A cache that was checked, but is not mapped.
pub(crate) struct Checked {
    pub(crate) manifest: Manifest,
    indexes: Vec<SegmentIndex>,
    positions: Vec<usize>,
}

impl Checked {
    /// The recordings, with what their segments' indexes say of them.
    pub(crate) fn recordings(&self) -> impl Iterator<Item = (&ManifestRecording, &SegmentRecording)> {
        let listed = self.manifest.recordings.iter().zip(&self.positions);
        listed.map(|(listed, at)| (listed, &self.indexes[listed.segment].recordings[*at]))
    }
}

/// A recording of an open cache.
#[derive(Debug, Clone, Copy)]
pub struct CacheRecording<'a> {
    pub listed: &'a ManifestRecording,
    pub content: &'a SegmentRecording,
    /// Index of the segment.
    pub segment: usize,
}

impl Cache {
    /// Opens cache `key` of the store at `root`. Reads metadata only, unless segments have to be staged.
    ///
    /// # Errors
    /// Anything missing, damaged, truncated or inconsistent, named.
    pub fn open(root: &Path, key: &Key, access: &Access) -> Result<Self, CacheError> {
        let store = Store::open(root)?;
        let manifest = Manifest::read(&store, key)?;
        let indexes = indexes(&store, &manifest)?;
        let staged = access.stage.as_ref().map(|stage| stage.bring(&store, &manifest, &indexes)).transpose()?;
        let (folders, _lock) = match staged {
            Some((folders, lock)) => (folders, lock),
            None => (manifest.segments.iter().map(|segment| store.segment_path(&segment.key)).collect(), None),
        };
        let segments = indexes
            .into_iter()
            .zip(folders)
            .map(|(index, folder)| Segment::open(folder, index, access.io, access.verify))
            .collect::<Result<Vec<_>, _>>()?;
        let positions = positions(&store, key, &manifest, segments.iter().map(Segment::index))?;
        Ok(Self { key: key.clone(), manifest, segments, positions })
    }

    /// Checks a cache as opening does, without mapping it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn check(store: &Store, key: &Key) -> Result<Checked, CacheError> {
        let manifest = Manifest::read(store, key)?;
        let indexes = indexes(store, &manifest)?;
        for (index, segment) in indexes.iter().zip(&manifest.segments) {
            index.check_lengths(&store.segment_path(&segment.key))?;
        }
        let positions = positions(store, key, &manifest, indexes.iter())?;
        Ok(Checked { manifest, indexes, positions })
    }

    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Risks of leakage, and what is unusual in recordings.
    pub fn warnings(&self) -> Vec<String> {
        let manifest = self.manifest();
        let (mut warnings, names) = (manifest.warnings(), manifest.settings.joint_names());
        for recording in self.recordings() {
            let oddities = oddities::of(recording.content, &names);
            warnings.extend(oddities.into_iter().map(|what| format!("`{}`: {what}", recording.listed.name)));
        }
        warnings
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub fn segment(&self, index: usize) -> &Segment {
        &self.segments[index]
    }

    /// Recording `i` in recording order.
    ///
    /// # Panics
    /// There are not that many.
    pub fn recording(&self, i: usize) -> CacheRecording<'_> {
        let listed = &self.manifest.recordings[i];
        let content = &self.segments[listed.segment].index().recordings[self.positions[i]];
        CacheRecording { listed, content, segment: listed.segment }
    }

    /// The recordings in recording order.
    pub fn recordings(&self) -> impl ExactSizeIterator<Item = CacheRecording<'_>> {
        (0..self.positions.len()).map(|i| self.recording(i))
    }
}

fn indexes(store: &Store, manifest: &Manifest) -> Result<Vec<SegmentIndex>, CacheError> {
    let settings = manifest.settings.segment();
    manifest
        .segments
        .par_iter()
        .map(|segment| {
            let folder = store.segment_path(&segment.key);
            let (index, hash) = SegmentIndex::read(&folder, &segment.key)?;
            if hash != segment.blake3 || index.settings != settings {
                return Err(CacheError::damaged(&folder, "is not the segment that the manifest names"));
            }
            Ok(index)
        })
        .collect()
}

/// Where each recording stands in its segment's index; also checks what the manifest says of them all.
fn positions<'a>(
    store: &Store,
    key: &Key,
    manifest: &Manifest,
    indexes: impl Iterator<Item = &'a SegmentIndex>,
) -> Result<Vec<usize>, CacheError> {
    let damaged = |message: String| CacheError::damaged(&store.manifest_path(key), message);
    let indexes: Vec<_> = indexes.collect();
    let places: Vec<HashMap<_, _>> = indexes
        .iter()
        .map(|index| index.recordings.iter().enumerate().map(|(i, r)| (&r.blake3, i)).collect())
        .collect();
    let find = |recording: &ManifestRecording| {
        places[recording.segment].get(&recording.blake3).copied().ok_or_else(|| {
            damaged(format!("recording {} is not in the segment that the manifest names", recording.name))
        })
    };
    let positions: Vec<_> = manifest.recordings.iter().map(find).collect::<Result<_, _>>()?;
    let contents =
        manifest.recordings.iter().zip(&positions).map(|(r, at)| (r.split, &indexes[r.segment].recordings[*at]));
    let totals = Totals::of(&manifest.settings, contents);
    if totals.windows != manifest.windows {
        return Err(damaged(format!("says {:?} windows, its recordings have {:?}", manifest.windows, totals.windows)));
    }
    if (&totals.train_emg, &totals.train_joint_angles) != (&manifest.train_emg, &manifest.train_joint_angles) {
        return Err(damaged("its training statistics are not those of its recordings".into()));
    }
    Ok(positions)
}
