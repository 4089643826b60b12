//! Matrix products, in all the forms that ONNX has.

use super::super::attributes::Attribute;
use super::super::autodiff::Backward;
use super::super::build::attributes;
use super::super::core::{Graph, Node, Value};
use super::super::error::GraphError;
use super::super::tensor::TensorType;
use super::call::Call;
use super::{Family, Precision, broadcast, op, ty};

pub(super) static FAMILY: Family = Family {
    operators: &[
        op("Gemm", gemm).gradient(gemm_gradient).precision(Precision::Product { bf16: true, weights: true }),
        op("MatMul", matmul)
            .gradient(matmul_gradient)
            .precision(Precision::Product { bf16: true, weights: false })
            .for_regions(matmul_parts),
    ],
    imports: &[("Einsum", einsum), ("Gemm", import_gemm), ("MatMul", import_matmul)],
};

fn matmul_parts(graph: &mut Graph, node: &Node) -> Option<Vec<Value>> {
    sum_of_rows(graph, node).or_else(|| turned_product(graph, node))
}

/// A' B as (B' A)', and A B' as (B A')', where that turns the small matrices instead of a large one, such as the weights of
/// an attention.
fn turned_product(graph: &mut Graph, node: &Node) -> Option<Vec<Value>> {
    let (a, b, y) = (node.input(0), node.input(1), node.outputs[0]);
    let rank = graph.shape(y).len();
    if rank < 3 || graph.shape(a).len() != rank || graph.shape(b).len() != rank {
        return None;
    }
    let mut order: Vec<_> = (0..rank).collect();
    order.swap(rank - 2, rank - 1);
    let perm: Vec<_> = order.iter().map(|axis| *axis as i64).collect();
    let source = |graph: &Graph, x: Value| {
        let node =
            graph.producer(x).filter(|node| node.operator.name == "Transpose" && node.ints("perm", &[]) == perm)?;
        Some(node.input(0))
    };
    let size = |graph: &Graph, x: Value| graph.ty(x).elements();
    let (first, second) = match (source(graph, a), source(graph, b)) {
        (Some(plain), None) if size(graph, a) > 2 * (size(graph, b) + size(graph, y)) => {
            (graph.transpose(b, &order), plain)
        }
        (None, Some(plain)) if size(graph, b) > 2 * (size(graph, a) + size(graph, y)) => {
            (plain, graph.transpose(a, &order))
        }
        _ => return None,
    };
    let product = graph.matmul(first, second);
    Some(vec![graph.transpose(product, &order)])
}

/// The product of a row of ones and a matrix, as [`Graph::sum_rows`] writes the sum of its rows.
fn sum_of_rows(graph: &mut Graph, node: &Node) -> Option<Vec<Value>> {
    let (row, matrix) = (node.input(0), node.input(1));
    let one = graph.producer(row).filter(|node| node.operator.name == "Expand")?.input(0);
    let rows = graph.number(one) == Some(1.0) && graph.shape(row).len() == 2 && graph.shape(row)[0] == 1;
    (rows && graph.shape(matrix).len() == 2).then(|| vec![graph.reduce_sum(matrix, &[0], true)])
}

/// Takes the sum out of a product: added by the region that takes the product, it costs nothing.
pub(in super::super) fn part_sums(graph: &mut Graph) {
    graph.rewrite(|graph, node, _| {
        let sum = node.optional(2).filter(|_| node.operator.name == "Gemm")?;
        let [trans_a, trans_b] = ["transA", "transB"].map(|name| node.int(name, 0) != 0);
        let product = graph.gemm(node.input(0), node.input(1), None, trans_a, trans_b);
        Some(vec![graph.add(product, sum)])
    });
}

fn gemm(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let matrix = |i: usize, transposed: &str| -> Result<[usize; 2], GraphError> {
        let shape: [usize; 2] =
            ty(graph, node, i)?.shape.try_into().map_err(|_| format!("input {i} is not a matrix"))?;
        Ok(if node.int(transposed, 0) != 0 { [shape[1], shape[0]] } else { shape })
    };
    if node.float("alpha", 1.0) != 1.0 || node.float("beta", 1.0) != 1.0 {
        return Err("alpha and beta must be written as products".into());
    }
    let ([m, k], [l, n]) = (matrix(0, "transA")?, matrix(1, "transB")?);
    if k != l {
        return Err(format!("cannot multiply [{m}, {k}] by [{l}, {n}]").into());
    }
    if let Ok(c) = ty(graph, node, 2)
        && broadcast(&c.shape, &[m, n])? != [m, n]
    {
        return Err(format!("{c} does not broadcast to [{m}, {n}]").into());
    }
    Ok(vec![TensorType::new(ty(graph, node, 0)?.dtype, [m, n])])
}

fn gemm_gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
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

fn matmul(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (TensorType { dtype, shape: a }, b) = (ty(graph, node, 0)?, ty(graph, node, 1)?.shape);
    if a.len() < 2 || b.len() < 2 {
        return Err("a vector must be written as a matrix".into());
    }
    let (batch_a, matrix_a) = a.split_at(a.len() - 2);
    let (batch_b, matrix_b) = b.split_at(b.len() - 2);
    if matrix_a[1] != matrix_b[0] {
        return Err(format!("cannot multiply {matrix_a:?} by {matrix_b:?}").into());
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

fn matmul_gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
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

/// alpha a' b' + beta c.
fn import_gemm(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let (mut a, b) = (call.float(0)?, call.float(1)?);
    let (alpha, beta) = (call.attributes.float("alpha", 1.0), call.attributes.float("beta", 1.0));
    if alpha != 1.0 {
        let alpha = call.scalar(a, alpha);
        a = call.graph.mul(a, alpha);
    }
    let mut inputs = vec![a, b];
    if let Some(mut c) = call.optional(2) {
        if beta != 1.0 {
            let beta = call.scalar(c, beta);
            c = call.graph.mul(c, beta);
        }
        inputs.push(c);
    }
    let flags = ["transA", "transB"].map(|name| (name, Attribute::Int(call.attributes.int(name, 0))));
    call.apply("Gemm", &inputs, attributes(flags))
}

/// Vectors become matrices of one row or column, which the result loses again.
fn import_matmul(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let (mut a, mut b) = (call.float(0)?, call.float(1)?);
    let (rows, columns) = (call.shape(a), call.shape(b));
    if rows.len() == 1 {
        a = call.graph.reshape(a, &[1, rows[0]]);
    }
    if columns.len() == 1 {
        b = call.graph.reshape(b, &[columns[0], 1]);
    }
    let y = call.apply1("MatMul", &[a, b])?;
    let mut shape = call.shape(y);
    if rows.len() == 1 {
        shape.remove(shape.len() - 2);
    }
    if columns.len() == 1 {
        shape.pop();
    }
    Ok(vec![call.graph.reshape(y, &shape)])
}

/// The equation's letters for each input and the output, an ellipsis as capital letters from the right.
fn letters(equation: &str, ranks: &[usize]) -> Result<(Vec<Vec<char>>, Vec<char>), GraphError> {
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (inputs, output) = equation.split_once("->").map_or((equation.as_str(), None), |(i, o)| (i, Some(o)));
    let terms: Vec<_> = inputs.split(',').collect();
    if terms.len() != ranks.len() {
        return Err(format!("the equation {equation} does not fit {} inputs", ranks.len()).into());
    }
    let spelled = |term: &str, extra: usize| -> Vec<char> {
        let dots: String = (0..extra as u8).rev().map(|i| char::from(b'A' + i)).collect();
        term.replace("...", &dots).chars().collect()
    };
    let mut widest = 0;
    let mut all = Vec::new();
    for (term, rank) in terms.iter().zip(ranks) {
        let named = term.replace("...", "").chars().count();
        let extra = rank.checked_sub(named).filter(|extra| *extra == 0 || term.contains("..."));
        let extra = extra
            .filter(|extra| *extra < 8)
            .ok_or_else(|| format!("the term {term} does not fit an input of {rank} axes"))?;
        widest = widest.max(extra);
        all.push(spelled(term, extra));
    }
    let output = match output {
        Some(output) => spelled(output, widest),
        None => {
            // Letters that appear once, in alphabetical order, behind the ellipsis.
            let every: Vec<char> = all.iter().flatten().copied().collect();
            let mut once: Vec<char> =
                every.iter().copied().filter(|c| every.iter().filter(|d| *d == c).count() == 1).collect();
            once.retain(char::is_ascii_lowercase);
            once.sort_unstable();
            spelled("...", widest).into_iter().chain(once).collect()
        }
    };
    Ok((all, output))
}

/// Two inputs become one batched product over the letters they share and the output lacks; one input is summed and
/// transposed.
fn einsum(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let values = (0..call.inputs.len()).map(|i| call.float(i)).collect::<Result<Vec<_>, _>>()?;
    let ranks: Vec<_> = values.iter().map(|value| call.shape(*value).len()).collect();
    let (terms, output) = letters(call.attributes.text("equation", ""), &ranks)?;
    if values.is_empty() {
        return Err("no inputs".into());
    }
    for term in terms.iter().chain([&output]) {
        if (1..term.len()).any(|i| term[..i].contains(&term[i])) {
            return Err("diagonals (a letter twice in one term) are not supported".into());
        }
    }
    let mut operands: Vec<(Value, Vec<char>)> = values.into_iter().zip(terms).collect();
    let (mut value, mut term) = operands.remove(0);
    while !operands.is_empty() {
        let (other, letters) = operands.remove(0);
        let later = |c: &char| output.contains(c) || operands.iter().any(|(_, term)| term.contains(c));
        (value, term) = contract(call, (value, term), (other, letters), &later)?;
    }
    value = sum_away(call, value, &mut term, &|c| output.contains(c));
    let order = output.iter().map(|c| term.iter().position(|d| d == c)).collect::<Option<Vec<_>>>();
    let order = order.ok_or("the output names a letter that no input has")?;
    Ok(vec![call.graph.transpose(value, &order)])
}

/// Sums over the letters that nobody needs any more.
fn sum_away(call: &mut Call<'_>, value: Value, term: &mut Vec<char>, keep: &dyn Fn(&char) -> bool) -> Value {
    let axes: Vec<_> = (0..term.len()).filter(|i| !keep(&term[*i])).collect();
    term.retain(|c| keep(c));
    call.graph.reduce_sum(value, &axes, false)
}

fn contract(
    call: &mut Call<'_>,
    (a, mut in_a): (Value, Vec<char>),
    (b, mut in_b): (Value, Vec<char>),
    later: &dyn Fn(&char) -> bool,
) -> Result<(Value, Vec<char>), GraphError> {
    let (both_a, both_b) = (in_a.clone(), in_b.clone());
    let a = sum_away(call, a, &mut in_a, &|c| later(c) || both_b.contains(c));
    let b = sum_away(call, b, &mut in_b, &|c| later(c) || both_a.contains(c));
    let (shape_a, shape_b) = (call.shape(a), call.shape(b));
    let size = |c: &char| {
        let of = |term: &[char], shape: &[usize]| term.iter().position(|d| d == c).map(|i| shape[i]);
        of(&in_a, &shape_a).into_iter().chain(of(&in_b, &shape_b)).max().unwrap_or(1)
    };
    let shared: Vec<_> = in_a.iter().copied().filter(|c| in_b.contains(c)).collect();
    for c in &shared {
        let (i, j) = (in_a.iter().position(|d| d == c), in_b.iter().position(|d| d == c));
        if i.map(|i| shape_a[i]) != j.map(|j| shape_b[j]) {
            return Err(format!("the letter {c} stands for two different sizes").into());
        }
    }
    let (batch, inner): (Vec<_>, Vec<_>) = shared.iter().copied().partition(|c| later(c));
    let only = |term: &[char]| term.iter().copied().filter(|c| !shared.contains(c)).collect::<Vec<_>>();
    let (rows, columns) = (only(&in_a), only(&in_b));
    let product = |letters: &[char]| letters.iter().map(size).product::<usize>();
    let arranged = |call: &mut Call<'_>, value: Value, term: &[char], parts: [&[char]; 3]| {
        let order: Vec<_> =
            parts.concat().iter().map(|c| term.iter().position(|d| d == c).expect("a letter of the term")).collect();
        let turned = call.graph.transpose(value, &order);
        call.graph.reshape(turned, &parts.map(product))
    };
    let a = arranged(call, a, &in_a, [&batch, &rows, &inner]);
    let b = arranged(call, b, &in_b, [&batch, &inner, &columns]);
    let y = call.apply1("MatMul", &[a, b])?;
    let term = [batch, rows, columns].concat();
    let shape: Vec<_> = term.iter().map(size).collect();
    Ok((call.graph.reshape(y, &shape), term))
}
