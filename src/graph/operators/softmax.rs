//! Softmax and its logarithm.

use super::super::attributes::Attribute;
use super::super::autodiff::Backward;
use super::super::build::attributes;
use super::super::core::{Graph, Node, Value};
use super::super::error::GraphError;
use super::super::tensor::TensorType;
use super::{Family, axis, fused, op, ty};

pub(super) static FAMILY: Family = Family {
    operators: &[
        op("LogSoftmax", softmax).gradient(log_softmax_gradient).for_regions(log_softmax_parts),
        op("Softmax", softmax).gradient(softmax_gradient).for_regions(softmax_parts),
        fused("SoftmaxGradient", softmax_gradient_type).expand(expand_softmax_gradient).on_cpu_if(is_along_rows),
    ],
    imports: &[],
};

fn softmax(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let x = ty(graph, node, 0)?;
    axis(node.int("axis", -1), x.rank())?;
    Ok(vec![x])
}

/// x less its greatest element, exponentials of that, and their sum.
fn powers(graph: &mut Graph, node: &Node) -> Option<[Value; 3]> {
    let x = node.input(0);
    let along = axis(node.int("axis", -1), graph.shape(x).len()).ok()?;
    let greatest = graph.reduce_max(x, &[along], true);
    let shifted = graph.sub(x, greatest);
    let powers = graph.exp(shifted);
    let total = graph.reduce_sum(powers, &[along], true);
    Some([shifted, powers, total])
}

fn softmax_parts(graph: &mut Graph, node: &Node) -> Option<Vec<Value>> {
    let [_, powers, total] = powers(graph, node)?;
    Some(vec![graph.div(powers, total)])
}

fn log_softmax_parts(graph: &mut Graph, node: &Node) -> Option<Vec<Value>> {
    let [shifted, _, total] = powers(graph, node)?;
    let log = graph.log(total);
    Some(vec![graph.sub(shifted, log)])
}

fn softmax_gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
    let (y, dy) = (back.node.outputs[0], back.dy()?);
    let along = axis(back.node.int("axis", -1), back.graph.shape(y).len())?;
    let along = attributes([("axis", Attribute::Int(along as i64))]);
    let dx = back.graph.apply1("SoftmaxGradient", &[dy, y], along);
    back.add(0, dx);
    Ok(())
}

/// Inputs: dy and y. Output: dx.
fn softmax_gradient_type(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (dy, y) = (ty(graph, node, 0)?, ty(graph, node, 1)?);
    axis(node.int("axis", -1), y.rank())?;
    if dy.shape != y.shape {
        return Err(format!("gradient {dy} does not fit {y}").into());
    }
    Ok(vec![y])
}

fn is_along_rows(graph: &Graph, node: &Node) -> bool {
    let shape = graph.shape(node.outputs[0]);
    node.int("axis", -1) == shape.len() as i64 - 1 && !shape.contains(&0)
}

/// dx = y (dy - sum(dy y)).
fn expand_softmax_gradient(graph: &mut Graph, node: &Node) -> Vec<Value> {
    let (dy, y) = (node.input(0), node.input(1));
    let along = node.int("axis", -1) as usize;
    let product = graph.mul(dy, y);
    let total = graph.reduce_sum(product, &[along], true);
    let shared = graph.mul(y, total);
    vec![graph.sub(product, shared)]
}

/// dx = dy - exp(y) sum(dy).
fn log_softmax_gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
    let (y, dy) = (back.node.outputs[0], back.dy()?);
    let along = axis(back.node.int("axis", -1), back.graph.shape(y).len())?;
    let (softmax, total) = (back.graph.exp(y), back.graph.reduce_sum(dy, &[along], true));
    let shared = back.graph.mul(softmax, total);
    let dx = back.graph.sub(dy, shared);
    back.add(0, dx);
    Ok(())
}
