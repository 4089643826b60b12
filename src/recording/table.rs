//! The header of a recording: where its rows lie in the file and what a row holds.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::attributes::{self, Attributes};
use super::conventions::Beside;
use super::dataset::{self, Column, Dataset, Fields, open_file};
use super::driver;
use super::error::RecordingError;
use super::h5::{self, Link};
use super::joined::Joined;
use super::library::with_memory;
use super::links;
use super::place::Place;
use super::rows::{Field, Number, Scale};
use super::validity::Validity;
use crate::config::{AngleUnit, Layout};

/// Where rows are and what shape is wanted of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableLayout {
    pub layout: Layout,
    pub emg_channels: usize,
    /// Joint angles of each row of the recording.
    pub joint_angles: usize,
    /// Which of them are wanted, in their order; `None`: all.
    pub joints: Option<Vec<usize>>,
    /// Whether a recording without any angles will do; its angles are then of width 0.
    #[serde(default)]
    pub angles_optional: bool,
    /// Whether the files of `emg-train predict` will do.
    #[serde(default)]
    pub accept_predicted: bool,
    /// Hz; a recording that names another rate is refused.
    pub sample_rate: f64,
    /// Bytes of the HDF5 library's chunk cache.
    pub chunk_cache: usize,
}

/// A recording's header.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Table {
    pub(crate) rows: u64,
    pub(crate) row_bytes: usize,
    pub(crate) time: Option<TimeField>,
    pub(crate) emg: Field,
    pub(crate) angles: Field,
    pub(crate) validity: Validity,
    pub(crate) attributes: Attributes,
    pub(crate) source: Source,
}

/// Time stamps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TimeField {
    pub field: Field,
    /// Whether they are seconds; integers may be fractions of a second, or sample numbers.
    pub in_seconds: bool,
}

/// Where rows come from.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Source {
    /// They lie in one dataset.
    One(Dataset),
    Joined(Box<Joined>),
}

/// Rates that differ by less are equal: some are stored as float32.
const SAME_RATE: f64 = 1e-6;

/// Keeps the HDF5 library from printing its error stack; errors come back as [`RecordingError`].
pub fn silence_hdf5_errors() {
    hdf5::silence_errors(true);
}

impl Table {
    /// Reads the header of the recording at `place`, which is `file_bytes` long.
    pub(crate) fn open(place: &Place, layout: &TableLayout, file_bytes: u64) -> Result<Self, RecordingError> {
        let path = &place.label();
        let read = || {
            let file = open_file(place, layout.chunk_cache)?;
            let header = Header { path, file: &file, layout, file_bytes };
            if !layout.accept_predicted {
                header.check_not_predicted()?;
            }
            let mut table = match &layout.layout.table {
                Some(table) => header.compound(table)?,
                None => header.joined()?,
            };
            table.attributes = Attributes::read(path, &file, &layout.layout.attributes)?;
            header.check_rate("sample_rate", table.attributes.sample_rate, layout.sample_rate)?;
            Ok(table)
        };
        driver::watched(path, || with_memory(read))
    }

    /// Fails unless all that the header says lies within a file of `file_bytes`: whoever read it, rows are taken from
    /// there.
    pub(crate) fn check(&self, path: &Path, file_bytes: u64) -> Result<(), RecordingError> {
        let fits = |field: &Field| field.is_within(self.row_bytes);
        let sound = match &self.source {
            Source::One(dataset) => {
                dataset.is_within(file_bytes) && (dataset.rows, dataset.row_bytes) == (self.rows, self.row_bytes)
            }
            Source::Joined(joined) => {
                let datasets = [Some(&joined.emg), Some(&joined.angles), joined.time.as_ref()];
                datasets.into_iter().flatten().all(|dataset| dataset.is_within(file_bytes))
                    && joined.time.as_ref().is_none_or(|time| time.rows == self.rows)
                    && joined.angle_field.is_within(joined.angles.row_bytes)
                    && (joined.emg.rows, joined.row_bytes()) == (self.rows, self.row_bytes)
                    && [joined.rate, joined.sample_rate].iter().all(|rate| rate.is_finite() && *rate > 0.0)
                    && joined.lead.is_finite()
            }
        };
        let time = self.time.as_ref().map(|time| &time.field);
        let fields =
            [Some(&self.emg), Some(&self.angles), Some(self.validity.poses()), Some(self.validity.stored()), time];
        if sound && fields.into_iter().flatten().all(fits) {
            return Ok(());
        }
        Err(RecordingError::damaged(path, "its header describes rows beyond the end of the file"))
    }
}

/// An open file, and what is wanted of it.
struct Header<'a> {
    path: &'a Path,
    file: &'a hdf5::File,
    layout: &'a TableLayout,
    file_bytes: u64,
}

/// The time stamps of emg2pose's layout, which some that write it leave out.
const USUAL_TIME: &str = "time";
/// The group that `emg-train predict` writes.
const PREDICTED_GROUP: &str = "emg2pose";

impl Header<'_> {
    fn wrong(&self, what: &str, expected: impl Into<String>, found: impl Into<String>) -> RecordingError {
        RecordingError::layout(self.path, what, expected, found)
    }

    fn failed(&self, error: &hdf5::Error) -> RecordingError {
        RecordingError::hdf5(self.path, error)
    }

    /// Fails for a file of predictions, whatever layout is looked for.
    fn check_not_predicted(&self) -> Result<(), RecordingError> {
        if h5::link(self.file, PREDICTED_GROUP).map_err(|error| self.failed(&error))? == Some(Link::Hard) {
            attributes::check_not_predicted(self.path, self.file, PREDICTED_GROUP)?;
        }
        Ok(())
    }

    fn check_rate(&self, what: &str, found: Option<f64>, wanted: f64) -> Result<(), RecordingError> {
        match found {
            Some(rate) if (rate - wanted).abs() > SAME_RATE * wanted => {
                Err(self.wrong(what, format!("{wanted} (model.original_sampling_rate)"), rate.to_string()))
            }
            _ => Ok(()),
        }
    }

    fn compound(&self, table: &str) -> Result<Table, RecordingError> {
        let names = &self.layout.layout;
        let time = names.time.as_deref();
        let mut wanted = vec![(names.emg.as_str(), true), (names.joint_angles.as_str(), true)];
        wanted.extend(time.map(|time| (time, time != USUAL_TIME)));
        let Fields { dataset, mut columns, present } =
            dataset::compound(self.path, self.file, table, &wanted, self.file_bytes)?;
        let missing = |name: &str| RecordingError::missing(self.path, "fields", name, &present.join(", "));
        let time = match time {
            Some(name) => self.time_field(name, columns.pop().flatten(), missing)?,
            None => None,
        };
        let (angles, emg) = (columns.pop().flatten(), columns.pop().flatten());
        let emg = self.emg(&names.emg, emg.ok_or_else(|| missing(&names.emg))?, None)?;
        let angles = match angles {
            Some(angles) => Some(self.angles(&names.joint_angles, angles, None)?),
            None if self.layout.angles_optional => None,
            None => return Err(missing(&names.joint_angles)),
        };
        Ok(self.table(emg, angles, time, Source::One(dataset)))
    }

    /// A table's time stamps. Only those of the usual name, which are not asked for by hand, may be absent or no numbers.
    fn time_field(
        &self,
        name: &str,
        column: Option<Column>,
        missing: impl Fn(&str) -> RecordingError,
    ) -> Result<Option<TimeField>, RecordingError> {
        match column {
            Some(column) => {
                self.check_width(name, &column, 1)?;
                Ok(Some(self.time(column)))
            }
            None if name == USUAL_TIME => Ok(None),
            None => Err(missing(name)),
        }
    }

    fn joined(&self) -> Result<Table, RecordingError> {
        let names = &self.layout.layout;
        let plain = |name: &str| dataset::plain(self.path, self.file, name, self.file_bytes);
        let (emg, column) = plain(&names.emg)?;
        let beside = Beside::read(self.path, self.file, &names.emg)?;
        self.check_rate(&beside.rate_name, beside.rate, self.layout.sample_rate)?;
        let emg_field = self.emg(&names.emg, column, Some(&beside))?;
        let no_angles =
            self.layout.angles_optional && links::find(self.path, self.file, &names.joint_angles)?.is_none();
        if no_angles {
            return Ok(self.table(emg_field, None, None, Source::One(emg)));
        }
        let (angles, column) = plain(&names.joint_angles)?;
        let rate = names.joint_angle_rate.unwrap_or(self.layout.sample_rate);
        let angles_beside = Beside::read(self.path, self.file, &names.joint_angles)?;
        self.check_rate(&angles_beside.rate_name, angles_beside.rate, rate)?;
        let angle_start = angles_beside.steady_start(self.path, self.file, angles.rows, rate)?;
        let angle_field = self.angles(&names.joint_angles, column, Some(&angles_beside))?;
        self.check_durations(emg.rows, angles.rows, rate)?;
        // Where only one says when it starts, both start at once.
        let lead = beside.start.zip(angle_start).map_or(0.0, |(emg, angles)| emg - angles);
        let lasts = emg.rows as f64 / self.layout.sample_rate;
        if !lead.is_finite() || lead.abs() >= lasts {
            let found = format!("that they start {:.2} s away from it", lead.abs());
            return Err(self.wrong(&names.joint_angles, "angles of the time of the EMG", found));
        }
        let (stamps, time) = self.time_stamps(&beside, emg.rows)?;
        let poses = Field { columns: None, ..angle_field.clone() };
        let joined = Joined {
            emg,
            angles,
            validity: Validity::new(names.invalid_rows, poses.clone(), &angle_field),
            angle_field: poses,
            time: stamps,
            rate,
            sample_rate: self.layout.sample_rate,
            lead,
            interpolation: names.interpolation,
        };
        let angles = Field { columns: angle_field.columns, ..joined.joined_angles() };
        let time = time.map(|time| {
            let field = Field { offset: angles.offset + angles.bytes(), ..time.field };
            TimeField { field, ..time }
        });
        Ok(self.table(emg_field, Some(angles), time, Source::Joined(Box::new(joined))))
    }

    /// Time stamps in a dataset of their own: declared, or where NWB has them.
    fn time_stamps(&self, beside: &Beside, rows: u64) -> Result<(Option<Dataset>, Option<TimeField>), RecordingError> {
        let Some(name) = self.layout.layout.time.as_ref().or(beside.time_stamps.as_ref()) else {
            return Ok((None, None));
        };
        let (stamps, column) = dataset::plain(self.path, self.file, name, self.file_bytes)?;
        if column.field.stored != 1 || stamps.rows != rows {
            let found = format!("{} rows of {}", stamps.rows, column.field.stored);
            return Err(self.wrong(name, format!("{rows} time stamps, as many as rows of EMG"), found));
        }
        Ok((Some(stamps), Some(self.time(column))))
    }

    /// Fails unless angles last about as long as the EMG: devices do not stop at the same moment.
    fn check_durations(&self, emg_rows: u64, angle_rows: u64, rate: f64) -> Result<(), RecordingError> {
        let (emg_seconds, angle_seconds) = (emg_rows as f64 / self.layout.sample_rate, angle_rows as f64 / rate);
        if (emg_seconds - angle_seconds).abs() <= 0.1 + 0.01 * emg_seconds {
            return Ok(());
        }
        let (expected, found) = (format!("{emg_seconds:.2} s at {rate} Hz"), format!("{angle_seconds:.2} s"));
        Err(self.wrong(&self.layout.layout.joint_angles, expected, found))
    }

    fn table(&self, emg: Field, angles: Option<Field>, time: Option<TimeField>, source: Source) -> Table {
        let (rows, row_bytes) = match &source {
            Source::One(dataset) => (dataset.rows, dataset.row_bytes),
            Source::Joined(joined) => (joined.emg.rows, joined.row_bytes()),
        };
        let angles = angles.unwrap_or_else(|| Field::plain(0, 0, Number::F32));
        let poses = Field { columns: None, ..angles.clone() };
        let validity = Validity::new(self.layout.layout.invalid_rows, poses, &angles);
        Table { rows, row_bytes, time, emg, angles, validity, attributes: Attributes::default(), source }
    }

    /// The EMG's field: as many numbers as there must be channels, scaled as declared, or as the dataset says.
    fn emg(&self, name: &str, column: Column, beside: Option<&Beside>) -> Result<Field, RecordingError> {
        let names = &self.layout.layout;
        let declared = (names.emg_scale, names.emg_offset);
        self.check_width(name, &column, self.layout.emg_channels)?;
        self.scaled(name, column, beside, declared, "emg_scale")
    }

    /// The angles' field, in radians.
    fn angles(&self, name: &str, column: Column, beside: Option<&Beside>) -> Result<Field, RecordingError> {
        let names = &self.layout.layout;
        let declared = (names.joint_angle_scale, names.joint_angle_offset);
        self.check_width(name, &column, self.layout.joint_angles)?;
        let mut field = self.scaled(name, column, beside, declared, "joint_angle_scale")?;
        if declared.0.is_none() {
            self.check_angle_unit(name, beside)?;
        }
        if names.angle_unit == AngleUnit::Deg {
            let radians = Scale { factor: std::f64::consts::PI / 180.0, shift: 0.0 };
            field.scale = Some(field.scale.map_or(radians, |scale| scale.then(radians)));
        }
        field.columns = self.layout.joints.as_deref().map(Arc::from);
        Ok(field)
    }

    /// Fails where the file says that its angles are of another unit than is declared.
    fn check_angle_unit(&self, name: &str, beside: Option<&Beside>) -> Result<(), RecordingError> {
        let Some(unit) = beside.and_then(|beside| beside.unit.as_deref()) else { return Ok(()) };
        let is = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(unit.trim()));
        let found = if is(&["rad", "rads", "radian", "radians"]) {
            AngleUnit::Rad
        } else if is(&["deg", "degs", "degree", "degrees", "\u{b0}"]) {
            AngleUnit::Deg
        } else {
            return Ok(());
        };
        let declared = self.layout.layout.angle_unit;
        if found == declared {
            return Ok(());
        }
        Err(self.wrong(name, format!("angles in {declared} (data.layout.angle_unit)"), format!("unit {unit}")))
    }

    fn check_width(&self, name: &str, column: &Column, wanted: usize) -> Result<(), RecordingError> {
        if column.field.stored == wanted {
            return Ok(());
        }
        Err(self.wrong(name, format!("{wanted} values per row"), column.field.stored.to_string()))
    }

    fn scaled(
        &self,
        name: &str,
        column: Column,
        beside: Option<&Beside>,
        declared: (Option<f64>, Option<f64>),
        key: &str,
    ) -> Result<Field, RecordingError> {
        let Column { mut field, is_integer } = column;
        field.missing = beside.and_then(|beside| beside.missing);
        if declared.0.is_none() && beside.is_some_and(|beside| beside.per_channel) {
            let expected = format!("one factor for all channels, or data.layout.{key}");
            return Err(self.wrong(name, expected, "a channel_conversion for each channel"));
        }
        // A declared factor stands for all that the file says; a declared offset for the file's offset.
        let stored = beside.map_or((None, None), |beside| beside.scale);
        let (factor, shift) = match declared {
            (Some(_), _) => declared,
            (None, shift) => (stored.0, shift.or(stored.1)),
        };
        if factor.is_none() && is_integer {
            let expected = format!("floats, or integers with data.layout.{key} (1: as they are)");
            return Err(self.wrong(name, expected, "integers"));
        }
        let scale = (factor.is_some() || shift.is_some())
            .then(|| Scale { factor: factor.unwrap_or(1.0), shift: shift.unwrap_or(0.0) });
        let same = Scale { factor: 1.0, shift: 0.0 };
        Ok(Field { scale: scale.filter(|scale| *scale != same), ..field })
    }

    fn time(&self, column: Column) -> TimeField {
        let Column { mut field, is_integer } = column;
        let declared = self.layout.layout.time_scale;
        field.scale = declared.map(|factor| Scale { factor, shift: 0.0 });
        TimeField { field, in_seconds: declared.is_some() || !is_integer }
    }
}
