//! What NWB and netCDF files say of a signal in the attributes of its dataset, and in datasets beside it.

use std::path::Path;

use super::attributes;
use super::error::RecordingError;
use super::library;
use super::links::{self, Object};

/// What files say of a dataset's values in its attributes and beside it (NWB schema, TimeSeries and ElectricalSeries; netCDF
/// conventions, packed data and missing values).
pub(super) struct Beside {
    /// Factor and offset.
    pub(super) scale: (Option<f64>, Option<f64>),
    /// What stands for a value that is missing.
    pub(super) missing: Option<f64>,
    pub(super) per_channel: bool,
    pub(super) unit: Option<String>,
    pub(super) rate_name: String,
    pub(super) rate: Option<f64>,
    /// Seconds at which the first row was recorded.
    pub(super) start: Option<f64>,
    /// The path of the time stamps, if there are some.
    pub(super) time_stamps: Option<String>,
}

impl Beside {
    pub(super) fn read(path: &Path, file: &hdf5::File, name: &str) -> Result<Self, RecordingError> {
        let data = links::dataset(path, file, name)?;
        let either = |a: &str, b: &str| match (attributes::number(path, &data, a)?, attributes::number(path, &data, b)?)
        {
            (Some(_), Some(_)) => {
                Err(RecordingError::layout(path, name, format!("one of the attributes {a} and {b}"), "both"))
            }
            (a, b) => Ok(a.or(b)),
        };
        let scale = (either("conversion", "scale_factor")?, either("offset", "add_offset")?);
        if scale.0 == Some(0.0) {
            return Err(RecordingError::layout(
                path,
                name,
                "an attribute conversion or scale_factor other than 0",
                "0",
            ));
        }
        let missing = match attributes::missing_value(path, &data, "_FillValue")? {
            None => attributes::missing_value(path, &data, "missing_value")?,
            missing => missing,
        };
        let unit = attributes::word(path, &data, "unit")?;
        let sibling = |sibling: &str| match name.trim_end_matches('/').rsplit_once('/') {
            Some((group, _)) => format!("{group}/{sibling}"),
            None => sibling.to_owned(),
        };
        // Only a dataset that has the name that NWB gives it has such neighbours.
        let is_nwb = name.rsplit('/').next() == Some("data") && name.contains('/');
        let find = |sibling: &str| if is_nwb { links::find(path, file, sibling) } else { Ok(None) };
        let (begin, stamps) = (sibling("starting_time"), sibling("timestamps"));
        let (mut rate, mut start, mut time_stamps) = (None, None, None);
        if let Some(object) = find(&begin)? {
            rate = attributes::number(path, object.location(), "rate")?;
            start = match object {
                Object::Dataset(dataset) => Some(library::one(path, &dataset, 0)?),
                Object::Group(_) => None,
            };
        }
        if let Some(Object::Dataset(dataset)) = find(&stamps)?
            && dataset.shape().first().is_some_and(|rows| *rows > 0)
        {
            (start, time_stamps) = (Some(library::one(path, &dataset, 0)?), Some(stamps));
        }
        let per_channel = find(&sibling("channel_conversion"))?.is_some();
        Ok(Self { scale, missing, per_channel, unit, rate_name: format!("{begin}: rate"), rate, start, time_stamps })
    }

    /// Fails if the time stamps of `rows` samples are not steady: samples are taken to be at their rate. Gives when they
    /// start; `None` for time stamps that are all the same, which were never set.
    pub(super) fn steady_start(
        &self,
        path: &Path,
        file: &hdf5::File,
        rows: u64,
        rate: f64,
    ) -> Result<Option<f64>, RecordingError> {
        /// Seconds that are no matter, also at high rates.
        const LEAST: f64 = 0.02;
        let (Some(start), Some(name)) = (self.start, &self.time_stamps) else { return Ok(self.start) };
        let dataset = links::dataset(path, file, name)?;
        if dataset.shape() != [rows as usize] {
            return Err(RecordingError::layout(
                path,
                name,
                format!("{rows} time stamps"),
                format!("shape {:?}", dataset.shape()),
            ));
        }
        let (mut most, mut set) = ((0.0, 0), false);
        library::each(path, &dataset, |i, stamp| {
            set |= stamp != start;
            let off = (stamp - start - i as f64 / rate).abs();
            if off.is_nan() || off > most.0 {
                most = (off, i);
            }
        })?;
        match most {
            _ if !set => Ok(None),
            (off, _) if off <= LEAST.max(1.0 / rate) => Ok(Some(start)),
            (off, i) => Err(RecordingError::layout(
                path,
                name,
                format!("steady time stamps at {rate} Hz"),
                format!("sample {i} {off:.3} s off"),
            )),
        }
    }
}
