//! Finding recordings: in folders, in archives, and what lies there that is none.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::fs::FileType;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use super::archive::{Entry, SPECIAL, members};
use super::error::RecordingError;
use super::metadata::is_table;
use super::place::{Member, Place};

/// A recording's file, not yet opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// File name without extension.
    pub name: String,
    /// Path relative to the input it was found in, with `/` between its parts.
    pub relative: String,
    pub place: Place,
    /// The file, or the archive, without links on the way to it.
    pub real: PathBuf,
    /// The folder or archive that was searched for it, as an absolute path; `None` for one that was named.
    pub root: Option<PathBuf>,
    /// Whether it may hold anything (*.nwb, *.mat): if it is no recording, it is left out.
    pub is_doubtful: bool,
    /// Why it cannot be read, for a member whose bytes are not in its archive as they are.
    pub unreadable: Option<&'static str>,
}

impl Found {
    /// What a memo knows the recording by, however it is reached: beside an archive's own stamp, where in it the member
    /// lies.
    pub fn memo_path(&self) -> PathBuf {
        let Some(member) = &self.place.member else { return self.real.clone() };
        let mut path = self.real.clone().into_os_string();
        path.push(format!(":{}@{}+{}", member.name, member.offset, member.bytes));
        path.into()
    }
}

/// Something that is not taken for a recording, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeftOut {
    pub path: PathBuf,
    pub reason: String,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Search {
    /// By name, then path.
    pub found: Vec<Found>,
    pub left_out: Vec<LeftOut>,
}

/// Extensions of HDF5 recordings.
const HDF5: [&str; 4] = ["hdf5", "h5", "hdf", "he5"];
/// Extensions of files that may be HDF5 recordings.
const DOUBTFUL: [&str; 4] = ["nwb", "mat", "nc", "nc4"];
/// Folders that systems make.
const SYSTEM_FOLDERS: [&str; 6] =
    ["lost+found", "__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information"];
/// Endings of what may hold recordings, but is not read, and what to do.
const NOT_READ: [(&str, &str); 11] = [
    (".tar", "an archive inside a folder; name it as an input of its own"),
    (".tgz", COMPRESSED),
    (".gz", COMPRESSED),
    (".bz2", COMPRESSED),
    (".xz", COMPRESSED),
    (".zst", COMPRESSED),
    (".zip", COMPRESSED),
    (".rar", COMPRESSED),
    (".7z", COMPRESSED),
    (".edf", "EDF recordings are not read"),
    (".bdf", "BDF recordings are not read"),
];
const COMPRESSED: &str = "compressed; unpack it";
const UNUSED_TABLE: &str = "no recording lies in this folder or below it";

/// Finds recordings: each input is a file, an uncompressed tar archive, or a folder. Archives and folders (recursively, also
/// through links) are searched for names that end as those of recordings do (`HDF5` and `DOUBTFUL`); hidden files and
/// folders are left out. A file that is reached in several ways counts once.
///
/// # Errors
/// An input that cannot be read, or one without recordings.
pub fn find(inputs: &[PathBuf]) -> Result<Search, RecordingError> {
    let mut walk = Walk::default();
    let (mut folders, mut searched) = (Vec::new(), Vec::new());
    for input in inputs {
        let stat = std::fs::metadata(input).map_err(|error| RecordingError::io(input, error))?;
        if stat.is_dir() {
            folders.push(Rc::new(Root::new(input)?));
            searched.push(input);
        } else if has_extension(input, &["tar"]) {
            walk.archive(input)?;
            searched.push(input);
        } else if let Some((_, reason)) = not_read(input) {
            let expected = "a recording, a folder or an uncompressed tar archive";
            return Err(RecordingError::layout(input, "input", expected, reason));
        } else {
            walk.push(input.parent().unwrap_or(Path::new("")), input, real(input)?, None);
        }
    }
    // Folders before those in them, and links last: what is found depends on neither the inputs' order nor on links.
    folders.sort_by_key(|root| root.real.components().count());
    for root in &folders {
        walk.folder(root, &root.path, root.real.clone())?;
    }
    walk.follow_links()?;
    for input in searched {
        let real = real(input)?;
        if !walk.files.iter().any(|file| file.real.starts_with(&real) || file.root.as_ref() == Some(&real)) {
            let left_out = walk.left_out.iter().map(LeftOut::to_string).collect();
            return Err(RecordingError::Nothing { path: input.clone(), left_out });
        }
    }
    walk.finish()
}

/// The name without the extension that a recording may have.
pub(super) fn without_extension(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((stem, extension)) if is_one_of(extension, &HDF5) || is_one_of(extension, &DOUBTFUL) => stem,
        _ => name,
    }
}

fn is_one_of(extension: &str, of: &[&str]) -> bool {
    of.iter().any(|known| known.eq_ignore_ascii_case(extension))
}

fn has_extension(path: &Path, of: &[&str]) -> bool {
    path.extension().is_some_and(|extension| is_one_of(&extension.to_string_lossy(), of))
}

fn is_recording(path: &Path) -> bool {
    has_extension(path, &HDF5) || has_extension(path, &DOUBTFUL)
}

fn not_read(path: &Path) -> Option<(&'static str, &'static str)> {
    let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
    NOT_READ.into_iter().find(|(ending, _)| name.ends_with(ending))
}

/// Why a name is none of a recording or a folder of them.
fn hidden(name: &str) -> Option<&'static str> {
    if SYSTEM_FOLDERS.contains(&name) {
        return Some("a system folder");
    }
    (name.starts_with('.') && name != "." && name != "..").then_some("hidden")
}

/// A file that was found, and how.
struct Candidate {
    found: Found,
    /// What it, and where it was found, is without links.
    real: PathBuf,
    root: Option<PathBuf>,
    by_link: bool,
}

/// An input folder: as it was given, as an absolute path, and without links.
struct Root {
    path: PathBuf,
    absolute: PathBuf,
    real: PathBuf,
}

impl Root {
    fn new(path: &Path) -> Result<Self, RecordingError> {
        let absolute = std::path::absolute(path).map_err(|error| RecordingError::io(path, error))?;
        Ok(Self { path: path.to_owned(), absolute, real: real(path)? })
    }
}

#[derive(Default)]
struct Walk {
    files: Vec<Candidate>,
    left_out: Vec<LeftOut>,
    /// Folders that were searched, without links.
    searched: HashSet<PathBuf>,
    /// Links to folders that are still to be followed, with the input they belong to.
    links: Vec<(Rc<Root>, PathBuf)>,
    /// Tables of metadata in folders.
    tables: Vec<PathBuf>,
}

impl Walk {
    fn leave_out(&mut self, path: &Path, reason: impl Into<String>) {
        self.left_out.push(LeftOut { path: path.to_owned(), reason: reason.into() });
    }

    /// Searches what links in folders lead to, so that a file's own path is preferred.
    fn follow_links(&mut self) -> Result<(), RecordingError> {
        while !self.links.is_empty() {
            let mut links = std::mem::take(&mut self.links);
            links.sort_by(|a, b| a.1.cmp(&b.1));
            for (root, link) in links {
                let real = real(&link)?;
                if self.searched.contains(&real) {
                    self.leave_out(&link, "a link to a folder that is searched already");
                } else {
                    self.folder(&root, &link, real)?;
                }
            }
        }
        Ok(())
    }

    fn folder(&mut self, root: &Rc<Root>, folder: &Path, real: PathBuf) -> Result<(), RecordingError> {
        if !self.searched.insert(real.clone()) {
            return Ok(());
        }
        let io = |error| RecordingError::io(folder, error);
        let mut entries = BTreeMap::new();
        for entry in std::fs::read_dir(folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            entries.insert(entry.path(), entry.file_type().map_err(io)?);
        }
        for (path, kind) in entries {
            let by_link = kind.is_symlink();
            let Some(kind) = (if by_link { followed(&path)? } else { Some(kind) }) else {
                self.leave_out(&path, "a link to nothing");
                continue;
            };
            let name = path.file_name().unwrap_or_default();
            let own = real.join(name);
            match hidden(&name.to_string_lossy()) {
                Some(reason) if kind.is_dir() || is_recording(&path) => self.leave_out(&path, reason),
                Some(_) => {}
                None if kind.is_dir() && by_link => self.links.push((Rc::clone(root), path)),
                None if kind.is_dir() => self.folder(root, &path, own)?,
                None if is_recording(&path) && !kind.is_file() => self.leave_out(&path, "not a regular file"),
                None if is_recording(&path) => {
                    let real = if by_link { self::real(&path)? } else { own };
                    self.push(&root.path, &path, real, Some(root));
                }
                None if is_table(&name.to_string_lossy()) => self.tables.push(path),
                None => {
                    if let Some((_, reason)) = not_read(&path) {
                        self.leave_out(&path, reason);
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes in a file below `folder`, which was searched for from `root`, or was named.
    fn push(&mut self, folder: &Path, path: &Path, real: PathBuf, root: Option<&Rc<Root>>) {
        let by_link = std::path::absolute(path).ok().as_ref() != Some(&real);
        let found = Found {
            name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            relative: relative(path.strip_prefix(folder).unwrap_or(path)),
            place: path.to_owned().into(),
            real: real.clone(),
            root: root.map(|root| root.absolute.clone()),
            is_doubtful: root.is_some() && has_extension(path, &DOUBTFUL),
            unreadable: None,
        };
        self.files.push(Candidate { found, real, root: root.map(|root| root.real.clone()), by_link });
    }

    fn archive(&mut self, archive: &Path) -> Result<(), RecordingError> {
        let (real, absolute) = (real(archive)?, std::path::absolute(archive));
        let absolute = absolute.map_err(|error| RecordingError::io(archive, error))?;
        let entries = members(archive)?;
        let label = |name: &str| Place { path: archive.to_owned(), member: Some(Member::named(name)) }.label();
        for entry in &entries {
            let path = Path::new(entry.name());
            let table = path.file_name().is_some_and(|name| is_table(&name.to_string_lossy()));
            let below = path.parent().unwrap_or(Path::new(""));
            if table
                && !entries.iter().any(|e| Path::new(e.name()).starts_with(below) && is_recording(Path::new(e.name())))
            {
                self.leave_out(&label(entry.name()), UNUSED_TABLE);
            } else if !table && is_recording(path) {
                let mut parts = entry.name().split('/');
                let special = matches!(entry, Entry::Unreadable(_, SPECIAL)).then_some(SPECIAL);
                match parts.find_map(hidden).or(special) {
                    Some(reason) => self.leave_out(&label(entry.name()), reason),
                    None => self.files.push(member(archive, entry, &absolute, &real)),
                }
            } else if let Some((_, reason)) = not_read(path) {
                self.leave_out(&label(entry.name()), reason);
            }
        }
        Ok(())
    }

    /// Each file once: under its own path if that was found, else under the first.
    fn finish(mut self) -> Result<Search, RecordingError> {
        // One that was named is found by a search of its folder, too.
        let order = |file: &Candidate| (file.by_link, file.found.root.is_none(), file.found.place.clone());
        self.files.sort_by_cached_key(order);
        let mut seen: HashMap<_, PathBuf> = HashMap::new();
        let mut found = Vec::new();
        for Candidate { found: candidate, real, .. } in self.files {
            let (label, identity) = (candidate.place.label(), (real, candidate.place.member.clone()));
            match seen.get(&identity) {
                None => {
                    seen.insert(identity, label);
                    found.push(candidate);
                }
                Some(first) if candidate.place.member.is_none() && !is_same_path(first, &label) => {
                    let reason = format!("the same file as {}", first.display());
                    self.left_out.push(LeftOut { path: label, reason });
                }
                Some(_) => {}
            }
        }
        found.sort_by(|a, b| (&a.name, &a.place).cmp(&(&b.name, &b.place)));
        for table in self.tables {
            let folder = table.parent().unwrap_or(Path::new(""));
            if !found.iter().any(|found| found.place.path.starts_with(folder)) {
                self.left_out.push(LeftOut { path: table.clone(), reason: UNUSED_TABLE.into() });
            }
        }
        self.left_out.sort();
        self.left_out.dedup();
        Ok(Search { found, left_out: self.left_out })
    }
}

/// A recording that is a member of an archive.
fn member(archive: &Path, entry: &Entry, absolute: &Path, real: &Path) -> Candidate {
    let (member, unreadable) = match entry {
        Entry::File(member) => (member.clone(), None),
        Entry::Unreadable(name, reason) => (Member::named(name), Some(*reason)),
    };
    let path = Path::new(entry.name());
    let found = Found {
        name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        relative: relative(path),
        is_doubtful: has_extension(path, &DOUBTFUL),
        place: Place { path: archive.to_owned(), member: Some(member) },
        real: real.to_owned(),
        root: Some(absolute.to_owned()),
        unreadable,
    };
    Candidate { found, real: real.to_owned(), root: None, by_link: false }
}

/// Whether two paths differ only in how they are written, not by links.
fn is_same_path(a: &Path, b: &Path) -> bool {
    let link = |path: &Path| path.symlink_metadata().is_ok_and(|stat| stat.is_symlink());
    !link(a) && !link(b) && a.file_name() == b.file_name()
}

/// What a link leads to; `None` for nothing.
fn followed(path: &Path) -> Result<Option<FileType>, RecordingError> {
    match std::fs::metadata(path) {
        Ok(stat) => Ok(Some(stat.file_type())),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => Ok(None),
        Err(error) => Err(RecordingError::io(path, error)),
    }
}

fn real(path: &Path) -> Result<PathBuf, RecordingError> {
    path.canonicalize().map_err(|error| RecordingError::io(path, error))
}

/// A path for the manifest: never absolute or above, whatever an archive says.
fn relative(path: &Path) -> String {
    let parts = path.components().filter(|part| matches!(part, Component::Normal(_)));
    parts.map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn names(search: &Search) -> Vec<(&str, &str)> {
        search.found.iter().map(|f| (f.name.as_str(), f.relative.as_str())).collect()
    }

    fn left_out(search: &Search, root: &Path) -> Vec<(String, String)> {
        let short = |left: &LeftOut| left.path.strip_prefix(root).unwrap().display().to_string();
        search.left_out.iter().map(|left| (short(left), left.reason.replace(&*root.to_string_lossy(), ""))).collect()
    }

    #[test]
    fn finds_files_below_folders_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("sub/deep")).unwrap();
        for name in ["b.hdf5", "sub/a.h5", "sub/deep/c.HDF5", "notes.txt", "d.nwb"] {
            std::fs::write(root.join(name), "").unwrap();
        }
        let search = find(&[root.to_owned(), root.join("b.hdf5"), root.join("sub/../sub")]).unwrap();
        let expected = [("a", "sub/a.h5"), ("b", "b.hdf5"), ("c", "sub/deep/c.HDF5"), ("d", "d.nwb")];
        assert_eq!(names(&search), expected);
        assert_eq!(search.found.iter().map(|f| f.is_doubtful).collect::<Vec<_>>(), [false, false, false, true]);
        assert_eq!(search.left_out, []);
        let below_first = find(&[root.join("sub"), root.to_owned(), root.to_owned()]).unwrap();
        assert_eq!(below_first.found.len(), 4);
        std::fs::create_dir(root.join("empty")).unwrap();
        assert!(matches!(find(&[root.join("empty")]), Err(RecordingError::Nothing { .. })));
    }

    #[test]
    fn links_are_followed_once_and_what_is_left_out_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        let other = folder.path().join("other");
        for name in ["root/.snapshot", "root/lost+found", "root/sub", "root/data", "other"] {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        for name in
            ["z.hdf5", "._z.hdf5", ".snapshot/y.hdf5", "lost+found/x.hdf5", "b.tar.gz", ".hidden", "data/metadata.csv"]
        {
            std::fs::write(root.join(name), "").unwrap();
        }
        std::fs::write(other.join("o.hdf5"), "").unwrap();
        symlink(&other, root.join("more")).unwrap();
        symlink("..", root.join("sub/up")).unwrap();
        symlink("gone.hdf5", root.join("broken.hdf5")).unwrap();
        symlink("circle", root.join("circle")).unwrap();
        symlink("z.hdf5", root.join("a.hdf5")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, root.join("pipe.hdf5"), rustix::fs::Mode::RUSR).unwrap();
        let search = find(std::slice::from_ref(&root)).unwrap();
        assert_eq!(names(&search), [("o", "more/o.hdf5"), ("z", "z.hdf5")]);
        let expected = [
            ("._z.hdf5", "hidden"),
            (".snapshot", "hidden"),
            ("a.hdf5", "the same file as /z.hdf5"),
            ("b.tar.gz", "compressed; unpack it"),
            ("broken.hdf5", "a link to nothing"),
            ("circle", "a link to nothing"),
            ("data/metadata.csv", "no recording lies in this folder or below it"),
            ("lost+found", "a system folder"),
            ("pipe.hdf5", "not a regular file"),
            ("sub/up", "a link to a folder that is searched already"),
        ];
        let expected = expected.map(|(path, reason)| (path.to_owned(), reason.to_owned()));
        assert_eq!(left_out(&search, &root), expected);
    }
}
