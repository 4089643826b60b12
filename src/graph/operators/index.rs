//! Operators that pick elements by index, put them back, or keep a triangle of them. Indices are integers and carry
//! no gradient; picking and putting are each other's gradients.

use super::super::autodiff::Adjoints;
use super::super::build::attributes;
use super::super::core::{Attribute, Attributes, Graph, Node, Value};
use super::super::tensor::{DType, TensorType};
use super::{Operator, axis, op, ty};

pub(super) static OPERATORS: &[Operator] = &[
    op("Gather", gather, Some(gather_gradient)),
    op("GatherElements", gather_elements, Some(gather_elements_gradient)),
    op("GatherND", gather_nd, Some(gather_nd_gradient)),
    op("ScatterElements", scatter_elements, Some(scatter_elements_gradient)),
    op("ScatterND", scatter_nd, Some(scatter_nd_gradient)),
    op("Trilu", trilu, Some(trilu_gradient)),
];

type Wanted<'a> = &'a dyn Fn(Value) -> bool;

fn indices(graph: &Graph, node: &Node) -> Result<TensorType, String> {
    Some(ty(graph, node, 1)?).filter(|ty| ty.dtype == DType::I64).ok_or_else(|| "the indices must be int64".into())
}

fn along(graph: &Graph, node: &Node) -> Result<usize, String> {
    axis(node.int("axis", 0), ty(graph, node, 0)?.rank())
}

fn added() -> Attributes {
    attributes([("reduction", Attribute::Text("add".into()))])
}

fn gather(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let (x, indices, along) = (ty(graph, node, 0)?, indices(graph, node)?, along(graph, node)?);
    let shape = [&x.shape[..along], &indices.shape, &x.shape[along + 1..]].concat();
    Ok(vec![TensorType::new(x.dtype, shape)])
}

/// Rows of dy are added to the rows they came from, the axis first.
fn gather_gradient(
    graph: &mut Graph,
    node: &Node,
    grads: &[Option<Value>],
    _: Wanted<'_>,
    adjoints: &mut Adjoints,
) -> Result<(), String> {
    let (dy, along) = (grads[0].expect("the only output was reached"), along(graph, node)?);
    let (shape, picked) = (graph.shape(node.input(0)).to_vec(), graph.ty(node.input(1)).clone());
    let (before, after) = (shape[..along].to_vec(), shape[along + 1..].to_vec());
    let flat = [before.as_slice(), &[picked.elements()], &after].concat();
    let dy = graph.reshape(dy, &flat);
    let first: Vec<_> = std::iter::once(along).chain(0..along).chain(along + 1..shape.len()).collect();
    let dy = graph.transpose(dy, &first);
    let indices = graph.reshape(node.input(1), &[picked.elements(), 1]);
    let turned: Vec<_> = first.iter().map(|axis| shape[*axis]).collect();
    let zeros = graph.zeros(dy, &turned);
    let scattered = graph.apply1("ScatterND", &[zeros, indices, dy], added());
    let mut back = vec![0; first.len()];
    first.iter().enumerate().for_each(|(to, from)| back[*from] = to);
    let dx = graph.transpose(scattered, &back);
    adjoints.add(node.input(0), dx);
    Ok(())
}

fn gather_elements(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let (x, indices, _) = (ty(graph, node, 0)?, indices(graph, node)?, along(graph, node)?);
    if x.rank() != indices.rank() {
        return Err(format!("{indices} does not index {x}"));
    }
    Ok(vec![TensorType::new(x.dtype, indices.shape)])
}

fn gather_elements_gradient(
    graph: &mut Graph,
    node: &Node,
    grads: &[Option<Value>],
    _: Wanted<'_>,
    adjoints: &mut Adjoints,
) -> Result<(), String> {
    let dy = grads[0].expect("the only output was reached");
    let shape = graph.shape(node.input(0)).to_vec();
    let zeros = graph.zeros(dy, &shape);
    let mut attributes = added();
    attributes.insert("axis".into(), Attribute::Int(node.int("axis", 0)));
    let dx = graph.apply1("ScatterElements", &[zeros, node.input(1), dy], attributes);
    adjoints.add(node.input(0), dx);
    Ok(())
}

fn scatter_elements(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let (x, indices, updates) = (ty(graph, node, 0)?, indices(graph, node)?, ty(graph, node, 2)?);
    along(graph, node)?;
    if x.rank() != indices.rank() || indices.shape != updates.shape || x.dtype != updates.dtype {
        return Err(format!("{updates} at {indices} does not fit {x}"));
    }
    Ok(vec![x])
}

/// What a scatter does with values that were there before.
fn reduction(node: &Node) -> Result<bool, String> {
    match node.text("reduction", "none") {
        "none" => Ok(false),
        "add" => Ok(true),
        other => Err(format!("{}: no gradient of reduction {other}", node.operator.name)),
    }
}

fn scatter_elements_gradient(
    graph: &mut Graph,
    node: &Node,
    grads: &[Option<Value>],
    wanted: Wanted<'_>,
    adjoints: &mut Adjoints,
) -> Result<(), String> {
    let (dy, adds) = (grads[0].expect("the only output was reached"), reduction(node)?);
    let (x, indices, updates) = (node.input(0), node.input(1), node.input(2));
    let along = attributes([("axis", Attribute::Int(node.int("axis", 0)))]);
    if wanted(x) {
        let shape = graph.shape(updates).to_vec();
        let zeros = graph.zeros(dy, &shape);
        let replaced = |g: &mut Graph| g.apply1("ScatterElements", &[dy, indices, zeros], along.clone());
        let dx = if adds { dy } else { replaced(graph) };
        adjoints.add(x, dx);
    }
    if wanted(updates) {
        let gradient = graph.apply1("GatherElements", &[dy, indices], along);
        adjoints.add(updates, gradient);
    }
    Ok(())
}

fn gather_nd(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let (x, indices) = (ty(graph, node, 0)?, indices(graph, node)?);
    if node.int("batch_dims", 0) != 0 {
        return Err("batch_dims are not supported".into());
    }
    let (depth, leading) = indices.shape.split_last().ok_or("indices must have an axis")?;
    let rest = x.shape.get(*depth..).ok_or_else(|| format!("{indices} is too deep for {x}"))?;
    Ok(vec![TensorType::new(x.dtype, [leading, rest].concat())])
}

fn gather_nd_gradient(
    graph: &mut Graph,
    node: &Node,
    grads: &[Option<Value>],
    _: Wanted<'_>,
    adjoints: &mut Adjoints,
) -> Result<(), String> {
    let dy = grads[0].expect("the only output was reached");
    let shape = graph.shape(node.input(0)).to_vec();
    let zeros = graph.zeros(dy, &shape);
    let dx = graph.apply1("ScatterND", &[zeros, node.input(1), dy], added());
    adjoints.add(node.input(0), dx);
    Ok(())
}

fn scatter_nd(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let (x, indices, updates) = (ty(graph, node, 0)?, indices(graph, node)?, ty(graph, node, 2)?);
    let (depth, leading) = indices.shape.split_last().ok_or("indices must have an axis")?;
    let rest = x.shape.get(*depth..).ok_or_else(|| format!("{indices} is too deep for {x}"))?;
    if updates.shape != [leading, rest].concat() || x.dtype != updates.dtype {
        return Err(format!("{updates} at {indices} does not fit {x}"));
    }
    Ok(vec![x])
}

fn scatter_nd_gradient(
    graph: &mut Graph,
    node: &Node,
    grads: &[Option<Value>],
    wanted: Wanted<'_>,
    adjoints: &mut Adjoints,
) -> Result<(), String> {
    let (dy, adds) = (grads[0].expect("the only output was reached"), reduction(node)?);
    let (x, indices, updates) = (node.input(0), node.input(1), node.input(2));
    if wanted(x) {
        let shape = graph.shape(updates).to_vec();
        let zeros = graph.zeros(dy, &shape);
        let replaced = |g: &mut Graph| g.apply1("ScatterND", &[dy, indices, zeros], Attributes::new());
        let dx = if adds { dy } else { replaced(graph) };
        adjoints.add(x, dx);
    }
    if wanted(updates) {
        let gradient = graph.apply1("GatherND", &[dy, indices], Attributes::new());
        adjoints.add(updates, gradient);
    }
    Ok(())
}

fn trilu(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    Some(ty(graph, node, 0)?).filter(|x| x.rank() >= 2).map(|x| vec![x]).ok_or_else(|| "expected a matrix".into())
}

fn trilu_gradient(
    graph: &mut Graph,
    node: &Node,
    grads: &[Option<Value>],
    _: Wanted<'_>,
    adjoints: &mut Adjoints,
) -> Result<(), String> {
    let inputs = [grads[0], node.optional(1)];
    let inputs: Vec<_> = inputs.into_iter().flatten().collect();
    let dx = graph.apply1("Trilu", &inputs, node.attributes.clone());
    adjoints.add(node.input(0), dx);
    Ok(())
}
