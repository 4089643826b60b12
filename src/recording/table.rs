//! The header of a recording: where its rows lie in the file and what a row holds.

use std::path::Path;

use hdf5::dataset::Layout;
use hdf5::filters::Filter as StoredFilter;
use hdf5::types::{FloatSize, TypeDescriptor};

use serde::{Deserialize, Serialize};

use super::attributes::Attributes;
use super::chunks::{Chunk, Filter};
use super::driver;
use super::error::RecordingError;
use super::place::Place;
use super::rows::Field;

/// Where the table is and what shape is wanted of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableLayout {
    pub group: String,
    pub table: String,
    pub emg_channels: usize,
    pub joint_angles: usize,
    /// Hz; a recording that names another rate is refused.
    pub sample_rate: f64,
    /// Bytes of the HDF5 library's chunk cache.
    pub chunk_cache: usize,
}

/// How the rows are stored.
#[derive(Debug, Serialize, Deserialize)]
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

/// A recording's header.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Table {
    pub(crate) rows: u64,
    pub(crate) row_bytes: usize,
    pub(crate) time: Option<Field>,
    pub(crate) emg: Field,
    pub(crate) angles: Field,
    pub(crate) attributes: Attributes,
    pub(crate) storage: Storage,
}

pub(super) const MAX_ROW_BYTES: usize = 1 << 20;
const MAX_CHUNK_BYTES: usize = 1 << 30;
/// Rows that a file of one byte could at most describe by deflated or missing chunks.
const MAX_EXPANSION: u64 = 1100;

/// Keeps the HDF5 library from printing its error stack; errors come back as [`RecordingError`].
pub fn quiet() {
    hdf5::silence_errors(true);
}

/// Opens the file and dataset for the library to read.
pub(crate) fn open_dataset(
    place: &Place,
    layout: &TableLayout,
) -> Result<(hdf5::Group, hdf5::Dataset), RecordingError> {
    let path = &place.label();
    let file = match &place.member {
        None => hdf5::File::with_options()
            .with_fapl(|fapl| fapl.chunk_cache(12_421, layout.chunk_cache, 0.75))
            .open(path)
            .map_err(|error| RecordingError::hdf5(path, &error))?,
        Some(_) => driver::open_member(place, layout.chunk_cache)?,
    };
    let present = |names: hdf5::Result<Vec<String>>| {
        let names = names.unwrap_or_default();
        if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
    };
    let group = file.group(&layout.group).map_err(|_| {
        RecordingError::layout(path, "group", format!("`{}`", layout.group), present(file.member_names()))
    })?;
    let dataset = group.dataset(&layout.table).map_err(|_| {
        let what = format!("dataset in group `{}`", layout.group);
        RecordingError::layout(path, &what, format!("`{}`", layout.table), present(group.member_names()))
    })?;
    Ok((group, dataset))
}

impl Table {
    /// Reads the header of the recording at `place`, which is `file_bytes` long.
    pub(crate) fn open(place: &Place, layout: &TableLayout, file_bytes: u64) -> Result<Self, RecordingError> {
        let path = &place.label();
        let (group, dataset) = open_dataset(place, layout)?;
        let wrong = |what: &str, expected: &str, found: String| RecordingError::layout(path, what, expected, found);
        let shape = dataset.shape();
        let [rows] = shape[..] else {
            return Err(wrong("dataset", "one dimension", format!("shape {shape:?}")));
        };
        let dtype = dataset.dtype().map_err(|error| RecordingError::hdf5(path, &error))?;
        let descriptor = dtype.to_descriptor().map_err(|error| RecordingError::hdf5(path, &error))?;
        let TypeDescriptor::Compound(compound) = &descriptor else {
            return Err(wrong(
                "dataset",
                "a compound type with the fields emg and joint_angles",
                descriptor.to_string(),
            ));
        };
        let row_bytes = compound.size;
        if row_bytes == 0 || row_bytes > MAX_ROW_BYTES || rows == 0 {
            return Err(wrong("dataset", "some rows of at most 1 MiB", format!("{rows} rows of {row_bytes} bytes")));
        }
        let field = |name: &str| {
            let field = compound.fields.iter().find(|field| field.name == name);
            field.map(|field| float_field(path, field, row_bytes)).transpose()
        };
        let needed = |name: &str, width: usize| -> Result<Field, RecordingError> {
            let names = || compound.fields.iter().map(|f| f.name.as_str()).collect::<Vec<_>>().join(", ");
            let field = field(name)?.ok_or_else(|| wrong("fields", name, names()))?;
            if field.width != width {
                return Err(wrong(name, &format!("{width} per row"), field.width.to_string()));
            }
            Ok(field)
        };
        let (emg, angles) = (needed("emg", layout.emg_channels)?, needed("joint_angles", layout.joint_angles)?);
        let time = field("time").ok().flatten().filter(|time| time.width == 1);
        let attributes = Attributes::read(&group);
        if let Some(rate) = attributes.sample_rate
            && rate != layout.sample_rate
        {
            let expected = format!("{} (model.original_sampling_rate)", layout.sample_rate);
            return Err(wrong("sample_rate", &expected, rate.to_string()));
        }
        let storage = storage(path, &dataset, &dtype, rows, row_bytes, file_bytes)?;
        Ok(Self { rows: rows as u64, row_bytes, time, emg, angles, attributes, storage })
    }
}

impl Table {
    /// Fails unless all that the header says lies within a file of `file_bytes`: whoever read it, rows are taken from
    /// there.
    pub(crate) fn check(&self, path: &Path, file_bytes: u64) -> Result<(), RecordingError> {
        let fits = |field: &Field| field.offset.checked_add(field.bytes()).is_some_and(|end| end <= self.row_bytes);
        let rows = self.rows.checked_mul(self.row_bytes as u64).filter(|bytes| bytes / MAX_EXPANSION <= file_bytes);
        let ends = |start: u64, bytes: u64| start.checked_add(bytes).is_some_and(|end| end <= file_bytes);
        let stored = match &self.storage {
            Storage::Contiguous { address } => rows.is_some_and(|bytes| ends(*address, bytes)),
            Storage::Chunked { chunk_rows, chunks, .. } => {
                let bytes =
                    chunk_rows.checked_mul(self.row_bytes).filter(|bytes| (1..=MAX_CHUNK_BYTES).contains(bytes));
                bytes.is_some()
                    && chunks.len() as u64 == self.rows.div_ceil(*chunk_rows as u64)
                    && chunks.iter().enumerate().all(|(i, chunk)| {
                        chunk.first_row == (i * chunk_rows) as u64 && ends(chunk.address, chunk.size as u64)
                    })
            }
            Storage::Library => true,
        };
        let fields = [Some(&self.emg), Some(&self.angles), self.time.as_ref()];
        let sound = (1..=MAX_ROW_BYTES).contains(&self.row_bytes) && self.rows > 0 && rows.is_some() && stored;
        if sound && fields.into_iter().flatten().all(fits) {
            return Ok(());
        }
        Err(RecordingError::damaged(path, "its header describes rows that are not in it"))
    }
}

fn float_field(path: &Path, field: &hdf5::types::CompoundField, row_bytes: usize) -> Result<Field, RecordingError> {
    let (element, width) = match &field.ty {
        TypeDescriptor::FixedArray(element, width) => (element.as_ref(), *width),
        element => (element, 1),
    };
    let double = match element {
        TypeDescriptor::Float(FloatSize::U4) => false,
        TypeDescriptor::Float(FloatSize::U8) => true,
        other => return Err(RecordingError::layout(path, &field.name, "4- or 8-byte floats", other.to_string())),
    };
    let parsed = Field { offset: field.offset, width, double };
    if width > row_bytes || parsed.offset + parsed.bytes() > row_bytes {
        return Err(RecordingError::damaged(path, format!("field {} does not fit into its row", field.name)));
    }
    Ok(parsed)
}

fn storage(
    path: &Path,
    dataset: &hdf5::Dataset,
    dtype: &hdf5::Datatype,
    rows: usize,
    row_bytes: usize,
    file_bytes: u64,
) -> Result<Storage, RecordingError> {
    let too_large = || {
        RecordingError::damaged(path, format!("{rows} rows of {row_bytes} bytes do not fit into {file_bytes} bytes"))
    };
    let bytes = (rows as u64).checked_mul(row_bytes as u64).ok_or_else(too_large)?;
    if bytes / MAX_EXPANSION > file_bytes {
        return Err(too_large());
    }
    let little = dtype.byte_order() == hdf5::datatype::ByteOrder::LittleEndian;
    match dataset.layout() {
        Layout::Contiguous if little => match dataset.offset() {
            Some(address) if address.checked_add(bytes).is_some_and(|end| end <= file_bytes) => {
                Ok(Storage::Contiguous { address })
            }
            Some(_) => Err(too_large()),
            None => Ok(Storage::Library),
        },
        Layout::Chunked if little => chunked(path, dataset, rows, row_bytes, file_bytes),
        _ => Ok(Storage::Library),
    }
}

fn chunked(
    path: &Path,
    dataset: &hdf5::Dataset,
    rows: usize,
    row_bytes: usize,
    file_bytes: u64,
) -> Result<Storage, RecordingError> {
    let Some([chunk_rows]) = dataset.chunk().as_deref().map(|chunk| <[usize; 1]>::try_from(chunk).unwrap_or([0]))
    else {
        return Ok(Storage::Library);
    };
    if chunk_rows == 0 || chunk_rows.checked_mul(row_bytes).is_none_or(|bytes| bytes > MAX_CHUNK_BYTES) {
        return Err(RecordingError::damaged(path, format!("chunks of {chunk_rows} rows of {row_bytes} bytes")));
    }
    let mut filters = Vec::new();
    for filter in dataset.filters() {
        filters.push(match filter {
            StoredFilter::Deflate(_) => Filter::Deflate,
            StoredFilter::Shuffle => Filter::Shuffle(row_bytes),
            StoredFilter::Fletcher32 => Filter::Fletcher32,
            _ => return Ok(Storage::Library),
        });
    }
    let mut chunks = Vec::new();
    dataset
        .chunks_visit(|info| {
            let chunk = (info.offset.first(), usize::try_from(info.size));
            if let (Some(first_row), Ok(size)) = chunk {
                chunks.push(Chunk { first_row: *first_row, address: info.addr, size, filter_mask: info.filter_mask });
            }
            0
        })
        .map_err(|error| RecordingError::hdf5(path, &error))?;
    chunks.sort_by_key(|chunk| chunk.first_row);
    chunks.retain(|chunk| chunk.first_row < rows as u64);
    let complete = chunks.len() == rows.div_ceil(chunk_rows)
        && chunks.iter().enumerate().all(|(i, chunk)| chunk.first_row == (i * chunk_rows) as u64);
    if !complete {
        // Chunks never written are filled in by the library.
        return Ok(Storage::Library);
    }
    let outside = chunks.iter().find(|c| c.address.checked_add(c.size as u64).is_none_or(|end| end > file_bytes));
    match outside {
        Some(chunk) => Err(RecordingError::damaged(
            path,
            format!("the chunk of row {} ends beyond the file's {file_bytes} bytes", chunk.first_row),
        )),
        None => Ok(Storage::Chunked { chunk_rows, filters, chunks }),
    }
}
