//! `metadata.csv` beside the recordings, as emg2pose ships it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::RecordingError;

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
    folders: HashMap<PathBuf, Option<HashMap<String, MetadataRow>>>,
}

impl Metadata {
    /// The row for the recording at `path`: `None` if no metadata.csv lies beside it, `Some(None)` if one does
    /// but does not name the recording.
    ///
    /// # Errors
    /// A metadata.csv that cannot be read or parsed.
    pub fn row(&mut self, path: &Path, name: &str) -> Result<Option<Option<MetadataRow>>, RecordingError> {
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        if !self.folders.contains_key(&folder) {
            let rows = read(&folder.join("metadata.csv"))?;
            self.folders.insert(folder.clone(), rows);
        }
        Ok(self.folders[&folder].as_ref().map(|rows| rows.get(name).cloned()))
    }
}

fn read(path: &Path) -> Result<Option<HashMap<String, MetadataRow>>, RecordingError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(RecordingError::io(path, error)),
    };
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_slice());
    let mut rows = HashMap::new();
    for row in reader.deserialize() {
        let row: MetadataRow = row.map_err(|error| RecordingError::Metadata {
            path: path.to_owned(),
            line: error.position().map_or(0, csv::Position::line),
            message: error.to_string(),
        })?;
        let name = row.filename.strip_suffix(".hdf5").unwrap_or(&row.filename).to_owned();
        rows.insert(name, row);
    }
    if rows.contains_key("") {
        let message = "expected a column `filename` with a name in every row".into();
        return Err(RecordingError::Metadata { path: path.to_owned(), line: 1, message });
    }
    Ok(Some(rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_name_and_bad_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let recording = folder.path().join("a.hdf5");
        assert_eq!(Metadata::default().row(&recording, "a").unwrap(), None);
        let path = folder.path().join("metadata.csv");
        std::fs::write(&path, "session,user,filename,split\ns,u,a,val\n").unwrap();
        let mut metadata = Metadata::default();
        assert_eq!(metadata.row(&recording, "a").unwrap().unwrap().unwrap().split, "val");
        assert_eq!(metadata.row(&recording, "b").unwrap(), Some(None));
        std::fs::write(&path, "session,user\ns,u\n").unwrap();
        assert!(Metadata::default().row(&recording, "a").unwrap_err().to_string().contains("filename"));
        std::fs::write(&path, "filename,user\ns,u\nx\n").unwrap();
        assert!(Metadata::default().row(&recording, "a").unwrap_err().to_string().contains("line 3"));
    }
}
