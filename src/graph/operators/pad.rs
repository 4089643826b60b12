//! Padding: with a number, or with elements of the tensor.

use super::super::attributes::Attribute;
use super::super::autodiff::Backward;
use super::super::build::attributes;
use super::super::core::{Graph, Node, Value};
use super::super::error::GraphError;
use super::super::tensor::TensorType;
use super::call::Call;
use super::reshape::to_shape;
use super::{Family, axis, constant_ints, op, ty};

pub(super) static FAMILY: Family = Family {
    operators: &[op("Pad", pad).gradient(pad_gradient).no_bf16().simplify(|graph, given| given.unchanged(graph))],
    imports: &[("Pad", import_pad)],
};

/// Elements before and after each axis.
pub(in crate::graph) fn pads(graph: &Graph, node: &Node) -> Result<Vec<(usize, usize)>, GraphError> {
    let (rank, pads) = (ty(graph, node, 0)?.rank(), to_shape(&constant_ints(graph, node, 1)?)?);
    if pads.len() != 2 * rank {
        return Err(format!("{} pads do not fit {rank} axes", pads.len()).into());
    }
    Ok((0..rank).map(|i| (pads[i], pads[rank + i])).collect())
}

fn pad(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let mut x = ty(graph, node, 0)?;
    for (dim, (before, after)) in x.shape.iter_mut().zip(pads(graph, node)?) {
        *dim += before + after;
    }
    Ok(vec![x])
}

fn pad_gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
    let mut gradient = back.dy()?;
    for (along, (before, after)) in pads(back.graph, back.node)?.into_iter().enumerate() {
        let end = back.graph.shape(gradient)[along] - after;
        gradient = back.graph.slice(gradient, along, before, end);
    }
    back.add(0, gradient);
    Ok(())
}

/// Constant padding as it is, cropping where pads are negative; reflected and repeated edges by picking rows.
fn import_pad(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let mut x = call.input(0)?;
    let rank = call.shape(x).len();
    let pads = call.integers(1)?.ok_or("pads are missing")?;
    let axes = match call.integers(3)? {
        Some(axes) => axes.into_iter().map(|a| axis(a, rank)).collect::<Result<Vec<_>, _>>()?,
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() || pads.iter().any(|pad| pad.unsigned_abs() > 1 << 24) {
        return Err(format!("pads {pads:?} do not fit {} axes", axes.len()).into());
    }
    let fill = call.numbers(2)?;
    let mode = call.attributes.text("mode", "constant").to_owned();
    for (i, along) in axes.iter().enumerate() {
        let (before, after) = (pads[i], pads[axes.len() + i]);
        let size = call.shape(x)[*along] as i64;
        if before < 0 || after < 0 {
            let (from, to) = ((-before).max(0), (size - (-after).max(0)).max(0));
            x = call.graph.slice(x, *along, from.min(to) as usize, to as usize);
        }
        let (before, after) = (before.max(0), after.max(0));
        if before == 0 && after == 0 {
            continue;
        }
        x = if mode == "constant" {
            let value = fill.as_ref().and_then(|values| values.first()).copied().unwrap_or(0.0);
            filled(call, x, *along, (before, after), value as f32)?
        } else {
            picked(call, x, *along, (before, after), &mode)?
        };
    }
    Ok(vec![x])
}

fn filled(call: &mut Call<'_>, x: Value, along: usize, ends: (i64, i64), value: f32) -> Result<Value, GraphError> {
    let rank = call.shape(x).len();
    let mut pads = vec![0; 2 * rank];
    (pads[along], pads[rank + along]) = ends;
    let (pads, value) = (call.graph.i64s(&pads), call.scalar(x, value));
    call.apply1("Pad", &[x, pads, value])
}

fn picked(call: &mut Call<'_>, x: Value, along: usize, ends: (i64, i64), mode: &str) -> Result<Value, GraphError> {
    let size = call.shape(x)[along] as i64;
    if size == 0 {
        return Err("the axis has no elements to pad with".into());
    }
    let at = |i: i64| match mode {
        "edge" => Ok(i.clamp(0, size - 1)),
        "wrap" => Ok(i.rem_euclid(size)),
        "reflect" if size == 1 => Ok(0),
        "reflect" => {
            let period = 2 * (size - 1);
            let i = i.rem_euclid(period);
            Ok(if i < size { i } else { period - i })
        }
        other => Err(GraphError::from(format!("mode {other} is not supported"))),
    };
    let indices = (-ends.0..size + ends.1).map(at).collect::<Result<Vec<_>, _>>()?;
    let indices = call.graph.i64s(&indices);
    let attributes = attributes([("axis", Attribute::Int(along as i64))]);
    Ok(call.apply("Gather", &[x, indices], attributes)?[0])
}
