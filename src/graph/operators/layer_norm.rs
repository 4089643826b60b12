//! Layer normalization over the last axis (Ba, Kiros and Hinton 2016).

use super::super::attributes::{Attribute, Attributes};
use super::super::autodiff::Backward;
use super::super::build::attributes;
use super::super::core::{Graph, Node, Value};
use super::super::error::GraphError;
use super::super::tensor::TensorType;
use super::call::Call;
use super::{Family, axis, fused, op, ty};

pub(super) static FAMILY: Family = Family {
    operators: &[
        fused("LayerNorm", layer_norm),
        fused("LayerNormGradient", gradient_types).expand(expand_gradient).for_regions(gradient_parts),
        op("LayerNormalization", layer_norm)
            .gradient(layer_norm_gradient)
            .for_regions(layer_norm_parts)
            .for_cpu("LayerNorm", |_, node| node.inputs.iter().flatten().count() == 3),
    ],
    imports: &[("LayerNormalization", import_layer_norm)],
};

/// Outputs: y, mean and 1 / standard deviation; the last two with the normalized axis as 1.
fn layer_norm(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let x = ty(graph, node, 0)?;
    let rank = x.rank();
    if axis(node.int("axis", -1), rank)? + 1 != rank {
        return Err("only the last axis is supported".into());
    }
    let features = *x.shape.last().filter(|n| **n > 0).ok_or("nothing to normalize")?;
    for i in 1..node.inputs.len() {
        let shape = ty(graph, node, i)?.shape;
        if shape != [features] {
            return Err(format!("scale and bias must have {features} elements, not {shape:?}").into());
        }
    }
    let mut statistics = x.clone();
    statistics.shape[rank - 1] = 1;
    Ok(vec![x, statistics.clone(), statistics])
}

fn layer_norm_gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
    norm_gradient(back, "LayerNormGradient", Attributes::new())
}

/// The gradient of a norm with the outputs y and two statistics, by an operator that takes dy, x, scale and both.
pub(super) fn norm_gradient(back: &mut Backward<'_>, operator: &str, attributes: Attributes) -> Result<(), GraphError> {
    let (node, dy) = (back.node, back.dy()?);
    let inputs = [dy, node.input(0), node.input(1), node.outputs[1], node.outputs[2]];
    let gradients = back.graph.apply(operator, &inputs, attributes);
    for (i, gradient) in gradients.into_iter().enumerate() {
        if back.wanted(i) {
            back.add(i, gradient);
        }
    }
    Ok(())
}

/// Inputs: dy, x, scale, mean and 1 / standard deviation. Outputs: dx, dscale, dbias.
fn gradient_types(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (dy, x, scale) = (ty(graph, node, 0)?, ty(graph, node, 1)?, ty(graph, node, 2)?);
    if x.shape.last().is_none_or(|features| *features == 0) {
        return Err("nothing to normalize".into());
    }
    let mut statistics = x.shape.clone();
    statistics.last_mut().into_iter().for_each(|n| *n = 1);
    let mean_and_deviation = [ty(graph, node, 3)?.shape, ty(graph, node, 4)?.shape];
    if dy != x || scale.shape[..] != x.shape[x.rank() - 1..] || mean_and_deviation.iter().any(|s| *s != statistics) {
        return Err(
            format!("gradient {dy}, x {x}, scale {scale} and statistics {mean_and_deviation:?} do not fit").into()
        );
    }
    Ok(vec![x, scale.clone(), scale])
}

/// The mean of x over `axes`, x less it, and sqrt(variance + epsilon).
pub(super) fn moments(graph: &mut Graph, x: Value, axes: &[usize], epsilon: f32) -> [Value; 3] {
    let mean = graph.reduce_mean(x, axes, true);
    let centred = graph.sub(x, mean);
    let square = graph.mul(centred, centred);
    let variance = graph.reduce_mean(square, axes, true);
    let epsilon = graph.scalar_like(variance, epsilon);
    let raised = graph.add(variance, epsilon);
    [mean, centred, graph.sqrt(raised)]
}

/// The gradient of x, of which y = (x - mean) / deviation over the last axis has the gradient dy:
/// (dy - mean(dy) - y mean(dy y)) / deviation.
pub(super) fn through_standardized(graph: &mut Graph, dy: Value, y: Value, inverse_deviation: Value) -> Value {
    let last = graph.shape(y).len() - 1;
    let along = graph.mul(dy, y);
    let (level, slope) = (graph.reduce_mean(dy, &[last], true), graph.reduce_mean(along, &[last], true));
    let tilt = graph.mul(y, slope);
    let rest = graph.sub(dy, level);
    let rest = graph.sub(rest, tilt);
    graph.mul(rest, inverse_deviation)
}

fn layer_norm_parts(graph: &mut Graph, node: &Node) -> Option<Vec<Value>> {
    let (x, last) = (node.input(0), graph.shape(node.input(0)).len() - 1);
    let [mean, centred, deviation] = moments(graph, x, &[last], node.float("epsilon", 1e-5));
    let one = graph.scalar_like(x, 1.0);
    let inverse = graph.div(one, deviation);
    let mut y = graph.mul(centred, inverse);
    if let Some(scale) = node.optional(1) {
        y = graph.mul(y, scale);
    }
    if let Some(bias) = node.optional(2) {
        y = graph.add(y, bias);
    }
    Some(vec![y, mean, inverse])
}

/// With xhat = (x - mean) / std and u = scale dy: dx = (u - mean(u) - xhat mean(u xhat)) / std, dscale = sum(dy xhat),
/// dbias = sum(dy).
fn gradient_parts(graph: &mut Graph, node: &Node) -> Option<Vec<Value>> {
    let [dy, x, scale, mean, inverse] = std::array::from_fn(|i| node.input(i));
    let last = graph.shape(x).len() - 1;
    let centred = graph.sub(x, mean);
    let normal = graph.mul(centred, inverse);
    let upper = graph.mul(dy, scale);
    let dx = through_standardized(graph, upper, normal, inverse);
    let product = graph.mul(dy, normal);
    let rows: Vec<_> = (0..last).collect();
    let [dscale, dbias] = [product, dy].map(|x| graph.reduce_sum(x, &rows, false));
    Some(vec![dx, dscale, dbias])
}

/// With n features, xhat = (x - mean) / std and u = scale * dy:
/// dx = (u - mean(u) - xhat * mean(u * xhat)) / std.
///
/// c = u - mean(u) = dy P, with P = diag(scale) (I - 1/n), is one product that reads each row once; and because c
/// has mean zero, mean(u * xhat) = mean(c * x) / std. So dx = c / std - x b + mean b with b = mean(c * x) / std^3,
/// where everything but c and x is one number per row.
fn expand_gradient(graph: &mut Graph, node: &Node) -> Vec<Value> {
    let [dy, x, scale, mean, inverse_std] = std::array::from_fn(|i| node.input(i));
    let shape = graph.shape(x).to_vec();
    let n = *shape.last().expect("checked by inference");
    let rows = shape.iter().product::<usize>() / n;
    let (dy, flat) = (graph.reshape(dy, &[rows, n]), graph.reshape(x, &[rows, n]));
    let (mean, inverse_std) = (graph.reshape(mean, &[rows, 1]), graph.reshape(inverse_std, &[rows, 1]));

    // sum(dy * xhat) = sum(dy * x / std) - sum(dy * mean / std), each a product with one number per row.
    let products = graph.mul(dy, flat);
    let of_products = graph.reshape(inverse_std, &[1, rows]);
    let of_gradient = graph.mul(mean, inverse_std);
    let of_gradient = graph.reshape(of_gradient, &[1, rows]);
    let (raw, shift) = (graph.matmul(of_products, products), graph.matmul(of_gradient, dy));
    let dscale = graph.sub(raw, shift);
    let dscale = graph.reshape(dscale, &[n]);
    let dbias = graph.sum_rows(dy);

    if n > WIDEST_PROJECTION {
        let column = graph.mul(dy, scale);
        let level = graph.reduce_mean(column, &[1], true);
        let centred = graph.sub(column, level);
        let dx = layer_norm_input_gradient(graph, flat, centred, mean, inverse_std);
        return vec![graph.reshape(dx, &shape), dscale, dbias];
    }
    let centre: Vec<_> = (0..n * n).map(|i| f32::from(u8::from(i / n == i % n)) - 1.0 / n as f32).collect();
    let centre = graph.f32([n, n], centre);
    let column = graph.reshape(scale, &[n, 1]);
    let projection = graph.mul(column, centre);
    let centred = graph.matmul(dy, projection);
    let dx = layer_norm_input_gradient(graph, flat, centred, mean, inverse_std);
    vec![graph.reshape(dx, &shape), dscale, dbias]
}

/// Beyond so many features their projection, a constant matrix, costs more than it saves.
const WIDEST_PROJECTION: usize = 1024;

/// c / std - x b + mean b with b = mean(c x) / std^3.
fn layer_norm_input_gradient(graph: &mut Graph, flat: Value, centred: Value, mean: Value, inverse_std: Value) -> Value {
    let product = graph.mul(centred, flat);
    let share = graph.reduce_mean(product, &[1], true);
    let square = graph.mul(inverse_std, inverse_std);
    let cube = graph.mul(square, inverse_std);
    let slope = graph.mul(share, cube);
    let (across, along) = (graph.mul(centred, inverse_std), graph.mul(flat, slope));
    let offset = graph.mul(mean, slope);
    let difference = graph.sub(across, along);
    graph.add(difference, offset)
}

/// Over the axes from `axis` on, as one.
fn import_layer_norm(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    if call.outputs > 1 {
        return Err("outputs beside the normalized values are not supported".into());
    }
    let (x, scale) = (call.float(0)?, call.float(1)?);
    let shape = call.shape(x);
    let first = axis(call.attributes.int("axis", -1), shape.len())?;
    let features = shape[first..].iter().product::<usize>();
    let full = |call: &mut Call<'_>, value: Value| -> Result<Value, GraphError> {
        let sizes: Vec<_> = shape[first..].iter().map(|size| *size as i64).collect();
        let sizes = call.graph.i64s(&sizes);
        let wide = call.apply1("Expand", &[value, sizes])?;
        if call.shape(wide) != shape[first..] {
            return Err(format!("scale or bias {:?} for features {:?}", call.shape(value), &shape[first..]).into());
        }
        Ok(call.graph.reshape(wide, &[features]))
    };
    let scale = full(call, scale)?;
    let bias = match call.optional(2) {
        Some(bias) => full(call, bias)?,
        None => call.graph.zeros(x, &[features]),
    };
    let flat = call.graph.reshape(x, &[shape[..first].iter().product(), features]);
    let epsilon = call.attributes.float("epsilon", 1e-5);
    let attributes = attributes([("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(epsilon))]);
    let y = call.apply("LayerNormalization", &[flat, scale, bias], attributes)?[0];
    Ok(vec![call.graph.reshape(y, &shape)])
}
