//! Softmax, its logarithm, and running sums: operators along one axis.

use super::super::autodiff::Backward;
use super::super::build::attributes;
use super::super::core::{Attribute, Attributes, Graph, Node};
use super::super::tensor::TensorType;
use super::{Operator, axis, constant_ints, op, ty};

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
fn softmax_gradient(back: &mut Backward<'_>) -> Result<(), String> {
    let (y, dy) = (back.node.outputs[0], back.dy()?);
    let along = axis(back.node.int("axis", -1), back.graph.shape(y).len())?;
    let product = back.graph.mul(dy, y);
    let total = back.graph.reduce_sum(product, &[along], true);
    let shared = back.graph.mul(y, total);
    let dx = back.graph.sub(product, shared);
    back.add(0, dx);
    Ok(())
}

/// dx = dy - exp(y) sum(dy).
fn log_softmax_gradient(back: &mut Backward<'_>) -> Result<(), String> {
    let (y, dy) = (back.node.outputs[0], back.dy()?);
    let along = axis(back.node.int("axis", -1), back.graph.shape(y).len())?;
    let (softmax, total) = (back.graph.exp(y), back.graph.reduce_sum(dy, &[along], true));
    let shared = back.graph.mul(softmax, total);
    let dx = back.graph.sub(dy, shared);
    back.add(0, dx);
    Ok(())
}

fn cumsum(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let x = ty(graph, node, 0)?;
    let along = constant_ints(graph, node, 1)?;
    axis(*along.first().ok_or("the axis is missing")?, x.rank())?;
    Ok(vec![x])
}

/// What an element adds to is what adds to it from the other end.
fn cumsum_gradient(back: &mut Backward<'_>) -> Result<(), String> {
    let dy = back.dy()?;
    let attributes: Attributes = attributes([
        ("exclusive", Attribute::Int(back.node.int("exclusive", 0))),
        ("reverse", Attribute::Int(1 - back.node.int("reverse", 0))),
    ]);
    let dx = back.graph.apply1("CumSum", &[dy, back.node.input(1)], attributes);
    back.add(0, dx);
    Ok(())
}
