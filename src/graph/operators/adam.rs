//! The update of Adam and AdamW (Kingma and Ba 2015; Loshchilov and Hutter 2019) as PyTorch writes it.

use super::super::core::{Graph, Node, Value};
use super::super::error::GraphError;
use super::super::tensor::TensorType;
use super::{Family, fused, ty};

pub(super) static FAMILY: Family = Family { operators: &[fused("AdamUpdate", update).expand(expand)], imports: &[] };

/// Inputs: parameters, first and second moment and gradient [n]; then, each [1], the rate, the two bias
/// corrections, and the decay, which may also be [n]. Outputs: parameters and moments afterwards. `decoupled`: the decay shrinks the
/// parameters instead of adding to the gradient.
fn update(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let parameters = ty(graph, node, 0)?;
    for i in 1..4 {
        if ty(graph, node, i)? != parameters {
            return Err(format!("input {i} is {}, expected {parameters}", ty(graph, node, i)?).into());
        }
    }
    for i in 4..8 {
        let shape = ty(graph, node, i)?.shape;
        if shape != [1] && (i < 7 || shape != parameters.shape) {
            return Err(format!("input {i} has the shape {shape:?}, expected one number").into());
        }
    }
    Ok(vec![parameters; 3])
}

fn expand(graph: &mut Graph, node: &Node) -> Vec<Value> {
    let [mut parameters, first, second, mut gradient] = std::array::from_fn(|i| node.input(i));
    let [rate, first_correction, second_correction, decay] = std::array::from_fn(|i| node.input(4 + i));
    let decays = graph.as_constant(decay).is_none_or(|decay| decay.numbers() != [0.0]);
    if decays && node.int("decoupled", 0) != 0 {
        let share = graph.mul(rate, decay);
        let shrunk = graph.mul(parameters, share);
        parameters = graph.sub(parameters, shrunk);
    } else if decays {
        let pull = graph.mul(parameters, decay);
        gradient = graph.add(gradient, pull);
    }
    let average = |graph: &mut Graph, old: Value, new: Value, [keep, take]: [&str; 2]| {
        let (keep, take) = (graph.scalar(node.float(keep, 0.0)), graph.scalar(node.float(take, 0.0)));
        let (old, new) = (graph.mul(old, keep), graph.mul(new, take));
        graph.add(old, new)
    };
    let square = graph.mul(gradient, gradient);
    let first = average(graph, first, gradient, ["keep1", "take1"]);
    let second = average(graph, second, square, ["keep2", "take2"]);
    let deviation = graph.sqrt(second);
    let deviation = graph.div(deviation, second_correction);
    let epsilon = graph.scalar(node.float("epsilon", 0.0));
    let deviation = graph.add(deviation, epsilon);
    let rate = graph.div(rate, first_correction);
    let direction = graph.div(first, deviation);
    let change = graph.mul(direction, rate);
    vec![graph.sub(parameters, change), first, second]
}
