//! Models in double precision, for comparisons that float32 is too coarse for.

use prost::Message;

use super::error::GraphError;
use super::proto::tensor_proto::DataType;
use super::proto::{AttributeProto, ModelProto, TensorProto, ValueInfoProto, type_proto};

/// An ONNX model that this project wrote, with every float32 as float64. ONNX Runtime has fewer operators for it.
///
/// # Errors
/// Bytes that are no model.
pub fn to_float64(onnx: &[u8]) -> Result<Vec<u8>, GraphError> {
    let mut model = ModelProto::decode(onnx).map_err(|error| GraphError::NotOnnx { reason: error.to_string() })?;
    if let Some(graph) = &mut model.graph {
        graph.initializer.iter_mut().for_each(tensor);
        graph.input.iter_mut().chain(&mut graph.output).for_each(port);
        for node in &mut graph.node {
            let casts = node.op_type() == "Cast";
            node.attribute.iter_mut().for_each(|attribute| widen(attribute, casts));
        }
    }
    Ok(model.encode_to_vec())
}

fn widen(attribute: &mut AttributeProto, casts: bool) {
    attribute.t.iter_mut().for_each(tensor);
    if casts && attribute.name() == "to" && attribute.i == Some(i64::from(DataType::Float as i32)) {
        attribute.i = Some(i64::from(DataType::Double as i32));
    }
}

fn tensor(tensor: &mut TensorProto) {
    if tensor.data_type() != DataType::Float as i32 {
        return;
    }
    let bytes = tensor.raw_data.take().unwrap_or_default();
    let values = bytes.as_chunks::<4>().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes)));
    let bytes: Vec<_> = values.flat_map(f64::to_le_bytes).collect();
    tensor.raw_data = Some(bytes.into());
    tensor.data_type = Some(DataType::Double as i32);
}

fn port(info: &mut ValueInfoProto) {
    let ty = info.r#type.as_mut().and_then(|ty| ty.value.as_mut());
    if let Some(type_proto::Value::TensorType(tensor)) = ty
        && tensor.elem_type() == DataType::Float as i32
    {
        tensor.elem_type = Some(DataType::Double as i32);
    }
}
