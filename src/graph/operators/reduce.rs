//! Sums, means, extremes and norms over axes.

use super::super::attributes::Attribute;
use super::super::autodiff::Backward;
use super::super::build::attributes;
use super::super::core::{Graph, Node, Value};
use super::super::error::GraphError;
use super::super::tensor::TensorType;
use super::call::Call;
use super::{Family, axis, constant_ints, op, ty};

pub(super) static FAMILY: Family = Family {
    operators: &[
        op("ReduceMax", reduce).reduction().gradient(extreme_gradient).no_bf16(),
        op("ReduceMean", reduce).reduction().gradient(mean_gradient).no_bf16(),
        op("ReduceMin", reduce).reduction().gradient(extreme_gradient),
        op("ReduceSum", reduce).reduction().gradient(sum_gradient),
    ],
    imports: &[
        ("GlobalAveragePool", global_pool),
        ("GlobalMaxPool", global_pool),
        ("ReduceL1", l1),
        ("ReduceL2", l2),
        ("ReduceLogSum", log_sum),
        ("ReduceLogSumExp", log_sum_exp),
        ("ReduceMax", plain),
        ("ReduceMean", plain),
        ("ReduceMin", plain),
        ("ReduceProd", product),
        ("ReduceSum", plain),
        ("ReduceSumSquare", sum_square),
    ],
};

/// The axes that are reduced.
pub(in crate::graph) fn axes(graph: &Graph, node: &Node) -> Result<Vec<usize>, GraphError> {
    let rank = ty(graph, node, 0)?.rank();
    constant_ints(graph, node, 1)?.into_iter().map(|a| axis(a, rank)).collect()
}

/// `shape` with the reduced axes as 1.
fn kept(shape: &[usize], axes: &[usize]) -> Vec<usize> {
    shape.iter().enumerate().map(|(i, dim)| if axes.contains(&i) { 1 } else { *dim }).collect()
}

fn reduce(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (x, axes) = (ty(graph, node, 0)?, axes(graph, node)?);
    let shape = if node.int("keepdims", 1) != 0 {
        kept(&x.shape, &axes)
    } else {
        x.shape.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, dim)| *dim).collect()
    };
    Ok(vec![TensorType::new(x.dtype, shape)])
}

/// `y`, of the node's output, with the reduced axes back as 1, so that it broadcasts against x.
fn restore(graph: &mut Graph, node: &Node, y: Value) -> Result<Value, GraphError> {
    let (axes, shape) = (axes(graph, node)?, graph.shape(node.input(0)).to_vec());
    Ok(graph.reshape(y, &kept(&shape, &axes)))
}

fn sum_gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
    let restored = restore(back.graph, back.node, back.dy()?)?;
    let shape = back.graph.shape(back.node.input(0)).to_vec();
    let gradient = back.graph.expand(restored, &shape);
    back.add(0, gradient);
    Ok(())
}

fn mean_gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
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
fn extreme_gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
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

/// The node's axes; all of them where none are named, unless the node says that this means none.
fn import_axes(call: &Call<'_>) -> Result<Vec<usize>, GraphError> {
    let rank = call.shape(call.input(0)?).len();
    let named = call.axes(1, rank)?.unwrap_or_default();
    let all = named.is_empty() && call.attributes.int("noop_with_empty_axes", 0) == 0;
    Ok(if all { (0..rank).collect() } else { named })
}

fn import_reduce(call: &mut Call<'_>, operator: &str, x: Value) -> Result<Value, GraphError> {
    let axes: Vec<_> = import_axes(call)?.into_iter().map(|axis| axis as i64).collect();
    if axes.is_empty() {
        return Ok(x);
    }
    let axes = call.graph.i64s(&axes);
    let keep = attributes([("keepdims", Attribute::Int(call.attributes.int("keepdims", 1)))]);
    Ok(call.apply(operator, &[x, axes], keep)?[0])
}

fn plain(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let (operator, x) = (call.operator, call.input(0)?);
    Ok(vec![import_reduce(call, operator, x)?])
}

/// Factor by factor, so that the gradient is right where one of them is 0.
fn product(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    const MOST_FACTORS: usize = 512;
    let mut y = call.input(0)?;
    let mut axes = import_axes(call)?;
    axes.sort_unstable();
    axes.dedup();
    let factors = axes.iter().map(|along| call.graph.shape(y)[*along]).fold(1, usize::saturating_mul);
    if !(1..=MOST_FACTORS).contains(&factors) {
        return Err(format!("products of {factors} factors are not supported, only of 1 to {MOST_FACTORS}").into());
    }
    for along in &axes {
        let rows = vec![1; call.graph.shape(y)[*along]];
        let mut parts = call.graph.split(y, *along, &rows).into_iter();
        let first = parts.next().ok_or("nothing to multiply")?;
        y = parts.fold(first, |product, part| call.graph.mul(product, part));
    }
    if call.attributes.int("keepdims", 1) != 0 {
        return Ok(vec![y]);
    }
    let shape = call.shape(y);
    let kept: Vec<_> = (0..shape.len()).filter(|i| !axes.contains(i)).map(|i| shape[i]).collect();
    Ok(vec![call.graph.reshape(y, &kept)])
}

fn l1(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let x = call.float(0)?;
    let size = call.graph.abs(x);
    Ok(vec![import_reduce(call, "ReduceSum", size)?])
}

fn sum_square(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let x = call.float(0)?;
    let square = call.graph.mul(x, x);
    Ok(vec![import_reduce(call, "ReduceSum", square)?])
}

/// The root of a sum that is 0 has no derivative; as in PyTorch, it is taken to be 0 there.
fn l2(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let square = sum_square(call)?[0];
    Ok(vec![root_of_sum(call, square)])
}

/// sqrt(x) whose gradient at 0 is 0: where x is 0 the root is taken of 1, and not used.
pub(in super::super) fn root_of_sum(call: &mut Call<'_>, x: Value) -> Value {
    let (zero, one) = (call.scalar(x, 0.0), call.scalar(x, 1.0));
    let positive = call.graph.greater(x, zero);
    let safe = call.graph.select(positive, x, one);
    let root = call.graph.sqrt(safe);
    call.graph.select(positive, root, zero)
}

fn log_sum(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let x = call.float(0)?;
    let sum = import_reduce(call, "ReduceSum", x)?;
    Ok(vec![call.graph.log(sum)])
}

/// The greatest element is taken out first, so that no exponential overflows.
fn log_sum_exp(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let (x, axes) = (call.float(0)?, import_axes(call)?);
    if axes.is_empty() {
        return Ok(vec![x]);
    }
    let greatest = call.graph.reduce_max(x, &axes, true);
    let shifted = call.graph.sub(x, greatest);
    let powers = call.graph.exp(shifted);
    let sum = call.graph.reduce_sum(powers, &axes, true);
    let log = call.graph.log(sum);
    let y = call.graph.add(log, greatest);
    if call.attributes.int("keepdims", 1) != 0 {
        return Ok(vec![y]);
    }
    let shape = call.shape(x);
    let kept: Vec<_> = (0..shape.len()).filter(|i| !axes.contains(i)).map(|i| shape[i]).collect();
    Ok(vec![call.graph.reshape(y, &kept)])
}

fn global_pool(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let x = call.float(0)?;
    let spatial: Vec<_> = (2..call.shape(x).len()).collect();
    let max = call.operator == "GlobalMaxPool";
    Ok(vec![if max { call.graph.reduce_max(x, &spatial, true) } else { call.graph.reduce_mean(x, &spatial, true) }])
}
