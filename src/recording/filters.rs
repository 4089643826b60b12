//! Filters of HDF5 datasets: which ones the fast path undoes, and what to do about those that nothing here can.

use std::path::Path;

use super::chunks::Filter;
use super::error::RecordingError;
use super::h5::StoredFilter;

/// Filters by their registered ids (The HDF Group, "Registered Filter Plugins").
const NAMES: [(i32, &str); 12] = [
    (4, "szip"),
    (307, "bzip2"),
    (32000, "lzf"),
    (32001, "blosc"),
    (32004, "lz4"),
    (32008, "bitshuffle"),
    (32013, "zfp"),
    (32015, "zstd"),
    (32017, "sz"),
    (32024, "sz3"),
    (32026, "blosc2"),
    (32028, "sperr"),
];

/// The pipeline, if the fast path knows all of it: each filter at most once, with the parameters that it must have.
pub(super) fn known(stored: &[StoredFilter]) -> Option<Vec<Filter>> {
    let mut filters: Vec<Filter> = Vec::new();
    for StoredFilter { id, values, .. } in stored {
        let filter = match (id, &values[..]) {
            (1, [_level]) => Filter::Deflate,
            (2, [element]) if *element > 0 => Filter::Shuffle(*element as usize),
            (3, []) => Filter::Fletcher32,
            _ => return None,
        };
        if filters.iter().any(|known| std::mem::discriminant(known) == std::mem::discriminant(&filter)) {
            return None;
        }
        filters.push(filter);
    }
    Some(filters)
}

/// The error for a filter that the library has no plugin for.
pub(super) fn missing(path: &Path, filter: &StoredFilter) -> RecordingError {
    let known = NAMES.iter().find(|(id, _)| *id == filter.id).map(|(_, name)| (*name).to_owned());
    let name = known.unwrap_or_else(|| if filter.name.is_empty() { "unknown".to_owned() } else { filter.name.clone() });
    RecordingError::MissingFilter { path: path.to_owned(), name, id: filter.id }
}
