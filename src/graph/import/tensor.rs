//! Tensors of a model's file.

use std::path::Path;

use super::super::error::GraphError;
use super::super::proto::TensorProto;
use super::super::proto::tensor_proto::{DataLocation, DataType};
use super::super::tensor::{Constant, DType};
use crate::files::open_regular;

/// A tensor of the file; doubles become float32, and 32-bit integers int64.
///
/// # Errors
/// Another type, or data that does not fit its shape.
pub(super) fn constant(tensor: &TensorProto) -> Result<Constant, GraphError> {
    let name = tensor.name();
    let (shape, elements) = sizes(tensor)?;
    if tensor.data_location() == DataLocation::External {
        return Err(format!("tensor {name} is stored in a separate file").into());
    }
    let (dtype, numbers) = match DataType::try_from(tensor.data_type()) {
        Ok(DataType::Float) => {
            let values = decode(tensor, &tensor.float_data, f32::from_le_bytes);
            return check(name, elements, values).map(|values| Constant::F32(shape, values));
        }
        Ok(DataType::Int64) => {
            let values = decode(tensor, &tensor.int64_data, i64::from_le_bytes);
            return check(name, elements, values).map(|values| Constant::I64(shape, values));
        }
        Ok(DataType::Double) => (DType::F32, decode(tensor, &tensor.double_data, f64::from_le_bytes)),
        Ok(DataType::Int32) => {
            (DType::I64, decode(tensor, &tensor.int32_data, i32::from_le_bytes).into_iter().map(f64::from).collect())
        }
        Ok(DataType::Bool) => {
            let bytes = tensor.raw_data.as_ref().filter(|bytes| !bytes.is_empty());
            let values = match bytes {
                Some(bytes) => bytes.iter().map(|byte| f64::from(*byte)).collect(),
                None => tensor.int32_data.iter().map(|value| f64::from(*value)).collect(),
            };
            (DType::Bool, values)
        }
        Ok(other) => {
            return Err(format!("tensor {name} has the unsupported type {other:?}: models compute in float32").into());
        }
        Err(_) => return Err(format!("tensor {name} has an unknown element type").into()),
    };
    check(name, elements, numbers).map(|numbers| Constant::from_numbers(dtype, shape, &numbers))
}

/// Shape and number of elements.
pub(super) fn sizes(tensor: &TensorProto) -> Result<(Vec<usize>, usize), GraphError> {
    let name = tensor.name();
    let shape = tensor.dims.iter().map(|dim| usize::try_from(*dim).ok()).collect::<Option<Vec<_>>>();
    let shape = shape.ok_or_else(|| format!("tensor {name} has a negative size"))?;
    let elements = shape.iter().try_fold(1usize, |product, dim| product.checked_mul(*dim));
    let elements = elements.ok_or_else(|| format!("tensor {name} has too many elements"))?;
    Ok((shape, elements))
}

/// Bytes of an element of the types that are read.
fn element_bytes(tensor: &TensorProto) -> Option<usize> {
    match DataType::try_from(tensor.data_type()) {
        Ok(DataType::Float | DataType::Int32) => Some(4),
        Ok(DataType::Double | DataType::Int64) => Some(8),
        Ok(DataType::Bool) => Some(1),
        _ => None,
    }
}

fn decode<T: Copy, const N: usize>(tensor: &TensorProto, listed: &[T], from: fn([u8; N]) -> T) -> Vec<T> {
    match tensor.raw_data.as_ref().filter(|bytes| !bytes.is_empty()) {
        Some(bytes) => bytes.as_chunks::<N>().0.iter().map(|bytes| from(*bytes)).collect(),
        None => listed.to_vec(),
    }
}

fn check<T>(name: &str, elements: usize, values: Vec<T>) -> Result<Vec<T>, GraphError> {
    if values.len() == elements {
        return Ok(values);
    }
    Err(format!("tensor {name} holds {} elements, expected {elements}", values.len()).into())
}

/// Brings the data of a tensor that lies in a file beside the model into the model.
pub(super) fn embed(tensor: &mut TensorProto, folder: &Path) -> Result<(), GraphError> {
    use std::io::{Read, Seek, SeekFrom};
    if tensor.data_location() != DataLocation::External {
        return Ok(());
    }
    let name = tensor.name().to_owned();
    let entry = |key: &str| tensor.external_data.iter().find(|entry| entry.key() == key).map(|entry| entry.value());
    let location = entry("location").ok_or_else(|| format!("tensor {name} does not name the file it is stored in"))?;
    let inside =
        |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(_) | std::path::Component::CurDir);
    if !Path::new(location).components().all(inside) {
        return Err(format!("tensor {name} is stored in {location}, outside the model's folder").into());
    }
    let path = folder.join(location);
    let told = |error: std::io::Error| format!("tensor {name}: {}: {error}", path.display());
    // A link must not lead out of it either: what it names would be copied into the run.
    let folder = folder.canonicalize().map_err(told)?;
    if !path.canonicalize().map_err(told)?.starts_with(&folder) {
        return Err(format!("tensor {name} is stored in {location}, a link out of the model's folder").into());
    }
    let mut file = open_regular(&path).map_err(told)?;
    let size = file.metadata().map_err(told)?.len();
    let number = |key: &str, default: u64| match entry(key) {
        Some(text) => text.parse::<u64>().map_err(|_| format!("tensor {name}: {key} is {text}, expected a number")),
        None => Ok(default),
    };
    let offset = number("offset", 0)?;
    // Before anything is read: a sparse file may claim any size.
    let (_, elements) = sizes(tensor)?;
    let width = element_bytes(tensor).ok_or_else(|| format!("tensor {name} has an unsupported element type"))?;
    let expected = elements.checked_mul(width).ok_or_else(|| format!("tensor {name} has too many elements"))? as u64;
    let length = number("length", expected)?;
    if length != expected {
        return Err(
            format!("tensor {name}: expected {elements} elements of {width} bytes, found {length} bytes").into()
        );
    }
    if offset.checked_add(length).is_none_or(|end| end > size) {
        return Err(format!("tensor {name}: {} has {size} bytes, expected more", path.display()).into());
    }
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(offset)).map_err(told)?;
    file.take(length).read_to_end(&mut bytes).map_err(told)?;
    tensor.raw_data = Some(bytes.into());
    tensor.external_data.clear();
    tensor.data_location = None;
    Ok(())
}
