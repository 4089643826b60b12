//! `metadata.csv` beside the recordings, as emg2pose ships it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::discover::without_extension;
use super::error::RecordingError;
use super::place::{Entry, Member, Place, members, open_regular};

/// Names of the table: in the recordings' archives, and as emg2pose offers it for download.
pub(crate) const TABLES: [&str; 2] = ["metadata.csv", "emg2pose_metadata.csv"];
/// Longest table that is read: 25,253 recordings take 5 MB.
const LONGEST: u64 = 1 << 30;

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
    Listed(Box<MetadataRow>),
}

/// Recordings that a table lists, but that are not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absent {
    pub table: PathBuf,
    pub listed: usize,
    /// In alphabetical order.
    pub names: Vec<String>,
}

/// A folder, and the archive that it is in, if it is in one.
type Folder = (Option<PathBuf>, PathBuf);

/// The rows of every table that lies beside a recording.
#[derive(Debug, Default)]
pub struct Metadata {
    /// Names that columns have in the files, where they are others.
    columns: BTreeMap<String, String>,
    folders: HashMap<Folder, Option<PathBuf>>,
    tables: HashMap<PathBuf, Table>,
    archives: HashMap<PathBuf, Vec<Member>>,
}

#[derive(Debug)]
struct Table {
    rows: HashMap<String, MetadataRow>,
    /// Names that were asked for.
    found: HashSet<String>,
    /// Whether all recordings beside it were looked for.
    searched: bool,
}

impl Metadata {
    /// `columns`: our name of a column to the files' (`data.layout.metadata`).
    pub fn new(columns: BTreeMap<String, String>) -> Self {
        Self { columns, ..Self::default() }
    }

    /// What is said of the recording `name` at `place`. Beside an archive's member is the same folder of the archive, else
    /// the folder that the archive lies in. `searched`: all recordings beside it are asked for.
    ///
    /// # Errors
    /// A table that cannot be read or parsed, or two tables in one folder.
    pub fn row(&mut self, place: &Place, name: &str, searched: bool) -> Result<Listing, RecordingError> {
        let folder = match &place.member {
            None => (None, place.path.parent()),
            Some(member) => (Some(&place.path), Path::new(&member.name).parent()),
        };
        let folder = (folder.0.cloned(), folder.1.unwrap_or(Path::new("")).to_owned());
        if !self.folders.contains_key(&folder) {
            let table = self.find(place)?;
            self.folders.insert(folder.clone(), table);
        }
        let Some(path) = &self.folders[&folder] else { return Ok(Listing::NoTable) };
        let table = self.tables.get_mut(path).expect("found with its folder");
        table.searched &= searched;
        Ok(match table.rows.get(name) {
            Some(row) => {
                table.found.insert(name.to_owned());
                Listing::Listed(Box::new(row.clone()))
            }
            None => Listing::Unlisted(path.clone()),
        })
    }

    /// Recordings that are listed, but were not asked for, beside recordings that all were.
    pub fn absent(&self) -> Vec<Absent> {
        let absent = |(path, table): (&PathBuf, &Table)| {
            let names = table.rows.keys().filter(|name| !table.found.contains(*name));
            let mut names: Vec<_> = names.cloned().collect();
            names.sort();
            let listed = table.rows.len();
            (table.searched && !names.is_empty()).then(|| Absent { table: path.clone(), listed, names })
        };
        let mut all: Vec<_> = self.tables.iter().filter_map(absent).collect();
        all.sort_by(|a, b| a.table.cmp(&b.table));
        all
    }

    /// Reads the table beside a recording, if there is one; gives its path.
    fn find(&mut self, place: &Place) -> Result<Option<PathBuf>, RecordingError> {
        let mut found = Vec::new();
        if let Some(member) = &place.member {
            if !self.archives.contains_key(&place.path) {
                let file = |entry| match entry {
                    Entry::File(member) => Some(member),
                    Entry::Unreadable(..) => None,
                };
                let members = members(&place.path)?.into_iter().filter_map(file);
                self.archives.insert(place.path.clone(), members.collect());
            }
            for table in TABLES {
                let wanted = Path::new(&member.name).with_file_name(table);
                let csv = self.archives[&place.path].iter().find(|member| Path::new(&member.name) == wanted);
                found.extend(csv.map(|csv| Place { path: place.path.clone(), member: Some(csv.clone()) }));
            }
        }
        if found.is_empty() {
            for table in TABLES {
                let path = place.path.parent().unwrap_or(Path::new("")).join(table);
                match path.symlink_metadata() {
                    Ok(_) => found.push(path.into()),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => return Err(RecordingError::io(&path, error)),
                }
            }
        }
        match &found[..] {
            [] => Ok(None),
            [table] => {
                let path = table.label();
                if !self.tables.contains_key(&path) {
                    let rows = parse(&path, &read(table)?, &self.columns)?;
                    let new = Table { rows, found: HashSet::new(), searched: true };
                    self.tables.insert(path.clone(), new);
                }
                Ok(Some(path))
            }
            [first, second, ..] => {
                let path = second.label();
                let message = format!("lies beside {}: only one can say what is what", first.label().display());
                Err(RecordingError::Metadata { path, line: 1, message })
            }
        }
    }
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

fn parse(
    path: &Path,
    bytes: &[u8],
    columns: &BTreeMap<String, String>,
) -> Result<HashMap<String, MetadataRow>, RecordingError> {
    let refuse = |line, message: String| RecordingError::Metadata { path: path.to_owned(), line, message };
    let csv_error = |error: csv::Error| refuse(error.position().map_or(0, csv::Position::line), error.to_string());
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(refuse(1, "expected UTF-8, found UTF-16".into()));
    }
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_start_matches('\u{feff}');
    let first_line = text.lines().next().unwrap_or_default();
    // As some spreadsheets write it.
    let delimiter = if first_line.contains(';') && !first_line.contains(',') { b';' } else { b',' };
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).delimiter(delimiter).from_reader(text.as_bytes());
    let headers = reader.headers().map_err(csv_error)?.clone();
    let mut twice = HashSet::new();
    if let Some(name) = headers.iter().find(|name| !name.is_empty() && !twice.insert(*name)) {
        return Err(refuse(1, format!("two columns are called `{name}`")));
    }
    let mut rows: HashMap<String, (u64, MetadataRow)> = HashMap::new();
    for record in reader.records() {
        let record = record.map_err(csv_error)?;
        let line = record.position().map_or(0, csv::Position::line);
        let (filename, row) = row(&headers, &record, columns);
        let name = without_extension(&filename).to_owned();
        if name.is_empty() {
            return Err(refuse(line, "expected a column `filename` with a name in every row".into()));
        }
        match rows.get(&name) {
            Some((first, other)) if *other != row => {
                return Err(refuse(line, format!("`{name}` is listed in line {first}, too, with other values")));
            }
            Some(_) => {}
            None => drop(rows.insert(name, (line, row))),
        }
    }
    Ok(rows.into_iter().map(|(name, (_, row))| (name, row)).collect())
}

/// The file's name and what is said of it.
fn row(
    headers: &csv::StringRecord,
    record: &csv::StringRecord,
    columns: &BTreeMap<String, String>,
) -> (String, MetadataRow) {
    let (mut row, mut filename) = (MetadataRow::default(), String::new());
    for (theirs, value) in headers.iter().zip(record).filter(|(_, value)| !value.is_empty()) {
        // A column of ours that is called otherwise is not the file's column of that name.
        let ours = columns.iter().find(|(_, name)| *name == theirs).map(|(ours, _)| ours.as_str());
        let ours = ours.or_else(|| Some(theirs).filter(|name| !columns.contains_key(*name)));
        let value = value.to_owned();
        match ours {
            Some("filename") => filename = value,
            Some("session") => row.session = value,
            Some("user") => row.user = value,
            Some("stage") => row.stage = value,
            Some("side") => row.side = value,
            Some("split") => row.split = value,
            Some("generalization") => row.generalization = value,
            _ if theirs.is_empty() => {}
            _ => drop(row.labels.insert(theirs.to_owned(), value)),
        }
    }
    (filename, row)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(metadata: &mut Metadata, recording: &Path, name: &str) -> Option<MetadataRow> {
        match metadata.row(&recording.to_owned().into(), name, true).unwrap() {
            Listing::Listed(row) => Some(*row),
            _ => None,
        }
    }

    #[test]
    fn rows_are_found_by_name_and_other_columns_are_labels() {
        let folder = tempfile::tempdir().unwrap();
        let recording = folder.path().join("a.hdf5");
        assert_eq!(Metadata::default().row(&recording.clone().into(), "a", true).unwrap(), Listing::NoTable);
        for table in TABLES {
            let path = folder.path().join(table);
            std::fs::write(&path, "\u{feff}session,user,filename,split,held_out_user,empty\ns,u,a.h5,val,False,\n")
                .unwrap();
            let mut metadata = Metadata::default();
            let row = listed(&mut metadata, &recording, "a").unwrap();
            assert_eq!((row.session.as_str(), row.split.as_str()), ("s", "val"));
            assert_eq!(row.labels, BTreeMap::from([("held_out_user".to_owned(), "False".to_owned())]));
            assert_eq!(metadata.absent(), []);
            assert_eq!(metadata.row(&recording.clone().into(), "b", true).unwrap(), Listing::Unlisted(path.clone()));
            std::fs::remove_file(path).unwrap();
        }
        std::fs::write(folder.path().join("metadata.csv"), "session;who;file;user\ns;u;b;other\ns;u;gone;\n").unwrap();
        let columns = [("user", "who"), ("filename", "file")].map(|(a, b)| (a.to_owned(), b.to_owned())).into();
        let mut metadata = Metadata::new(columns);
        let row = listed(&mut metadata, &folder.path().join("b.hdf5"), "b").unwrap();
        assert_eq!((row.user.as_str(), row.labels["user"].as_str()), ("u", "other"));
        let absent = Absent { table: folder.path().join("metadata.csv"), listed: 2, names: vec!["gone".into()] };
        assert_eq!(metadata.absent(), [absent]);
        metadata.row(&folder.path().join("b.hdf5").into(), "b", false).unwrap();
        assert_eq!(metadata.absent(), []);
    }

    #[test]
    fn tables_that_contradict_themselves_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (recording, path) = (folder.path().join("a.hdf5"), folder.path().join("metadata.csv"));
        for (text, expected) in [
            ("session,user\ns,u\n", "filename"),
            ("filename,user\ns,u\nx\n", "line 3"),
            ("filename,split\na,train\nb,val\na.hdf5,test\n", "line 4: `a` is listed in line 2, too"),
            ("filename,split,split\na,train,val\n", "two columns are called `split`"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Metadata::default().row(&recording.clone().into(), "a", true).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        std::fs::write(&path, "filename,split\na,train\na.h5,train\n").unwrap();
        assert_eq!(listed(&mut Metadata::default(), &recording, "a").unwrap().split, "train");
        std::fs::write(folder.path().join("emg2pose_metadata.csv"), "filename\na\n").unwrap();
        let error = Metadata::default().row(&recording.into(), "a", true).unwrap_err().to_string();
        assert!(error.contains("metadata.csv: only one"), "{error}");
    }
}
