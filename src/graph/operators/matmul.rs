//! Matrix products.

use super::super::autodiff::Backward;
use super::super::core::{Graph, Node, Value};
use super::super::tensor::TensorType;
use super::{Operator, broadcast, op, ty};

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

fn gemm_gradient(back: &mut Backward<'_>) -> Result<(), String> {
    let (a, b, dy) = (back.node.input(0), back.node.input(1), back.dy()?);
    let [trans_a, trans_b] = ["transA", "transB"].map(|name| back.node.int(name, 0) != 0);
    if back.wanted(0) {
        let da = match trans_a {
            true => back.graph.gemm(b, dy, None, trans_b, true),
            false => back.graph.gemm(dy, b, None, false, !trans_b),
        };
        back.add(0, da);
    }
    if back.wanted(1) {
        match (trans_a, trans_b) {
            (false, false) => back.add_product(1, a, dy),
            (false, true) => back.add_product(1, dy, a),
            (true, false) => {
                let db = back.graph.gemm(a, dy, None, false, false);
                back.add(1, db);
            }
            (true, true) => {
                let db = back.graph.gemm(dy, a, None, true, true);
                back.add(1, db);
            }
        }
    }
    if back.wanted(2) {
        if back.graph.shape(back.node.input(2)) == &back.graph.shape(dy)[1..] {
            back.add_row_sum(2, dy);
        } else {
            back.add_broadcast(2, dy);
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

fn matmul_gradient(back: &mut Backward<'_>) -> Result<(), String> {
    let (a, b, dy) = (back.node.input(0), back.node.input(1), back.dy()?);
    if back.wanted(0) {
        let transposed = swap_last(back.graph, b);
        let gradient = back.graph.matmul(dy, transposed);
        back.add_broadcast(0, gradient);
    }
    if back.wanted(1) {
        let (shape_a, shape_b) = (back.graph.shape(a).to_vec(), back.graph.shape(b).to_vec());
        if let [k, n] = shape_b[..] {
            // One matrix for all of a's batch: one product over all its rows.
            let rows = shape_a.iter().product::<usize>() / k;
            let (a, dy) = (back.graph.reshape(a, &[rows, k]), back.graph.reshape(dy, &[rows, n]));
            back.add_product(1, a, dy);
        } else {
            let transposed = swap_last(back.graph, a);
            let gradient = back.graph.matmul(transposed, dy);
            back.add_broadcast(1, gradient);
        }
    }
    Ok(())
}
