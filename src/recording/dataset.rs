//! A dataset's rows: where they lie in the file, and who reads them.

use serde::{Deserialize, Serialize};
use std::path::Path;

use super::chunks::{Chunk, Filter};
use super::driver;
use super::element::{Numbers, class_name, is_of_fixed_length};
use super::error::RecordingError;
use super::filters;
use super::h5::{self, Creation, Layout};
use super::links;
use super::place::Place;
use super::rows::{Field, Number};

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
    /// Anything that the fast path does not know completely: the library reads it and converts what is wanted.
    Library(Vec<Piece>),
}

/// A part of the rows that the library gives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Piece {
    /// The compound type's field; `None`: the dataset's elements themselves.
    pub(crate) field: Option<String>,
    /// Bytes from the row's start.
    pub(crate) offset: usize,
    /// What its numbers are converted to: float32 or float64.
    pub(crate) number: Number,
    /// Numbers in each element that is an array.
    pub(crate) array: Option<usize>,
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

/// Numbers of each row, and whether they are integers.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) field: Field,
    pub(crate) is_integer: bool,
}

/// Opens the file for the library to read.
pub(crate) fn open_file(place: &Place, chunk_cache: usize) -> Result<hdf5::File, RecordingError> {
    driver::open(place, chunk_cache)
}

/// Fails if a dataset's rows are not to be had from this file alone.
pub(super) fn check_inside(path: &Path, name: &str, creation: &Creation) -> Result<(), RecordingError> {
    let elsewhere = if creation.external {
        "external raw storage in another file"
    } else if creation.layout == Some(Layout::Virtual) {
        "a virtual dataset, whose rows lie in other datasets"
    } else {
        return Ok(());
    };
    let expected = "rows inside this file (h5repack and h5py can copy them)";
    Err(RecordingError::layout(path, name, expected, elsewhere))
}

/// Fields of a compound dataset.
pub(crate) struct Fields {
    pub(crate) dataset: Dataset,
    /// Those that were wanted; one that is absent, or is not needed and holds no numbers, is `None`.
    pub(crate) columns: Vec<Option<Column>>,
    /// Names of all.
    pub(crate) present: Vec<String>,
}

/// The fields `wanted` of a compound dataset, with whether they are needed.
pub(crate) fn compound(
    path: &Path,
    file: &hdf5::File,
    name: &str,
    wanted: &[(&str, bool)],
    file_bytes: u64,
) -> Result<Fields, RecordingError> {
    let failed = |error: hdf5::Error| RecordingError::hdf5(path, &error);
    let dataset = links::dataset(path, file, name)?;
    let shape = dataset.shape();
    if shape.len() != 1 {
        return Err(RecordingError::layout(path, "dataset", "one dimension", format!("shape {shape:?}")));
    }
    let ty = dataset.dtype().map_err(failed)?;
    if h5::class(&ty) != hdf5_sys::h5t::H5T_class_t::H5T_COMPOUND {
        let names: Vec<_> = wanted.iter().filter(|(_, needed)| *needed).map(|(name, _)| *name).collect();
        let expected = format!("a compound type with the fields {}", names.join(" and "));
        return Err(RecordingError::layout(path, "dataset", expected, class_name(h5::class(&ty))));
    }
    let members = h5::members(&ty).map_err(failed)?;
    let mut found = Vec::new();
    for (name, needed) in wanted {
        let Some(member) = members.iter().find(|member| member.name == *name) else {
            found.push(None);
            continue;
        };
        found.push(match Numbers::of(path, name, &member.ty) {
            Ok(numbers) => Some((member, numbers)),
            Err(error) if *needed => return Err(error),
            Err(_) => None,
        });
    }
    let (row_bytes, fixed) = (ty.size(), is_of_fixed_length(&ty).map_err(failed)?);
    let direct = |(member, numbers): &(&h5::Member, Numbers)| {
        let field = Field::plain(member.offset, numbers.width, numbers.direct?);
        field.is_within(row_bytes).then_some(Column { field, is_integer: numbers.is_integer })
    };
    let columns: Option<Vec<_>> =
        found.iter().map(|found| found.as_ref().map_or(Some(None), |f| direct(f).map(Some))).collect();
    let described =
        Described { path, name, dataset: &dataset, file_bytes, creation: h5::creation(&dataset).map_err(failed)? };
    let present = members.iter().map(|member| member.name.clone()).collect();
    if let Some(columns) = columns.filter(|_| fixed)
        && let Some(dataset) = described.direct(row_bytes)?
    {
        return Ok(Fields { dataset, columns, present });
    }
    let (mut pieces, mut columns, mut end) = (Vec::new(), Vec::new(), 0usize);
    for found in found {
        columns.push(found.map(|(member, Numbers { converted, is_integer, width, is_array, .. })| {
            let field = Some(member.name.clone());
            pieces.push(Piece { field, offset: end, number: converted, array: is_array.then_some(width) });
            let field = Field::plain(end, width, converted);
            end = end.saturating_add(width.saturating_mul(converted.bytes()));
            Column { field, is_integer }
        }));
    }
    Ok(Fields { dataset: described.by_library(end, pieces)?, columns, present })
}

/// A plain dataset [T] or [T, columns] of numbers, as rows with one field.
pub(crate) fn plain(
    path: &Path,
    file: &hdf5::File,
    name: &str,
    file_bytes: u64,
) -> Result<(Dataset, Column), RecordingError> {
    let failed = |error: hdf5::Error| RecordingError::hdf5(path, &error);
    let dataset = links::dataset(path, file, name)?;
    let shape = dataset.shape();
    let columns = match shape[..] {
        [_] => 1,
        [_, columns] => columns,
        _ => return Err(RecordingError::layout(path, name, "one or two dimensions", format!("shape {shape:?}"))),
    };
    let ty = dataset.dtype().map_err(failed)?;
    let Numbers { direct, converted, is_integer, width, is_array } = Numbers::of(path, name, &ty)?;
    let stored = width.checked_mul(columns).filter(|width| *width <= MAX_ROW_BYTES);
    let stored =
        stored.ok_or_else(|| RecordingError::layout(path, name, "rows of at most 1 MiB", format!("{shape:?}")))?;
    let described =
        Described { path, name, dataset: &dataset, file_bytes, creation: h5::creation(&dataset).map_err(failed)? };
    if let Some(number) = direct {
        let field = Field::plain(0, stored, number);
        if let Some(dataset) = described.direct(field.bytes())? {
            return Ok((dataset, Column { field, is_integer }));
        }
    }
    let field = Field::plain(0, stored, converted);
    let piece = Piece { field: None, offset: 0, number: converted, array: is_array.then_some(width) };
    Ok((described.by_library(field.bytes(), vec![piece])?, Column { field, is_integer }))
}

/// A dataset of the file, and what its header says.
struct Described<'a> {
    path: &'a Path,
    name: &'a str,
    dataset: &'a hdf5::Dataset,
    file_bytes: u64,
    creation: Creation,
}

impl Described<'_> {
    /// Rows of `row_bytes` as they lie in the file, if the fast path knows how they do.
    fn direct(&self, row_bytes: usize) -> Result<Option<Dataset>, RecordingError> {
        let dataset = self.checked(row_bytes)?;
        let storage = match self.creation.layout {
            Some(Layout::Contiguous) if self.creation.filters.is_empty() => self.contiguous(&dataset)?,
            Some(Layout::Chunked) if self.creation.chunk_options == 0 => self.chunked(&dataset)?,
            _ => None,
        };
        Ok(storage.map(|storage| Dataset { storage, ..dataset }))
    }

    /// Rows of `row_bytes` as the library gives them.
    fn by_library(&self, row_bytes: usize, pieces: Vec<Piece>) -> Result<Dataset, RecordingError> {
        if let Some(missing) = self.creation.filters.iter().find(|filter| !filter.available) {
            return Err(filters::missing(self.path, missing));
        }
        Ok(Dataset { storage: Storage::Library(pieces), ..self.checked(row_bytes)? })
    }

    fn checked(&self, row_bytes: usize) -> Result<Dataset, RecordingError> {
        check_inside(self.path, self.name, &self.creation)?;
        let rows = self.dataset.shape().first().copied().unwrap_or(0);
        if row_bytes == 0 || row_bytes > MAX_ROW_BYTES || rows == 0 {
            let found = format!("{rows} rows of {row_bytes} bytes");
            return Err(RecordingError::layout(self.path, self.name, "at least one row, of at most 1 MiB", found));
        }
        let storage = Storage::Library(Vec::new());
        let dataset = Dataset { name: self.name.to_owned(), rows: rows as u64, row_bytes, storage };
        match dataset.bytes() {
            Some(bytes) if bytes / MAX_EXPANSION <= self.file_bytes => Ok(dataset),
            _ => Err(self.too_large(&dataset)),
        }
    }

    fn too_large(&self, dataset: &Dataset) -> RecordingError {
        let Dataset { rows, row_bytes, .. } = dataset;
        let bytes = self.file_bytes;
        RecordingError::damaged(
            self.path,
            format!("{rows} rows of {row_bytes} bytes do not fit into a file of {bytes} bytes"),
        )
    }

    fn contiguous(&self, dataset: &Dataset) -> Result<Option<Storage>, RecordingError> {
        // Rows that were never written have no address: the library fills them in.
        if Some(self.dataset.storage_size()) != dataset.bytes() {
            return Ok(None);
        }
        let Some(address) = self.dataset.offset() else { return Ok(None) };
        let end = dataset.bytes().and_then(|bytes| bytes.checked_add(address));
        if end.is_none_or(|end| end > self.file_bytes) {
            return Err(self.too_large(dataset));
        }
        Ok(Some(Storage::Contiguous { address }))
    }

    fn chunked(&self, dataset: &Dataset) -> Result<Option<Storage>, RecordingError> {
        let shape = self.dataset.chunk().unwrap_or_default();
        let Some((chunk_rows, rest)) = shape.split_first() else { return Ok(None) };
        // Chunks of whole rows only: others are put together by the library.
        if rest.len() > 1 || rest != &self.dataset.shape()[1..] {
            return Ok(None);
        }
        let (chunk_rows, row_bytes) = (*chunk_rows, dataset.row_bytes);
        if chunk_rows == 0 || chunk_rows.checked_mul(row_bytes).is_none_or(|bytes| bytes > MAX_CHUNK_BYTES) {
            return Err(RecordingError::damaged(
                self.path,
                format!("chunks of {chunk_rows} rows of {row_bytes} bytes"),
            ));
        }
        let Some(filters) = filters::known(&self.creation.filters) else { return Ok(None) };
        let mut chunks = Vec::new();
        let visited = self.dataset.chunks_visit(|info| {
            let chunk = (info.offset.first(), usize::try_from(info.size));
            if let (Some(first_row), Ok(size)) = chunk {
                let (first_row, address, filter_mask) = (*first_row, info.addr, info.filter_mask);
                chunks.push(Chunk { first_row, address, size, filter_mask });
            }
            0
        });
        visited.map_err(|error| RecordingError::hdf5(self.path, &error))?;
        chunks.sort_by_key(|chunk| chunk.first_row);
        chunks.retain(|chunk| chunk.first_row < dataset.rows);
        let complete = chunks.len() as u64 == dataset.rows.div_ceil(chunk_rows as u64)
            && chunks.iter().enumerate().all(|(i, chunk)| chunk.first_row == (i * chunk_rows) as u64);
        if !complete {
            // Chunks never written are filled in by the library.
            return Ok(None);
        }
        match chunks.iter().find(|chunk| !is_plausible(chunk, chunk_rows * row_bytes, self.file_bytes)) {
            Some(Chunk { first_row, address, size, .. }) => {
                let bytes = self.file_bytes;
                let message = format!(
                    "the chunk of row {first_row}, {size} bytes at {address}, cannot be in a file of {bytes} bytes"
                );
                Err(RecordingError::damaged(self.path, message))
            }
            None => Ok(Some(Storage::Chunked { chunk_rows, filters, chunks })),
        }
    }
}

impl Dataset {
    fn bytes(&self) -> Option<u64> {
        self.rows.checked_mul(self.row_bytes as u64)
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
            Storage::Library(_) => true,
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
