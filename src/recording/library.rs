//! Reading rows through the HDF5 library, for storage that the fast path does not know.

use std::ops::Range;

use hdf5_sys::{h5d, h5s};

use super::dataset::{Dataset, find, open_file};
use super::error::RecordingError;
use super::place::Place;
use super::rows::Rows;

/// Longest frame of rows.
pub(super) const FRAME_BYTES: usize = 8 << 20;

/// Calls `f` with blocks of a dataset's rows [range), in order, in the dataset's own row layout in native byte order.
pub(crate) fn visit(
    place: &Place,
    chunk_cache: usize,
    described: &Dataset,
    range: Range<u64>,
    f: &mut dyn FnMut(u64, Rows<'_>) -> Result<(), RecordingError>,
) -> Result<(), RecordingError> {
    let path = &place.label();
    let hdf5_error = |error: hdf5::Error| RecordingError::hdf5(path, &error);
    let dataset = find(path, &open_file(place, chunk_cache)?, &described.name)?;
    let descriptor = dataset.dtype().and_then(|dtype| dtype.to_descriptor()).map_err(hdf5_error)?;
    let memory_type = hdf5::Datatype::from_descriptor(&descriptor).map_err(hdf5_error)?;
    let shape = dataset.shape();
    let columns = shape.get(1).copied().unwrap_or(1);
    let expected = shape.first() == Some(&(described.rows as usize)) && shape.len() <= 2 && range.end <= described.rows;
    if !expected || memory_type.size().checked_mul(columns) != Some(described.row_bytes) {
        return Err(RecordingError::Changed { path: path.clone() });
    }
    let block_rows = (FRAME_BYTES / described.row_bytes).max(1) as u64;
    let longest = block_rows.min(range.end.saturating_sub(range.start));
    let mut buffer = vec![0u8; longest as usize * described.row_bytes];
    let mut first = range.start;
    while first < range.end {
        let count = block_rows.min(range.end - first);
        let bytes = &mut buffer[..count as usize * described.row_bytes];
        read_block(&dataset, &memory_type, first, count, bytes)
            // Perhaps for want of a plugin or memory: not to be remembered of the file.
            .map_err(|message| RecordingError::Hdf5 { path: path.clone(), message })?;
        f(first, Rows::new(bytes, described.row_bytes))?;
        first += count;
    }
    Ok(())
}

fn read_block(
    dataset: &hdf5::Dataset,
    memory_type: &hdf5::Datatype,
    first: u64,
    count: u64,
    bytes: &mut [u8],
) -> Result<(), String> {
    let file_space = dataset.space().map_err(|error| error.to_string())?;
    // Rows of one column more than there are dimensions for: the second is not looked at for rank 1.
    let columns = dataset.shape().get(1).copied().unwrap_or(1) as u64;
    let (start, counts) = ([first, 0], [count, columns]);
    let rank = dataset.ndim();
    assert!((1..=2).contains(&rank), "checked by the caller");
    assert_eq!(bytes.len(), (count * columns) as usize * memory_type.size());
    // SAFETY: all ids are alive for the call; `bytes` holds `count` rows of `columns` elements of `memory_type`, whose
    // size was checked; H5Sselect_hyperslab and H5Screate_simple read one element of their arrays for each of the
    // dataset's dimensions, of which there are at most two. HDF5 is only entered under its global lock.
    let status = hdf5::sync::sync(|| unsafe {
        let selected = h5s::H5Sselect_hyperslab(
            file_space.id(),
            h5s::H5S_SELECT_SET,
            start.as_ptr(),
            std::ptr::null(),
            counts.as_ptr(),
            std::ptr::null(),
        );
        if selected < 0 {
            return selected;
        }
        let memory_space = h5s::H5Screate_simple(rank as i32, counts.as_ptr(), std::ptr::null());
        let status = h5d::H5Dread(
            dataset.id(),
            memory_type.id(),
            memory_space,
            file_space.id(),
            hdf5_sys::h5p::H5P_DEFAULT,
            bytes.as_mut_ptr().cast(),
        );
        h5s::H5Sclose(memory_space);
        status
    });
    if status < 0 { Err(format!("the HDF5 library cannot decode rows {first} to {}", first + count)) } else { Ok(()) }
}
