//! `metadata.csv` beside the recordings, as emg2pose ships it, or in a folder above them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::archive::{Entry, members};
use super::discover::{Found, without_extension};
use super::error::RecordingError;
use super::place::{Member, Place, open_regular};
use crate::config::METADATA_COLUMNS;

/// Names of the table: in the recordings' archives, and as emg2pose offers it for download.
const TABLES: [&str; 2] = ["metadata.csv", "emg2pose_metadata.csv"];
/// Folders above an input in which a table is looked for, to say that it is not used.
const FAR: usize = 2;
/// Longest table that is read: 25,253 recordings take 5 MB.
const LONGEST: u64 = 1 << 30;

/// Whether a file of this name is a table.
pub(super) fn is_table(name: &str) -> bool {
    TABLES.iter().any(|table| table.eq_ignore_ascii_case(name))
}

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

/// What the table beside a recording says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing {
    /// There is no table.
    NoTable,
    /// The table at this path does not name it.
    Unlisted(PathBuf),
    Listed(Box<MetadataRow>, RowPlace),
}

/// Which row it is: the table, and the line.
pub type RowPlace = (PathBuf, u64);

/// A folder, and the archive that it is in, if it is in one.
type Folder = (Option<PathBuf>, PathBuf);

/// The rows of every table that recordings are listed in.
#[derive(Debug, Default)]
pub struct Metadata {
    /// Names that columns have in the files, where they are others.
    columns: BTreeMap<String, String>,
    /// The table in each folder.
    folders: HashMap<Folder, Option<PathBuf>>,
    tables: HashMap<PathBuf, Table>,
    archives: HashMap<PathBuf, Vec<Entry>>,
    /// Folders of inputs with recordings that no table lists.
    unlisted: BTreeSet<PathBuf>,
}

/// A row, with what it calls its recording, and its line.
#[derive(Debug)]
struct Line {
    /// With `/` between its parts.
    filename: String,
    number: u64,
    row: MetadataRow,
}

#[derive(Debug)]
struct Table {
    /// By the file's name alone, with its extension and without.
    lines: HashMap<String, Vec<Rc<Line>>>,
    has_splits: bool,
    /// File names that recordings were found for.
    found: HashSet<String>,
    /// Recordings that are listed without a split, though there is a column for it.
    without_split: Vec<String>,
    /// Whether all recordings that it may list were looked for.
    searched: bool,
}

impl Metadata {
    /// `columns`: our name of a column to the files' (`data.layout.metadata`).
    pub fn new(columns: BTreeMap<String, String>) -> Self {
        Self { columns, ..Self::default() }
    }

    /// What is said of a recording, by the table in its folder, or else in the nearest folder above it that was searched.
    /// An archive's member may also be listed in the folder that the archive lies in.
    ///
    /// # Errors
    /// A table that cannot be read or parsed, two tables in one folder, or two rows for the recording that differ.
    pub fn row(&mut self, found: &Found) -> Result<Listing, RecordingError> {
        for folder in folders(found) {
            if !self.folders.contains_key(&folder) {
                let table = self.find(&folder)?;
                self.folders.insert(folder.clone(), table);
            }
            let Some(path) = &self.folders[&folder] else { continue };
            let table = self.tables.get_mut(path).expect("found with its folder");
            table.searched &= found.root.is_some();
            let own = found.place.member.as_ref().map_or(&*found.place.path, |member| Path::new(&member.name));
            let relative = own.strip_prefix(&folder.1).unwrap_or(own).to_string_lossy().into_owned();
            return match table.row(path, &relative)? {
                Some((row, line)) => Ok(Listing::Listed(Box::new(row), (path.clone(), line))),
                None => Ok(Listing::Unlisted(path.clone())),
            };
        }
        let input = found.root.as_deref().or(found.place.path.parent());
        self.unlisted.extend(input.map(Path::to_owned));
        Ok(Listing::NoTable)
    }

    /// What is missing: recordings that tables list but that were not found, though they were looked for; and splits.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for (path, table) in &self.tables {
            let path = path.display();
            let listed: BTreeSet<_> = table.lines.values().flatten().map(|line| line.filename.clone()).collect();
            let absent = listed.iter().filter(|name| !table.found.contains(*name));
            let absent: Vec<_> = absent.cloned().collect();
            if table.searched && !absent.is_empty() {
                let (n, of, names) = (absent.len(), listed.len(), some(absent));
                warnings.push(format!("{path}: {n} of {of} listed recordings are not there: {names}"));
            }
            if !table.without_split.is_empty() {
                let (n, names) = (table.without_split.len(), some(table.without_split.clone()));
                warnings.push(format!("{path}: {n} recordings have no split and get a random one: {names}"));
            }
        }
        let above = self.unlisted.iter().flat_map(|input| input.ancestors().skip(1).take(FAR));
        let tables = above.flat_map(|folder| TABLES.map(|table| folder.join(table))).filter(|table| table.is_file());
        for table in tables.collect::<BTreeSet<_>>() {
            warnings.push(format!("{}: lies above the inputs and is not used", table.display()));
        }
        warnings.sort();
        warnings
    }

    /// Reads the table in a folder, if there is one; gives its path.
    fn find(&mut self, folder: &Folder) -> Result<Option<PathBuf>, RecordingError> {
        let found = match folder {
            (Some(archive), below) => self.find_in_archive(archive, below)?,
            (None, folder) => find_in_folder(folder)?,
        };
        match &found[..] {
            [] => Ok(None),
            [table] => {
                let path = table.label();
                if !self.tables.contains_key(&path) {
                    let table = parse(&path, &read(table)?, &self.columns)?;
                    self.tables.insert(path.clone(), table);
                }
                Ok(Some(path))
            }
            [first, second, ..] => {
                let path = second.label();
                let message = format!("there is another table beside it, {}; remove one", first.label().display());
                Err(RecordingError::Metadata { path, line: 1, message })
            }
        }
    }

    fn find_in_archive(&mut self, archive: &Path, below: &Path) -> Result<Vec<Place>, RecordingError> {
        if !self.archives.contains_key(archive) {
            self.archives.insert(archive.to_owned(), members(archive)?);
        }
        let in_folder = |entry: &&Entry| {
            let path = Path::new(entry.name());
            let name = path.file_name().unwrap_or_default();
            is_table(&name.to_string_lossy()) && path.parent() == Some(below)
        };
        let place = |member: &Member| Place { path: archive.to_owned(), member: Some(member.clone()) };
        let tables = self.archives[archive].iter().filter(in_folder).map(|entry| match entry {
            Entry::File(member) => Ok(place(member)),
            Entry::Unreadable(name, reason) => {
                Err(RecordingError::Unreadable { path: place(&Member::named(name)).label(), reason })
            }
        });
        tables.collect()
    }
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

/// Folders whose table may list a recording, the nearest first.
fn folders(found: &Found) -> Vec<Folder> {
    let path = &found.place.path;
    let parent = |path: &Path| path.parent().unwrap_or(Path::new("")).to_owned();
    match (&found.place.member, &found.root) {
        (Some(member), _) => {
            let inside = Path::new(&member.name).ancestors().skip(1);
            let inside = inside.map(|folder| (Some(path.clone()), folder.to_owned()));
            inside.chain([(None, parent(path))]).collect()
        }
        (None, Some(root)) => {
            let above = path.ancestors().skip(1).take_while(|folder| folder.starts_with(root));
            above.map(|folder| (None, folder.to_owned())).collect()
        }
        (None, None) => vec![(None, parent(path))],
    }
}

fn find_in_folder(folder: &Path) -> Result<Vec<Place>, RecordingError> {
    let io = |error| RecordingError::io(folder, error);
    let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut found: Vec<Place> = Vec::new();
    for entry in std::fs::read_dir(here).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        if is_table(&name.to_string_lossy()) {
            found.push(folder.join(name).into());
        }
    }
    found.sort();
    Ok(found)
}

impl Table {
    /// The row for the recording at `relative` to the table's folder: the one whose path has most parts in common with it
    /// from its end, all of one of the two; one with the recording's extension, or without any, before others.
    fn row(&mut self, path: &Path, relative: &str) -> Result<Option<(MetadataRow, u64)>, RecordingError> {
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

/// The bytes of a table.
fn read(table: &Place) -> Result<Vec<u8>, RecordingError> {
    let path = table.label();
    let io = |error| RecordingError::io(&path, error);
    let file = open_regular(&table.path).map_err(io)?;
    let bytes = table.bytes(file.metadata().map_err(io)?.len())?;
    if bytes > LONGEST {
        return Err(RecordingError::damaged(&path, "is larger than 1 GiB"));
    }
    let mut text = Vec::new();
    match &table.member {
        None => (&file).take(LONGEST).read_to_end(&mut text).map(drop),
        Some(member) => {
            text.resize(bytes as usize, 0);
            file.read_exact_at(&mut text, member.offset)
        }
    }
    .map_err(io)?;
    Ok(text)
}

fn parse(path: &Path, bytes: &[u8], columns: &BTreeMap<String, String>) -> Result<Table, RecordingError> {
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
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).delimiter(delimiter).from_reader(text.as_bytes());
    let headers = Headers::new(reader.headers().map_err(csv_error)?, columns).map_err(|message| refuse(1, message))?;
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
                return Err(refuse(number, format!("`{filename}` is listed in line {first}, too, with other values")));
            }
            same.push(Rc::clone(&line));
        }
    }
    let has_splits = headers.ours.contains_key("split");
    let (found, without_split) = (HashSet::new(), Vec::new());
    Ok(Table { lines, has_splits, found, without_split, searched: true })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::find;

    /// What a table says of the recordings below a folder that has it, by their paths.
    fn listed(folder: &Path, metadata: &mut Metadata) -> Result<Vec<(String, Option<MetadataRow>)>, String> {
        let found = find(&[folder.to_owned()]).unwrap().found.into_iter();
        let listed = found.map(|mut found| {
            found.place.path = std::path::absolute(&found.place.path).unwrap();
            match metadata.row(&found).map_err(|error| error.to_string())? {
                Listing::Listed(row, _) => Ok((found.relative, Some(*row))),
                _ => Ok((found.relative, None)),
            }
        });
        listed.collect()
    }

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        folder
    }

    #[test]
    fn rows_are_found_by_name_and_other_columns_are_labels() {
        for table in ["metadata.csv", "emg2pose_metadata.csv", "Metadata.CSV"] {
            let folder = folder(&["a.hdf5", "b.hdf5"]);
            let text = "\u{feff}session,User,filename,Split,held_out_user,empty\ns,u,a.h5,val,False,\n,,,,,\n";
            std::fs::write(folder.path().join(table), text.replace("a.h5", "a")).unwrap();
            let mut metadata = Metadata::default();
            let rows = listed(folder.path(), &mut metadata).unwrap();
            let row = rows[0].1.as_ref().unwrap();
            assert_eq!([&row.session, &row.user, &row.split], ["s", "u", "val"]);
            assert_eq!(row.labels, BTreeMap::from([("held_out_user".to_owned(), "False".to_owned())]));
            assert_eq!((&rows[1].1, metadata.warnings()), (&None, vec![]));
        }
    }

    #[test]
    fn a_table_above_lists_recordings_by_path_or_name() {
        let names = ["s1/a.h5", "s2/a.h5", "s2/deep/b.hdf5", "s3/a.h5", "c.h5"];
        let folder = folder(&names);
        let text = "filename,user\ns1/a.h5,one\ns2\\a,two\nb,three\n./c.h5,\u{e4}\ngone,four\n";
        std::fs::write(folder.path().join("metadata.csv"), text).unwrap();
        std::fs::write(folder.path().join("s3/metadata.csv"), "filename,user\na,own\n").unwrap();
        let mut metadata = Metadata::default();
        let users: Vec<_> = listed(folder.path(), &mut metadata).unwrap();
        let users: Vec<_> =
            users.iter().map(|(path, row)| (path.as_str(), row.as_ref().unwrap().user.as_str())).collect();
        let expected = [
            ("s1/a.h5", "one"),
            ("s2/a.h5", "two"),
            ("s3/a.h5", "own"),
            ("s2/deep/b.hdf5", "three"),
            ("c.h5", "\u{e4}"),
        ];
        assert_eq!(users, expected);
        assert!(
            metadata.warnings()[0].ends_with("1 of 5 listed recordings are not there: gone"),
            "{:?}",
            metadata.warnings()
        );
        // A recording that is named alone is listed in its own folder only.
        let one = find(&[folder.path().join("s2/deep/b.hdf5")]).unwrap().found.remove(0);
        assert_eq!(metadata.row(&one).unwrap(), Listing::NoTable);
    }

    #[test]
    fn a_row_is_of_one_recording() {
        let of = |files: &[&str], text: &str| {
            let folder = folder(files);
            std::fs::write(folder.path().join("metadata.csv"), format!("filename,user\n{text}")).unwrap();
            let rows = listed(folder.path(), &mut Metadata::default())?;
            let users =
                rows.into_iter().map(|(path, row)| format!("{path} {}", row.map_or("-".into(), |row| row.user)));
            Ok::<_, String>(users.collect::<Vec<_>>().join(", "))
        };
        let lab = "/lab/data/u1/s1.h5,u1\nC:\\\\lab\\u2\\s1.h5,u2\n";
        assert_eq!(of(&["u1/s1.h5", "u2/s1.h5"], lab).unwrap(), "u1/s1.h5 u1, u2/s1.h5 u2");
        assert_eq!(of(&["u1/s1.h5", "u2/s1.h5"], "u1/s1.h5,u1\n").unwrap(), "u1/s1.h5 u1, u2/s1.h5 -");
        assert_eq!(of(&["s1/r.h5", "s2/r.h5"], "r.h5,u1\ns2/r.h5,u2\n").unwrap(), "s1/r.h5 u1, s2/r.h5 u2");
        assert_eq!(of(&["a.h5", "a.hdf5"], "a.h5,u1\na.hdf5,u2\n").unwrap(), "a.h5 u1, a.hdf5 u2");
        assert_eq!(of(&["s.mat.h5"], "s.mat,u1\n").unwrap(), "s.mat.h5 u1");
        assert_eq!(of(&["a.h5", "a.mat"], "a,u1\n").unwrap(), "a.h5 u1, a.mat u1");
    }

    #[test]
    fn columns_may_have_other_names_and_separators() {
        let folder = folder(&["b.hdf5"]);
        std::fs::write(folder.path().join("metadata.csv"), b"session;who;file;user;split\ns;J\xf6rg;b;other;\n")
            .unwrap();
        let columns = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let mut metadata = Metadata::new(columns(&[("user", "who"), ("stage", "who"), ("filename", "file")]));
        let rows = listed(folder.path(), &mut metadata).unwrap();
        let row = rows[0].1.as_ref().unwrap();
        assert_eq!(
            (row.user.as_str(), row.stage.as_str(), row.labels["user"].as_str()),
            ("J\u{f6}rg", "J\u{f6}rg", "other")
        );
        assert!(metadata.warnings()[0].ends_with("1 recordings have no split and get a random one: b.hdf5"));
        let mut metadata = Metadata::new(columns(&[("user", "subject"), ("filename", "file")]));
        let error = listed(folder.path(), &mut metadata).unwrap_err();
        assert!(error.contains("there is no column `subject`, which data.layout.metadata names"), "{error}");
    }

    #[test]
    fn tables_that_contradict_themselves_are_refused() {
        let folder = folder(&["a.hdf5"]);
        let path = folder.path().join("metadata.csv");
        for (text, expected) in [
            ("session,user\ns,u\n", "filename"),
            ("filename,user\ns,u\nx\n", "line 3"),
            ("filename,split\na,train\nb,val\na,test\n", "line 4: `a` is listed in line 2, too, with other values"),
            ("filename,split\na,train\nb,val\na.hdf5,test\n", "is listed in line"),
            ("filename,split\nx/y.h5,train\nx/y.h5,val\n", "`x/y.h5` is listed in line 2, too"),
            ("filename,split,Split\na,train,val\n", "two columns are called `Split`"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = listed(folder.path(), &mut Metadata::default()).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        std::fs::write(&path, "filename,split\na,train\na.hdf5,train\n").unwrap();
        assert_eq!(listed(folder.path(), &mut Metadata::default()).unwrap()[0].1.as_ref().unwrap().split, "train");
        std::fs::write(folder.path().join("emg2pose_metadata.csv"), "filename\na\n").unwrap();
        let error = listed(folder.path(), &mut Metadata::default()).unwrap_err();
        assert!(error.contains("there is another table beside it"), "{error}");
    }
}
