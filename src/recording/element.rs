//! What the elements of a dataset are: numbers that the fast path reads where they lie, numbers that the library converts,
//! or something else.

use std::path::Path;

use hdf5::Datatype;
use hdf5_sys::h5t::H5T_class_t::{self, *};

use super::error::RecordingError;
use super::h5::{self, Bits};
use super::rows::Number;

/// Numbers in a field or element: one, or a one-dimensional array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Numbers {
    /// How they are stored, if the fast path knows it completely.
    pub(super) direct: Option<Number>,
    /// What the library converts them to: float32 where that is exact, else float64.
    pub(super) converted: Number,
    pub(super) is_integer: bool,
    pub(super) width: usize,
    pub(super) is_array: bool,
}

impl Numbers {
    /// What `name`'s elements are.
    ///
    /// # Errors
    /// [`RecordingError::Layout`]: no numbers.
    pub(super) fn of(path: &Path, name: &str, ty: &Datatype) -> Result<Self, RecordingError> {
        let failed = |error| RecordingError::hdf5(path, &error);
        let wrong = |found: String| RecordingError::layout(path, name, "numbers", found);
        let (element, width, is_array) = match h5::class(ty) {
            H5T_ARRAY => match h5::dimensions(ty).map_err(failed)?[..] {
                [width] => (&h5::base(ty).map_err(failed)?, width as usize, true),
                ref dimensions => return Err(wrong(format!("arrays of shape {dimensions:?}"))),
            },
            _ => (ty, 1, false),
        };
        let is_integer = match h5::class(element) {
            H5T_INTEGER => true,
            H5T_FLOAT => false,
            other => return Err(wrong(class_name(other).to_owned())),
        };
        let direct = stored_number(element, is_integer);
        let exact = !is_integer && float_like(element, &[BINARY16, BINARY32]).is_some();
        let converted = if exact { Number::F32 } else { Number::F64 };
        Ok(Self { direct, converted, is_integer, width, is_array })
    }

    /// The memory type that the library converts a field of these, or a plain dataset's element, to.
    pub(super) fn memory_type(number: Number, array: Option<usize>) -> hdf5::Result<Datatype> {
        let scalar = match number {
            Number::F32 => Datatype::from_type::<f32>()?,
            _ => Datatype::from_type::<f64>()?,
        };
        array.map_or(Ok(scalar.clone()), |count| h5::array(&scalar, count))
    }
}

/// IEEE 754: bits, and what [`h5::float_fields`] gives of them.
type Format = (usize, [usize; 6]);
const BINARY16: Format = (16, [15, 10, 5, 0, 10, 15]);
const BINARY32: Format = (32, [31, 23, 8, 0, 23, 127]);
const BINARY64: Format = (64, [63, 52, 11, 0, 52, 1023]);

/// Which of these formats a float has, in any byte order.
fn float_like(ty: &Datatype, formats: &[Format]) -> Option<usize> {
    let (Bits { bytes, full, .. }, fields) = (h5::bits(ty), h5::float_fields(ty)?);
    full.then(|| formats.iter().position(|format| *format == (8 * bytes, fields))).flatten()
}

/// How a number is stored, if it is little-endian and just as the processor has it.
fn stored_number(ty: &Datatype, is_integer: bool) -> Option<Number> {
    let Bits { bytes, little_endian, full } = h5::bits(ty);
    if !full || !(little_endian || bytes == 1) {
        return None;
    }
    if !is_integer {
        let formats = [Number::F16, Number::F32, Number::F64];
        return float_like(ty, &[BINARY16, BINARY32, BINARY64]).map(|i| formats[i]);
    }
    Some(match (bytes, h5::is_signed(ty)?) {
        (1, true) => Number::I8,
        (1, false) => Number::U8,
        (2, true) => Number::I16,
        (2, false) => Number::U16,
        (4, true) => Number::I32,
        (4, false) => Number::U32,
        (8, true) => Number::I64,
        (8, false) => Number::U64,
        _ => return None,
    })
}

/// Whether elements are stored in as many bytes as the library says they take in memory: what has a variable length, or
/// refers to something, need not be.
pub(super) fn is_of_fixed_length(ty: &Datatype) -> hdf5::Result<bool> {
    match h5::class(ty) {
        H5T_INTEGER | H5T_FLOAT | H5T_TIME | H5T_BITFIELD | H5T_OPAQUE | H5T_ENUM => Ok(true),
        H5T_STRING => Ok(!h5::is_variable_text(ty)?),
        H5T_ARRAY => is_of_fixed_length(&h5::base(ty)?),
        H5T_COMPOUND => {
            for member in h5::members(ty)? {
                if !is_of_fixed_length(&member.ty)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        _ => Ok(false),
    }
}

pub(super) fn class_name(class: H5T_class_t) -> &'static str {
    match class {
        H5T_INTEGER => "an integer",
        H5T_FLOAT => "a float",
        H5T_TIME => "a time",
        H5T_STRING => "text",
        H5T_BITFIELD => "a bit field",
        H5T_OPAQUE => "opaque bytes",
        H5T_COMPOUND => "a compound type",
        H5T_REFERENCE => "a reference",
        H5T_ENUM => "an enumeration",
        H5T_VLEN => "a sequence of variable length",
        H5T_ARRAY => "an array",
        _ => "an unknown type",
    }
}
