//! `metadata.csv` beside the recordings, as emg2pose ships it, or in a folder above them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::archive::{Entry, members};
use super::discover::Found;
use super::error::RecordingError;
use super::metadata_table::{MetadataRow, Table};
use super::place::{Member, Place};
use crate::files::open_regular;

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
            warnings.extend(table.warnings().into_iter().map(|warning| format!("{}: {warning}", path.display())));
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
                    let table = Table::parse(&path, &read(table)?, &self.columns)?;
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
