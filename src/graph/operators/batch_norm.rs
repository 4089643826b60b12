//! Batch normalization over all axes but the channels (Ioffe and Szegedy 2015).

use super::super::autodiff::Backward;
use super::super::core::{Graph, Node, Value};
use super::super::error::GraphError;
use super::super::tensor::TensorType;
use super::call::Call;
use super::layer_norm::norm_gradient;
use super::{Family, fused, ty};

pub(super) static FAMILY: Family = Family {
    operators: &[
        fused("BatchNorm", batch_norm)
            .gradient(batch_norm_gradient)
            .expand(expand_batch_norm)
            .for_regions(batch_norm_parts),
        fused("BatchNormGradient", gradient_types).expand(expand_batch_norm_gradient),
    ],
    imports: &[("BatchNormalization", import_batch_norm)],
};

/// Inputs: x [batch, channels, ..], scale and bias [channels]. Outputs: y, mean and variance (divisor n) [channels].
fn batch_norm(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (x, scale, bias) = (ty(graph, node, 0)?, ty(graph, node, 1)?, ty(graph, node, 2)?);
    let channels = x.shape.get(1).copied().ok_or_else(|| format!("{x} has no channels"))?;
    if scale.shape != [channels] || bias.shape != [channels] || x.elements() == 0 {
        return Err(format!("scale and bias must have {channels} elements, and {x} must not be empty").into());
    }
    Ok(vec![x, scale.clone(), scale])
}

fn batch_norm_gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
    norm_gradient(back, "BatchNormGradient", back.node.attributes.clone())
}

/// Inputs: dy, x, scale, mean and variance. Outputs: dx, dscale, dbias.
fn gradient_types(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (dy, x, scale) = (ty(graph, node, 0)?, ty(graph, node, 1)?, ty(graph, node, 2)?);
    let statistics = [ty(graph, node, 3)?, ty(graph, node, 4)?];
    if dy != x
        || x.rank() < 2
        || x.elements() == 0
        || scale.shape != x.shape[1..2]
        || statistics.iter().any(|s| s.shape != scale.shape)
    {
        return Err(format!("gradient {dy}, x {x}, scale {scale} and statistics {statistics:?} do not fit").into());
    }
    Ok(vec![x, scale.clone(), scale])
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

/// In one pass over x: sums of what lies beyond the mean of the first example's channel. That is at most root(batch)
/// deviations from the mean of all, so that the difference of squares loses no more than a few bits.
fn batch_norm_parts(graph: &mut Graph, node: &Node) -> Option<Vec<Value>> {
    let [x, scale, bias] = std::array::from_fn(|i| node.input(i));
    let shape = graph.shape(x).to_vec();
    let rank = shape.len();
    let example = graph.slice(x, 0, 0, 1);
    let spatial: Vec<_> = std::iter::once(0).chain(2..rank).collect();
    let first = graph.reduce_mean(example, &spatial, true);
    let beyond = graph.sub(x, first);
    let square = graph.mul(beyond, beyond);
    let count = graph.scalar_like(x, (shape.iter().product::<usize>() / shape[1]) as f32);
    let [level, square] = [beyond, square].map(|x| {
        let sums = graph.channel_sums(x);
        graph.div(sums, count)
    });
    let level_square = graph.mul(level, level);
    let variance = graph.sub(square, level_square);
    let zero = graph.scalar_like(x, 0.0);
    let variance = graph.max(variance, zero);
    let first = graph.reshape(first, &shape[1..2]);
    let mean = graph.add(level, first);
    let (normal, _) = normalized(graph, x, mean, variance, node);
    let (scale, bias) = (graph.per_channel(scale, rank), graph.per_channel(bias, rank));
    let scaled = graph.mul(normal, scale);
    Some(vec![graph.add(scaled, bias), mean, variance])
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

fn import_batch_norm(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let [x, scale, bias, mean, variance] = [0, 1, 2, 3, 4].map(|i| call.float(i));
    let (x, affine, [mean, variance]) = (x?, [scale?, bias?], [mean?, variance?]);
    let statistics = [(call.names[3].clone(), mean), (call.names[4].clone(), variance)];
    let statistics = statistics.each_ref().map(|(name, value)| (name.as_str(), *value));
    let channels = call.shape(x).get(1).copied().unwrap_or(0);
    if affine.iter().chain(statistics.iter().map(|(_, value)| value)).any(|v| call.graph.shape(*v) != [channels]) {
        return Err(format!("scale, bias, mean and variance must have {channels} elements").into());
    }
    if call.attributes.int("training_mode", 1) == 0 {
        let epsilon = call.attributes.float("epsilon", 1e-5);
        let statistics = statistics.map(|(name, value)| call.training.running(name, value));
        return Ok(vec![call.graph.fixed_norm(x, affine, statistics, epsilon)]);
    }
    let (epsilon, momentum) = (call.attributes.float("epsilon", 1e-5), call.attributes.float("momentum", 0.9));
    Ok(vec![call.training.batch_norm(call.graph, x, affine, statistics, epsilon, momentum)])
}
