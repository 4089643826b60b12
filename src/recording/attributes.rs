//! Attributes of the recording's group.

use std::path::Path;

use hdf5_sys::h5t::H5T_class_t::{H5T_ENUM, H5T_FLOAT, H5T_INTEGER, H5T_STRING};
use serde::{Deserialize, Serialize};

use super::element::class_name;
use super::error::RecordingError;
use super::h5;
use super::links;

/// What a recording says of itself; absent attributes are `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Attributes {
    pub session: Option<String>,
    pub user: Option<String>,
    pub stage: Option<String>,
    pub side: Option<String>,
    /// Hz.
    pub sample_rate: Option<f64>,
    /// BLAKE3 of the recording that a file of `emg-train predict` was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_from: Option<String>,
}

impl Attributes {
    /// Reads those of the group or dataset at `name`; absent ones are `None`.
    ///
    /// # Errors
    /// No such object; an attribute that is there, but not one text or number; or the file cannot be read.
    pub(crate) fn read(path: &Path, file: &hdf5::File, name: &str) -> Result<Self, RecordingError> {
        let Some(object) = links::find(path, file, name)? else {
            return Err(RecordingError::missing(path, "attributes", &format!("a group or dataset `{name}`"), "none"));
        };
        let of = object.location();
        let text = |name| text(path, of, name);
        Ok(Self {
            session: text("session")?,
            user: text("user")?,
            stage: text("stage")?,
            side: text("side")?,
            sample_rate: number(path, of, "sample_rate")?,
            predicted_from: text(PREDICTED_FROM)?,
        })
    }
}

/// The attribute that marks the files of `emg-train predict`, whose angles are no true ones.
pub(crate) const PREDICTED_BY: &str = "predicted_by";

/// The attribute of such files that tells which recording they were made from.
pub(crate) const PREDICTED_FROM: &str = "predicted_from";

/// Fails if the group `name` has the mark.
pub(super) fn check_not_predicted(path: &Path, file: &hdf5::File, name: &str) -> Result<(), RecordingError> {
    let Some(object) = links::find(path, file, name)? else { return Ok(()) };
    match h5::attribute(object.location(), PREDICTED_BY) {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(RecordingError::Predicted { path: path.to_owned() }),
        Err(error) => Err(RecordingError::hdf5(path, &error)),
    }
}

/// A number that stands for missing values, which may be NaN; `None` if it is absent or none.
///
/// # Errors
/// The file cannot be read.
pub(super) fn missing_value(path: &Path, of: &hdf5::Location, name: &str) -> Result<Option<f64>, RecordingError> {
    let failed = |error| RecordingError::hdf5(path, &error);
    let is_number = |attribute: &h5::Attribute| {
        attribute.elements == 1 && matches!(h5::class(&attribute.ty), H5T_INTEGER | H5T_FLOAT)
    };
    let attribute = h5::attribute(of, name).map_err(failed)?.filter(is_number);
    attribute.map(|attribute| attribute.number().map_err(failed)).transpose()
}

/// A text; `None` if it is absent, empty, or something else.
///
/// # Errors
/// The file cannot be read.
pub(super) fn word(path: &Path, of: &hdf5::Location, name: &str) -> Result<Option<String>, RecordingError> {
    let failed = |error| RecordingError::hdf5(path, &error);
    let attribute = h5::attribute(of, name).map_err(failed)?;
    let text = attribute.filter(|attribute| attribute.elements == 1 && h5::class(&attribute.ty) == H5T_STRING);
    text.map(|text| text.text().map_err(failed)).transpose()
}

/// An attribute of one element; `None` if it is absent or has no element.
fn one(path: &Path, of: &hdf5::Location, name: &str) -> Result<Option<h5::Attribute>, RecordingError> {
    let attribute = h5::attribute(of, name).map_err(|error| RecordingError::hdf5(path, &error))?;
    match attribute {
        Some(attribute) if attribute.elements > 1 => {
            let found = format!("{} values", attribute.elements);
            Err(RecordingError::layout(path, &format!("attribute {name}"), "one value", found))
        }
        attribute => Ok(attribute.filter(|attribute| attribute.elements == 1)),
    }
}

/// A text, or the text of a number, or the name of an enumeration's value; `None` if it is absent or empty.
fn text(path: &Path, of: &hdf5::Location, name: &str) -> Result<Option<String>, RecordingError> {
    let failed = |error| RecordingError::hdf5(path, &error);
    let Some(attribute) = one(path, of, name)? else { return Ok(None) };
    let text = match h5::class(&attribute.ty) {
        H5T_STRING => attribute.text().map_err(failed)?,
        H5T_INTEGER if attribute.ty.size() > 8 => {
            return Err(wrong(path, name, "an integer of at most 8 bytes", attribute.ty.size().to_string()));
        }
        H5T_INTEGER => attribute.integer().map_err(failed)?.to_string(),
        H5T_FLOAT => decimal(path, name, attribute.number().map_err(failed)?, attribute.ty.size())?,
        H5T_ENUM => match attribute.word().map_err(failed)? {
            Some(word) => word,
            None => return Err(wrong(path, name, "one of its enumeration's values", "another number")),
        },
        other => return Err(wrong(path, name, "text or a number", class_name(other))),
    };
    // As in tables: white space would make one user two.
    Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
}

/// The shortest text that reads back as the same float of so many bytes.
fn decimal(path: &Path, name: &str, number: f64, bytes: usize) -> Result<String, RecordingError> {
    match (number.is_finite(), bytes) {
        (false, _) => Err(wrong(path, name, "a finite number", number.to_string())),
        (true, 4) => Ok((number as f32).to_string()),
        (true, _) => Ok(number.to_string()),
    }
}

/// A number, or a text that is one; `None` if it is absent or empty.
///
/// # Errors
/// As [`Attributes::read`].
pub(super) fn number(path: &Path, of: &hdf5::Location, name: &str) -> Result<Option<f64>, RecordingError> {
    let failed = |error| RecordingError::hdf5(path, &error);
    let Some(attribute) = one(path, of, name)? else { return Ok(None) };
    let number = match h5::class(&attribute.ty) {
        H5T_STRING => {
            let text = attribute.text().map_err(failed)?;
            let text = text.trim();
            if text.is_empty() {
                return Ok(None);
            }
            text.parse().map_err(|_| wrong(path, name, "a number", format!("`{text}`")))?
        }
        H5T_INTEGER | H5T_FLOAT => attribute.number().map_err(failed)?,
        other => return Err(wrong(path, name, "a number", class_name(other))),
    };
    if number.is_finite() { Ok(Some(number)) } else { Err(wrong(path, name, "a finite number", number.to_string())) }
}

fn wrong(path: &Path, name: &str, expected: &str, found: impl Into<String>) -> RecordingError {
    RecordingError::layout(path, &format!("attribute {name}"), expected, found)
}
