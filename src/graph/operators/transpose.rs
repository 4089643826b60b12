//! Axes in another order.

use super::super::attributes::Attribute;
use super::super::autodiff::Backward;
use super::super::build::{attributes, ints};
use super::super::core::{Graph, Node, Value};
use super::super::error::GraphError;
use super::super::fold::{self, Fold};
use super::super::tensor::{Constant, TensorType};
use super::call::Call;
use super::reshape::to_shape;
use super::{Family, Given, Precision, axis, fused, op, ty};

pub(super) static FAMILY: Family = Family {
    operators: &[
        fused("BatchTranspose", transpose),
        op("Transpose", transpose)
            .view()
            .gradient(transpose_gradient)
            .precision(Precision::Follow)
            .fold(Fold::Node(moved))
            .simplify(joined)
            .for_cpu("BatchTranspose", is_batch_transpose),
    ],
    imports: &[("Transpose", import_transpose)],
};

/// The order of the axes.
pub(in crate::graph) fn order(node: &Node, rank: usize) -> Result<Vec<usize>, GraphError> {
    let default: Vec<_> = (0..rank as i64).rev().collect();
    let order = to_shape(&node.ints("perm", &default))?;
    let mut sorted = order.clone();
    sorted.sort_unstable();
    if sorted == (0..rank).collect::<Vec<_>>() {
        Ok(order)
    } else {
        Err(format!("{order:?} is no order of {rank} axes").into())
    }
}

fn transpose(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let x = ty(graph, node, 0)?;
    let shape: Vec<_> = order(node, x.rank())?.into_iter().map(|i| x.shape[i]).collect();
    Ok(vec![TensorType::new(x.dtype, shape)])
}

/// The [batch, rows, columns] -> [batch, columns, rows] that a transpose amounts to, if it does.
pub(crate) fn as_batch_transpose(shape: &[usize], order: &[usize]) -> Option<[usize; 3]> {
    // Leading axes that stay are the batch; of the rest, what was last comes first.
    let lead = order.iter().enumerate().take_while(|(i, from)| i == *from).count();
    let turned: Vec<_> = (lead..shape.len()).collect();
    let cut = (1..turned.len()).find(|cut| {
        let (rows, columns) = turned.split_at(*cut);
        order[lead..].iter().eq(columns.iter().chain(rows))
    })?;
    let product = |axes: &[usize]| axes.iter().map(|axis| shape[*axis]).product::<usize>();
    let (rows, columns) = turned.split_at(cut);
    Some([shape[..lead].iter().product(), product(rows), product(columns)])
}

/// The order that undoes a transpose by `order`.
pub(super) fn inverse(order: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; order.len()];
    order.iter().enumerate().for_each(|(to, from)| inverse[*from] = to);
    inverse
}

fn transpose_gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
    let order = order(back.node, back.graph.shape(back.node.outputs[0]).len())?;
    let gradient = back.graph.transpose(back.dy()?, &inverse(&order));
    back.add(0, gradient);
    Ok(())
}

fn is_batch_transpose(graph: &Graph, node: &Node) -> bool {
    let Some(Attribute::Ints(order)) = node.attributes.get("perm") else { return false };
    let order: Vec<_> = order.iter().map(|axis| *axis as usize).collect();
    as_batch_transpose(graph.shape(node.input(0)), &order).is_some()
}

/// Two transposes are one; one that changes nothing is none.
fn joined(graph: &mut Graph, given: &Given<'_>) -> Option<Value> {
    let x = given.input(0)?;
    let rank = graph.shape(x).len();
    let reversed: Vec<_> = (0..rank as i64).rev().collect();
    let order = given.attributes.ints("perm", &reversed);
    if order.is_sorted() {
        return Some(x);
    }
    let before = graph.simplifiable(x).filter(|node| node.operator.name == "Transpose")?;
    let (source, first) = (before.input(0), before.ints("perm", &reversed));
    let both = order.iter().map(|axis| first[*axis as usize] as usize);
    Some(graph.apply1("Transpose", &[source], attributes([("perm", ints(both))])))
}

fn moved(node: &Node, inputs: &[&Constant], ty: &TensorType) -> Option<Vec<f64>> {
    let (x, shape) = (inputs[0].numbers(), inputs[0].shape());
    let reversed: Vec<_> = (0..shape.len() as i64).rev().collect();
    let order = node.ints("perm", &reversed);
    fold::each(&ty.shape, |index| {
        let mut from = vec![0; index.len()];
        order.iter().zip(index).for_each(|(axis, at)| from[*axis as usize] = *at);
        x.get(fold::broadcast(shape, &from)).copied()
    })
}

fn import_transpose(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let x = call.input(0)?;
    let rank = call.shape(x).len();
    let reversed: Vec<_> = (0..rank as i64).rev().collect();
    let order = call.attributes.ints("perm", &reversed);
    let order = order.into_iter().map(|a| axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
    let mut sorted = order.clone();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..rank) {
        return Err(format!("{order:?} is no order of {rank} axes").into());
    }
    Ok(vec![call.graph.transpose(x, &order)])
}
