//! Matrix products.

use super::super::autodiff::Adjoints;
use super::super::core::{Graph, Node, Value};
use super::super::tensor::TensorType;
use super::{Operator, Wanted, broadcast, op, reduce_to, ty};

pub(super) static OPERATORS: &[Operator] =
    &[op("Gemm", gemm, Some(gemm_gradient)), op("MatMul", matmul, Some(matmul_gradient))];

fn gemm(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let matrix = |i: usize, transposed: &str| -> Result<[usize; 2], String> {
        let shape: [usize; 2] = ty(graph, node, i)?.shape.try_into().map_err(|_| format!("input {i} is no matrix"))?;
        Ok(if node.int(transposed, 0) != 0 { [shape[1], shape[0]] } else { shape })
    };
    if node.float("alpha", 1.0) != 1.0 || node.float("beta", 1.0) != 1.0 {
        return Err("alpha and beta must be written as products".into());
    }
    let ([m, k], [l, n]) = (matrix(0, "transA")?, matrix(1, "transB")?);
    if k != l {
        return Err(format!("[{m}, {k}] times [{l}, {n}]"));
    }
    if let Ok(c) = ty(graph, node, 2)
        && broadcast(&c.shape, &[m, n])? != [m, n]
    {
        return Err(format!("{c} does not broadcast to [{m}, {n}]"));
    }
    Ok(vec![TensorType::new(ty(graph, node, 0)?.dtype, [m, n])])
}

fn gemm_gradient(
    graph: &mut Graph,
    node: &Node,
    grads: &[Option<Value>],
    wanted: Wanted<'_>,
    adjoints: &mut Adjoints,
) -> Result<(), String> {
    let (a, b, dy) = (node.input(0), node.input(1), grads[0].expect("the only output was reached"));
    let (trans_a, trans_b) = (node.int("transA", 0) != 0, node.int("transB", 0) != 0);
    if wanted(a) {
        let da =
            if trans_a { graph.gemm(b, dy, None, trans_b, true) } else { graph.gemm(dy, b, None, false, !trans_b) };
        adjoints.add(a, da);
    }
    if wanted(b) {
        match (trans_a, trans_b) {
            (false, false) => adjoints.add_product(b, a, dy),
            (false, true) => adjoints.add_product(b, dy, a),
            (true, false) => {
                let db = graph.gemm(a, dy, None, false, false);
                adjoints.add(b, db);
            }
            (true, true) => {
                let db = graph.gemm(dy, a, None, true, true);
                adjoints.add(b, db);
            }
        }
    }
    if let Some(c) = node.inputs.get(2).copied().flatten().filter(|c| wanted(*c)) {
        if graph.shape(c) == &graph.shape(dy)[1..] {
            adjoints.add_row_sum(c, dy);
        } else {
            let shape = graph.shape(c).to_vec();
            let dc = reduce_to(graph, dy, &shape);
            adjoints.add(c, dc);
        }
    }
    Ok(())
}

fn matmul(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let (TensorType { dtype, shape: a }, b) = (ty(graph, node, 0)?, ty(graph, node, 1)?.shape);
    if a.len() < 2 || b.len() < 2 {
        return Err("a vector must be written as a matrix".into());
    }
    let (batch_a, matrix_a) = a.split_at(a.len() - 2);
    let (batch_b, matrix_b) = b.split_at(b.len() - 2);
    if matrix_a[1] != matrix_b[0] {
        return Err(format!("{matrix_a:?} times {matrix_b:?}"));
    }
    let mut shape = broadcast(batch_a, batch_b)?;
    shape.extend([matrix_a[0], matrix_b[1]]);
    Ok(vec![TensorType::new(dtype, shape)])
}

fn swap_last(graph: &mut Graph, x: Value) -> Value {
    let rank = graph.shape(x).len();
    let mut order: Vec<_> = (0..rank).collect();
    order.swap(rank - 2, rank - 1);
    graph.transpose(x, &order)
}

fn matmul_gradient(
    graph: &mut Graph,
    node: &Node,
    grads: &[Option<Value>],
    wanted: Wanted<'_>,
    adjoints: &mut Adjoints,
) -> Result<(), String> {
    let (a, b, dy) = (node.input(0), node.input(1), grads[0].expect("the only output was reached"));
    if wanted(a) {
        let transposed = swap_last(graph, b);
        let gradient = graph.matmul(dy, transposed);
        let shape = graph.shape(a).to_vec();
        let reduced = reduce_to(graph, gradient, &shape);
        adjoints.add(a, reduced);
    }
    if wanted(b) {
        let (shape_a, shape_b) = (graph.shape(a).to_vec(), graph.shape(b).to_vec());
        if let [k, n] = shape_b[..] {
            // One matrix for all of a's batch: one product over all its rows.
            let rows = shape_a.iter().product::<usize>() / k;
            let (a, dy) = (graph.reshape(a, &[rows, k]), graph.reshape(dy, &[rows, n]));
            adjoints.add_product(b, a, dy);
        } else {
            let transposed = swap_last(graph, a);
            let gradient = graph.matmul(transposed, dy);
            let reduced = reduce_to(graph, gradient, &shape_b);
            adjoints.add(b, reduced);
        }
    }
    Ok(())
}
