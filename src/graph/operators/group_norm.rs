//! Normalizations of groups, examples and vectors, made of other operators.

use super::super::core::Value;
use super::super::error::GraphError;
use super::call::Call;
use super::reduce::root_of_sum;
use super::{Family, axis};

pub(super) static FAMILY: Family = Family {
    operators: &[],
    imports: &[
        ("GroupNormalization", group_norm),
        ("InstanceNormalization", instance_norm),
        ("LpNormalization", lp_norm),
        ("MeanVarianceNormalization", mean_variance),
    ],
};

/// (x - mean) / sqrt(variance + epsilon) over `axes`.
fn standardized(call: &mut Call<'_>, x: Value, axes: &[usize], epsilon: f32) -> Value {
    let mean = call.graph.reduce_mean(x, axes, true);
    let centred = call.graph.sub(x, mean);
    let square = call.graph.mul(centred, centred);
    let variance = call.graph.reduce_mean(square, axes, true);
    let epsilon = call.scalar(x, epsilon);
    let raised = call.graph.add(variance, epsilon);
    let deviation = call.graph.sqrt(raised);
    call.graph.div(centred, deviation)
}

/// Each channel of each example on its own.
fn instance_norm(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let (x, scale, bias) = (call.float(0)?, call.float(1)?, call.float(2)?);
    let rank = call.shape(x).len();
    if rank < 3 {
        return Err("expected [batch, channels, spatial..]".into());
    }
    let spatial: Vec<_> = (2..rank).collect();
    let epsilon = call.attributes.float("epsilon", 1e-5);
    let normal = standardized(call, x, &spatial, epsilon);
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
    let epsilon = call.attributes.float("epsilon", 1e-5);
    let rest = shape.iter().product::<usize>() / shape[0] / groups;
    let grouped = call.graph.reshape(x, &[shape[0], groups, rest]);
    let normal = standardized(call, grouped, &[2], epsilon);
    let normal = call.graph.reshape(normal, &shape);
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
    Ok(vec![standardized(call, x, &axes, 1e-18)])
}
