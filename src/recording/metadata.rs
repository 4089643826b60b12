//! `metadata.csv` beside the recordings, as emg2pose ships it.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::RecordingError;
use super::place::{Member, Place, members};

/// The columns this project uses; others are ignored, missing ones are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct MetadataRow {
    /// File name without extension.
    pub filename: String,
    pub session: String,
    pub user: String,
    pub stage: String,
    pub side: String,
    /// train, val or test; empty where the file has no such column.
    pub split: String,
    pub generalization: String,
}

/// The rows of every metadata.csv that lies beside a recording.
#[derive(Debug, Default)]
pub struct Metadata {
    /// Names that columns have in the files, where they are others.
    columns: BTreeMap<String, String>,
    /// By archive, if it is in one, and folder.
    folders: HashMap<(Option<PathBuf>, PathBuf), Option<Rows>>,
    archives: HashMap<PathBuf, Vec<Member>>,
}

impl Metadata {
    /// `columns`: our name of a column to the files' (`data.layout.metadata`).
    pub fn new(columns: BTreeMap<String, String>) -> Self {
        Self { columns, ..Self::default() }
    }

    /// The row for the recording at `place`: `None` if no metadata.csv lies beside it, `Some(None)` if one does
    /// but does not name the recording. Beside an archive's member is the same folder of the archive, else the folder
    /// that the archive lies in.
    ///
    /// # Errors
    /// A metadata.csv that cannot be read or parsed.
    pub fn row(&mut self, place: &Place, name: &str) -> Result<Option<Option<MetadataRow>>, RecordingError> {
        let folder = match &place.member {
            None => (None, place.path.parent()),
            Some(member) => (Some(&place.path), Path::new(&member.name).parent()),
        };
        let folder = (folder.0.cloned(), folder.1.unwrap_or(Path::new("")).to_owned());
        if !self.folders.contains_key(&folder) {
            let rows = self.read(place)?;
            self.folders.insert(folder.clone(), rows);
        }
        Ok(self.folders[&folder].as_ref().map(|rows| rows.get(name).cloned()))
    }

    fn read(&mut self, place: &Place) -> Result<Option<Rows>, RecordingError> {
        if let Some(member) = &place.member {
            if !self.archives.contains_key(&place.path) {
                self.archives.insert(place.path.clone(), members(&place.path)?);
            }
            let wanted = Path::new(&member.name).with_file_name("metadata.csv");
            let found = self.archives[&place.path].iter().find(|member| Path::new(&member.name) == wanted);
            if let Some(csv) = found {
                return read_member(&place.path, csv, &self.columns).map(Some);
            }
        }
        read(&place.path.parent().unwrap_or(Path::new("")).join("metadata.csv"), &self.columns)
    }
}

type Rows = HashMap<String, MetadataRow>;
type Columns = BTreeMap<String, String>;

/// A metadata.csv that is a member of an archive.
fn read_member(archive: &Path, member: &Member, columns: &Columns) -> Result<Rows, RecordingError> {
    /// 25,253 recordings take 5 MB.
    const LARGEST: u64 = 1 << 30;
    let place = Place { path: archive.to_owned(), member: Some(member.clone()) };
    let io = |error| RecordingError::io(&place.label(), error);
    let file = std::fs::File::open(archive).map_err(io)?;
    if place.bytes(file.metadata().map_err(io)?.len())? > LARGEST {
        return Err(RecordingError::damaged(&place.label(), "is larger than 1 GiB"));
    }
    let mut text = vec![0; member.bytes as usize];
    file.read_exact_at(&mut text, member.offset).map_err(io)?;
    parse(&place.label(), &text, columns)
}

fn read(path: &Path, columns: &Columns) -> Result<Option<Rows>, RecordingError> {
    match std::fs::read(path) {
        Ok(text) => parse(path, &text, columns).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(RecordingError::io(path, error)),
    }
}

fn parse(path: &Path, text: &[u8], columns: &Columns) -> Result<Rows, RecordingError> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text);
    let metadata_error = |error: csv::Error| RecordingError::Metadata {
        path: path.to_owned(),
        line: error.position().map_or(0, csv::Position::line),
        message: error.to_string(),
    };
    let ours = |theirs: &str| columns.iter().find(|(_, name)| *name == theirs).map(|(ours, _)| ours.clone());
    // A column of ours that is named otherwise is not the file's column of that name.
    let renamed = |name: &str| {
        ours(name).unwrap_or_else(|| if columns.contains_key(name) { format!("other {name}") } else { name.to_owned() })
    };
    let headers = reader.headers().map_err(metadata_error)?.iter().map(renamed).collect();
    reader.set_headers(headers);
    let mut rows = HashMap::new();
    for row in reader.deserialize() {
        let row: MetadataRow = row.map_err(metadata_error)?;
        let name = row.filename.strip_suffix(".hdf5").unwrap_or(&row.filename).to_owned();
        rows.insert(name, row);
    }
    if rows.contains_key("") {
        let message = "expected a column `filename` with a name in every row".into();
        return Err(RecordingError::Metadata { path: path.to_owned(), line: 1, message });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_name_and_bad_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let recording = Place::from(folder.path().join("a.hdf5"));
        assert_eq!(Metadata::default().row(&recording, "a").unwrap(), None);
        let path = folder.path().join("metadata.csv");
        std::fs::write(&path, "session,user,filename,split\ns,u,a,val\n").unwrap();
        let mut metadata = Metadata::default();
        assert_eq!(metadata.row(&recording, "a").unwrap().unwrap().unwrap().split, "val");
        assert_eq!(metadata.row(&recording, "b").unwrap(), Some(None));
        std::fs::write(&path, "session,who,file,user\ns,u,b,other\n").unwrap();
        let columns = [("user", "who"), ("filename", "file")].map(|(a, b)| (a.to_owned(), b.to_owned())).into();
        let b = Place::from(folder.path().join("b.hdf5"));
        assert_eq!(Metadata::new(columns).row(&b, "b").unwrap().unwrap().unwrap().user, "u");
        std::fs::write(&path, "session,user\ns,u\n").unwrap();
        assert!(Metadata::default().row(&recording, "a").unwrap_err().to_string().contains("filename"));
        std::fs::write(&path, "filename,user\ns,u\nx\n").unwrap();
        assert!(Metadata::default().row(&recording, "a").unwrap_err().to_string().contains("line 3"));
    }
}
