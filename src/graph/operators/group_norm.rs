//! Normalizations of groups, examples and vectors.

use super::super::attributes::Attribute;
use super::super::autodiff::Backward;
use super::super::build::attributes;
use super::super::core::{Graph, Node, Value};
use super::super::error::GraphError;
use super::super::tensor::TensorType;
use super::call::Call;
use super::layer_norm::{moments, through_standardized};
use super::reduce::root_of_sum;
use super::{Family, axis, fused, ty};

pub(super) static FAMILY: Family = Family {
    operators: &[
        fused("Standardize", standardize).gradient(standardize_gradient).expand(expand_standardize),
        fused("StandardizeGradient", gradient_type).expand(expand_gradient),
    ],
    imports: &[
        ("GroupNormalization", group_norm),
        ("InstanceNormalization", instance_norm),
        ("LpNormalization", lp_norm),
        ("MeanVarianceNormalization", mean_variance),
    ],
};

/// Input: x. Outputs: (x - mean) / deviation over the last axis, and 1 / deviation, with deviation =
/// sqrt(variance + epsilon).
fn standardize(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let x = ty(graph, node, 0)?;
    let mut inverse = x.clone();
    *inverse.shape.last_mut().filter(|n| **n > 0).ok_or("nothing to normalize")? = 1;
    Ok(vec![x, inverse])
}

fn standardize_gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
    let inputs = [back.dy()?, back.node.outputs[0], back.node.outputs[1]];
    let dx = back.graph.apply1("StandardizeGradient", &inputs, attributes([]));
    back.add(0, dx);
    Ok(())
}

/// Inputs: dy, y and 1 / deviation. Output: dx.
fn gradient_type(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (dy, y, inverse) = (ty(graph, node, 0)?, ty(graph, node, 1)?, ty(graph, node, 2)?);
    let mut statistics = y.shape.clone();
    *statistics.last_mut().filter(|n| **n > 0).ok_or("nothing to normalize")? = 1;
    if dy != y || inverse.shape != statistics {
        return Err(format!("gradient {dy}, {y} and the deviation {inverse} do not fit").into());
    }
    Ok(vec![y])
}

fn expand_standardize(graph: &mut Graph, node: &Node) -> Vec<Value> {
    let (x, last) = (node.input(0), graph.shape(node.input(0)).len() - 1);
    let [_, centred, deviation] = moments(graph, x, &[last], node.float("epsilon", 1e-5));
    let one = graph.scalar_like(x, 1.0);
    vec![graph.div(centred, deviation), graph.div(one, deviation)]
}

fn expand_gradient(graph: &mut Graph, node: &Node) -> Vec<Value> {
    let [dy, y, inverse] = std::array::from_fn(|i| node.input(i));
    vec![through_standardized(graph, dy, y, inverse)]
}

/// x [batch, channels, spatial..] with mean 0 and variance 1 in each of `groups` of its channels.
fn grouped(call: &mut Call<'_>, x: Value, groups: usize) -> Result<Value, GraphError> {
    let shape = call.shape(x);
    let rest = shape.iter().product::<usize>() / (shape[0] * groups).max(1);
    let x = call.graph.reshape(x, &[shape[0], groups, rest]);
    let epsilon = attributes([("epsilon", Attribute::Float(call.attributes.float("epsilon", 1e-5)))]);
    let normal = call.apply("Standardize", &[x], epsilon)?[0];
    Ok(call.graph.reshape(normal, &shape))
}

/// Each channel of each example on its own.
fn instance_norm(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let (x, scale, bias) = (call.float(0)?, call.float(1)?, call.float(2)?);
    let shape = call.shape(x);
    if shape.len() < 3 {
        return Err("expected [batch, channels, spatial..]".into());
    }
    let normal = grouped(call, x, shape[1])?;
    affine(call, normal, scale, bias)
}

/// Per-channel scale and bias.
fn affine(call: &mut Call<'_>, x: Value, scale: Value, bias: Value) -> Result<Vec<Value>, GraphError> {
    let shape = call.shape(x);
    if [scale, bias].iter().any(|value| call.shape(*value) != shape[1..2]) {
        return Err(format!("scale and bias must have {} elements", shape[1]).into());
    }
    let (scale, bias) = (call.graph.per_channel(scale, shape.len()), call.graph.per_channel(bias, shape.len()));
    let scaled = call.graph.mul(x, scale);
    Ok(vec![call.graph.add(scaled, bias)])
}

/// Groups of channels; scale and bias per group before opset 21, per channel since.
fn group_norm(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let (x, mut scale, mut bias) = (call.float(0)?, call.float(1)?, call.float(2)?);
    let shape = call.shape(x);
    let groups = usize::try_from(call.attributes.int("num_groups", 0)).unwrap_or(0);
    let channels = shape.get(1).copied().unwrap_or(0);
    if groups == 0 || channels == 0 || channels % groups != 0 {
        return Err(format!("{channels} channels cannot be divided into {groups} groups").into());
    }
    if [scale, bias].iter().any(|value| call.shape(*value).len() != 1) {
        return Err("scale and bias must have one axis".into());
    }
    let normal = grouped(call, x, groups)?;
    if call.opset < 21 && groups != channels {
        [scale, bias] = [scale, bias].map(|value| call.graph.repeat(value, 0, channels / groups));
    }
    affine(call, normal, scale, bias)
}

fn lp_norm(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let x = call.float(0)?;
    let along = axis(call.attributes.int("axis", -1), call.shape(x).len())?;
    let length = match call.attributes.int("p", 2) {
        1 => {
            let size = call.graph.abs(x);
            call.graph.reduce_sum(size, &[along], true)
        }
        2 => {
            let square = call.graph.mul(x, x);
            let sum = call.graph.reduce_sum(square, &[along], true);
            root_of_sum(call, sum)
        }
        other => return Err(format!("p = {other} is not supported").into()),
    };
    // A vector of zeros stays one.
    let (zero, one) = (call.scalar(x, 0.0), call.scalar(x, 1.0));
    let positive = call.graph.greater(length, zero);
    let length = call.graph.select(positive, length, one);
    Ok(vec![call.graph.div(x, length)])
}

fn mean_variance(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let x = call.float(0)?;
    let rank = call.shape(x).len();
    let axes = call.attributes.ints("axes", &[0, 2, 3]);
    let axes = axes.into_iter().map(|a| axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
    // ONNX's function adds 1e-9 to the deviation.
    let [_, centred, deviation] = moments(call.graph, x, &axes, 1e-18);
    Ok(vec![call.graph.div(centred, deviation)])
}
