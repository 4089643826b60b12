//! Building a cache: find, remember or read, plan, write segments, publish the manifest.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::build_folder::BuildFolder;
use super::encode::{EncodedPools, Prepared};
use super::error::CacheError;
use super::events::{Events, NoEvents};
use super::fold::{MOST_SMALL, fold, is_small};
use super::inputs::{Accepted, Inputs, Usable};
use super::key::Key;
use super::keys::{cache_key, segment_key};
use super::manifest::{Assigned, Manifest, ManifestRecording, SegmentRef, Totals};
use super::oddities::summarized;
use super::open::{Cache, Checked};
use super::options::BuildOptions;
use super::ordered_map::ordered;
use super::plan::{Wanted, plan};
use super::segment::{SegmentIndex, SegmentRecording, Segments, contents_of};
use super::settings::{FORMAT, NORMALIZER};
use super::sink::SegmentSink;
use super::split::Split;
use super::store::Store;
use super::writer::SegmentWriter;
use crate::recording::RecordingError;
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
    /// Those of them whose splits are random.
    pub(super) assigned: usize,
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
        let assigned = self.assigned(assigned);
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
        let Accepted { recordings: accepted, assigned, skipped, left_out } = self.inputs.accepted()?;
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

    /// Builds segments again that `gc` removed while this build relied on them. Also without locks, it looks for manifests
    /// that name a segment before and after it sets it aside, and here the segments are looked for after the manifest was
    /// published, so one of the two sees the other.
    fn restore_removed(&mut self, tmp: &BuildFolder, key: &Key) -> Result<(), CacheError> {
        // A damaged manifest is for Cache::check to report.
        let Ok(manifest) = Manifest::read(self.store, key) else { return Ok(()) };
        for (i, segment) in manifest.segments.iter().enumerate() {
            let target = self.store.segment_path(&segment.key);
            if !target.exists() {
                self.inputs.know_all()?;
                let (_, hash, folder) = self.rebuild(tmp, &manifest, i)?;
                if hash != segment.blake3 {
                    let message = "is missing, and the recordings now give a different one";
                    return Err(CacheError::damaged(&target, message));
                }
                self.store.publish_folder(&folder, &target)?;
                self.segments_written += 1;
            }
        }
        Ok(())
    }

    /// Contents to have in segments, each once, in recording order.
    fn wanted(&self, usable: &[Usable<'_>]) -> Vec<(usize, Wanted)> {
        let mut seen = HashSet::new();
        usable
            .iter()
            .filter(|usable| seen.insert(&usable.recording.blake3))
            .map(|usable| {
                let bytes = self.inputs.segment_settings.bytes(usable.rows);
                (usable.index, Wanted { blake3: usable.recording.blake3.clone(), bytes })
            })
            .collect()
    }

    pub(super) fn key(&self, recordings: &[ManifestRecording]) -> Key {
        cache_key(NORMALIZER, &self.inputs.options.settings, recordings.iter().map(ManifestRecording::keyed))
    }

    /// Adds to `segments` what is missing there of the wanted contents: published segments first, then new ones.
    pub(super) fn add_segments(
        &mut self,
        tmp: &BuildFolder,
        wanted: &[(usize, Wanted)],
        segments: &mut Segments,
    ) -> Result<(), CacheError> {
        let written: HashSet<_> =
            segments.values().flat_map(|(index, _)| &index.recordings).map(|r| r.blake3.clone()).collect();
        let missing: Vec<_> = wanted.iter().filter(|(_, wanted)| !written.contains(&wanted.blake3)).collect();
        let published = self.published()?;
        let listed = contents_of(&published);
        let contents: Vec<_> = missing.iter().map(|(_, wanted)| wanted.clone()).collect();
        let plan = plan(&contents, &listed, self.inputs.options.segment_bytes);
        let (small, full): (Segments, Segments) = plan
            .kept
            .into_iter()
            .map(|key| (key.clone(), published[&key].clone()))
            .partition(|(_, (index, _))| is_small(index, self.inputs.options.segment_bytes));
        segments.extend(full);
        segments.extend(self.folded(tmp, small, wanted)?);
        for group in plan.new {
            let hashes: Vec<_> = group.iter().map(|i| contents[*i].blake3.clone()).collect();
            let key = segment_key(NORMALIZER, &self.inputs.segment_settings, &hashes);
            // An earlier build may have been stopped between this segment and its manifest.
            match self.read_segment(&key) {
                Ok(segment) => {
                    segments.insert(key, segment);
                }
                Err(_) => {
                    let inputs: Vec<_> = group.iter().map(|i| missing[*i].0).collect();
                    self.write_segments(tmp, &inputs, u64::MAX, segments)?;
                }
            }
        }
        Ok(())
    }

    /// These small segments, or where they are many, the full ones that they were folded into.
    fn folded(
        &mut self,
        tmp: &BuildFolder,
        small: Segments,
        wanted: &[(usize, Wanted)],
    ) -> Result<Segments, CacheError> {
        if small.len() <= MOST_SMALL {
            return Ok(small);
        }
        let contents = wanted.iter().map(|(_, wanted)| &wanted.blake3);
        match fold(self.store, tmp, &small, contents, self.inputs.options.segment_bytes) {
            Ok(folded) => {
                self.segments_written += folded.len();
                Ok(folded)
            }
            // They can be used as they are.
            Err(error) => {
                self.inputs.warnings.push(format!("{} small segments could not be folded: {error}", small.len()));
                Ok(small)
            }
        }
    }

    /// Segments of our settings that published manifests name, as far as they are whole.
    pub(super) fn published(&self) -> Result<Segments, CacheError> {
        let mut segments = Segments::new();
        for cache in self.store.cache_keys()? {
            // A damaged manifest or segment is no reason not to build what is not damaged.
            let Ok(manifest) = Manifest::read(self.store, &cache) else { continue };
            if manifest.normalizer != NORMALIZER || manifest.settings.segment() != self.inputs.segment_settings {
                continue;
            }
            for segment in manifest.segments {
                if segments.contains_key(&segment.key) {
                    continue;
                }
                if let Ok(found) = self.read_segment(&segment.key) {
                    segments.insert(segment.key, found);
                }
            }
        }
        Ok(segments)
    }

    pub(super) fn read_segment(&self, key: &Key) -> Result<(SegmentIndex, Key), CacheError> {
        let folder = self.store.segment_path(key);
        let (index, hash) = SegmentIndex::read(&folder, key)?;
        index.check_lengths(&folder)?;
        Ok((index, hash))
    }

    /// Reads `inputs`, writes them in order into as many segments as they need of `limit` bytes each, and publishes
    /// these.
    pub(super) fn write_segments(
        &mut self,
        tmp: &BuildFolder,
        inputs: &[usize],
        limit: u64,
        segments: &mut Segments,
    ) -> Result<(), CacheError> {
        let settings = self.inputs.segment_settings.clone();
        // A recording without a window is in no cache, so it belongs in no segment.
        let needed: Vec<_> = inputs.iter().map(|i| self.inputs.needed_rows(*i).unwrap_or(0)).collect();
        let skip_failures = self.inputs.options.settings.skip_ik_failures;
        let mut sink = SegmentSink::new(self.store, tmp, &settings, limit);
        self.prepare(inputs, &mut |i, prepared| {
            if prepared.measured.longest(skip_failures) < needed[i] { Ok(()) } else { sink.add(prepared, segments) }
        })?;
        sink.publish(segments)?;
        self.segments_written += sink.published;
        self.inputs.save();
        Ok(())
    }

    /// Reads `inputs` on all cores and gives each, in order and with its position, to `take`. What cannot be used is
    /// only remembered.
    pub(super) fn prepare(
        &mut self,
        inputs: &[usize],
        take: &mut dyn FnMut(usize, &Prepared) -> Result<(), CacheError>,
    ) -> Result<(), CacheError> {
        self.inputs.announce("cache", inputs);
        let (mut learned, encoded) = (Vec::new(), EncodedPools::default());
        {
            let this = &self.inputs;
            let produce = |i: usize| {
                this.read(inputs[i]).map(|(r, key, m)| Prepared::new(r, key, m, &this.segment_settings, &encoded))
            };
            let threads = Inputs::threads();
            ordered(inputs.len(), threads, threads + 1, produce, |i, prepared| {
                let input = &this.list[inputs[i]];
                let mut scanned = match prepared {
                    Ok(prepared) => {
                        let expected = input.known.as_ref().map(|(key, _)| key);
                        if expected.is_some_and(|key| *key != prepared.blake3) {
                            return Err(CacheError::from(RecordingError::Changed { path: input.found.place.label() }));
                        }
                        take(i, &prepared)?;
                        let Prepared { recording, blake3, measured, .. } = prepared;
                        Ok((recording, blake3, measured))
                    }
                    Err(error) if input.known.is_some() => return Err(error.into()),
                    Err(error) => Err(error),
                };
                this.events.advanced(input.bytes());
                learned.push((inputs[i], this.finding(inputs[i], &mut scanned)?));
                Ok(())
            })?;
        }
        self.inputs.learn(learned);
        Ok(())
    }

    /// Writes segment `i` of a manifest anew, in a folder under `tmp/`. All inputs must be known. Gives its index, the
    /// BLAKE3 of its segment.json, and the folder.
    pub(super) fn rebuild(
        &mut self,
        tmp: &BuildFolder,
        manifest: &Manifest,
        i: usize,
    ) -> Result<(SegmentIndex, Key, PathBuf), CacheError> {
        let segment = &manifest.segments[i];
        let mut seen = HashSet::new();
        let contents: Vec<_> = manifest
            .recordings
            .iter()
            .filter(|recording| recording.segment == i && seen.insert(&recording.blake3))
            .map(|recording| recording.blake3.clone())
            .collect();
        let damaged = |message: &str| CacheError::damaged(&self.store.segment_path(&segment.key), message);
        if manifest.normalizer != NORMALIZER {
            return Err(damaged(
                "cannot be rebuilt: an earlier version wrote its rows in another way; build the cache again",
            ));
        }
        if segment_key(NORMALIZER, &self.inputs.segment_settings, &contents) != segment.key {
            return Err(damaged(
                "cannot be rebuilt: it holds more than this cache's recordings, or other settings were given",
            ));
        }
        let by_hash = self.inputs.by_hash();
        let inputs = contents.iter().map(|content| by_hash.get(content).copied()).collect::<Option<Vec<_>>>();
        let inputs = inputs.ok_or_else(|| damaged("cannot be rebuilt: a recording is not among the inputs"))?;
        let folder = tmp.fresh("segment");
        let settings = self.inputs.segment_settings.clone();
        let mut writer = SegmentWriter::create(folder, &settings)?;
        self.prepare(&inputs, &mut |_, prepared| writer.add(prepared, &settings))?;
        writer.finish()
    }

    /// How the splits of so many recordings were assigned.
    pub(super) fn assigned(&self, recordings: usize) -> Assigned {
        Assigned { recordings, assignment: self.inputs.options.assignment }
    }

    pub(super) fn manifest(
        &self,
        mut recordings: Vec<ManifestRecording>,
        assigned: Assigned,
        segments: &Segments,
    ) -> Manifest {
        let settings = self.inputs.options.settings.clone();
        let mut place: HashMap<&Key, (usize, &SegmentRecording)> = HashMap::new();
        for (i, (index, _)) in segments.values().enumerate() {
            place.extend(index.recordings.iter().map(|recording| (&recording.blake3, (i, recording))));
        }
        let mut contents = Vec::new();
        for recording in &mut recordings {
            let (segment, content) = place[&recording.blake3];
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
