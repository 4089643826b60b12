//! Dropout, and random masks from numbers that are spread over rows and columns.

use super::super::core::{Graph, Node, Value};
use super::super::error::GraphError;
use super::super::tensor::{DType, TensorType};
use super::call::Call;
use super::random::check_size;
use super::{Family, fused, ty};

pub(super) static FAMILY: Family =
    Family { operators: &[fused("DropoutMask", mask).expand(expand_mask)], imports: &[("Dropout", import_dropout)] };

/// Inputs: r [rows], a and b [columns], int64. Output: `scale` where (a r + b) mod `modulus` > `threshold`, else 0.
fn mask(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (r, a, b) = (ty(graph, node, 0)?, ty(graph, node, 1)?, ty(graph, node, 2)?);
    if a != b || r.rank() != 1 || a.rank() != 1 || [&r, &a].iter().any(|ty| ty.dtype != DType::I64) {
        return Err("expected int64 numbers for rows, and two for columns".into());
    }
    Ok(vec![TensorType::f32([r.shape[0], a.shape[0]])])
}

fn expand_mask(graph: &mut Graph, node: &Node) -> Vec<Value> {
    let [r, a, b] = std::array::from_fn(|i| node.input(i));
    let rows = graph.shape(r)[0];
    let r = graph.reshape(r, &[rows, 1]);
    let product = graph.mul(r, a);
    let sum = graph.add(product, b);
    let (modulus, threshold) = (graph.i64s(&[node.int("modulus", 1)]), graph.i64s(&[node.int("threshold", 0)]));
    let uniform = graph.modulo(sum, modulus);
    let kept = graph.greater(uniform, threshold);
    let kept = graph.to_f32(kept);
    let scale = graph.scalar(node.float("scale", 1.0));
    vec![graph.mul(kept, scale)]
}

fn import_dropout(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let x = call.float(0)?;
    check_size(&call.shape(x))?;
    let ratio = call.numbers(1)?.and_then(|values| values.first().copied()).unwrap_or(0.5);
    if !(0.0..1.0).contains(&ratio) {
        return Err(format!("the dropout ratio {ratio} is out of range").into());
    }
    Ok(vec![if ratio == 0.0 { x } else { call.training.dropout(call.graph, x, ratio) }])
}
