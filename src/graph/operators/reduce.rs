//! Sums and means over axes.

use super::super::autodiff::Adjoints;
use super::super::core::{Graph, Node, Value};
use super::super::tensor::TensorType;
use super::{Operator, axis, constant_ints, op, ty};

pub(super) static OPERATORS: &[Operator] =
    &[op("ReduceSum", reduce, Some(sum_gradient)), op("ReduceMean", reduce, Some(mean_gradient))];

fn axes(graph: &Graph, node: &Node) -> Result<Vec<usize>, String> {
    let rank = ty(graph, node, 0)?.rank();
    constant_ints(graph, node, 1)?.into_iter().map(|a| axis(a, rank)).collect()
}

fn reduce(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let (x, axes) = (ty(graph, node, 0)?, axes(graph, node)?);
    let keep = node.int("keepdims", 1) != 0;
    let dims = x.shape.iter().enumerate();
    let shape: Vec<_> = if keep {
        dims.map(|(i, dim)| if axes.contains(&i) { 1 } else { *dim }).collect()
    } else {
        dims.filter(|(i, _)| !axes.contains(i)).map(|(_, dim)| *dim).collect()
    };
    Ok(vec![TensorType::new(x.dtype, shape)])
}

/// dy with the reduced axes back as 1, so that it broadcasts against x; and how many elements each sum had.
fn restore(graph: &mut Graph, node: &Node, dy: Value) -> Result<(Value, usize), String> {
    let (axes, shape) = (axes(graph, node)?, graph.shape(node.input(0)).to_vec());
    let count = axes.iter().map(|i| shape[*i]).product();
    let kept: Vec<_> = shape.iter().enumerate().map(|(i, dim)| if axes.contains(&i) { 1 } else { *dim }).collect();
    Ok((graph.reshape(dy, &kept), count))
}

fn sum_gradient(
    graph: &mut Graph,
    node: &Node,
    grads: &[Option<Value>],
    _: &dyn Fn(Value) -> bool,
    adjoints: &mut Adjoints,
) -> Result<(), String> {
    let (restored, _) = restore(graph, node, grads[0].expect("the only output was reached"))?;
    let shape = graph.shape(node.input(0)).to_vec();
    let gradient = graph.expand(restored, &shape);
    adjoints.add(node.input(0), gradient);
    Ok(())
}

fn mean_gradient(
    graph: &mut Graph,
    node: &Node,
    grads: &[Option<Value>],
    _: &dyn Fn(Value) -> bool,
    adjoints: &mut Adjoints,
) -> Result<(), String> {
    let (restored, count) = restore(graph, node, grads[0].expect("the only output was reached"))?;
    let count = graph.scalar(count as f32);
    let share = graph.div(restored, count);
    let shape = graph.shape(node.input(0)).to_vec();
    let gradient = graph.expand(share, &shape);
    adjoints.add(node.input(0), gradient);
    Ok(())
}
