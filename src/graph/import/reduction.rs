//! Reductions, with their axes as attribute or input.

use super::super::build::attributes;
use super::super::core::{Attribute, Value};
use super::call::{Call, Lower};

pub(super) static OPERATORS: &[(&str, Lower)] = &[
    ("GlobalAveragePool", global_pool),
    ("GlobalMaxPool", global_pool),
    ("ReduceL1", l1),
    ("ReduceL2", l2),
    ("ReduceLogSum", log_sum),
    ("ReduceLogSumExp", log_sum_exp),
    ("ReduceMax", plain),
    ("ReduceMean", plain),
    ("ReduceMin", plain),
    ("ReduceSum", plain),
    ("ReduceSumSquare", sum_square),
];

/// The node's axes; all of them where none are named, unless the node says that this means none.
fn axes(call: &Call<'_>) -> Result<Vec<usize>, String> {
    let rank = call.shape(call.input(0)?).len();
    let named = call.axes(1, rank)?.unwrap_or_default();
    let all = named.is_empty() && call.attributes.int("noop_with_empty_axes", 0) == 0;
    Ok(if all { (0..rank).collect() } else { named })
}

fn reduce(call: &mut Call<'_>, operator: &str, x: Value) -> Result<Value, String> {
    let axes: Vec<_> = axes(call)?.into_iter().map(|axis| axis as i64).collect();
    if axes.is_empty() {
        return Ok(x);
    }
    let axes = call.graph.i64s(&axes);
    let keep = attributes([("keepdims", Attribute::Int(call.attributes.int("keepdims", 1)))]);
    Ok(call.apply(operator, &[x, axes], keep)?[0])
}

fn plain(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let (operator, x) = (call.operator, call.input(0)?);
    Ok(vec![reduce(call, operator, x)?])
}

fn l1(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let x = call.float(0)?;
    let size = call.graph.abs(x);
    Ok(vec![reduce(call, "ReduceSum", size)?])
}

fn sum_square(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let x = call.float(0)?;
    let square = call.graph.mul(x, x);
    Ok(vec![reduce(call, "ReduceSum", square)?])
}

/// The root of a sum that is 0 has no derivative; as in PyTorch, it is taken to be 0 there.
fn l2(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let square = sum_square(call)?[0];
    Ok(vec![root_of_sum(call, square)])
}

/// sqrt(x) whose gradient at 0 is 0: where x is 0 the root is taken of 1, and not used.
pub(super) fn root_of_sum(call: &mut Call<'_>, x: Value) -> Value {
    let (zero, one) = (call.scalar(x, 0.0), call.scalar(x, 1.0));
    let positive = call.graph.greater(x, zero);
    let safe = call.graph.select(positive, x, one);
    let root = call.graph.sqrt(safe);
    call.graph.select(positive, root, zero)
}

fn log_sum(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let x = call.float(0)?;
    let sum = reduce(call, "ReduceSum", x)?;
    Ok(vec![call.graph.log(sum)])
}

/// The greatest element is taken out first, so that no exponential overflows.
fn log_sum_exp(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let (x, axes) = (call.float(0)?, axes(call)?);
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

fn global_pool(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let x = call.float(0)?;
    let spatial: Vec<_> = (2..call.shape(x).len()).collect();
    let max = call.operator == "GlobalMaxPool";
    Ok(vec![if max { call.graph.reduce_max(x, &spatial, true) } else { call.graph.reduce_mean(x, &spatial, true) }])
}
