//! Running sums along an axis.

use super::super::attributes::{Attribute, Attributes};
use super::super::autodiff::Backward;
use super::super::build::attributes;
use super::super::core::{Graph, Node};
use super::super::error::GraphError;
use super::super::tensor::TensorType;
use super::{Family, axis, constant_ints, op, ty};

pub(super) static FAMILY: Family =
    Family { operators: &[op("CumSum", cumsum).gradient(cumsum_gradient)], imports: &[] };

fn cumsum(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let x = ty(graph, node, 0)?;
    let along = constant_ints(graph, node, 1)?;
    axis(*along.first().ok_or("the axis is missing")?, x.rank())?;
    Ok(vec![x])
}

/// What an element adds to is what adds to it from the other end.
fn cumsum_gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
    let dy = back.dy()?;
    let attributes: Attributes = attributes([
        ("exclusive", Attribute::Int(back.node.int("exclusive", 0))),
        ("reverse", Attribute::Int(1 - back.node.int("reverse", 0))),
    ]);
    let dx = back.graph.apply1("CumSum", &[dy, back.node.input(1)], attributes);
    back.add(0, dx);
    Ok(())
}
