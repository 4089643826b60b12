//! Building a cache: find, remember or read, list, publish the manifest.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::build_folder::BuildFolder;
use super::error::CacheError;
use super::events::{Events, NoEvents};
use super::inputs::{Accepted, Inputs};
use super::key::Key;
use super::keys::cache_key;
use super::manifest::{Assigned, Manifest, ManifestRecording, SegmentRef, Totals};
use super::oddities::summarized;
use super::open::{Cache, Checked};
use super::options::BuildOptions;
use super::plan::Wanted;
use super::segment::{Segments, places_of};
use super::settings::{FORMAT, NORMALIZER};
use super::split::Split;
use super::store::Store;
use crate::startup::start_threads;

/// What a build did.
#[derive(Debug)]
pub struct BuildSummary {
    pub key: Key,
    /// The cache was already there.
    pub reused: bool,
    /// Recordings whose data was read.
    pub recordings_read: usize,
    pub segments_written: usize,
    /// Recordings that were skipped, with the reason.
    pub skipped: Vec<String>,
    /// What lies among the inputs, but is not taken for a recording, with the reason.
    pub left_out: Vec<String>,
    pub warnings: Vec<String>,
}

/// Builds the cache in the store at `root`, which is made if there is none.
///
/// # Errors
/// [`CacheError`]; nothing half-made is ever visible in the store.
pub fn build(root: &Path, options: &BuildOptions, events: &dyn Events) -> Result<BuildSummary, CacheError> {
    let store = Store::create(root)?;
    let mut builder = Builder::new(&store, options, events)?;
    let result = builder.run();
    let warning = builder.inputs.save();
    result.map(|summary| BuildSummary { warnings: warning.into_iter().chain(summary.warnings).collect(), ..summary })
}

/// The key that [`build`] would give, from the memo alone, reading no recording.
/// `None` if this machine's memo lacks a recording.
///
/// # Errors
/// As [`build`], where the inputs themselves are at fault.
pub fn locate(store: &Store, options: &BuildOptions) -> Result<Option<Key>, CacheError> {
    let builder = Builder::new(store, options, &NoEvents)?;
    if !builder.inputs.unknown().is_empty() {
        return Ok(None);
    }
    let accepted = builder.inputs.accepted()?;
    let recordings: Vec<_> = accepted.recordings.into_iter().map(|usable| usable.recording).collect();
    Ok(Some(builder.key(&recordings)))
}

pub(super) struct Builder<'a> {
    pub(super) store: &'a Store,
    pub(super) inputs: Inputs<'a>,
    pub(super) segments_written: usize,
}

/// The recordings and splits of a build.
pub(super) struct Listed {
    pub(super) recordings: Vec<ManifestRecording>,
    /// Those of them whose splits are random, and how.
    pub(super) assigned: Assigned,
    /// Contents to have in segments.
    pub(super) wanted: Vec<(usize, Wanted)>,
    pub(super) skipped: Vec<String>,
    pub(super) left_out: Vec<String>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(store: &'a Store, options: &'a BuildOptions, events: &'a dyn Events) -> Result<Self, CacheError> {
        start_threads();
        Ok(Self { store, inputs: Inputs::new(store, options, events)?, segments_written: 0 })
    }

    fn run(&mut self) -> Result<BuildSummary, CacheError> {
        let unknown = self.inputs.unknown();
        let tmp = self.store.begin()?;
        let mut segments = Segments::new();
        // Where nothing is published yet, nothing can be reused, so recordings are read once: measured, hashed
        // and written in one pass. Else they are hashed first, because most of the work may be done already.
        let names: HashSet<_> = self.inputs.list.iter().map(|input| &input.found.name).collect();
        let one_pass = unknown.len() == self.inputs.listed().count()
            && names.len() == self.inputs.list.len()
            && unknown.iter().all(|i| self.inputs.needed_rows(*i).is_some())
            && self.store.segment_keys()?.is_empty();
        if one_pass {
            self.write_segments(&tmp, &unknown, self.inputs.options.segment_bytes, &mut segments)?;
        } else {
            self.inputs.scan(&unknown)?;
        }
        let Listed { recordings, assigned, wanted, skipped, left_out } = self.listed()?;
        let key = self.key(&recordings);
        let (cache, reused) = self.published_cache(&tmp, &key, (recordings, assigned), &wanted, segments)?;
        Ok(BuildSummary {
            key,
            reused: reused && self.segments_written == 0,
            recordings_read: self.inputs.recordings_read(),
            segments_written: self.segments_written,
            skipped,
            left_out,
            warnings: self.warnings(&cache),
        })
    }

    /// The cache as it is in the store, published now if it is not there, and whether it was.
    fn published_cache(
        &mut self,
        tmp: &BuildFolder,
        key: &Key,
        (recordings, assigned): (Vec<ManifestRecording>, Assigned),
        wanted: &[(usize, Wanted)],
        mut segments: Segments,
    ) -> Result<(Checked, bool), CacheError> {
        let path = self.store.manifest_path(key);
        loop {
            let reused = path.is_file();
            let manifest = if reused {
                None
            } else {
                self.add_segments(tmp, wanted, &mut segments)?;
                Some(self.manifest(recordings.clone(), assigned, &segments))
            };
            // From here on `gc` removes nothing.
            let held = self.store.share();
            match manifest {
                Some(manifest) => self.store.publish_file(tmp, &manifest.to_bytes(), &path)?,
                None => match self.store.refresh(tmp, &path) {
                    Ok(true) => {}
                    // It was removed meanwhile.
                    Ok(false) => continue,
                    Err(error) => self.inputs.warnings.push(format!(
                        "the cache's age could not be renewed, so `emg-cache gc --unpinned` may remove it: {error}"
                    )),
                },
            }
            let cache = match Cache::check(self.store, key) {
                Ok(cache) => cache,
                // Without locks it may have been removed at this moment.
                Err(_) if !path.exists() => continue,
                Err(_) => {
                    drop(held);
                    self.restore_removed(tmp, key)?;
                    Cache::check(self.store, key)?
                }
            };
            return Ok((cache, reused));
        }
    }

    /// What is to be told of the cache: risks, what is missing, and what is unusual in recordings.
    fn warnings(&self, cache: &Checked) -> Vec<String> {
        let manifest = &cache.manifest;
        let described = cache.recordings().map(|(listed, content)| (listed.name.as_str(), content));
        let oddities = summarized(described, &manifest.settings.joint_names());
        self.inputs.warnings.iter().cloned().chain(manifest.warnings()).chain(oddities).collect()
    }

    /// The recordings of the cache, with their splits, once all inputs are known.
    pub(super) fn listed(&self) -> Result<Listed, CacheError> {
        let accepted = self.inputs.accepted()?;
        let assigned = Assigned { recordings: accepted.assigned(), assignment: self.inputs.options.assignment };
        let Accepted { recordings: accepted, skipped, left_out } = accepted;
        let wanted = self.wanted(&accepted);
        let recordings: Vec<_> = accepted.into_iter().map(|usable| usable.recording).collect();
        if !skipped.is_empty() && !self.inputs.options.skip_bad {
            return Err(CacheError::BadRecordings { total: self.inputs.list.len(), bad: skipped, left_out });
        }
        if !recordings.iter().any(|recording| recording.split == Split::Train) {
            return Err(CacheError::NoUsableRecordings { skipped: [skipped, left_out].concat() });
        }
        check_leakage(&recordings)?;
        Ok(Listed { recordings, assigned, wanted, skipped, left_out })
    }

    pub(super) fn key(&self, recordings: &[ManifestRecording]) -> Key {
        cache_key(NORMALIZER, &self.inputs.options.settings, recordings.iter().map(ManifestRecording::keyed))
    }

    pub(super) fn manifest(
        &self,
        mut recordings: Vec<ManifestRecording>,
        assigned: Assigned,
        segments: &Segments,
    ) -> Manifest {
        let settings = self.inputs.options.settings.clone();
        let places = places_of(segments);
        let mut contents = Vec::new();
        for recording in &mut recordings {
            let (segment, content) = places[&recording.blake3];
            recording.segment = segment;
            contents.push((recording.split, content));
        }
        let Totals { train_emg, train_joint_angles, windows } = Totals::of(&settings, contents.into_iter());
        let segments = SegmentRef::of(segments);
        let (format, normalizer) = (FORMAT, NORMALIZER);
        let assigned = Some(assigned);
        Manifest {
            format,
            normalizer,
            settings,
            recordings,
            segments,
            train_emg,
            train_joint_angles,
            windows,
            assigned,
        }
    }
}

/// One content in two splits would let a model be tested on what it was trained on.
fn check_leakage(recordings: &[ManifestRecording]) -> Result<(), CacheError> {
    let mut seen: HashMap<&Key, &ManifestRecording> = HashMap::new();
    for recording in recordings {
        if let Some(first) = seen.insert(&recording.blake3, recording)
            && first.split != recording.split
        {
            return Err(CacheError::Leakage {
                first: first.path.clone(),
                first_split: first.split.to_string(),
                second: recording.path.clone(),
                second_split: recording.split.to_string(),
            });
        }
    }
    Ok(())
}
