//! Softmax, its logarithm, and running sums: operators along one axis.

use super::super::autodiff::Adjoints;
use super::super::build::attributes;
use super::super::core::{Attribute, Attributes, Graph, Node, Value};
use super::super::tensor::TensorType;
use super::{Operator, Wanted, axis, constant_ints, op, ty};

pub(super) static OPERATORS: &[Operator] = &[
    op("CumSum", cumsum, Some(cumsum_gradient)),
    op("LogSoftmax", softmax, Some(log_softmax_gradient)),
    op("Softmax", softmax, Some(softmax_gradient)),
];

fn softmax(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let x = ty(graph, node, 0)?;
    axis(node.int("axis", -1), x.rank())?;
    Ok(vec![x])
}

/// dx = y (dy - sum(dy y)).
fn softmax_gradient(
    graph: &mut Graph,
    node: &Node,
    grads: &[Option<Value>],
    _: Wanted<'_>,
    adjoints: &mut Adjoints,
) -> Result<(), String> {
    let (y, dy) = (node.outputs[0], grads[0].expect("the only output was reached"));
    let along = axis(node.int("axis", -1), graph.shape(y).len())?;
    let product = graph.mul(dy, y);
    let total = graph.reduce_sum(product, &[along], true);
    let shared = graph.mul(y, total);
    let dx = graph.sub(product, shared);
    adjoints.add(node.input(0), dx);
    Ok(())
}

/// dx = dy - exp(y) sum(dy).
fn log_softmax_gradient(
    graph: &mut Graph,
    node: &Node,
    grads: &[Option<Value>],
    _: Wanted<'_>,
    adjoints: &mut Adjoints,
) -> Result<(), String> {
    let (y, dy) = (node.outputs[0], grads[0].expect("the only output was reached"));
    let along = axis(node.int("axis", -1), graph.shape(y).len())?;
    let (softmax, total) = (graph.exp(y), graph.reduce_sum(dy, &[along], true));
    let shared = graph.mul(softmax, total);
    let dx = graph.sub(dy, shared);
    adjoints.add(node.input(0), dx);
    Ok(())
}

fn cumsum(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let x = ty(graph, node, 0)?;
    let along = constant_ints(graph, node, 1)?;
    axis(*along.first().ok_or("the axis is missing")?, x.rank())?;
    Ok(vec![x])
}

/// What an element adds to is what adds to it from the other end.
fn cumsum_gradient(
    graph: &mut Graph,
    node: &Node,
    grads: &[Option<Value>],
    _: Wanted<'_>,
    adjoints: &mut Adjoints,
) -> Result<(), String> {
    let dy = grads[0].expect("the only output was reached");
    let attributes: Attributes = attributes([
        ("exclusive", Attribute::Int(node.int("exclusive", 0))),
        ("reverse", Attribute::Int(1 - node.int("reverse", 0))),
    ]);
    let dx = graph.apply1("CumSum", &[dy, node.input(1)], attributes);
    adjoints.add(node.input(0), dx);
    Ok(())
}
