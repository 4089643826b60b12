//! Random numbers: fresh ones at every training step, their mean in evaluation. (Sources: the ONNX operators of these names.)

use super::super::core::Value;
use super::super::error::GraphError;
use super::Family;
use super::call::Call;
use super::reshape::to_shape;

/// Operators that give other numbers at every run.
pub(in super::super) const OPERATORS: [&str; 6] =
    ["Bernoulli", "Dropout", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"];

pub(super) static FAMILY: Family = Family {
    operators: &[],
    imports: &[
        ("Bernoulli", import_bernoulli),
        ("RandomNormal", import_normal),
        ("RandomNormalLike", import_normal),
        ("RandomUniform", import_uniform),
        ("RandomUniformLike", import_uniform),
    ],
};

/// Elements of a random tensor beyond which nobody trains.
const MOST_ELEMENTS: usize = 1 << 31;

/// The shape of another tensor, or the one that is given.
fn shape(call: &Call<'_>) -> Result<Vec<usize>, GraphError> {
    let shape = match call.operator.ends_with("Like") {
        true => call.shape(call.input(0)?),
        false => to_shape(&call.attributes.ints("shape", &[]))?,
    };
    check_size(&shape)?;
    Ok(shape)
}

/// Fails for a tensor of more random numbers than a step could draw.
pub(super) fn check_size(shape: &[usize]) -> Result<(), GraphError> {
    let elements = shape.iter().try_fold(1usize, |elements, size| elements.checked_mul(*size));
    match elements.is_some_and(|elements| elements <= MOST_ELEMENTS) {
        true => Ok(()),
        false => Err(format!("{shape:?} random numbers are too many").into()),
    }
}

/// 1 with the probability that an element is, else 0.
fn import_bernoulli(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let x = call.float(0)?;
    let shape = call.shape(x);
    check_size(&shape)?;
    let Some(uniform) = call.training.uniform(call.graph, &shape) else { return Ok(vec![x]) };
    let hit = call.graph.less(uniform, x);
    Ok(vec![call.graph.to_f32(hit)])
}

fn import_uniform(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let shape = shape(call)?;
    let (low, high) = (call.attributes.float("low", 0.0), call.attributes.float("high", 1.0));
    let unit = unit(call, &shape);
    let (low, range) = (call.graph.scalar(low), call.graph.scalar(high - low));
    let scaled = call.graph.mul(unit, range);
    Ok(vec![call.graph.add(scaled, low)])
}

/// Uniform in [0, 1); its mean in evaluation.
fn unit(call: &mut Call<'_>, shape: &[usize]) -> Value {
    call.training.uniform(call.graph, shape).unwrap_or_else(|| {
        let half = call.graph.scalar(0.5);
        call.graph.expand(half, shape)
    })
}

/// By Box and Muller (1958).
fn import_normal(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let shape = shape(call)?;
    let (mean, scale) = (call.attributes.float("mean", 0.0), call.attributes.float("scale", 1.0));
    let mean = call.graph.scalar(mean);
    let pair = [call.training.uniform(call.graph, &shape), call.training.uniform(call.graph, &shape)];
    let [Some(first), Some(second)] = pair else { return Ok(vec![call.graph.expand(mean, &shape)]) };
    let graph = &mut *call.graph;
    // In (0, 1], whose logarithm is finite.
    let (one, minus_two, turn) = (graph.scalar(1.0), graph.scalar(-2.0), graph.scalar(std::f32::consts::TAU));
    let first = graph.sub(one, first);
    let log = graph.log(first);
    let square = graph.mul(log, minus_two);
    let (radius, angle) = (graph.sqrt(square), graph.mul(second, turn));
    let cos = graph.cos(angle);
    let normal = graph.mul(radius, cos);
    let scale = graph.scalar(scale);
    let scaled = graph.mul(normal, scale);
    Ok(vec![graph.add(scaled, mean)])
}
