//! Joining tensors along an axis, and cutting them apart.

use super::super::autodiff::Backward;
use super::super::core::{Graph, Node, Value};
use super::super::dim::Dim;
use super::super::error::GraphError;
use super::super::fold::{self, Fold};
use super::super::tensor::{Constant, TensorType};
use super::call::Call;
use super::reshape::to_shape;
use super::{Family, Precision, axis, constant_ints, op, ty};

pub(super) static FAMILY: Family = Family {
    operators: &[
        op("Concat", concat).gradient(concat_gradient).precision(Precision::Follow).fold(Fold::Node(joined)),
        op("Split", split).view().gradient(split_gradient).precision(Precision::Follow).fold(Fold::Nodes(parts)),
    ],
    imports: &[("Concat", import_concat), ("Split", import_split)],
};

fn concat(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let mut result = ty(graph, node, 0)?;
    let along = axis(node.int("axis", 0), result.rank())?;
    for i in 1..node.inputs.len() {
        let part = ty(graph, node, i)?;
        let fits = part.rank() == result.rank() && part.dtype == result.dtype;
        if !fits || (0..part.rank()).any(|i| i != along && part.shape[i] != result.shape[i]) {
            return Err(format!("{part} does not fit {result} along axis {along}").into());
        }
        result.shape[along] += part.shape[along];
    }
    Ok(vec![result])
}

fn concat_gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
    let dy = back.dy()?;
    let along = axis(back.node.int("axis", 0), back.graph.shape(dy).len())?;
    let sizes: Vec<_> = back.node.inputs.iter().flatten().map(|input| back.graph.shape(*input)[along]).collect();
    let parts = back.graph.split(dy, along, &sizes);
    for (i, part) in parts.into_iter().enumerate() {
        if back.wanted(i) {
            back.add(i, part);
        }
    }
    Ok(())
}

fn split(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (x, sizes) = (ty(graph, node, 0)?, to_shape(&constant_ints(graph, node, 1)?)?);
    let along = axis(node.int("axis", 0), x.rank())?;
    if sizes.iter().any(|size| Dim::of(*size).is_batch()) {
        return Err("the parts depend on the batch".into());
    }
    if sizes.iter().sum::<usize>() != x.shape[along] {
        return Err(format!("parts {sizes:?} do not add up to {}", x.shape[along]).into());
    }
    let part = |size: usize| {
        let mut part = x.clone();
        part.shape[along] = size;
        part
    };
    Ok(sizes.into_iter().map(part).collect())
}

fn split_gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
    let node = back.node;
    let along = axis(node.int("axis", 0), back.graph.shape(node.input(0)).len())?;
    let part = |(i, output): (usize, &Value)| back.gradient(i).unwrap_or_else(|| zeros_like(back.graph, *output));
    let parts: Vec<_> = node.outputs.iter().enumerate().map(part).collect();
    let gradient = back.graph.concat(&parts, along);
    back.add(0, gradient);
    Ok(())
}

fn zeros_like(graph: &mut Graph, value: Value) -> Value {
    let shape = graph.shape(value).to_vec();
    graph.zeros(value, &shape)
}

fn joined(node: &Node, inputs: &[&Constant], ty: &TensorType) -> Option<Vec<f64>> {
    let along = axis(node.int("axis", 0), ty.rank()).ok()?;
    let numbers: Vec<_> = inputs.iter().map(|part| part.numbers()).collect();
    fold::each(&ty.shape, |index| {
        let mut from = index.to_vec();
        for (part, values) in inputs.iter().zip(&numbers) {
            let size = part.shape()[along];
            if from[along] < size {
                return Some(values[fold::position(part.shape(), &from)]);
            }
            from[along] -= size;
        }
        None
    })
}

fn parts(node: &Node, inputs: &[&Constant], types: &[TensorType]) -> Option<Vec<Constant>> {
    let x = inputs[0];
    let along = axis(node.int("axis", 0), x.shape().len()).ok()?;
    let values = x.numbers();
    let mut start = 0;
    types
        .iter()
        .map(|ty| {
            let numbers = fold::each(&ty.shape, |index| {
                let mut from = index.to_vec();
                from[along] += start;
                Some(values[fold::position(x.shape(), &from)])
            });
            start += ty.shape[along];
            Some(Constant::from_numbers(ty.dtype, ty.shape.clone(), &numbers?))
        })
        .collect()
}

pub(in super::super) fn import_concat(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let mut parts = (0..call.inputs.len()).map(|i| call.input(i)).collect::<Result<Vec<_>, _>>()?;
    // What is empty adds nothing, such as what `roll(0)` moves to the front.
    if parts.iter().any(|part| call.graph.ty(*part).elements() > 0) {
        parts.retain(|part| call.graph.ty(*part).elements() > 0);
    }
    // In mixed precision, what products gave and what norms gave meet here.
    let floats = parts.iter().all(|part| call.graph.dtype(*part).is_float());
    if floats && parts.iter().any(|part| call.graph.dtype(*part) != call.graph.dtype(parts[0])) {
        parts = parts.into_iter().map(|part| call.graph.to_f32(part)).collect();
    }
    let first = call.graph.ty(*parts.first().ok_or("nothing to join")?).clone();
    let (rank, dtype, first) = (first.rank(), first.dtype, first.shape);
    let along = axis(call.attributes.int("axis", 0), rank)?;
    for part in &parts {
        let shape = call.shape(*part);
        if shape.len() != rank
            || call.graph.dtype(*part) != dtype
            || (0..rank).any(|i| i != along && shape[i] != first[i])
        {
            return Err(format!("{shape:?} does not fit {first:?} along axis {along}").into());
        }
    }
    Ok(vec![call.graph.concat(&parts, along)])
}

/// Sizes from an input, or equal parts, the last one smaller.
fn import_split(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let x = call.input(0)?;
    let shape = call.shape(x);
    let along = axis(call.attributes.int("axis", 0), shape.len())?;
    let sizes: Vec<usize> = match call.integers(1)? {
        Some(sizes) => sizes.into_iter().map(|size| size.max(0) as usize).collect(),
        None => {
            let parts = call.outputs.max(1);
            let size = shape[along].div_ceil(parts);
            (0..parts).map(|i| size.min(shape[along].saturating_sub(i * size))).collect()
        }
    };
    let total = sizes.iter().try_fold(0usize, |sum, size| sum.checked_add(*size));
    if total != Some(shape[along]) || sizes.len() != call.outputs || sizes.is_empty() {
        return Err(format!("the parts {sizes:?} do not add up to {}", shape[along]).into());
    }
    Ok(call.graph.split(x, along, &sizes))
}
