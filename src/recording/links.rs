//! Paths inside an HDF5 file, link by link: soft links are followed, and what lies in another file is never opened.

use std::collections::VecDeque;
use std::path::Path;

use super::error::RecordingError;
use super::h5::{self, Link};

/// Soft links on one path, as many as the HDF5 library follows itself.
const MOST_LINKS: usize = 16;

/// An object of the file.
pub(crate) enum Object {
    Group(hdf5::Group),
    Dataset(hdf5::Dataset),
}

impl Object {
    pub(crate) fn location(&self) -> &hdf5::Location {
        match self {
            Self::Group(group) => group,
            Self::Dataset(dataset) => dataset,
        }
    }

    fn what(&self) -> &'static str {
        match self {
            Self::Group(_) => "a group",
            Self::Dataset(_) => "a dataset",
        }
    }
}

/// Finds the dataset at `name`, and says on which part of it the search failed.
pub(crate) fn dataset(path: &Path, file: &hdf5::File, name: &str) -> Result<hdf5::Dataset, RecordingError> {
    if parts(name).next().is_none() {
        return Err(RecordingError::layout(path, "dataset", "a name", format!("`{name}`")));
    }
    match search(path, file, name)? {
        Ok(Object::Dataset(dataset)) => Ok(dataset),
        Ok(other) => Err(RecordingError::layout(path, name, "a dataset", other.what())),
        Err(missing) => Err(missing.error(path)),
    }
}

/// Finds the object at `name`; `None` if its path leads nowhere.
///
/// # Errors
/// The path leads to another file or over a link to nothing, or cannot be read.
pub(crate) fn find(path: &Path, file: &hdf5::File, name: &str) -> Result<Option<Object>, RecordingError> {
    match search(path, file, name)? {
        Ok(object) => Ok(Some(object)),
        Err(missing) if missing.link.is_none() => Ok(None),
        Err(missing) => Err(missing.error(path)),
    }
}

/// Where a path ends early.
struct Missing {
    /// The soft link that led here, if one did, and its target.
    link: Option<(String, String)>,
    /// The path to the group that lacks the part.
    group: String,
    part: String,
    is_last: bool,
    /// What the group has instead.
    present: String,
}

impl Missing {
    fn error(self, path: &Path) -> RecordingError {
        if let Some((link, target)) = self.link {
            let found = format!("a soft link to `{target}`, which leads to nothing");
            return RecordingError::layout(path, &link, "an object", found);
        }
        let what = match (self.is_last, self.group.is_empty()) {
            (false, _) => "group".to_owned(),
            (true, true) => "dataset".to_owned(),
            (true, false) => format!("dataset in group `{}`", self.group),
        };
        RecordingError::missing(path, &what, &format!("`{}`", self.part), &self.present)
    }
}

fn parts(name: &str) -> impl DoubleEndedIterator<Item = String> + '_ {
    name.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned)
}

fn search(path: &Path, file: &hdf5::File, name: &str) -> Result<Result<Object, Missing>, RecordingError> {
    let failed = |error: hdf5::Error| RecordingError::hdf5(path, &error);
    let root = || file.group("/").map_err(failed);
    let (mut group, mut at) = (root()?, Vec::new());
    let mut rest: VecDeque<_> = parts(name).collect();
    let (mut links, mut link) = (0, None);
    while let Some(part) = rest.pop_front() {
        match h5::link(&group, &part).map_err(failed)? {
            None => {
                let names = group.member_names().map_err(failed)?;
                let present = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
                return Ok(Err(Missing { link, group: at.join("/"), part, is_last: rest.is_empty(), present }));
            }
            Some(Link::External(target)) => {
                let found =
                    format!("an external link to another file, `{target}`; copy what it leads to into this file");
                return Err(RecordingError::layout(path, &joined(&at, &part), "an object of this file", found));
            }
            Some(Link::Custom) => {
                let found = "a link of an unknown kind";
                return Err(RecordingError::layout(path, &joined(&at, &part), "an object of this file", found));
            }
            Some(Link::Soft(target)) => {
                links += 1;
                if links > MOST_LINKS {
                    let (expected, found) = (format!("at most {MOST_LINKS} soft links on its path"), "more");
                    return Err(RecordingError::layout(path, name, expected, found));
                }
                link.get_or_insert_with(|| (joined(&at, &part), target.clone()));
                if target.starts_with('/') {
                    (group, at) = (root()?, Vec::new());
                }
                parts(&target).rev().for_each(|part| rest.push_front(part));
            }
            Some(Link::Hard) => {
                use hdf5::LocationType::{Dataset, Group};
                let object = match group.loc_type_by_name(&part).map_err(failed)? {
                    Group => Object::Group(group.group(&part).map_err(failed)?),
                    Dataset => Object::Dataset(group.dataset(&part).map_err(failed)?),
                    _ => return Err(RecordingError::layout(path, &joined(&at, &part), "a dataset", "a datatype")),
                };
                match object {
                    Object::Group(next) => group = next,
                    Object::Dataset(_) if rest.is_empty() => return Ok(Ok(object)),
                    Object::Dataset(_) => {
                        return Err(RecordingError::layout(path, &joined(&at, &part), "a group", "a dataset"));
                    }
                }
                at.push(part);
            }
        }
    }
    Ok(Ok(Object::Group(group)))
}

fn joined(at: &[String], part: &str) -> String {
    at.iter().map(String::as_str).chain([part]).collect::<Vec<_>>().join("/")
}
