//! Sums, means and extremes over axes.

use super::super::autodiff::Backward;
use super::super::core::{Graph, Node, Value};
use super::super::tensor::TensorType;
use super::{Operator, axis, constant_ints, op, ty};

pub(super) static OPERATORS: &[Operator] = &[
    op("ReduceMax", reduce, Some(extreme_gradient)),
    op("ReduceMean", reduce, Some(mean_gradient)),
    op("ReduceMin", reduce, Some(extreme_gradient)),
    op("ReduceSum", reduce, Some(sum_gradient)),
];

fn axes(graph: &Graph, node: &Node) -> Result<Vec<usize>, String> {
    let rank = ty(graph, node, 0)?.rank();
    constant_ints(graph, node, 1)?.into_iter().map(|a| axis(a, rank)).collect()
}

/// `shape` with the reduced axes as 1.
fn kept(shape: &[usize], axes: &[usize]) -> Vec<usize> {
    shape.iter().enumerate().map(|(i, dim)| if axes.contains(&i) { 1 } else { *dim }).collect()
}

fn reduce(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let (x, axes) = (ty(graph, node, 0)?, axes(graph, node)?);
    let shape = if node.int("keepdims", 1) != 0 {
        kept(&x.shape, &axes)
    } else {
        x.shape.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, dim)| *dim).collect()
    };
    Ok(vec![TensorType::new(x.dtype, shape)])
}

/// `y`, of the node's output, with the reduced axes back as 1, so that it broadcasts against x.
fn restore(graph: &mut Graph, node: &Node, y: Value) -> Result<Value, String> {
    let (axes, shape) = (axes(graph, node)?, graph.shape(node.input(0)).to_vec());
    Ok(graph.reshape(y, &kept(&shape, &axes)))
}

fn sum_gradient(back: &mut Backward<'_>) -> Result<(), String> {
    let restored = restore(back.graph, back.node, back.dy()?)?;
    let shape = back.graph.shape(back.node.input(0)).to_vec();
    let gradient = back.graph.expand(restored, &shape);
    back.add(0, gradient);
    Ok(())
}

fn mean_gradient(back: &mut Backward<'_>) -> Result<(), String> {
    let restored = restore(back.graph, back.node, back.dy()?)?;
    let shape = back.graph.shape(back.node.input(0)).to_vec();
    let count = shape.iter().product::<usize>() / back.graph.ty(back.node.outputs[0]).elements().max(1);
    let count = back.graph.scalar_like(restored, count as f32);
    let share = back.graph.div(restored, count);
    let gradient = back.graph.expand(share, &shape);
    back.add(0, gradient);
    Ok(())
}

/// Elements that are equally extreme share the gradient, as in PyTorch's `amax` and `amin`.
fn extreme_gradient(back: &mut Backward<'_>) -> Result<(), String> {
    let (x, axes) = (back.node.input(0), axes(back.graph, back.node)?);
    let extreme = restore(back.graph, back.node, back.node.outputs[0])?;
    let restored = restore(back.graph, back.node, back.dy()?)?;
    let hit = back.graph.equal(x, extreme);
    let hit = back.graph.cast(hit, back.graph.dtype(x));
    let count = back.graph.reduce_sum(hit, &axes, true);
    let share = back.graph.div(restored, count);
    let gradient = back.graph.mul(hit, share);
    back.add(0, gradient);
    Ok(())
}
