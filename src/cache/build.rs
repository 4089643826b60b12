//! Building a cache: find, remember or read, plan, write segments, publish the manifest.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::encode::{EncodedPools, Prepared};
use super::error::CacheError;
use super::keys::Key;
use super::manifest::{KeyContent, Manifest, ManifestRecording, SegmentRef, Split};
use super::measure::{Measured, measure};
use super::memo::{Facts, Memo};
use super::open::Cache;
use super::pipeline::ordered;
use super::plan::{Wanted, plan};
use super::segment::{SegmentIndex, SegmentRecording};
use super::settings::{CacheSettings, FORMAT, NORMALIZER, SegmentSettings};
use super::sink::SegmentSink;
use super::statistics::Moments;
use super::store::{BuildFolder, Store};
use crate::recording::{
    Attributes, Found, Metadata, MetadataRow, ReadPools, Recording, RecordingError, Stamp, TableLayout, find,
};

/// What to build.
pub struct BuildOptions {
    pub settings: CacheSettings,
    /// Files, or folders that are searched recursively.
    pub inputs: Vec<PathBuf>,
    /// Segments are closed before they grow beyond this many bytes.
    pub segment_bytes: u64,
    /// Leave unusable recordings out instead of failing.
    pub skip_bad: bool,
    /// Bytes of the HDF5 library's chunk cache.
    pub chunk_cache: usize,
    /// Assigns splits to recordings that no metadata.csv assigns; one for each candidate.
    pub splitter: Box<Splitter>,
}

/// Gives each candidate its split, or says why it cannot.
pub type Splitter = dyn Fn(&[Candidate]) -> Result<Vec<Split>, String> + Sync;

/// A recording without a split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub name: String,
    pub blake3: Key,
    pub user: Option<String>,
    pub session: Option<String>,
}

/// What a build did.
#[derive(Debug)]
pub struct Built {
    pub key: Key,
    /// The cache was already there.
    pub reused: bool,
    /// Recordings whose data was read.
    pub recordings_read: usize,
    pub segments_written: usize,
    /// Recordings left out, with the reason.
    pub skipped: Vec<String>,
    pub warnings: Vec<String>,
}

/// Hears how a build goes on. Called from several threads.
pub trait Events: Sync {
    /// `bytes` of `recordings` recordings are about to be read, to `purpose`.
    fn reading(&self, purpose: &str, recordings: usize, bytes: u64);
    /// So many bytes of recordings are done.
    fn advanced(&self, bytes: u64);
}

/// Hears nothing.
pub struct NoEvents;

impl Events for NoEvents {
    fn reading(&self, _: &str, _: usize, _: u64) {}
    fn advanced(&self, _: u64) {}
}

/// Builds the cache in the store at `root`, which is made if there is none.
///
/// # Errors
/// [`CacheError`]; nothing half-made is ever visible in the store.
pub fn build(root: &Path, options: &BuildOptions, events: &dyn Events) -> Result<Built, CacheError> {
    let store = Store::create(root)?;
    let mut builder = Builder::new(&store, options, events)?;
    let result = builder.run();
    builder.memo.save();
    result
}

/// The key that [`build`] would give, from the memo alone, reading no recording.
/// `None` if this machine's memo lacks a recording.
///
/// # Errors
/// As [`build`], where the inputs themselves are at fault.
pub fn locate(store: &Store, options: &BuildOptions) -> Result<Option<Key>, CacheError> {
    let builder = Builder::new(store, options, &NoEvents)?;
    if !builder.unknown().is_empty() {
        return Ok(None);
    }
    let (usable, _) = builder.usable()?;
    let usable = builder.with_splits(usable)?;
    Ok(Some(builder.key(&builder.in_cache(usable)?.0)))
}

/// One input file and what is known of it.
struct Input {
    found: Found,
    stamp: Stamp,
    /// `Some(None)`: a metadata.csv lies beside it that does not name it.
    metadata: Option<Option<MetadataRow>>,
    known: Option<(Key, Facts)>,
}

/// A usable input on its way into the manifest.
struct Usable<'i> {
    input: &'i Input,
    rows: u64,
    longest_run: u64,
    recording: ManifestRecording,
    split_known: bool,
}

struct Builder<'a> {
    store: &'a Store,
    options: &'a BuildOptions,
    events: &'a dyn Events,
    memo: Memo,
    segment_settings: SegmentSettings,
    /// Key of the settings that facts in the memo hold under.
    facts_key: Key,
    layout: TableLayout,
    pools: ReadPools,
    inputs: Vec<Input>,
    recordings_read: usize,
    segments_written: usize,
}

/// The result of one pass over a recording.
type Scanned = Result<(Recording, Key, Measured), RecordingError>;

impl<'a> Builder<'a> {
    fn new(store: &'a Store, options: &'a BuildOptions, events: &'a dyn Events) -> Result<Self, CacheError> {
        let segment_settings = options.settings.segment();
        let facts_key = Key::of(&(&segment_settings, NORMALIZER, env!("CARGO_PKG_VERSION")));
        let memo = Memo::load(store.root());
        let mut metadata = Metadata::default();
        let mut inputs = Vec::new();
        for mut found in find(&options.inputs)? {
            found.path = std::path::absolute(&found.path).map_err(CacheError::io(&found.path))?;
            let stamp = Stamp::of(&found.path)?;
            let row = metadata.row(&found.path, &found.name)?;
            let known = memo.get(&found.path, &stamp, &facts_key).map(|(key, facts)| (key.clone(), facts.clone()));
            inputs.push(Input { found, stamp, metadata: row, known });
        }
        let layout = options.settings.table_layout(options.chunk_cache);
        let (recordings_read, segments_written) = (0, 0);
        Ok(Self {
            store,
            options,
            events,
            memo,
            segment_settings,
            facts_key,
            layout,
            pools: ReadPools::default(),
            inputs,
            recordings_read,
            segments_written,
        })
    }

    fn run(&mut self) -> Result<Built, CacheError> {
        let unknown = self.unknown();
        let tmp = self.store.begin()?;
        let mut segments = BTreeMap::new();
        // Where nothing is published yet, nothing can be reused, so recordings are read once: measured, hashed
        // and written in one pass. Else they are hashed first, because most of the work may be done already.
        let names: HashSet<_> = self.inputs.iter().map(|input| &input.found.name).collect();
        let one_pass = unknown.len() == self.listed().count()
            && names.len() == self.inputs.len()
            && self.store.segment_keys()?.is_empty();
        if one_pass {
            self.write_segments(&tmp, &unknown, &mut segments)?;
        } else {
            self.scan(&unknown)?;
        }
        let (usable, mut skipped) = self.usable()?;
        let usable = self.with_splits(usable)?;
        let wanted = self.wanted(&usable);
        let (in_cache, left_out) = self.in_cache(usable)?;
        skipped.extend(left_out);
        if !skipped.is_empty() && !self.options.skip_bad {
            return Err(CacheError::BadRecordings { total: self.inputs.len(), bad: skipped });
        }
        let recordings: Vec<_> = in_cache;
        if !recordings.iter().any(|recording| recording.split == Split::Train) {
            return Err(CacheError::NothingLeft { skipped });
        }
        check_leakage(&recordings)?;
        let key = self.key(&recordings);
        let reused = self.store.manifest_path(&key).is_file();
        if !reused {
            self.add_segments(&tmp, &wanted, &mut segments)?;
            let manifest = self.manifest(recordings, &segments);
            debug_assert_eq!(manifest.key(), key);
            self.store.publish_file(&tmp, &manifest.to_bytes(), &self.store.manifest_path(&key))?;
        }
        let manifest = Cache::check(self.store, &key)?;
        Ok(Built {
            key,
            reused,
            recordings_read: self.recordings_read,
            segments_written: self.segments_written,
            skipped,
            warnings: manifest.warnings(),
        })
    }

    /// Inputs that must be read to be known; those that metadata.csv leaves out are not wanted at all.
    fn unknown(&self) -> Vec<usize> {
        self.listed().filter(|i| self.inputs[*i].known.is_none()).collect()
    }

    fn listed(&self) -> impl Iterator<Item = usize> {
        (0..self.inputs.len()).filter(|i| self.inputs[*i].metadata != Some(None))
    }

    fn threads() -> usize {
        rayon::current_num_threads()
    }

    fn announce(&self, purpose: &str, inputs: &[usize]) {
        let bytes = inputs.iter().map(|i| self.inputs[*i].stamp.bytes).sum();
        self.events.reading(purpose, inputs.len(), bytes);
    }

    /// Opens, hashes and measures one input.
    fn read(&self, input: usize) -> Scanned {
        let input = &self.inputs[input];
        let recording = Recording::open(&input.found.path, &self.layout, &self.pools)?;
        let (hash, measured) = measure(&recording, &self.segment_settings)?;
        Ok((recording, hash.into(), measured))
    }

    /// Remembers what a pass found; a recording that changed under it ends the build.
    fn learn(&mut self, index: usize, scanned: &Scanned) -> Result<(), CacheError> {
        self.recordings_read += 1;
        let input = &mut self.inputs[index];
        let known = match scanned {
            Ok((recording, key, measured)) => {
                if recording.stamp() != input.stamp {
                    return Err(RecordingError::Changed { path: input.found.path.clone() }.into());
                }
                let facts = Facts::Usable {
                    rows: measured.rows,
                    longest_run: measured.valid_runs.iter().map(|run| run.1).max().unwrap_or(0),
                    attributes: recording.attributes().clone(),
                };
                (key.clone(), facts)
            }
            Err(RecordingError::Changed { path }) => return Err(RecordingError::Changed { path: path.clone() }.into()),
            // Without a hash: a file that cannot be used is in no key.
            Err(error) => (Key::of(&()), Facts::Bad(error.to_string())),
        };
        // A file that could not be read, or is locked, may be readable tomorrow without having changed.
        if !matches!(scanned, Err(RecordingError::Io { .. } | RecordingError::Hdf5 { .. })) {
            let path = input.found.path.clone();
            self.memo.insert(path, input.stamp, known.0.clone(), self.facts_key.clone(), known.1.clone());
        }
        input.known = Some(known);
        Ok(())
    }

    /// Reads inputs only to know them.
    fn scan(&mut self, unknown: &[usize]) -> Result<(), CacheError> {
        self.announce("hash", unknown);
        let mut results = Vec::new();
        {
            let this = &*self;
            let produce = |i: usize| {
                let scanned = this.read(unknown[i]);
                this.events.advanced(this.inputs[unknown[i]].stamp.bytes);
                // The rows are dropped here: only what was learned stays in memory.
                scanned.map(|(recording, key, measured)| (recording.without_rows(), key, measured))
            };
            let threads = Self::threads();
            ordered(unknown.len(), threads, 2 * threads, produce, |i, scanned| {
                results.push((
                    unknown[i],
                    scanned.map(|(recording, key, measured)| {
                        (recording, key, Measured { emg: Moments::new(0), joint_angles: Moments::new(0), ..measured })
                    }),
                ));
                Ok::<_, CacheError>(())
            })?;
        }
        results.iter().try_for_each(|(index, scanned)| self.learn(*index, scanned))
    }

    /// Inputs that can be read, in recording order, and the reasons why others cannot.
    fn usable(&self) -> Result<(Vec<Usable<'_>>, Vec<String>), CacheError> {
        let (mut usable, mut skipped) = (Vec::new(), Vec::new());
        for input in &self.inputs {
            let row = match &input.metadata {
                Some(None) => {
                    skipped.push(format!("{}: not named in the metadata.csv beside it", input.found.path.display()));
                    continue;
                }
                Some(Some(row)) => Some(row),
                None => None,
            };
            match input.known.as_ref().expect("every input is known by now") {
                (_, Facts::Bad(reason)) => skipped.push(reason.clone()),
                (key, Facts::Usable { rows, longest_run, attributes }) => {
                    let (recording, split_known) = describe(&input.found, key, attributes, row)?;
                    usable.push(Usable { input, rows: *rows, longest_run: *longest_run, recording, split_known });
                }
            }
        }
        let order = |usable: &Usable<'_>| (usable.recording.name.clone(), usable.recording.blake3.clone());
        usable.sort_by_cached_key(order);
        Ok((usable, skipped))
    }

    fn with_splits<'i>(&self, mut usable: Vec<Usable<'i>>) -> Result<Vec<Usable<'i>>, CacheError> {
        let open: Vec<_> = (0..usable.len()).filter(|i| !usable[*i].split_known).collect();
        let candidates: Vec<_> = open
            .iter()
            .map(|i| {
                let ManifestRecording { name, blake3, user, session, .. } = usable[*i].recording.clone();
                Candidate { name, blake3, user, session }
            })
            .collect();
        let splits = (self.options.splitter)(&candidates).map_err(|message| CacheError::Split { message })?;
        for (i, split) in open.into_iter().zip(splits) {
            usable[i].recording.split = split;
        }
        Ok(usable)
    }

    /// Contents to have in segments, each once, in recording order.
    fn wanted(&self, usable: &[Usable<'_>]) -> Vec<(PathBuf, Stamp, Wanted)> {
        let mut seen = HashSet::new();
        usable
            .iter()
            .filter(|usable| seen.insert(&usable.recording.blake3))
            .map(|usable| {
                let bytes = self.segment_settings.bytes(usable.rows);
                let wanted = Wanted { blake3: usable.recording.blake3.clone(), bytes };
                (usable.input.found.path.clone(), usable.input.stamp, wanted)
            })
            .collect()
    }

    /// Recordings that give at least one window, and the reasons why others give none.
    fn in_cache(&self, usable: Vec<Usable<'_>>) -> Result<(Vec<ManifestRecording>, Vec<String>), CacheError> {
        let settings = &self.options.settings;
        let (mut recordings, mut left_out) = (Vec::new(), Vec::new());
        for usable in usable {
            let window = settings.windows(usable.recording.split).size as u64;
            let longest = if settings.skip_ik_failures { usable.longest_run } else { usable.rows };
            if longest >= window {
                recordings.push(usable.recording);
                continue;
            }
            let path = usable.input.found.path.display();
            let rows = usable.rows;
            left_out.push(if rows < window {
                format!("{path}: too short: expected at least {window} rows for one window, found {rows}")
            } else {
                format!("{path}: no window: expected a valid run of {window} rows, the longest has {longest}")
            });
        }
        Ok((recordings, left_out))
    }

    fn key(&self, recordings: &[ManifestRecording]) -> Key {
        Key::of(&KeyContent::new(&self.options.settings, recordings.iter()))
    }

    /// Adds to `segments` what is missing there of the wanted contents: published segments first, then new ones.
    fn add_segments(
        &mut self,
        tmp: &BuildFolder,
        wanted: &[(PathBuf, Stamp, Wanted)],
        segments: &mut BTreeMap<Key, (SegmentIndex, Key)>,
    ) -> Result<(), CacheError> {
        let written: HashSet<_> =
            segments.values().flat_map(|(index, _)| &index.recordings).map(|r| r.blake3.clone()).collect();
        let missing: Vec<_> = wanted.iter().filter(|(_, _, wanted)| !written.contains(&wanted.blake3)).collect();
        let published = self.published()?;
        let listed: Vec<_> = published
            .iter()
            .map(|(key, (index, _))| (key.clone(), index.recordings.iter().map(|r| r.blake3.clone()).collect()))
            .collect();
        let contents: Vec<_> = missing.iter().map(|(_, _, wanted)| wanted.clone()).collect();
        let plan = plan(&contents, &listed, self.options.segment_bytes);
        for key in plan.kept {
            let segment = published[&key].clone();
            segments.insert(key, segment);
        }
        let by_path: HashMap<_, _> =
            self.inputs.iter().enumerate().map(|(i, input)| (input.found.path.clone(), i)).collect();
        for group in plan.new {
            let hashes: Vec<_> = group.iter().map(|i| contents[*i].blake3.clone()).collect();
            let key = self.segment_settings.key(&hashes);
            // An earlier build may have been stopped between this segment and its manifest.
            match self.read_segment(&key) {
                Ok(segment) => {
                    segments.insert(key, segment);
                }
                Err(_) => {
                    let inputs: Vec<_> = group.iter().map(|i| by_path[&missing[*i].0]).collect();
                    self.write_segments(tmp, &inputs, segments)?;
                }
            }
        }
        Ok(())
    }

    /// Segments of our settings that published manifests name, as far as they are whole.
    fn published(&self) -> Result<BTreeMap<Key, (SegmentIndex, Key)>, CacheError> {
        let mut segments = BTreeMap::new();
        for cache in self.store.cache_keys()? {
            // A damaged manifest or segment is no reason not to build what is not damaged.
            let Ok(manifest) = Manifest::read(self.store, &cache) else { continue };
            if manifest.settings.segment() != self.segment_settings {
                continue;
            }
            for segment in manifest.segments {
                if let Ok(found) = self.read_segment(&segment.key) {
                    segments.insert(segment.key, found);
                }
            }
        }
        Ok(segments)
    }

    fn read_segment(&self, key: &Key) -> Result<(SegmentIndex, Key), CacheError> {
        let folder = self.store.segment_path(key);
        let (index, hash) = SegmentIndex::read(&folder, key)?;
        index.check_lengths(&folder)?;
        Ok((index, hash))
    }

    /// Reads `inputs`, writes them in order into as many segments as they need, and publishes these.
    fn write_segments(
        &mut self,
        tmp: &BuildFolder,
        inputs: &[usize],
        segments: &mut BTreeMap<Key, (SegmentIndex, Key)>,
    ) -> Result<(), CacheError> {
        self.announce("cache", inputs);
        let mut sink = SegmentSink::new(self.store, tmp, &self.segment_settings, self.options.segment_bytes);
        let (mut learned, encoded) = (Vec::new(), EncodedPools::default());
        {
            let this = &*self;
            let produce = |i: usize| {
                this.read(inputs[i]).map(|(r, key, m)| Prepared::new(r, key, m, &this.segment_settings, &encoded))
            };
            let threads = Self::threads();
            ordered(inputs.len(), threads, threads + 1, produce, |i, prepared| {
                let input = &this.inputs[inputs[i]];
                let scanned = match prepared {
                    Ok(prepared) => {
                        let expected = input.known.as_ref().map(|(key, _)| key);
                        if expected.is_some_and(|key| *key != prepared.blake3) {
                            return Err(CacheError::from(RecordingError::Changed { path: input.found.path.clone() }));
                        }
                        sink.add(&prepared, segments)?;
                        let Prepared { recording, blake3, measured, .. } = prepared;
                        Ok((recording.without_rows(), blake3, measured))
                    }
                    Err(error) if input.known.is_some() => return Err(error.into()),
                    Err(error) => Err(error),
                };
                this.events.advanced(input.stamp.bytes);
                learned.push((inputs[i], scanned));
                Ok(())
            })?;
        }
        sink.publish(segments)?;
        self.segments_written += sink.published;
        learned.iter().try_for_each(|(index, scanned)| self.learn(*index, scanned))?;
        self.memo.save();
        Ok(())
    }

    fn manifest(
        &self,
        mut recordings: Vec<ManifestRecording>,
        segments: &BTreeMap<Key, (SegmentIndex, Key)>,
    ) -> Manifest {
        let settings = self.options.settings.clone();
        let mut place: HashMap<&Key, (usize, &SegmentRecording)> = HashMap::new();
        for (i, (index, _)) in segments.values().enumerate() {
            place.extend(index.recordings.iter().map(|recording| (&recording.blake3, (i, recording))));
        }
        let mut train_emg = Moments::new(settings.emg_channels);
        let mut train_joint_angles = Moments::new(settings.joint_angles_channels);
        let mut windows = [0; 3];
        for recording in &mut recordings {
            let (segment, content) = place[&recording.blake3];
            recording.segment = segment;
            windows[recording.split as usize] +=
                settings.count_windows(recording.split, content.rows, &content.valid_runs);
            if recording.split == Split::Train {
                train_emg.merge(&content.emg);
                train_joint_angles.merge(&content.joint_angles);
            }
        }
        let segments = segments
            .iter()
            .map(|(key, (index, hash))| SegmentRef { key: key.clone(), blake3: hash.clone(), bytes: index.bytes() })
            .collect();
        let (format, normalizer) = (FORMAT, NORMALIZER);
        Manifest { format, normalizer, settings, recordings, segments, train_emg, train_joint_angles, windows }
    }
}

/// Joins what the file's attributes and metadata.csv say; metadata.csv wins.
fn describe(
    found: &Found,
    key: &Key,
    attributes: &Attributes,
    row: Option<&MetadataRow>,
) -> Result<(ManifestRecording, bool), CacheError> {
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let label = |column: fn(&MetadataRow) -> &str, attribute: &Option<String>| {
        row.and_then(|row| given(column(row))).or_else(|| attribute.clone())
    };
    let split = match row.map(|row| row.split.as_str()).filter(|split| !split.is_empty()) {
        None => None,
        Some(name) => Some(Split::parse(name).ok_or_else(|| CacheError::Split {
            message: format!(
                "metadata.csv: recording {}: expected the split train, val or test, found `{name}`",
                found.name
            ),
        })?),
    };
    let recording = ManifestRecording {
        name: found.name.clone(),
        path: found.relative.clone(),
        blake3: key.clone(),
        split: split.unwrap_or(Split::Train),
        user: label(|row| &row.user, &attributes.user),
        session: label(|row| &row.session, &attributes.session),
        stage: label(|row| &row.stage, &attributes.stage),
        side: label(|row| &row.side, &attributes.side),
        generalization: row.and_then(|row| given(&row.generalization)),
        segment: 0,
    };
    Ok((recording, split.is_some()))
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
