//! A dataset's rows: where they lie in the file, and reading them.

use hdf5::dataset::Layout as Stored;
use hdf5::filters::Filter as StoredFilter;
use hdf5::types::{FloatSize, TypeDescriptor};
use serde::{Deserialize, Serialize};
use std::path::Path;

use super::chunks::{Chunk, Filter};
use super::driver;
use super::error::RecordingError;
use super::place::Place;
use super::rows::Field;

pub(super) const MAX_ROW_BYTES: usize = 1 << 20;
const MAX_CHUNK_BYTES: usize = 1 << 30;
/// Rows that a file of one byte could at most describe by deflated or missing chunks.
const MAX_EXPANSION: u64 = 1100;

/// How rows are stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Storage {
    Contiguous {
        address: u64,
    },
    Chunked {
        chunk_rows: usize,
        filters: Vec<Filter>,
        chunks: Vec<Chunk>,
    },
    /// Only the HDF5 library can read it (other filters, byte orders, missing chunks, compact or virtual storage).
    Library,
}

/// A compound dataset [T], or a plain one [T] or [T, columns], as rows of bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Dataset {
    /// Its path in the file.
    pub(crate) name: String,
    pub(crate) rows: u64,
    pub(crate) row_bytes: usize,
    pub(crate) storage: Storage,
}

/// Opens the file for the library to read.
pub(crate) fn open_file(place: &Place, chunk_cache: usize) -> Result<hdf5::File, RecordingError> {
    match &place.member {
        None => hdf5::File::with_options()
            .with_fapl(|fapl| fapl.chunk_cache(12_421, chunk_cache, 0.75))
            .open(&place.path)
            .map_err(|error| RecordingError::hdf5(&place.path, &error)),
        Some(_) => driver::open_member(place, chunk_cache),
    }
}

/// Finds a dataset by its path, and says on which part of it the search failed.
pub(crate) fn find(path: &Path, file: &hdf5::File, name: &str) -> Result<hdf5::Dataset, RecordingError> {
    let present = |group: &hdf5::Group| {
        let names = group.member_names().unwrap_or_default();
        if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
    };
    let parts: Vec<_> = name.split('/').filter(|part| !part.is_empty()).collect();
    let Some((last, groups)) = parts.split_last() else {
        return Err(RecordingError::layout(path, "dataset", "a name", format!("`{name}`")));
    };
    let mut group = file.group("/").map_err(|error| RecordingError::hdf5(path, &error))?;
    for part in groups {
        group = group
            .group(part)
            .map_err(|_| RecordingError::layout(path, "group", format!("`{part}`"), present(&group)))?;
    }
    group.dataset(last).map_err(|_| {
        let what =
            if groups.is_empty() { "dataset".into() } else { format!("dataset in group `{}`", groups.join("/")) };
        RecordingError::layout(path, &what, format!("`{last}`"), present(&group))
    })
}

/// A dataset's element type.
pub(crate) fn descriptor(path: &Path, dataset: &hdf5::Dataset) -> Result<TypeDescriptor, RecordingError> {
    let described = dataset.dtype().and_then(|dtype| dtype.to_descriptor());
    described.map_err(|error| RecordingError::hdf5(path, &error))
}

/// Floats of a plain or array type: bytes of one, and how many.
pub(crate) fn floats(path: &Path, name: &str, ty: &TypeDescriptor) -> Result<(bool, usize), RecordingError> {
    let (element, width) = match ty {
        TypeDescriptor::FixedArray(element, width) => (element.as_ref(), *width),
        element => (element, 1),
    };
    match element {
        TypeDescriptor::Float(FloatSize::U4) => Ok((false, width)),
        TypeDescriptor::Float(FloatSize::U8) => Ok((true, width)),
        other => Err(RecordingError::layout(path, name, "4- or 8-byte floats", other.to_string())),
    }
}

impl Dataset {
    /// Describes rows of `row_bytes` bytes each in a dataset whose elements have `element_bytes`.
    pub(crate) fn new(
        path: &Path,
        name: &str,
        dataset: &hdf5::Dataset,
        row_bytes: usize,
        element_bytes: usize,
        file_bytes: u64,
    ) -> Result<Self, RecordingError> {
        let rows = dataset.shape().first().copied().unwrap_or(0);
        if row_bytes == 0 || row_bytes > MAX_ROW_BYTES || rows == 0 {
            let found = format!("{rows} rows of {row_bytes} bytes");
            return Err(RecordingError::layout(path, "dataset", "at least one row, of at most 1 MiB", found));
        }
        let mut described = Self { name: name.to_owned(), rows: rows as u64, row_bytes, storage: Storage::Library };
        let too_large = || {
            let message = format!("{rows} rows of {row_bytes} bytes do not fit into a file of {file_bytes} bytes");
            RecordingError::damaged(path, message)
        };
        let bytes = described.bytes().filter(|bytes| bytes / MAX_EXPANSION <= file_bytes).ok_or_else(too_large)?;
        let dtype = dataset.dtype().map_err(|error| RecordingError::hdf5(path, &error))?;
        let little = dtype.byte_order() == hdf5::datatype::ByteOrder::LittleEndian;
        described.storage = match dataset.layout() {
            Stored::Contiguous if little => match dataset.offset() {
                Some(address) if address.checked_add(bytes).is_some_and(|end| end <= file_bytes) => {
                    Storage::Contiguous { address }
                }
                Some(_) => return Err(too_large()),
                None => Storage::Library,
            },
            Stored::Chunked if little => described.chunked(path, dataset, element_bytes, file_bytes)?,
            _ => Storage::Library,
        };
        Ok(described)
    }

    fn bytes(&self) -> Option<u64> {
        self.rows.checked_mul(self.row_bytes as u64)
    }

    fn chunked(
        &self,
        path: &Path,
        dataset: &hdf5::Dataset,
        element_bytes: usize,
        file_bytes: u64,
    ) -> Result<Storage, RecordingError> {
        let shape = dataset.chunk().unwrap_or_default();
        let Some((chunk_rows, rest)) = shape.split_first() else { return Ok(Storage::Library) };
        // Chunks of whole rows only: others are put together by the library.
        if rest.len() > 1 || rest != &dataset.shape()[1..] {
            return Ok(Storage::Library);
        }
        let (chunk_rows, row_bytes) = (*chunk_rows, self.row_bytes);
        if chunk_rows == 0 || chunk_rows.checked_mul(row_bytes).is_none_or(|bytes| bytes > MAX_CHUNK_BYTES) {
            return Err(RecordingError::damaged(path, format!("chunks of {chunk_rows} rows of {row_bytes} bytes")));
        }
        let mut filters = Vec::new();
        for filter in dataset.filters() {
            filters.push(match filter {
                StoredFilter::Deflate(_) => Filter::Deflate,
                StoredFilter::Shuffle => Filter::Shuffle(element_bytes),
                StoredFilter::Fletcher32 => Filter::Fletcher32,
                _ => return Ok(Storage::Library),
            });
        }
        let mut chunks = Vec::new();
        dataset
            .chunks_visit(|info| {
                let chunk = (info.offset.first(), usize::try_from(info.size));
                if let (Some(first_row), Ok(size)) = chunk {
                    let (first_row, address, filter_mask) = (*first_row, info.addr, info.filter_mask);
                    chunks.push(Chunk { first_row, address, size, filter_mask });
                }
                0
            })
            .map_err(|error| RecordingError::hdf5(path, &error))?;
        chunks.sort_by_key(|chunk| chunk.first_row);
        chunks.retain(|chunk| chunk.first_row < self.rows);
        let complete = chunks.len() as u64 == self.rows.div_ceil(chunk_rows as u64)
            && chunks.iter().enumerate().all(|(i, chunk)| chunk.first_row == (i * chunk_rows) as u64);
        if !complete {
            // Chunks never written are filled in by the library.
            return Ok(Storage::Library);
        }
        match chunks.iter().find(|chunk| !is_plausible(chunk, chunk_rows * row_bytes, file_bytes)) {
            Some(Chunk { first_row, address, size, .. }) => Err(RecordingError::damaged(
                path,
                format!(
                    "the chunk of row {first_row}, {size} bytes at {address}, cannot be in a file of {file_bytes} bytes"
                ),
            )),
            None => Ok(Storage::Chunked { chunk_rows, filters, chunks }),
        }
    }

    /// Whether all that is said of the rows lies within a file of `file_bytes`.
    pub(crate) fn is_within(&self, file_bytes: u64) -> bool {
        let ends = |start: u64, bytes: u64| start.checked_add(bytes).is_some_and(|end| end <= file_bytes);
        let bytes = self.bytes().filter(|bytes| bytes / MAX_EXPANSION <= file_bytes);
        let stored = match &self.storage {
            Storage::Contiguous { address } => bytes.is_some_and(|bytes| ends(*address, bytes)),
            Storage::Chunked { chunk_rows, chunks, .. } => {
                let bytes = chunk_rows.checked_mul(self.row_bytes);
                bytes.is_some_and(|bytes| (1..=MAX_CHUNK_BYTES).contains(&bytes))
                    && chunks.len() as u64 == self.rows.div_ceil(*chunk_rows as u64)
                    && chunks.iter().enumerate().all(|(i, chunk)| {
                        chunk.first_row == (i * chunk_rows) as u64
                            && is_plausible(chunk, chunk_rows * self.row_bytes, file_bytes)
                    })
            }
            Storage::Library => true,
        };
        (1..=MAX_ROW_BYTES).contains(&self.row_bytes) && self.rows > 0 && bytes.is_some() && stored
    }
}

/// Whether a stored chunk lies in the file and can be what it decodes to: filters neither grow data by much nor shrink
/// it beyond what deflate can.
fn is_plausible(chunk: &Chunk, chunk_bytes: usize, file_bytes: u64) -> bool {
    let ends = chunk.address.checked_add(chunk.size as u64).is_some_and(|end| end <= file_bytes);
    let grown = chunk.size <= chunk_bytes + chunk_bytes / 100 + 4096;
    ends && grown && chunk_bytes as u64 / MAX_EXPANSION <= chunk.size as u64 + 64
}

/// A plain dataset [T] or [T, columns] of floats, as rows with one field.
pub(crate) fn plain(
    path: &Path,
    file: &hdf5::File,
    name: &str,
    file_bytes: u64,
) -> Result<(Dataset, Field), RecordingError> {
    let dataset = find(path, file, name)?;
    let shape = dataset.shape();
    let columns = match shape[..] {
        [_] => 1,
        [_, columns] => columns,
        _ => return Err(RecordingError::layout(path, name, "one or two dimensions", format!("shape {shape:?}"))),
    };
    let (double, width) = floats(path, name, &descriptor(path, &dataset)?)?;
    let element_bytes = if double { 8 } else { 4 } * width;
    let width = width.checked_mul(columns).filter(|width| *width <= MAX_ROW_BYTES / 4);
    let width =
        width.ok_or_else(|| RecordingError::layout(path, name, "rows of at most 1 MiB", format!("{shape:?}")))?;
    let field = Field { offset: 0, width, double, factor: None };
    Ok((Dataset::new(path, name, &dataset, field.bytes(), element_bytes, file_bytes)?, field))
}
