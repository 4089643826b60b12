//! Casts between element types.

use super::super::autodiff::Backward;
use super::super::core::{Graph, Node, Value};
use super::super::error::GraphError;
use super::super::fold::Fold;
use super::super::proto::tensor_proto::DataType;
use super::super::tensor::{DType, TensorType};
use super::call::Call;
use super::{Family, op, ty};

pub(super) static FAMILY: Family = Family {
    operators: &[op("Cast", cast)
        .exact()
        .gradient(cast_gradient)
        .computes_in(|graph, node| vec![graph.dtype(node.input(0)), graph.dtype(node.outputs[0])])
        .fold(Fold::Unary(|x, to| if to == DType::I64 { x.trunc() } else { x }))
        .simplify(|graph, given| given.unchanged(graph))],
    imports: &[("Cast", import_cast), ("CastLike", import_cast)],
};

/// ONNX's element type that the attribute `to` names.
fn to(number: i64) -> Result<DataType, GraphError> {
    let named = i32::try_from(number).ok().and_then(|number| DataType::try_from(number).ok());
    named.ok_or_else(|| format!("unknown element type {number}").into())
}

fn cast(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let to = to(node.int("to", 0))?;
    let dtype = DType::of(to).ok_or_else(|| format!("element type {to:?} is not supported"))?;
    Ok(vec![TensorType::new(dtype, ty(graph, node, 0)?.shape)])
}

fn cast_gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
    // Only float to float carries a derivative; everything else is piecewise constant.
    let (from, to) = (back.graph.dtype(back.node.input(0)), back.graph.dtype(back.node.outputs[0]));
    if from.is_float() && to.is_float() {
        let gradient = back.graph.cast(back.dy()?, from);
        back.add(0, gradient);
    }
    Ok(())
}

/// All floats are float32 here, all integers int64.
fn import_cast(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let x = call.input(0)?;
    if call.operator == "CastLike" {
        let to = call.graph.dtype(call.input(1)?);
        return Ok(vec![call.graph.cast(x, to)]);
    }
    let to = match to(call.attributes.int("to", 0))? {
        DataType::Float | DataType::Double => DType::F32,
        DataType::Uint8
        | DataType::Int8
        | DataType::Uint16
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Uint32
        | DataType::Uint64 => DType::I64,
        DataType::Bool => DType::Bool,
        other => return Err(format!("element type {other:?} is not supported: models compute in float32").into()),
    };
    Ok(vec![call.graph.cast(x, to)])
}
