//! Reading rows through the HDF5 library, for storage that the fast path does not know.

use hdf5_sys::{h5d, h5s};

use super::error::RecordingError;
use super::place::Place;
use super::rows::Rows;
use super::table::{Table, TableLayout, open_dataset};
use super::worker::FRAME_BYTES;

/// Calls `f` with blocks of rows, in order, in the table's own row layout in native byte order.
pub(crate) fn visit(
    place: &Place,
    layout: &TableLayout,
    table: &Table,
    f: &mut dyn FnMut(u64, Rows<'_>) -> Result<(), RecordingError>,
) -> Result<(), RecordingError> {
    let path = &place.label();
    let hdf5_error = |error: hdf5::Error| RecordingError::hdf5(path, &error);
    let (_, dataset) = open_dataset(place, layout)?;
    let descriptor = dataset.dtype().and_then(|dtype| dtype.to_descriptor()).map_err(hdf5_error)?;
    let memory_type = hdf5::Datatype::from_descriptor(&descriptor).map_err(hdf5_error)?;
    if memory_type.size() != table.row_bytes || dataset.shape() != [table.rows as usize] {
        return Err(RecordingError::Changed { path: path.to_owned() });
    }
    let block_rows = (FRAME_BYTES / table.row_bytes).max(1) as u64;
    let mut buffer = vec![0u8; block_rows.min(table.rows) as usize * table.row_bytes];
    let mut first = 0;
    while first < table.rows {
        let count = block_rows.min(table.rows - first);
        let bytes = &mut buffer[..count as usize * table.row_bytes];
        read_block(&dataset, &memory_type, first, count, bytes)
            .map_err(|message| RecordingError::damaged(path, message))?;
        f(first, Rows::new(bytes, table.row_bytes))?;
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
    assert_eq!(bytes.len(), count as usize * memory_type.size());
    // SAFETY: all ids are alive for the call; `bytes` holds `count` rows of `memory_type`, whose size was
    // checked; H5Sselect_hyperslab and H5Screate_simple read one element of their arrays for rank 1, and
    // `visit` checked that the dataset has rank 1. HDF5 is only entered under its global lock.
    let status = hdf5::sync::sync(|| unsafe {
        let selected = h5s::H5Sselect_hyperslab(
            file_space.id(),
            h5s::H5S_SELECT_SET,
            &raw const first,
            std::ptr::null(),
            &raw const count,
            std::ptr::null(),
        );
        if selected < 0 {
            return selected;
        }
        let memory_space = h5s::H5Screate_simple(1, &raw const count, std::ptr::null());
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
