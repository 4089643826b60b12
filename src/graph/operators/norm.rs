//! Layer normalization over the last axis.

use super::super::autodiff::Adjoints;
use super::super::core::{Graph, Node, Value};
use super::super::tensor::TensorType;
use super::{Operator, axis, op, ty};

pub(super) static OPERATORS: &[Operator] = &[op("LayerNormalization", layer_norm, Some(layer_norm_gradient))];

/// Outputs: y, mean and 1 / standard deviation; the last two with the normalized axis as 1.
fn layer_norm(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let x = ty(graph, node, 0)?;
    let rank = x.rank();
    if axis(node.int("axis", -1), rank)? + 1 != rank {
        return Err("only the last axis is supported".into());
    }
    let features = *x.shape.last().ok_or("a scalar cannot be normalized")?;
    for i in 1..node.inputs.len() {
        let shape = ty(graph, node, i)?.shape;
        if shape != [features] {
            return Err(format!("scale and bias must have {features} elements, not {shape:?}"));
        }
    }
    let mut statistics = x.clone();
    statistics.shape[rank - 1] = 1;
    Ok(vec![x, statistics.clone(), statistics])
}

/// With n features, xhat = (x - mean) / std and u = scale * dy:
/// dx = (u - mean(u) - xhat * mean(u * xhat)) / std.
///
/// The row means are taken by small matrix products, which read each row once: (u - mean(u)) = dy P with
/// P = diag(scale) (I - 1/n), and mean(u * xhat) = mean((u - mean(u)) * xhat), because xhat has mean zero.
fn layer_norm_gradient(
    graph: &mut Graph,
    node: &Node,
    grads: &[Option<Value>],
    wanted: &dyn Fn(Value) -> bool,
    adjoints: &mut Adjoints,
) -> Result<(), String> {
    if grads[1].is_some() || grads[2].is_some() {
        return Err("LayerNormalization: no gradient through its mean and deviation outputs".into());
    }
    let (x, scale) = (node.input(0), node.input(1));
    let shape = graph.shape(x).to_vec();
    let n = *shape.last().expect("checked by inference");
    let rows = shape.iter().product::<usize>() / n;
    let dy = graph.reshape(grads[0].expect("the first output was reached"), &[rows, n]);
    let inverse_std = graph.reshape(node.outputs[2], &[rows, 1]);
    let normalized = {
        let (mean, flat) = (graph.reshape(node.outputs[1], &[rows, 1]), graph.reshape(x, &[rows, n]));
        let centred = graph.sub(flat, mean);
        graph.mul(centred, inverse_std)
    };
    if wanted(scale) {
        // The diagonal of dy' xhat, without a product of the size of x.
        let products = graph.gemm(dy, normalized, None, true, false);
        let identity = identity(graph, n);
        let diagonal = graph.mul(products, identity);
        let gradient = graph.reduce_sum(diagonal, &[0], false);
        adjoints.add(scale, gradient);
    }
    if let Some(bias) = node.inputs.get(2).copied().flatten().filter(|bias| wanted(*bias)) {
        adjoints.add_row_sum(bias, dy);
    }
    if wanted(x) {
        let centring = {
            let centre: Vec<_> = (0..n * n).map(|i| f32::from(u8::from(i / n == i % n)) - 1.0 / n as f32).collect();
            let centre = graph.f32([n, n], centre);
            let column = graph.reshape(scale, &[n, 1]);
            graph.mul(column, centre)
        };
        let centred = graph.matmul(dy, centring);
        let product = graph.mul(centred, normalized);
        let averaging = graph.f32([n, n], vec![1.0 / n as f32; n * n]);
        let share = graph.matmul(product, averaging);
        let along = graph.mul(normalized, share);
        let across = graph.sub(centred, along);
        let dx = graph.mul(across, inverse_std);
        let dx = graph.reshape(dx, &shape);
        adjoints.add(x, dx);
    }
    Ok(())
}

fn identity(graph: &mut Graph, n: usize) -> Value {
    graph.f32([n, n], (0..n * n).map(|i| f32::from(u8::from(i / n == i % n))).collect())
}
