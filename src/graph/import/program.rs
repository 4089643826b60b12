//! What a PyTorch program did, where its gradient is another than that of the ONNX operators it was written as. The newer
//! exporter names the program's node with each of its own.

use super::super::attributes::{Attribute, Attributes};
use super::super::core::Value;
use super::super::error::GraphError;
use super::super::operators::{self, Call, root_of_sum};
use super::super::proto::NodeProto;
use super::super::tensor::Constant;
use super::exporter::{arguments_of, target};

/// The node's outputs, if its program's node has a gradient of its own; else `None`.
///
/// # Errors
/// Something that PyTorch's gradient depends on cannot be followed.
pub(super) fn apply(call: &mut Call<'_>, node: &NodeProto) -> Result<Option<Vec<Value>>, GraphError> {
    let (Some(target), Some(arguments)) = (target(node), arguments_of(node)) else { return Ok(None) };
    match (node.op_type(), target) {
        ("Gather", "torch.ops.aten.embedding.default") => embedding(call, arguments),
        ("Max" | "Min", "torch.ops.aten.clamp.Tensor") => clamp(call, arguments),
        ("ReduceMax", "torch.ops.aten.max.dim") => extreme(call, 1),
        ("ReduceMin", "torch.ops.aten.min.dim") => extreme(call, 0),
        // The root in a standard deviation has no gradient where nothing deviates.
        ("Sqrt", "torch.ops.aten.sqrt.default") if arguments.starts_with("(%broadcast_in_dim") => {
            let x = call.float(0)?;
            Ok(Some(vec![root_of_sum(call, x)]))
        }
        _ => Ok(None),
    }
}

/// The row of `padding_idx` has no gradient.
fn embedding(call: &mut Call<'_>, arguments: &str) -> Result<Option<Vec<Value>>, GraphError> {
    let mut numbers = arguments.trim_matches(['(', ')']).split(',').map(str::trim).skip(2);
    let padding = numbers.next().and_then(|text| text.parse::<i64>().ok()).unwrap_or(-1);
    if numbers.next() == Some("True") {
        return Err("an embedding whose gradient is scaled by frequency is not supported".into());
    }
    let weight = call.float(0)?;
    let shape = call.shape(weight);
    let Some(row) = usize::try_from(padding).ok().filter(|row| shape.len() == 2 && *row < shape[0]) else {
        return Ok(None);
    };
    let is_row = (0..shape[0]).map(|i| f64::from(u8::from(i == row))).collect::<Vec<_>>();
    let is_row = Constant::from_numbers(super::super::tensor::DType::Bool, [shape[0], 1], &is_row);
    let is_row = call.graph.constant(is_row);
    let fixed = call.graph.stop_gradient(weight);
    call.inputs[0] = Some(call.graph.select(is_row, fixed, weight));
    Ok(None)
}

/// With numbers as bounds, the gradient at a bound is that of `Clip`, not shared between two tensors.
fn clamp(call: &mut Call<'_>, arguments: &str) -> Result<Option<Vec<Value>>, GraphError> {
    let bound = call.input(1)?;
    let single = call.graph.ty(bound).elements() == 1 && call.graph.as_constant(bound).is_some();
    if !single || !arguments.contains("%scalar_tensor") || call.inputs.len() != 2 {
        return Ok(None);
    }
    let import = operators::import("Clip").ok_or("Clip is not in the table")?;
    let is_low = call.operator == "Max";
    call.inputs = if is_low { vec![call.inputs[0], Some(bound)] } else { vec![call.inputs[0], None, Some(bound)] };
    import(call).map(Some)
}

/// The gradient goes to the element that was found, also where others are as large.
fn extreme(call: &mut Call<'_>, largest: i64) -> Result<Option<Vec<Value>>, GraphError> {
    let x = call.float(0)?;
    let shape = call.shape(x);
    let Some(axes) = call.axes(1, shape.len())?.filter(|axes| axes.len() == 1) else { return Ok(None) };
    let along = axes[0];
    let one = call.graph.i64s(&[1]);
    let mut attributes = Attributes::new();
    attributes.insert("axis".into(), Attribute::Int(along as i64));
    attributes.insert("largest".into(), Attribute::Int(largest));
    let indices = call.apply("TopK", &[x, one], attributes)?[1];
    let found = call.graph.gather_elements(x, indices, along);
    if call.attributes.int("keepdims", 1) != 0 {
        return Ok(Some(vec![found]));
    }
    let kept: Vec<_> = (0..shape.len()).filter(|i| *i != along).map(|i| shape[i]).collect();
    Ok(Some(vec![call.graph.reshape(found, &kept)]))
}
