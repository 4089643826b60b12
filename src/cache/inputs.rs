//! The inputs of a build: finds them, looks them up in the memo, and reads those that it lacks.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Mutex;

use super::error::CacheError;
use super::events::Events;
use super::key::Key;
use super::manifest::ManifestRecording;
use super::measure::{Measured, measure};
use super::memo::{Facts, Memo};
use super::options::BuildOptions;
use super::ordered_map::ordered;
use super::settings::{NORMALIZER, SegmentSettings};
use super::settled::{age, is_settled, settle};
use super::split::{Candidate, Split};
use super::store::Store;
use crate::config::SplitBy;
use crate::recording::{
    Attributes, Cause, FileStamp, Found, Listing, Metadata, MetadataRow, Reader, Recording, RecordingError, RowPlace,
    Verdict, find,
};

/// One input file and what is known of it.
pub(super) struct Input {
    pub(super) found: Found,
    pub(super) stamp: FileStamp,
    metadata: Listing,
    /// Whether a change from now on, or from shortly before it is read, shows in its stamp.
    is_settled: bool,
    pub(super) known: Option<(Key, Facts)>,
}

impl Input {
    /// Bytes to read.
    pub(super) fn bytes(&self) -> u64 {
        self.found.place.bytes(self.stamp.bytes).unwrap_or(0)
    }
}

/// A usable input on its way into the manifest.
pub(super) struct Usable<'i> {
    input: &'i Input,
    pub(super) index: usize,
    pub(super) rows: u64,
    longest_run: u64,
    pub(super) recording: ManifestRecording,
    split_known: bool,
}

/// The result of one pass over a recording.
pub(super) type Scanned = Result<(Recording, Key, Measured), RecordingError>;

/// Everything that a build was given.
pub(super) struct Inputs<'a> {
    pub(super) options: &'a BuildOptions,
    pub(super) events: &'a dyn Events,
    memo: Mutex<Memo>,
    pub(super) segment_settings: SegmentSettings,
    /// Key of the settings that facts in the memo hold under.
    facts_key: Key,
    reader: Reader,
    pub(super) list: Vec<Input>,
    /// Inputs whose data was read, once or twice.
    read: BTreeSet<usize>,
    /// What lies among the inputs, but is no recording.
    left_out: Vec<String>,
    /// What is missing in tables of metadata, or among the recordings that they list.
    pub(super) warnings: Vec<String>,
}

/// Recordings of a cache, and what is not in it.
pub(super) struct Accepted<'i> {
    pub(super) recordings: Vec<Usable<'i>>,
    /// Recordings that cannot be used, with the reasons.
    pub(super) skipped: Vec<String>,
    /// What is not taken for a recording, with the reasons.
    pub(super) left_out: Vec<String>,
}

impl Accepted<'_> {
    /// How many of the recordings have a split at random.
    pub(super) fn assigned(&self) -> usize {
        self.recordings.iter().filter(|usable| !usable.split_known).count()
    }
}

impl<'a> Inputs<'a> {
    pub(super) fn new(store: &Store, options: &'a BuildOptions, events: &'a dyn Events) -> Result<Self, CacheError> {
        let segment_settings = options.settings.segment();
        let facts_key = Key::of(&(&segment_settings, NORMALIZER, env!("CARGO_PKG_VERSION")));
        let memo = Memo::load(store.root());
        let mut metadata = Metadata::new(options.metadata_columns.clone());
        let mut inputs = Vec::new();
        let search = find(&options.inputs)?;
        for mut found in search.found {
            let path = &mut found.place.path;
            *path = std::path::absolute(&*path).map_err(CacheError::io(path))?;
            let stamp = FileStamp::of(path)?;
            let row = metadata.row(&found)?;
            let known =
                memo.get(&found.memo_path(), &stamp, &facts_key).map(|(key, facts)| (key.clone(), facts.clone()));
            let is_settled = is_settled(&stamp, age(&stamp));
            inputs.push(Input { found, stamp, metadata: row, is_settled, known });
        }
        let reader = Reader::new(segment_settings.table_layout(options.chunk_cache), options.hdf5.clone());
        let (read, memo) = (BTreeSet::new(), Mutex::new(memo));
        let left_out = search.left_out.iter().map(ToString::to_string).collect();
        let warnings = metadata.warnings();
        Ok(Self { options, events, memo, segment_settings, facts_key, reader, list: inputs, read, left_out, warnings })
    }

    /// Inputs that must be read to be known; those that metadata.csv leaves out are not wanted at all.
    pub(super) fn unknown(&self) -> Vec<usize> {
        self.listed().filter(|i| self.list[*i].known.is_none()).collect()
    }

    pub(super) fn listed(&self) -> impl Iterator<Item = usize> {
        (0..self.list.len()).filter(|i| !matches!(self.list[*i].metadata, Listing::Unlisted(_)))
    }

    pub(super) fn threads() -> usize {
        rayon::current_num_threads()
    }

    pub(super) fn announce(&self, purpose: &str, inputs: &[usize]) {
        let bytes = inputs.iter().map(|i| self.list[*i].bytes()).sum();
        self.events.reading(purpose, inputs.len(), bytes);
    }

    /// Opens, hashes and measures one input.
    pub(super) fn read(&self, input: usize) -> Scanned {
        let Found { place, unreadable, .. } = &self.list[input].found;
        if let Some(reason) = *unreadable {
            return Err(RecordingError::Unreadable { path: place.label(), reason });
        }
        settle(&self.list[input].stamp);
        let recording = self.reader.open(place)?;
        let (hash, measured) = measure(&recording, &self.segment_settings)?;
        Ok((recording, hash.into(), measured))
    }

    /// Rows of one input, by its header.
    pub(super) fn rows(&self, input: usize) -> Result<u64, RecordingError> {
        let Found { place, unreadable, .. } = &self.list[input].found;
        match *unreadable {
            Some(reason) => Err(RecordingError::Unreadable { path: place.label(), reason }),
            None => self.reader.count_rows(place),
        }
    }

    /// What a pass found, to be learned and remembered.
    ///
    /// # Errors
    /// What the system says is no fact about a recording, so it ends the build; as does one that changed under the pass.
    pub(super) fn finding(&self, index: usize, scanned: &mut Scanned) -> Result<(Key, Facts), CacheError> {
        let input = &self.list[index];
        let known = match scanned {
            Ok((recording, key, measured)) => {
                if recording.stamp() != input.stamp {
                    return Err(RecordingError::Changed { path: input.found.place.label() }.into());
                }
                let facts = Facts::Usable {
                    rows: measured.rows,
                    longest_run: measured.longest(true),
                    attributes: recording.attributes().clone(),
                };
                (key.clone(), facts)
            }
            Err(error) if error.verdict(input.found.is_doubtful) == Verdict::Unknown => {
                let placeholder = RecordingError::Changed { path: input.found.place.label() };
                return Err(std::mem::replace(error, placeholder).into());
            }
            // Without a hash: a file that cannot be used is in no key.
            Err(error) => {
                let is_recording = error.verdict(input.found.is_doubtful) == Verdict::Bad;
                (Key::of(&()), Facts::Bad { reason: error.to_string(), is_recording })
            }
        };
        let is_fact = scanned.as_ref().err().is_none_or(|error| error.cause() == Cause::Content);
        if is_fact && input.is_settled {
            let mut memo = self.memo();
            let path = input.found.memo_path();
            memo.insert(&path, input.stamp, known.0.clone(), self.facts_key.clone(), known.1.clone());
            memo.save_now_and_then();
        }
        Ok(known)
    }

    /// How many recordings' data was read.
    pub(super) fn recordings_read(&self) -> usize {
        self.read.len()
    }

    fn memo(&self) -> std::sync::MutexGuard<'_, Memo> {
        self.memo.lock().expect("no thread panics while it holds the memo")
    }

    /// Writes the memo; gives a warning if it cannot be written.
    pub(super) fn save(&self) -> Option<String> {
        let mut memo = self.memo();
        memo.save();
        let trouble = memo.trouble.as_ref()?;
        Some(format!(
            "what was learned about the recordings cannot be kept, so the next build reads them again, and `emg-train fit` \
             finds this cache only with --cache KEY: {trouble}"
        ))
    }

    /// Takes in what passes found.
    pub(super) fn learn(&mut self, found: Vec<(usize, (Key, Facts))>) {
        for (index, known) in found {
            self.read.insert(index);
            self.list[index].known = Some(known);
        }
    }

    /// Reads all inputs that are not known yet, only to know them.
    pub(super) fn know_all(&mut self) -> Result<(), CacheError> {
        let unknown = self.unknown();
        self.scan(&unknown)
    }

    /// Reads inputs only to know them.
    pub(super) fn scan(&mut self, unknown: &[usize]) -> Result<(), CacheError> {
        self.announce("hash", unknown);
        let mut found = Vec::new();
        let produce = |i: usize| {
            let scanned = self.read(unknown[i]);
            self.events.advanced(self.list[unknown[i]].bytes());
            // The rows are dropped here: only what was learned stays in memory.
            scanned.map(|(recording, key, measured)| (recording.release_rows(), key, measured))
        };
        let threads = Self::threads();
        ordered(unknown.len(), threads, 2 * threads, produce, |i, mut scanned| {
            found.push((unknown[i], self.finding(unknown[i], &mut scanned)?));
            Ok::<_, CacheError>(())
        })?;
        self.learn(found);
        Ok(())
    }

    /// Recordings of the cache with their splits, once all inputs are known, and the reasons why others are not in it.
    pub(super) fn accepted(&self) -> Result<Accepted<'_>, CacheError> {
        let Accepted { recordings, mut skipped, left_out } = self.usable()?;
        let (recordings, without_windows) = self.in_cache(self.with_splits(recordings)?);
        skipped.extend(without_windows);
        Ok(Accepted { recordings, skipped, left_out })
    }

    /// Inputs that can be read, in recording order, the reasons why others cannot, and what is no recording.
    fn usable(&self) -> Result<Accepted<'_>, CacheError> {
        let (mut recordings, mut skipped, mut left_out) = (Vec::new(), Vec::new(), self.left_out.clone());
        for (index, input) in self.list.iter().enumerate() {
            let row = match &input.metadata {
                Listing::Unlisted(table) => {
                    let reason = format!("{}: not listed in {}", input.found.place, table.display());
                    if self.is_recording(index)? { &mut skipped } else { &mut left_out }.push(reason);
                    continue;
                }
                Listing::Listed(row, _) => Some(&**row),
                Listing::NoTable => None,
            };
            match input.known.as_ref().expect("every input is known by now") {
                (_, Facts::Bad { reason, is_recording }) => {
                    if *is_recording { &mut skipped } else { &mut left_out }.push(reason.clone());
                }
                (key, Facts::Usable { rows, longest_run, attributes }) => {
                    let (recording, split_known) = describe(&input.found, key, attributes, row)?;
                    recordings.push(Usable {
                        input,
                        index,
                        rows: *rows,
                        longest_run: *longest_run,
                        recording,
                        split_known,
                    });
                }
            }
        }
        let order = |usable: &Usable<'_>| (usable.recording.name.clone(), usable.recording.blake3.clone());
        recordings.sort_by_cached_key(order);
        check_rows(&recordings)?;
        Ok(Accepted { recordings, skipped, left_out })
    }

    /// Whether an input is a recording, as far as its header tells.
    fn is_recording(&self, input: usize) -> Result<bool, CacheError> {
        match self.rows(input) {
            Ok(_) => Ok(true),
            Err(error) => match error.verdict(self.list[input].found.is_doubtful) {
                Verdict::LeftOut => Ok(false),
                Verdict::Bad => Ok(true),
                Verdict::Unknown => Err(error.into()),
            },
        }
    }

    /// Gives recordings without a split that of their user or session, where a table has given it one.
    fn keep_units_together(&self, usable: &mut [Usable<'_>]) -> Result<(), CacheError> {
        let by = self.options.assignment.by;
        let unit = |usable: &Usable<'_>| match by {
            SplitBy::Recording => None,
            SplitBy::Session => usable.recording.session.clone(),
            SplitBy::User => usable.recording.user.clone(),
        };
        let open: HashSet<_> = usable.iter().filter(|usable| !usable.split_known).filter_map(unit).collect();
        let mut listed: HashMap<String, Split> = HashMap::new();
        for usable in usable.iter().filter(|usable| usable.split_known) {
            let Some(name) = unit(usable).filter(|name| open.contains(name)) else { continue };
            if *listed.entry(name.clone()).or_insert(usable.recording.split) != usable.recording.split {
                return Err(CacheError::DividedUnit { by, name });
            }
        }
        for usable in usable.iter_mut().filter(|usable| !usable.split_known) {
            if let Some(split) = unit(usable).and_then(|name| listed.get(&name)) {
                (usable.recording.split, usable.split_known) = (*split, true);
            }
        }
        Ok(())
    }

    fn with_splits<'i>(&self, mut usable: Vec<Usable<'i>>) -> Result<Vec<Usable<'i>>, CacheError> {
        self.keep_units_together(&mut usable)?;
        let open: Vec<_> = (0..usable.len()).filter(|i| !usable[*i].split_known).collect();
        let candidates: Vec<_> = open
            .iter()
            .map(|i| {
                let ManifestRecording { name, blake3, user, session, .. } = usable[*i].recording.clone();
                Candidate { name, blake3, user, session }
            })
            .collect();
        let splits = self.options.assignment.assign(&candidates)?;
        for (i, split) in open.into_iter().zip(splits) {
            usable[i].recording.split = split;
        }
        Ok(usable)
    }

    /// Rows that an input must have in a row to give a window: `None` while its split is not known and decides.
    pub(super) fn needed_rows(&self, input: usize) -> Option<u64> {
        let settings = &self.options.settings;
        let rows = |split| settings.windows(split).size as u64;
        let listed = match &self.list[input].metadata {
            Listing::Listed(row, _) => Split::parse(&row.split),
            _ => None,
        };
        match listed {
            Some(split) => Some(rows(split)),
            None => Some(rows(Split::Train)).filter(|needed| *needed == rows(Split::Val)),
        }
    }

    /// Recordings that give at least one window, and the reasons why others give none.
    fn in_cache<'i>(&self, usable: Vec<Usable<'i>>) -> (Vec<Usable<'i>>, Vec<String>) {
        let settings = &self.options.settings;
        let (mut accepted, mut left_out) = (Vec::new(), Vec::new());
        for usable in usable {
            let window = settings.windows(usable.recording.split).size as u64;
            let longest = if settings.skip_ik_failures { usable.longest_run } else { usable.rows };
            if longest >= window {
                accepted.push(usable);
                continue;
            }
            let (place, rows) = (&usable.input.found.place, usable.rows);
            left_out.push(if rows < window {
                format!("{place}: too short: expected at least {window} rows for one window, found {rows}")
            } else {
                format!("{place}: no window fits: expected a run of {window} valid rows, but the longest has {longest}")
            });
        }
        (accepted, left_out)
    }

    /// The inputs by the hash of their content, as far as it is known.
    pub(super) fn by_hash(&self) -> HashMap<Key, usize> {
        let usable = |i: &usize| matches!(self.list[*i].known, Some((_, Facts::Usable { .. })));
        let hash = |i: usize| (self.list[i].known.as_ref().expect("known").0.clone(), i);
        self.listed().filter(usable).map(hash).collect()
    }
}

/// Fails if one row of a table is taken for two recordings with other contents.
fn check_rows(recordings: &[Usable<'_>]) -> Result<(), RecordingError> {
    let mut taken: HashMap<&RowPlace, &Usable<'_>> = HashMap::new();
    for usable in recordings {
        let Listing::Listed(_, row) = &usable.input.metadata else { continue };
        let first = *taken.entry(row).or_insert(usable);
        if first.recording.blake3 != usable.recording.blake3 {
            let (path, line) = row.clone();
            let (first, second) = (&first.recording.path, &usable.recording.path);
            let message = format!("this row may be of {first} or of {second}; list their paths");
            return Err(RecordingError::Metadata { path, line, message });
        }
    }
    Ok(())
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
        Some(name) => Some(
            Split::parse(name)
                .ok_or_else(|| CacheError::UnknownSplit { recording: found.name.clone(), found: name.to_owned() })?,
        ),
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
        labels: row.map(|row| row.labels.clone()).unwrap_or_default(),
        segment: 0,
    };
    Ok((recording, split.is_some()))
}
