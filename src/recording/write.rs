//! Writing a recording in the emg2pose layout: a group `emg2pose` with attributes, and in it a compound dataset
//! `timeseries` of `time` (float64), `joint_angles` and `emg` (float32).

use std::path::Path;

use hdf5::types::{CompoundField, CompoundType, FloatSize, TypeDescriptor, VarLenUnicode};

use super::error::RecordingError;
use super::h5;
use crate::files::replace_file;

/// A recording to be written.
#[derive(Debug, Clone, Default)]
pub struct NewRecording<'a> {
    pub emg_channels: usize,
    pub joint_angles: usize,
    /// gzip (level 4) after shuffle, in chunks of this many rows; `None`: contiguous.
    pub gzip_chunk: Option<usize>,
    /// With checksums of rows (Fletcher-32) and headers (HDF5 1.8's), which every reader compares.
    pub has_checksums: bool,
    /// Attributes of the group, by name.
    pub texts: Vec<(&'a str, String)>,
    pub numbers: Vec<(&'a str, f64)>,
}

impl NewRecording<'_> {
    /// Bytes of a row: time (f8), angles (f4), EMG (f4), little-endian, without padding.
    pub fn row_bytes(&self) -> usize {
        8 + 4 * (self.joint_angles + self.emg_channels)
    }

    /// Writes the file, in the place of an older one; `rows` holds whole rows.
    ///
    /// # Errors
    /// The file cannot be written (an older one is then intact), or a text holds a NUL.
    pub fn write(&self, path: &Path, rows: Vec<u8>) -> Result<(), RecordingError> {
        let bytes = self.to_bytes(path, rows)?;
        Ok(replace_file(path, &bytes)?)
    }

    /// The file's bytes. The same rows give the same bytes: no time of day is anywhere. `path` is what errors name.
    ///
    /// # Errors
    /// Memory does not suffice, or a text holds a NUL.
    pub(super) fn to_bytes(&self, path: &Path, rows: Vec<u8>) -> Result<Vec<u8>, RecordingError> {
        self.image(rows).map_err(|error| RecordingError::Write { path: path.to_owned(), message: error.to_string() })
    }

    fn row_type(&self) -> TypeDescriptor {
        let float = |size, width| TypeDescriptor::FixedArray(Box::new(TypeDescriptor::Float(size)), width);
        TypeDescriptor::Compound(CompoundType {
            fields: vec![
                CompoundField::new("time", TypeDescriptor::Float(FloatSize::U8), 0, 0),
                CompoundField::new("joint_angles", float(FloatSize::U4, self.joint_angles), 8, 1),
                CompoundField::new("emg", float(FloatSize::U4, self.emg_channels), 8 + 4 * self.joint_angles, 2),
            ],
            size: self.row_bytes(),
        })
    }

    /// Written in memory: the library would drop what the system says of a file's last bytes.
    fn image(&self, bytes: Vec<u8>) -> hdf5::Result<Vec<u8>> {
        /// By which the library lets the file in memory grow.
        const INCREMENT: usize = 1 << 20;
        let rows = bytes.len() / self.row_bytes();
        let mut options = hdf5::File::with_options();
        options.with_fcpl(|plist| plist.obj_track_times(false));
        options.with_fapl(|plist| {
            let plist = plist.core_options(INCREMENT.max(bytes.len() / 8), false);
            if self.has_checksums { plist.libver_v18() } else { plist }
        });
        // The library takes files of one name for the same file, also those that are in memory only.
        let file = options.create(format!("in memory {:016x}", rand::random::<u64>()))?;
        let group = file.create_group_builder().obj_track_times(false).create("emg2pose")?;
        // Rows without padding, as emg2pose has them, whatever the number of columns.
        let builder = group.new_dataset_builder().packed(true).obj_track_times(false);
        let mut builder = builder.empty_as(self.row_type()).shape(rows);
        if let Some(chunk) = self.gzip_chunk {
            builder = builder.chunk(chunk.min(rows)).shuffle().deflate(4);
        }
        if self.has_checksums {
            builder = builder.chunk((CHECKED_BYTES / self.row_bytes()).clamp(1, rows)).fletcher32();
        }
        let dataset = builder.create("timeseries")?;
        write_rows(&dataset, rows, &bytes)?;
        // The library has them now.
        drop(bytes);
        for (name, text) in &self.texts {
            let text: VarLenUnicode = text.parse().map_err(|_| format!("the attribute {name} holds a NUL"))?;
            group.new_attr::<VarLenUnicode>().create(*name)?.write_scalar(&text)?;
        }
        for (name, number) in &self.numbers {
            group.new_attr::<f64>().create(*name)?.write_scalar(number)?;
        }
        group.new_attr::<i64>().create("num_channels")?.write_scalar(&(self.emg_channels as i64))?;
        h5::image(&file)
    }
}

/// Bytes of the pieces that have a checksum each.
const CHECKED_BYTES: usize = 1 << 20;

fn write_rows(dataset: &hdf5::Dataset, rows: usize, bytes: &[u8]) -> hdf5::Result<()> {
    let dtype = dataset.dtype()?;
    assert_eq!(bytes.len(), rows * dtype.size());
    // SAFETY: `bytes` holds exactly `rows` rows of the dataset's own type, which H5S_ALL selects.
    let status = hdf5::sync::sync(|| unsafe {
        let all = hdf5_sys::h5s::H5S_ALL;
        let default = hdf5_sys::h5p::H5P_DEFAULT;
        hdf5_sys::h5d::H5Dwrite(dataset.id(), dtype.id(), all, all, default, bytes.as_ptr().cast())
    });
    if status < 0 { Err("the HDF5 library could not write the rows".into()) } else { Ok(()) }
}
