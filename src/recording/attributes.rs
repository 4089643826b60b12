//! Attributes of the recording's group.

use hdf5::types::{FixedAscii, FixedUnicode, TypeDescriptor, VarLenAscii, VarLenUnicode};
use serde::{Deserialize, Serialize};

/// What a recording says of itself; absent attributes are `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Attributes {
    pub session: Option<String>,
    pub user: Option<String>,
    pub stage: Option<String>,
    pub side: Option<String>,
    /// Hz.
    pub sample_rate: Option<f64>,
}

impl Attributes {
    /// Reads those of the group or dataset at `path`; absent ones, or an absent object, are `None`.
    pub(crate) fn read(file: &hdf5::File, path: &str) -> Self {
        let path = if path.is_empty() { "/" } else { path };
        let of_group = file.group(path).ok().and_then(|group| group.as_location().ok());
        let location = of_group.or_else(|| file.dataset(path).ok().and_then(|dataset| dataset.as_location().ok()));
        location.map(|location| Self::of(&location)).unwrap_or_default()
    }

    fn of(group: &hdf5::Location) -> Self {
        Self {
            session: text(group, "session"),
            user: text(group, "user"),
            stage: text(group, "stage"),
            side: text(group, "side"),
            sample_rate: number(group, "sample_rate"),
        }
    }
}

fn scalar(group: &hdf5::Location, name: &str) -> Option<(hdf5::Attribute, TypeDescriptor)> {
    let attribute = group.attr(name).ok()?;
    let descriptor = attribute.dtype().ok()?.to_descriptor().ok()?;
    (attribute.size() == 1).then_some((attribute, descriptor))
}

fn text(group: &hdf5::Location, name: &str) -> Option<String> {
    let (attribute, descriptor) = scalar(group, name)?;
    match descriptor {
        TypeDescriptor::VarLenUnicode => Some(attribute.read_scalar::<VarLenUnicode>().ok()?.to_string()),
        TypeDescriptor::VarLenAscii => Some(attribute.read_scalar::<VarLenAscii>().ok()?.to_string()),
        TypeDescriptor::FixedAscii(_) => Some(attribute.read_scalar::<FixedAscii<1024>>().ok()?.to_string()),
        TypeDescriptor::FixedUnicode(_) => Some(attribute.read_scalar::<FixedUnicode<1024>>().ok()?.to_string()),
        _ => None,
    }
}

fn number(group: &hdf5::Location, name: &str) -> Option<f64> {
    let (attribute, descriptor) = scalar(group, name)?;
    match descriptor {
        TypeDescriptor::Float(_) => attribute.as_reader().read_scalar::<f64>().ok(),
        TypeDescriptor::Integer(_) => attribute.as_reader().read_scalar::<i64>().ok().map(|value| value as f64),
        TypeDescriptor::Unsigned(_) => attribute.as_reader().read_scalar::<u64>().ok().map(|value| value as f64),
        _ => None,
    }
}
