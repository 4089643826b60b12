//! Reading rows through the HDF5 library, for storage that the fast path does not know.

use std::ops::Range;
use std::path::Path;

use hdf5::Datatype;
use hdf5_sys::{h5d, h5s};

use super::dataset::{Dataset, Piece, Storage, check_inside, open_file};
use super::element::Numbers;
use super::error::RecordingError;
use super::h5;
use super::links;
use super::place::Place;
use super::rows::{Number, Rows};

/// Longest frame of rows.
pub(super) const FRAME_BYTES: usize = 8 << 20;

/// Calls `f` with blocks of a dataset's rows [range), in order, as its pieces describe them, in native byte order.
pub(crate) fn visit(
    place: &Place,
    chunk_cache: usize,
    described: &Dataset,
    range: Range<u64>,
    f: &mut dyn FnMut(u64, Rows<'_>) -> Result<(), RecordingError>,
) -> Result<(), RecordingError> {
    let path = &place.label();
    let hdf5_error = |error: hdf5::Error| RecordingError::hdf5(path, &error);
    let changed = || RecordingError::Changed { path: path.clone() };
    let Storage::Library(pieces) = &described.storage else { return Err(changed()) };
    let dataset = links::dataset(path, &open_file(place, chunk_cache)?, &described.name)?;
    let memory_type = memory_type(described.row_bytes, pieces).map_err(hdf5_error)?;
    let shape = dataset.shape();
    let columns = shape.get(1).copied().unwrap_or(1);
    let expected = shape.first() == Some(&(described.rows as usize)) && shape.len() <= 2 && range.end <= described.rows;
    if !expected || memory_type.size().checked_mul(columns) != Some(described.row_bytes) {
        return Err(changed());
    }
    let block_rows = (FRAME_BYTES / described.row_bytes).max(1) as u64;
    let longest = block_rows.min(range.end.saturating_sub(range.start));
    let mut buffer = vec![0u8; longest as usize * described.row_bytes];
    let mut first = range.start;
    while first < range.end {
        let count = block_rows.min(range.end - first);
        let bytes = &mut buffer[..count as usize * described.row_bytes];
        with_memory(|| read_block(&dataset, &memory_type, first, count, bytes).map_err(hdf5_error))?;
        f(first, Rows::new(bytes, described.row_bytes))?;
        first += count;
    }
    Ok(())
}

/// Calls `f`, and again if the library was short of memory. If it still is while there is some, its file asks for too much.
pub(super) fn with_memory<T>(mut f: impl FnMut() -> Result<T, RecordingError>) -> Result<T, RecordingError> {
    /// More than the library needs for any header.
    const SOME: usize = 64 << 20;
    match f() {
        Err(error) if error.is_out_of_memory() => {}
        result => return result,
    }
    match f() {
        Err(RecordingError::Io { path, source })
            if source.kind() == std::io::ErrorKind::OutOfMemory && Vec::<u8>::new().try_reserve_exact(SOME).is_ok() =>
        {
            Err(RecordingError::Hdf5 { path, message: "it asks for more memory than there is".into() })
        }
        result => result,
    }
}

/// Element `i` of a dataset [T], or of a scalar one, as float64.
pub(super) fn one(path: &Path, dataset: &hdf5::Dataset, i: u64) -> Result<f64, RecordingError> {
    let mut value = [0; 8];
    let ty = number_type(path, dataset)?;
    read_block(dataset, &ty, i, 1, &mut value).map_err(|error| RecordingError::hdf5(path, &error))?;
    Ok(f64::from_le_bytes(value))
}

/// Calls `f` with each element of a dataset [T], as float64.
pub(super) fn each(path: &Path, dataset: &hdf5::Dataset, mut f: impl FnMut(u64, f64)) -> Result<(), RecordingError> {
    const STEP: u64 = 1 << 16;
    let ty = number_type(path, dataset)?;
    let rows = dataset.shape().first().copied().unwrap_or(0) as u64;
    for first in (0..rows).step_by(STEP as usize) {
        let count = STEP.min(rows - first);
        let mut block = vec![0; 8 * count as usize];
        read_block(dataset, &ty, first, count, &mut block).map_err(|error| RecordingError::hdf5(path, &error))?;
        let values = block.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes));
        values.enumerate().for_each(|(i, value)| f(first + i as u64, value));
    }
    Ok(())
}

/// The memory type that a dataset of numbers, at most a list of them, is read as: float64.
fn number_type(path: &Path, dataset: &hdf5::Dataset) -> Result<Datatype, RecordingError> {
    let failed = |error: hdf5::Error| RecordingError::hdf5(path, &error);
    let (rank, name) = (dataset.ndim(), dataset.name());
    if rank > 1 {
        return Err(RecordingError::layout(path, &name, "a number, or a list of them", format!("rank {rank}")));
    }
    check_inside(path, &name, &h5::creation(dataset).map_err(failed)?)?;
    Numbers::of(path, &name, &dataset.dtype().map_err(failed)?)?;
    Numbers::memory_type(Number::F64, None).map_err(failed)
}

/// What the library converts elements to.
fn memory_type(row_bytes: usize, pieces: &[Piece]) -> hdf5::Result<Datatype> {
    if let [Piece { field: None, number, array, .. }] = pieces {
        return Numbers::memory_type(*number, *array);
    }
    let field = |piece: &Piece| Numbers::memory_type(piece.number, piece.array);
    let types = pieces.iter().map(field).collect::<hdf5::Result<Vec<_>>>()?;
    let name = |piece: &'_ Piece| piece.field.clone().unwrap_or_default();
    let names: Vec<_> = pieces.iter().map(name).collect();
    let parts = names.iter().zip(pieces).zip(types).map(|((name, piece), ty)| (name.as_str(), piece.offset, ty));
    h5::compound(row_bytes, &parts.collect::<Vec<_>>())
}

fn read_block(
    dataset: &hdf5::Dataset,
    memory_type: &Datatype,
    first: u64,
    count: u64,
    bytes: &mut [u8],
) -> hdf5::Result<()> {
    let file_space = dataset.space()?;
    // Rows of one column more than there are dimensions for: the second is not looked at for rank 1.
    let columns = dataset.shape().get(1).copied().unwrap_or(1) as u64;
    let (start, counts) = ([first, 0], [count, columns]);
    let rank = dataset.ndim();
    assert!(rank <= 2, "checked by the caller");
    assert_eq!(bytes.len(), (count * columns) as usize * memory_type.size());
    // SAFETY: all ids are alive for the call; `bytes` holds `count` rows of `columns` elements of `memory_type`, whose
    // size was checked; H5Sselect_hyperslab and H5Screate_simple read one element of their arrays for each of the
    // dataset's dimensions, of which there are at most two. HDF5 is only entered under its global lock.
    hdf5::sync::sync(|| unsafe {
        // A scalar has one element, which is selected as it is.
        let selected = if rank == 0 {
            0
        } else {
            h5s::H5Sselect_hyperslab(
                file_space.id(),
                h5s::H5S_SELECT_SET,
                start.as_ptr(),
                std::ptr::null(),
                counts.as_ptr(),
                std::ptr::null(),
            )
        };
        if selected < 0 {
            return Err(h5::failure());
        }
        let memory_space = h5s::H5Screate_simple(rank as i32, counts.as_ptr(), std::ptr::null());
        if memory_space < 0 {
            return Err(h5::failure());
        }
        let status = h5d::H5Dread(
            dataset.id(),
            memory_type.id(),
            memory_space,
            file_space.id(),
            hdf5_sys::h5p::H5P_DEFAULT,
            bytes.as_mut_ptr().cast(),
        );
        let result = if status < 0 { Err(h5::failure()) } else { Ok(()) };
        h5s::H5Sclose(memory_space);
        result
    })
}
