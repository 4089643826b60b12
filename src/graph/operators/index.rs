//! Operators that pick elements by index, put them back, or keep a triangle of them. Indices are integers and carry
//! no gradient; picking and putting are each other's gradients.

use super::super::attributes::{Attribute, Attributes};
use super::super::autodiff::Backward;
use super::super::build::attributes;
use super::super::core::{Graph, Node, Value};
use super::super::error::GraphError;
use super::super::fold::{self, Fold};
use super::super::tensor::{Constant, DType, TensorType};
use super::call::Call;
use super::transpose::inverse;
use super::{Family, axis, constant_ints, op, ty};

pub(super) static FAMILY: Family = Family {
    operators: &[
        op("Gather", gather).gradient(gather_gradient).fold(Fold::Node(gathered)),
        op("GatherElements", gather_elements).gradient(picked_gradient),
        op("GatherND", gather_nd).gradient(picked_gradient),
        op("ScatterElements", scatter_elements).gradient(scattered_gradient),
        op("ScatterND", scatter_nd).gradient(scattered_gradient),
        // Values are gathered by their indices, so that their gradient is.
        op("TopK", top_k).gradient(|_| Ok(())),
        op("Trilu", trilu).gradient(trilu_gradient).fold(Fold::Node(triangle)),
    ],
    imports: &[
        ("ArgMax", import_arg),
        ("ArgMin", import_arg),
        ("EyeLike", import_eye),
        ("Gather", import_gather),
        ("OneHot", import_one_hot),
        ("TopK", import_top_k),
    ],
};

/// Values and indices of the k largest or smallest along an axis.
fn top_k(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (mut x, along) = (ty(graph, node, 0)?, axis(node.int("axis", -1), ty(graph, node, 0)?.rank())?);
    let k = constant_ints(graph, node, 1)?.first().and_then(|k| usize::try_from(*k).ok());
    let size = x.shape[along];
    x.shape[along] = k.filter(|k| *k <= size).ok_or_else(|| format!("k must be at most {size}"))?;
    let indices = TensorType::new(DType::I64, x.shape.clone());
    Ok(vec![x, indices])
}

fn import_top_k(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let x = call.float(0)?;
    let along = axis(call.attributes.int("axis", -1), call.shape(x).len())?;
    let indices = call.unchanged()?[1];
    Ok(vec![call.graph.gather_elements(x, indices, along), indices])
}

/// The index of the largest or smallest along an axis, as the first of those.
fn import_arg(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let x = call.float(0)?;
    let shape = call.shape(x);
    let along = axis(call.attributes.int("axis", 0), shape.len())?;
    if call.attributes.int("select_last_index", 0) != 0 {
        return Err("select_last_index is not supported".into());
    }
    let one = call.graph.i64s(&[1]);
    let largest = i64::from(call.operator == "ArgMax");
    let attributes = attributes([("axis", Attribute::Int(along as i64)), ("largest", Attribute::Int(largest))]);
    let indices = call.apply("TopK", &[x, one], attributes)?[1];
    if call.attributes.int("keepdims", 1) != 0 {
        return Ok(vec![indices]);
    }
    let kept: Vec<_> = (0..shape.len()).filter(|i| *i != along).map(|i| shape[i]).collect();
    Ok(vec![call.graph.reshape(indices, &kept)])
}

/// Ones on a diagonal.
fn import_eye(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    const MOST_ELEMENTS: usize = 1 << 24;
    let x = call.input(0)?;
    let [rows, columns] = call.shape(x)[..] else { return Err("expected a matrix".into()) };
    if rows.saturating_mul(columns) > MOST_ELEMENTS {
        return Err(format!("{rows} x {columns} is too large").into());
    }
    let (k, like) = (call.attributes.int("k", 0), call.graph.dtype(x));
    let dtype = match call.attributes.get("dtype") {
        Some(Attribute::Int(1 | 11)) => DType::F32,
        Some(Attribute::Int(9)) => DType::Bool,
        Some(_) => DType::I64,
        None => like,
    };
    let element = |i: usize| f64::from(u8::from((i / columns) as i64 + k == (i % columns) as i64));
    let numbers: Vec<_> = (0..rows * columns).map(element).collect();
    Ok(vec![call.graph.constant(Constant::from_numbers(dtype, [rows, columns], &numbers))])
}

/// One of two values, by whether an index is that of the place along a new axis.
fn import_one_hot(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let (indices, values) = (call.input(0)?, call.input(2)?);
    if call.shape(values) != [2] {
        return Err("expected two values".into());
    }
    let depth = call.numbers(1)?.and_then(|depth| depth.first().copied()).ok_or("the depth is missing")?;
    if !(1.0..=65536.0).contains(&depth) || !call.is_integer(indices) {
        return Err("expected integer indices and a depth of 1 to 65536".into());
    }
    let mut shape = call.shape(indices);
    let along = axis(call.attributes.int("axis", -1), shape.len() + 1)?;
    shape.insert(along, 1);
    let rank = shape.len();
    let indices = call.graph.reshape(indices, &shape);
    // Negative indices count from the end.
    let places: Vec<_> = (0..depth as i64).collect();
    let mut wide = vec![1; rank];
    wide[along] = places.len();
    let [forward, backward] = [0, depth as i64].map(|from| {
        let places: Vec<_> = places.iter().map(|place| place - from).collect();
        let places = call.graph.i64s(&places);
        call.graph.reshape(places, &wide)
    });
    let hit = call.apply1("Equal", &[indices, forward])?;
    let hit_backward = call.apply1("Equal", &[indices, backward])?;
    let hit = call.apply1("Or", &[hit, hit_backward])?;
    let parts = call.graph.split(values, 0, &[1, 1]);
    Ok(vec![call.apply1("Where", &[hit, parts[1], parts[0]])?])
}

fn indices(graph: &Graph, node: &Node) -> Result<TensorType, GraphError> {
    Some(ty(graph, node, 1)?).filter(|ty| ty.dtype == DType::I64).ok_or_else(|| "the indices must be int64".into())
}

fn along(graph: &Graph, node: &Node) -> Result<usize, GraphError> {
    axis(node.int("axis", 0), ty(graph, node, 0)?.rank())
}

fn gather(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (x, indices, along) = (ty(graph, node, 0)?, indices(graph, node)?, along(graph, node)?);
    let shape = [&x.shape[..along], &indices.shape, &x.shape[along + 1..]].concat();
    Ok(vec![TensorType::new(x.dtype, shape)])
}

/// Rows of dy are added to the rows they came from, the axis first.
fn gather_gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
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

fn gathered(node: &Node, inputs: &[&Constant], ty: &TensorType) -> Option<Vec<f64>> {
    let (x, shape) = (inputs[0].numbers(), inputs[0].shape());
    let along = axis(node.int("axis", 0), shape.len()).ok()?;
    let (indices, picked) = (fold::integers(inputs[1])?, inputs[1].shape().len());
    fold::each(&ty.shape, |index| {
        let at = *indices.get(fold::position(inputs[1].shape(), &index[along..along + picked]))?;
        let at = if at < 0 { at + shape[along] as i64 } else { at } as usize;
        let from = [&index[..along], &[at], &index[along + picked..]].concat();
        (at < shape[along]).then(|| x[fold::position(shape, &from)])
    })
}

/// One index is a slice; a whole list of neighbours, too.
fn import_gather(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let (x, indices) = (call.input(0)?, call.input(1)?);
    let shape = call.shape(x);
    let along = axis(call.attributes.int("axis", 0), shape.len())?;
    let Some(Constant::I64(dims, values)) = call.graph.as_constant(indices).cloned() else {
        return call.unchanged();
    };
    let values = values.into_iter().map(|at| axis(at, shape[along])).collect::<Result<Vec<_>, _>>()?;
    let neighbours = !values.is_empty() && values.windows(2).all(|pair| pair[1] == pair[0] + 1);
    if neighbours {
        let part = call.graph.slice(x, along, values[0], values[0] + values.len());
        let result = [&shape[..along], &dims, &shape[along + 1..]].concat();
        return Ok(vec![call.graph.reshape(part, &result)]);
    }
    let values: Vec<_> = values.into_iter().map(|at| at as i64).collect();
    let indices = call.graph.constant(Constant::I64(dims, values));
    call.inputs[1] = Some(indices);
    call.unchanged()
}

fn gather_elements(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (x, indices, _) = (ty(graph, node, 0)?, indices(graph, node)?, along(graph, node)?);
    if x.rank() != indices.rank() {
        return Err(format!("{indices} does not index {x}").into());
    }
    Ok(vec![TensorType::new(x.dtype, indices.shape)])
}

fn scatter_elements(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (x, indices, updates) = (ty(graph, node, 0)?, indices(graph, node)?, ty(graph, node, 2)?);
    along(graph, node)?;
    if x.rank() != indices.rank() || indices.shape != updates.shape || x.dtype != updates.dtype {
        return Err(format!("{updates} at {indices} does not fit {x}").into());
    }
    Ok(vec![x])
}

/// The shape of what tuples of indices pick from `x`.
fn picked_shape(x: &TensorType, indices: &TensorType) -> Result<Vec<usize>, GraphError> {
    let (depth, leading) = indices.shape.split_last().ok_or("indices must have an axis")?;
    let rest = x.shape.get(*depth..).ok_or_else(|| format!("{indices} is too deep for {x}"))?;
    Ok([leading, rest].concat())
}

fn gather_nd(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (x, indices) = (ty(graph, node, 0)?, indices(graph, node)?);
    if node.int("batch_dims", 0) != 0 {
        return Err("batch_dims are not supported".into());
    }
    Ok(vec![TensorType::new(x.dtype, picked_shape(&x, &indices)?)])
}

fn scatter_nd(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (x, indices, updates) = (ty(graph, node, 0)?, indices(graph, node)?, ty(graph, node, 2)?);
    if updates.shape != picked_shape(&x, &indices)? || x.dtype != updates.dtype {
        return Err(format!("{updates} at {indices} does not fit {x}").into());
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
fn picked_gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
    let (dy, (scatter, _, mut adding)) = (back.dy()?, pair(back.node));
    let shape = back.graph.shape(back.node.input(0)).to_vec();
    let zeros = back.graph.zeros(dy, &shape);
    adding.insert("reduction".into(), Attribute::Text("add".into()));
    let dx = back.graph.apply1(scatter, &[zeros, back.node.input(1), dy], adding);
    back.add(0, dx);
    Ok(())
}

/// What a scatter does with values that were there before.
fn reduction(node: &Node) -> Result<bool, GraphError> {
    match node.text("reduction", "none") {
        "none" => Ok(false),
        "add" => Ok(true),
        other => Err(format!("{}: no gradient of reduction {other}", node.operator.name).into()),
    }
}

/// Of ScatterElements and ScatterND: what was replaced has no gradient.
fn scattered_gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
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

fn trilu(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    Some(ty(graph, node, 0)?).filter(|x| x.rank() >= 2).map(|x| vec![x]).ok_or_else(|| "expected a matrix".into())
}

fn trilu_gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
    let inputs: Vec<_> = [Some(back.dy()?), back.node.optional(1)].into_iter().flatten().collect();
    let dx = back.graph.apply1("Trilu", &inputs, back.node.attributes.clone());
    back.add(0, dx);
    Ok(())
}

fn triangle(node: &Node, inputs: &[&Constant], ty: &TensorType) -> Option<Vec<f64>> {
    let (x, shape) = (inputs[0].numbers(), inputs[0].shape());
    let k = inputs.get(1).map_or(Some(0), |k| fold::integers(k)?.first().copied())?;
    let upper = node.int("upper", 1) != 0;
    fold::each(&ty.shape, |index| {
        let [.., row, column] = index else { return None };
        let above = *column as i64 - *row as i64;
        let kept = if upper { above >= k } else { above <= k };
        Some(if kept { x[fold::position(shape, index)] } else { 0.0 })
    })
}
