//! Layer normalization over the last axis, and batch normalization over all but the channels.

use super::super::autodiff::Backward;
use super::super::core::{Attributes, Graph, Node, Value};
use super::super::tensor::TensorType;
use super::{FUSED_DOMAIN, Operator, axis, fused, op, ty};

pub(super) static OPERATORS: &[Operator] = &[
    op("LayerNormalization", layer_norm, Some(layer_norm_gradient)),
    Operator {
        name: "BatchNorm",
        domain: FUSED_DOMAIN,
        infer: batch_norm,
        gradient: Some(batch_norm_gradient),
        expand: Some(expand_batch_norm),
    },
    fused("BatchNormGradient", gradient_types, Some(expand_batch_norm_gradient)),
    fused("LayerNorm", layer_norm, None),
    fused("LayerNormGradient", gradient_types, Some(expand_gradient)),
];

/// Outputs: y, mean and 1 / standard deviation; the last two with the normalized axis as 1.
fn layer_norm(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let x = ty(graph, node, 0)?;
    let rank = x.rank();
    if axis(node.int("axis", -1), rank)? + 1 != rank {
        return Err("only the last axis is supported".into());
    }
    let features = *x.shape.last().ok_or("a scalar cannot be normalized")?;
    for i in 1..node.inputs.len() {
        let shape = ty(graph, node, i)?.shape;
        if shape != [features] {
            return Err(format!("scale and bias must have {features} elements, not {shape:?}"));
        }
    }
    let mut statistics = x.clone();
    statistics.shape[rank - 1] = 1;
    Ok(vec![x, statistics.clone(), statistics])
}

fn layer_norm_gradient(back: &mut Backward<'_>) -> Result<(), String> {
    let (node, dy) = (back.node, back.dy()?);
    let inputs = [dy, node.input(0), node.input(1), node.outputs[1], node.outputs[2]];
    let gradients = back.graph.apply("LayerNormGradient", &inputs, Attributes::new());
    for (i, gradient) in gradients.into_iter().enumerate() {
        if back.wanted(i) {
            back.add(i, gradient);
        }
    }
    Ok(())
}

/// Inputs: dy, x, scale, mean and 1 / standard deviation. Outputs: dx, dscale, dbias.
fn gradient_types(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let (dy, x, scale) = (ty(graph, node, 0)?, ty(graph, node, 1)?, ty(graph, node, 2)?);
    if dy != x {
        return Err(format!("the gradient {dy} is not of x's shape {x}"));
    }
    Ok(vec![x, scale.clone(), scale])
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

/// Inputs: x [batch, channels, ..], scale and bias [channels]. Outputs: y, mean and variance (divisor n) [channels].
fn batch_norm(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let (x, scale, bias) = (ty(graph, node, 0)?, ty(graph, node, 1)?, ty(graph, node, 2)?);
    let channels = x.shape.get(1).copied().ok_or_else(|| format!("{x} has no channels"))?;
    if scale.shape != [channels] || bias.shape != [channels] {
        return Err(format!("scale and bias must have {channels} elements"));
    }
    Ok(vec![x, scale.clone(), scale])
}

fn batch_norm_gradient(back: &mut Backward<'_>) -> Result<(), String> {
    let (node, dy) = (back.node, back.dy()?);
    let inputs = [dy, node.input(0), node.input(1), node.outputs[1], node.outputs[2]];
    let gradients = back.graph.apply("BatchNormGradient", &inputs, node.attributes.clone());
    for (i, gradient) in gradients.into_iter().enumerate() {
        if back.wanted(i) {
            back.add(i, gradient);
        }
    }
    Ok(())
}

/// (x - mean) / deviation, and the deviation to broadcast against x.
fn normalized(graph: &mut Graph, x: Value, mean: Value, variance: Value, node: &Node) -> (Value, Value) {
    let rank = graph.shape(x).len();
    let epsilon = graph.scalar_like(variance, node.float("epsilon", 1e-5));
    let raised = graph.add(variance, epsilon);
    let deviation = graph.sqrt(raised);
    let (mean, deviation) = (graph.per_channel(mean, rank), graph.per_channel(deviation, rank));
    let centred = graph.sub(x, mean);
    (graph.div(centred, deviation), deviation)
}

fn expand_batch_norm(graph: &mut Graph, node: &Node) -> Vec<Value> {
    let [x, scale, bias] = std::array::from_fn(|i| node.input(i));
    let shape = graph.shape(x).to_vec();
    let count = graph.scalar_like(x, (shape.iter().product::<usize>() / shape[1]) as f32);
    let sums = graph.channel_sums(x);
    let mean = graph.div(sums, count);
    let broadcast = graph.per_channel(mean, shape.len());
    let centred = graph.sub(x, broadcast);
    let square = graph.mul(centred, centred);
    let sums = graph.channel_sums(square);
    let variance = graph.div(sums, count);
    let (normal, _) = normalized(graph, x, mean, variance, node);
    let (scale, bias) = (graph.per_channel(scale, shape.len()), graph.per_channel(bias, shape.len()));
    let scaled = graph.mul(normal, scale);
    vec![graph.add(scaled, bias), mean, variance]
}

/// With n elements a channel: dbias = sum(dy), dscale = sum(dy xhat), dx = scale / std (dy - dbias / n - xhat dscale / n).
fn expand_batch_norm_gradient(graph: &mut Graph, node: &Node) -> Vec<Value> {
    let [dy, x, scale, mean, variance] = std::array::from_fn(|i| node.input(i));
    let shape = graph.shape(x).to_vec();
    let (normal, deviation) = normalized(graph, x, mean, variance, node);
    let product = graph.mul(dy, normal);
    let (dbias, dscale) = (graph.channel_sums(dy), graph.channel_sums(product));
    let count = graph.scalar_like(x, (shape.iter().product::<usize>() / shape[1]) as f32);
    let (level, slope) = (graph.div(dbias, count), graph.div(dscale, count));
    let (level, slope) = (graph.per_channel(level, shape.len()), graph.per_channel(slope, shape.len()));
    let along = graph.mul(normal, slope);
    let rest = graph.sub(dy, level);
    let rest = graph.sub(rest, along);
    let scale = graph.per_channel(scale, shape.len());
    let factor = graph.div(scale, deviation);
    vec![graph.mul(rest, factor), dscale, dbias]
}
