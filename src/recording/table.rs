//! The header of a recording: where its rows lie in the file and what a row holds.

use std::path::Path;

use hdf5::types::TypeDescriptor;
use serde::{Deserialize, Serialize};

use super::attributes::Attributes;
use super::dataset::{Dataset, descriptor, find, floats, open_file, plain};
use super::error::RecordingError;
use super::joined::Joined;
use super::place::Place;
use super::rows::Field;
use super::validity::Failure;
use crate::config::{AngleUnit, Layout};

/// Where rows are and what shape is wanted of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableLayout {
    pub layout: Layout,
    pub emg_channels: usize,
    pub joint_angles: usize,
    /// Whether a recording without any angles will do; its angles are then of width 0.
    #[serde(default)]
    pub angles_optional: bool,
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
    pub(crate) time: Option<Field>,
    pub(crate) emg: Field,
    pub(crate) angles: Field,
    pub(crate) failure: Failure,
    pub(crate) attributes: Attributes,
    pub(crate) source: Source,
}

const NO_ANGLES: Field = Field { offset: 0, width: 0, double: false, factor: None };

/// Where rows come from.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Source {
    /// They lie in one dataset.
    One(Dataset),
    Joined(Box<Joined>),
}

/// Keeps the HDF5 library from printing its error stack; errors come back as [`RecordingError`].
pub fn silence_hdf5_errors() {
    hdf5::silence_errors(true);
}

impl Table {
    /// Reads the header of the recording at `place`, which is `file_bytes` long.
    pub(crate) fn open(place: &Place, layout: &TableLayout, file_bytes: u64) -> Result<Self, RecordingError> {
        let path = &place.label();
        let file = open_file(place, layout.chunk_cache)?;
        let attributes = Attributes::read(&file, &layout.layout.attributes);
        if let Some(rate) = attributes.sample_rate
            && rate != layout.sample_rate
        {
            let expected = format!("{} (model.original_sampling_rate)", layout.sample_rate);
            return Err(RecordingError::layout(path, "sample_rate", expected, rate.to_string()));
        }
        match &layout.layout.table {
            Some(table) => Self::compound(path, &file, table, layout, file_bytes, attributes),
            None => Self::joined(path, &file, layout, file_bytes, attributes),
        }
    }

    fn compound(
        path: &Path,
        file: &hdf5::File,
        table: &str,
        layout: &TableLayout,
        file_bytes: u64,
        attributes: Attributes,
    ) -> Result<Self, RecordingError> {
        let wrong = |what: &str, expected: &str, found: String| RecordingError::layout(path, what, expected, found);
        let dataset = find(path, file, table)?;
        let shape = dataset.shape();
        if shape.len() != 1 {
            return Err(wrong("dataset", "one dimension", format!("shape {shape:?}")));
        }
        let names = &layout.layout;
        let TypeDescriptor::Compound(compound) = descriptor(path, &dataset)? else {
            let expected = format!("a compound type with the fields {} and {}", names.emg, names.joint_angles);
            return Err(wrong("dataset", &expected, descriptor(path, &dataset)?.to_string()));
        };
        let row_bytes = compound.size;
        // They are pointers in memory and something longer in the file, so rows would not be where they are looked for.
        if let Some(field) = compound.fields.iter().find(|field| has_variable_length(&field.ty)) {
            return Err(wrong("fields", "only fields of fixed length", format!("{} ({})", field.name, field.ty)));
        }
        let field = |name: &str| {
            let field = compound.fields.iter().find(|field| field.name == name);
            field.map(|field| float_field(path, field, row_bytes)).transpose()
        };
        let needed = |name: &str, width: usize| -> Result<Field, RecordingError> {
            let present = || compound.fields.iter().map(|f| f.name.as_str()).collect::<Vec<_>>().join(", ");
            let field = field(name)?.ok_or_else(|| wrong("fields", name, present()))?;
            if field.width != width {
                return Err(wrong(name, &format!("{width} values per row"), field.width.to_string()));
            }
            Ok(field)
        };
        let emg = needed(&names.emg, layout.emg_channels)?;
        let angles = if layout.angles_optional && compound.fields.iter().all(|f| f.name != names.joint_angles) {
            NO_ANGLES
        } else {
            Field { factor: factor(names), ..needed(&names.joint_angles, layout.joint_angles)? }
        };
        let time = names.time.as_deref().and_then(|name| field(name).ok().flatten()).filter(|time| time.width == 1);
        let dataset = Dataset::new(path, table, &dataset, row_bytes, row_bytes, file_bytes)?;
        let (rows, failure) = (dataset.rows, Failure(names.invalid_rows));
        Ok(Self { rows, row_bytes, time, emg, angles, failure, attributes, source: Source::One(dataset) })
    }

    fn joined(
        path: &Path,
        file: &hdf5::File,
        layout: &TableLayout,
        file_bytes: u64,
        attributes: Attributes,
    ) -> Result<Self, RecordingError> {
        let names = &layout.layout;
        let columns = |name: &str, wanted: usize| {
            let (dataset, field) = plain(path, file, name, file_bytes)?;
            if field.width != wanted {
                return Err(RecordingError::layout(
                    path,
                    name,
                    format!("{wanted} values per row"),
                    field.width.to_string(),
                ));
            }
            Ok((dataset, field))
        };
        let (emg, emg_field) = columns(&names.emg, layout.emg_channels)?;
        if layout.angles_optional && !file.link_exists(&names.joint_angles) {
            let (rows, row_bytes, failure) = (emg.rows, emg.row_bytes, Failure(names.invalid_rows));
            let (source, angles, time) = (Source::One(emg), NO_ANGLES, None);
            return Ok(Self { rows, row_bytes, time, emg: emg_field, angles, failure, attributes, source });
        }
        let (angles, angle_field) = columns(&names.joint_angles, layout.joint_angles)?;
        let time = names.time.as_deref().map(|name| columns(name, 1)).transpose()?;
        let time = time.filter(|(dataset, _)| dataset.rows == emg.rows);
        let rate = names.joint_angle_rate.unwrap_or(layout.sample_rate);
        // About as long as the EMG: devices do not stop at the same moment.
        let (emg_seconds, angle_seconds) = (emg.rows as f64 / layout.sample_rate, angles.rows as f64 / rate);
        if (emg_seconds - angle_seconds).abs() > 0.1 + 0.01 * emg_seconds {
            let (expected, found) = (format!("{emg_seconds:.2} s at {rate} Hz"), format!("{angle_seconds:.2} s"));
            return Err(RecordingError::layout(path, &names.joint_angles, expected, found));
        }
        let failure = Failure(names.invalid_rows);
        let joined = Joined {
            emg,
            angles,
            angle_field,
            time: time.as_ref().map(|(dataset, _)| dataset.clone()),
            rate,
            sample_rate: layout.sample_rate,
            interpolation: names.interpolation,
            failure,
        };
        let angles = Field { factor: factor(names), ..joined.joined_angles() };
        let time = time.map(|(_, field)| Field { offset: angles.offset + 8 * angles.width, ..field });
        let (rows, row_bytes) = (joined.emg.rows, joined.row_bytes());
        let source = Source::Joined(Box::new(joined));
        Ok(Self { rows, row_bytes, time, emg: emg_field, angles, failure, attributes, source })
    }

    /// Fails unless all that the header says lies within a file of `file_bytes`: whoever read it, rows are taken from
    /// there.
    pub(crate) fn check(&self, path: &Path, file_bytes: u64) -> Result<(), RecordingError> {
        let fits = |field: &Field| field.offset.checked_add(field.bytes()).is_some_and(|end| end <= self.row_bytes);
        let sound = match &self.source {
            Source::One(dataset) => {
                dataset.is_within(file_bytes) && (dataset.rows, dataset.row_bytes) == (self.rows, self.row_bytes)
            }
            Source::Joined(joined) => {
                let datasets = [Some(&joined.emg), Some(&joined.angles), joined.time.as_ref()];
                datasets.into_iter().flatten().all(|dataset| dataset.is_within(file_bytes))
                    && joined.time.as_ref().is_none_or(|time| time.rows == self.rows)
                    && joined.angle_field.bytes() <= joined.angles.row_bytes
                    && (joined.emg.rows, joined.row_bytes()) == (self.rows, self.row_bytes)
                    && [joined.rate, joined.sample_rate].iter().all(|rate| rate.is_finite() && *rate > 0.0)
            }
        };
        let fields = [Some(&self.emg), Some(&self.angles), self.time.as_ref()];
        if sound && fields.into_iter().flatten().all(fits) {
            return Ok(());
        }
        Err(RecordingError::damaged(path, "its header describes rows beyond the end of the file"))
    }
}

fn has_variable_length(ty: &TypeDescriptor) -> bool {
    match ty {
        TypeDescriptor::VarLenArray(_) | TypeDescriptor::VarLenAscii | TypeDescriptor::VarLenUnicode => true,
        TypeDescriptor::Reference(_) => true,
        TypeDescriptor::FixedArray(element, _) => has_variable_length(element),
        TypeDescriptor::Compound(compound) => compound.fields.iter().any(|field| has_variable_length(&field.ty)),
        _ => false,
    }
}

/// What recorded angles are multiplied by to be radians.
fn factor(layout: &Layout) -> Option<f64> {
    match layout.angle_unit {
        AngleUnit::Rad => None,
        AngleUnit::Deg => Some(std::f64::consts::PI / 180.0),
    }
}

fn float_field(path: &Path, field: &hdf5::types::CompoundField, row_bytes: usize) -> Result<Field, RecordingError> {
    let (double, width) = floats(path, &field.name, &field.ty)?;
    let parsed = Field { offset: field.offset, width, double, factor: None };
    if width > row_bytes || parsed.offset + parsed.bytes() > row_bytes {
        return Err(RecordingError::damaged(path, format!("field {} does not fit into its row", field.name)));
    }
    Ok(parsed)
}
