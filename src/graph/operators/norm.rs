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
/// c = u - mean(u) = dy P, with P = diag(scale) (I - 1/n), is one product that reads each row once; and because c
/// has mean zero, mean(u * xhat) = mean(c * x) / std. So dx = c / std - x b + mean b with b = mean(c * x) / std^3,
/// where everything but c and x is one number per row.
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
    let flat = graph.reshape(x, &[rows, n]);
    let (mean, inverse_std) = (graph.reshape(node.outputs[1], &[rows, 1]), graph.reshape(node.outputs[2], &[rows, 1]));
    if wanted(scale) {
        // sum(dy * xhat) = sum(dy * x / std) - sum(dy * mean / std), each a product with one number per row.
        let products = graph.mul(dy, flat);
        let of_products = graph.reshape(inverse_std, &[1, rows]);
        let of_gradient = graph.mul(mean, inverse_std);
        let of_gradient = graph.reshape(of_gradient, &[1, rows]);
        let (raw, shift) = (graph.matmul(of_products, products), graph.matmul(of_gradient, dy));
        let gradient = graph.sub(raw, shift);
        let gradient = graph.reshape(gradient, &[n]);
        adjoints.add(scale, gradient);
    }
    if let Some(bias) = node.inputs.get(2).copied().flatten().filter(|bias| wanted(*bias)) {
        adjoints.add_row_sum(bias, dy);
    }
    if wanted(x) {
        let centre: Vec<_> = (0..n * n).map(|i| f32::from(u8::from(i / n == i % n)) - 1.0 / n as f32).collect();
        let centre = graph.f32([n, n], centre);
        let column = graph.reshape(scale, &[n, 1]);
        let projection = graph.mul(column, centre);
        let centred = graph.matmul(dy, projection);
        let product = graph.mul(centred, flat);
        let share = graph.reduce_mean(product, &[1], true);
        let square = graph.mul(inverse_std, inverse_std);
        let cube = graph.mul(square, inverse_std);
        let slope = graph.mul(share, cube);
        let (across, along) = (graph.mul(centred, inverse_std), graph.mul(flat, slope));
        let offset = graph.mul(mean, slope);
        let difference = graph.sub(across, along);
        let dx = graph.add(difference, offset);
        let dx = graph.reshape(dx, &shape);
        adjoints.add(x, dx);
    }
    Ok(())
}
