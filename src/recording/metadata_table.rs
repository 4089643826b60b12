//! One `metadata.csv`: its rows, and which of them is of a recording.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::rc::Rc;

use super::discover::without_extension;
use super::error::RecordingError;
use crate::config::METADATA_COLUMNS;

/// The columns that this project uses, and all others by their names; missing ones are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetadataRow {
    pub session: String,
    pub user: String,
    pub stage: String,
    pub side: String,
    /// train, val or test; empty where the file has no such column.
    pub split: String,
    pub generalization: String,
    /// What other columns say, as far as they say something.
    pub labels: BTreeMap<String, String>,
}

/// A row, with what it calls its recording, and its line.
#[derive(Debug)]
struct Line {
    /// With `/` between its parts.
    filename: String,
    number: u64,
    row: MetadataRow,
}

/// A table, and what of it was asked for.
#[derive(Debug)]
pub(super) struct Table {
    /// By the file's name alone, with its extension and without.
    lines: HashMap<String, Vec<Rc<Line>>>,
    has_splits: bool,
    /// File names that recordings were found for.
    found: HashSet<String>,
    /// Recordings that are listed without a split, though there is a column for it.
    without_split: Vec<String>,
    /// Whether all recordings that it may list were looked for.
    pub(super) searched: bool,
}

impl Table {
    /// # Errors
    /// The bytes are no table, or it contradicts itself or `columns`, our names of columns to its own.
    pub(super) fn parse(path: &Path, bytes: &[u8], columns: &BTreeMap<String, String>) -> Result<Self, RecordingError> {
        let refuse = |line, message: String| RecordingError::Metadata { path: path.to_owned(), line, message };
        let csv_error = |error: csv::Error| refuse(error.position().map_or(0, csv::Position::line), error.to_string());
        if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
            return Err(refuse(1, "expected UTF-8, found UTF-16".into()));
        }
        let text = decoded(bytes);
        let text = text.trim_start_matches('\u{feff}');
        let first_line = text.lines().next().unwrap_or_default();
        // As some spreadsheets write it.
        let delimiter = if first_line.contains(';') && !first_line.contains(',') { b';' } else { b',' };
        let mut reader =
            csv::ReaderBuilder::new().trim(csv::Trim::All).delimiter(delimiter).from_reader(text.as_bytes());
        let headers =
            Headers::new(reader.headers().map_err(csv_error)?, columns).map_err(|message| refuse(1, message))?;
        let mut lines: HashMap<String, Vec<Rc<Line>>> = HashMap::new();
        for record in reader.records() {
            let record = record.map_err(csv_error)?;
            let number = record.position().map_or(0, csv::Position::line);
            if record.iter().all(str::is_empty) {
                continue;
            }
            let filename = headers.value(&record, "filename").replace('\\', "/");
            let filename = filename.trim_start_matches("./").to_owned();
            let name = filename.rsplit('/').next().unwrap_or("").to_owned();
            if name.is_empty() {
                return Err(refuse(number, "expected a column `filename` with a name in every row".into()));
            }
            let row = headers.row(&record);
            // With its extension and without.
            let line = Rc::new(Line { filename: filename.clone(), number, row });
            for key in BTreeSet::from([name.as_str(), without_extension(&name)]) {
                let same = lines.entry(key.to_owned()).or_default();
                if let Some(first) = same.iter().find(|first| first.filename == filename && first.row != line.row) {
                    let first = first.number;
                    return Err(refuse(
                        number,
                        format!("`{filename}` is listed in line {first}, too, with other values"),
                    ));
                }
                same.push(Rc::clone(&line));
            }
        }
        let has_splits = headers.ours.contains_key("split");
        let (found, without_split) = (HashSet::new(), Vec::new());
        Ok(Self { lines, has_splits, found, without_split, searched: true })
    }

    /// What is missing: recordings that are listed but were not asked for, though all were looked for; and splits.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let listed: BTreeSet<_> = self.lines.values().flatten().map(|line| line.filename.clone()).collect();
        let absent: Vec<_> = listed.iter().filter(|name| !self.found.contains(*name)).cloned().collect();
        if self.searched && !absent.is_empty() {
            let (n, of, names) = (absent.len(), listed.len(), some(absent));
            warnings.push(format!("{n} of {of} listed recordings are not there: {names}"));
        }
        if !self.without_split.is_empty() {
            let (n, names) = (self.without_split.len(), some(self.without_split.clone()));
            warnings.push(format!("{n} recordings have no split and get a random one: {names}"));
        }
        warnings
    }

    /// The row for the recording at `relative` to the table's folder: the one whose path has most parts in common with it
    /// from its end, all of one of the two; one with the recording's extension, or without any, before others.
    pub(super) fn row(&mut self, path: &Path, relative: &str) -> Result<Option<(MetadataRow, u64)>, RecordingError> {
        let name = relative.rsplit('/').next().unwrap_or(relative);
        let keys = BTreeSet::from([name, without_extension(name)]);
        let lines = keys.into_iter().filter_map(|key| self.lines.get(key)).flatten();
        let scored: Vec<_> = lines.filter_map(|line| Some((agreement(&line.filename, relative)?, line))).collect();
        let Some(best) = scored.iter().map(|(score, _)| *score).max() else { return Ok(None) };
        let matching: Vec<_> = scored.into_iter().filter(|(score, _)| *score == best).map(|(_, line)| line).collect();
        let first = matching[0];
        if let Some(other) = matching.iter().find(|line| line.row != first.row) {
            let message = format!("`{}` is listed in line {}, too, with other values", other.filename, first.number);
            return Err(RecordingError::Metadata { path: path.to_owned(), line: other.number, message });
        }
        if self.has_splits && first.row.split.is_empty() {
            self.without_split.push(relative.to_owned());
        }
        self.found.extend(matching.iter().map(|line| line.filename.clone()));
        Ok(Some((first.row.clone(), first.number)))
    }
}

/// How well the name of a row agrees with a recording's path: whether it has its extension or none, and how many parts are
/// the same from the end on. `None` unless one of them ends with all of the other.
fn agreement(filename: &str, relative: &str) -> Option<(bool, usize)> {
    let common = |a: &str, b: &str| {
        let same = a.rsplit('/').zip(b.rsplit('/')).take_while(|(a, b)| a == b).count();
        (same == a.split('/').count().min(b.split('/').count())).then_some(same)
    };
    let exact = common(filename, relative).or_else(|| common(filename, without_extension(relative)));
    let loose = || common(without_extension(filename), without_extension(relative)).map(|same| (false, same));
    exact.map(|same| (true, same)).or_else(loose)
}

/// A few of these, in order.
fn some(mut names: Vec<String>) -> String {
    /// More would hide the rest.
    const MOST: usize = 5;
    names.sort();
    let more = if names.len() > MOST { ", ..." } else { "" };
    names.truncate(MOST);
    names.join(", ") + more
}

/// UTF-8, or else Latin-1, in which different bytes stay different texts.
fn decoded(bytes: &[u8]) -> String {
    let latin = || bytes.iter().map(|byte| char::from(*byte)).collect();
    std::str::from_utf8(bytes).map_or_else(|_| latin(), str::to_owned)
}

/// Which column of a table is which.
struct Headers {
    /// Places of the columns that this project uses, by its names.
    ours: HashMap<&'static str, usize>,
    /// Places and names of all others.
    others: Vec<(usize, String)>,
}

impl Headers {
    fn new(names: &csv::StringRecord, columns: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut seen = HashSet::new();
        if let Some(name) = names.iter().find(|name| !name.is_empty() && !seen.insert(name.to_lowercase())) {
            return Err(format!("two columns are called `{name}`"));
        }
        let place = |wanted: &str| names.iter().position(|name| name.eq_ignore_ascii_case(wanted));
        let mut ours = HashMap::new();
        for own in METADATA_COLUMNS {
            match (columns.get(own), place(columns.get(own).map_or(own, String::as_str))) {
                (_, Some(place)) => drop(ours.insert(own, place)),
                (Some(theirs), None) => {
                    return Err(format!("there is no column `{theirs}`, which data.layout.metadata names"));
                }
                (None, None) => {}
            }
        }
        let others = names.iter().map(str::to_owned).enumerate();
        let others = others.filter(|(place, name)| !name.is_empty() && !ours.values().any(|own| own == place));
        let others = others.collect();
        Ok(Self { ours, others })
    }

    fn value<'r>(&self, record: &'r csv::StringRecord, column: &str) -> &'r str {
        self.ours.get(column).and_then(|place| record.get(*place)).unwrap_or("")
    }

    fn row(&self, record: &csv::StringRecord) -> MetadataRow {
        let ours = |column: &str| self.value(record, column).to_owned();
        let others = self.others.iter().filter_map(|(place, name)| Some((name, record.get(*place)?)));
        let others = others.filter(|(_, value)| !value.is_empty());
        MetadataRow {
            session: ours("session"),
            user: ours("user"),
            stage: ours("stage"),
            side: ours("side"),
            split: ours("split"),
            generalization: ours("generalization"),
            labels: others.map(|(name, value)| (name.clone(), value.to_owned())).collect(),
        }
    }
}
