//! Operators that pick elements by index, put them back, or keep a triangle of them. Indices are integers and carry
//! no gradient; picking and putting are each other's gradients.

use super::super::autodiff::Backward;
use super::super::build::attributes;
use super::super::core::{Attribute, Attributes, Graph, Node};
use super::super::tensor::{DType, TensorType};
use super::shape::inverse;
use super::{Operator, axis, op, ty};

pub(super) static OPERATORS: &[Operator] = &[
    op("Gather", gather, Some(gather_gradient)),
    op("GatherElements", gather_elements, Some(picked_gradient)),
    op("GatherND", gather_nd, Some(picked_gradient)),
    op("ScatterElements", scatter_elements, Some(scattered_gradient)),
    op("ScatterND", scatter_nd, Some(scattered_gradient)),
    op("Trilu", trilu, Some(trilu_gradient)),
];

fn indices(graph: &Graph, node: &Node) -> Result<TensorType, String> {
    Some(ty(graph, node, 1)?).filter(|ty| ty.dtype == DType::I64).ok_or_else(|| "the indices must be int64".into())
}

fn along(graph: &Graph, node: &Node) -> Result<usize, String> {
    axis(node.int("axis", 0), ty(graph, node, 0)?.rank())
}

fn gather(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let (x, indices, along) = (ty(graph, node, 0)?, indices(graph, node)?, along(graph, node)?);
    let shape = [&x.shape[..along], &indices.shape, &x.shape[along + 1..]].concat();
    Ok(vec![TensorType::new(x.dtype, shape)])
}

/// Rows of dy are added to the rows they came from, the axis first.
fn gather_gradient(back: &mut Backward<'_>) -> Result<(), String> {
    let (dy, along) = (back.dy()?, along(back.graph, back.node)?);
    let (shape, picked) = (back.graph.shape(back.node.input(0)).to_vec(), back.graph.ty(back.node.input(1)).clone());
    let (before, after) = (shape[..along].to_vec(), shape[along + 1..].to_vec());
    let flat = [before.as_slice(), &[picked.elements()], &after].concat();
    let dy = back.graph.reshape(dy, &flat);
    let first: Vec<_> = std::iter::once(along).chain(0..along).chain(along + 1..shape.len()).collect();
    let dy = back.graph.transpose(dy, &first);
    let indices = back.graph.reshape(back.node.input(1), &[picked.elements(), 1]);
    let turned: Vec<_> = first.iter().map(|axis| shape[*axis]).collect();
    let zeros = back.graph.zeros(dy, &turned);
    let added = attributes([("reduction", Attribute::Text("add".into()))]);
    let scattered = back.graph.apply1("ScatterND", &[zeros, indices, dy], added);
    let dx = back.graph.transpose(scattered, &inverse(&first));
    back.add(0, dx);
    Ok(())
}

fn gather_elements(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let (x, indices, _) = (ty(graph, node, 0)?, indices(graph, node)?, along(graph, node)?);
    if x.rank() != indices.rank() {
        return Err(format!("{indices} does not index {x}"));
    }
    Ok(vec![TensorType::new(x.dtype, indices.shape)])
}

fn scatter_elements(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let (x, indices, updates) = (ty(graph, node, 0)?, indices(graph, node)?, ty(graph, node, 2)?);
    along(graph, node)?;
    if x.rank() != indices.rank() || indices.shape != updates.shape || x.dtype != updates.dtype {
        return Err(format!("{updates} at {indices} does not fit {x}"));
    }
    Ok(vec![x])
}

/// The shape of what tuples of indices pick from `x`.
fn picked_shape(x: &TensorType, indices: &TensorType) -> Result<Vec<usize>, String> {
    let (depth, leading) = indices.shape.split_last().ok_or("indices must have an axis")?;
    let rest = x.shape.get(*depth..).ok_or_else(|| format!("{indices} is too deep for {x}"))?;
    Ok([leading, rest].concat())
}

fn gather_nd(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let (x, indices) = (ty(graph, node, 0)?, indices(graph, node)?);
    if node.int("batch_dims", 0) != 0 {
        return Err("batch_dims are not supported".into());
    }
    Ok(vec![TensorType::new(x.dtype, picked_shape(&x, &indices)?)])
}

fn scatter_nd(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let (x, indices, updates) = (ty(graph, node, 0)?, indices(graph, node)?, ty(graph, node, 2)?);
    if updates.shape != picked_shape(&x, &indices)? || x.dtype != updates.dtype {
        return Err(format!("{updates} at {indices} does not fit {x}"));
    }
    Ok(vec![x])
}

/// The scatter and the gather that are each other's gradients, of which `node` is one, and what both need to know.
fn pair(node: &Node) -> (&'static str, &'static str, Attributes) {
    match node.operator.name {
        "GatherElements" | "ScatterElements" => {
            let along = attributes([("axis", Attribute::Int(node.int("axis", 0)))]);
            ("ScatterElements", "GatherElements", along)
        }
        _ => ("ScatterND", "GatherND", Attributes::new()),
    }
}

/// Of GatherElements and GatherND: dy is added to the elements it came from.
fn picked_gradient(back: &mut Backward<'_>) -> Result<(), String> {
    let (dy, (scatter, _, mut adding)) = (back.dy()?, pair(back.node));
    let shape = back.graph.shape(back.node.input(0)).to_vec();
    let zeros = back.graph.zeros(dy, &shape);
    adding.insert("reduction".into(), Attribute::Text("add".into()));
    let dx = back.graph.apply1(scatter, &[zeros, back.node.input(1), dy], adding);
    back.add(0, dx);
    Ok(())
}

/// What a scatter does with values that were there before.
fn reduction(node: &Node) -> Result<bool, String> {
    match node.text("reduction", "none") {
        "none" => Ok(false),
        "add" => Ok(true),
        other => Err(format!("{}: no gradient of reduction {other}", node.operator.name)),
    }
}

/// Of ScatterElements and ScatterND: what was replaced has no gradient.
fn scattered_gradient(back: &mut Backward<'_>) -> Result<(), String> {
    let (dy, adds) = (back.dy()?, reduction(back.node)?);
    let (indices, updates) = (back.node.input(1), back.node.input(2));
    let (scatter, gather, along) = pair(back.node);
    if back.wanted(0) {
        let dx = if adds {
            dy
        } else {
            let shape = back.graph.shape(updates).to_vec();
            let zeros = back.graph.zeros(dy, &shape);
            back.graph.apply1(scatter, &[dy, indices, zeros], along.clone())
        };
        back.add(0, dx);
    }
    if back.wanted(2) {
        let gradient = back.graph.apply1(gather, &[dy, indices], along);
        back.add(2, gradient);
    }
    Ok(())
}

fn trilu(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    Some(ty(graph, node, 0)?).filter(|x| x.rank() >= 2).map(|x| vec![x]).ok_or_else(|| "expected a matrix".into())
}

fn trilu_gradient(back: &mut Backward<'_>) -> Result<(), String> {
    let inputs: Vec<_> = [Some(back.dy()?), back.node.optional(1)].into_iter().flatten().collect();
    let dx = back.graph.apply1("Trilu", &inputs, back.node.attributes.clone());
    back.add(0, dx);
    Ok(())
}
