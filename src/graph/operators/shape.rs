//! Operators that move elements without changing them.

use super::super::autodiff::Backward;
use super::super::core::{DYNAMIC_BATCH, Graph, Node, Value};
use super::super::tensor::TensorType;
use super::{Operator, axis, broadcast, constant_ints, fused, op, ty};

pub(super) static OPERATORS: &[Operator] = &[
    op("Concat", concat, Some(concat_gradient)),
    op("Expand", expand, Some(expand_gradient)),
    op("Pad", pad, Some(pad_gradient)),
    op("Reshape", reshape, Some(reshape_gradient)),
    op("Slice", slice, Some(slice_gradient)),
    op("Split", split, Some(split_gradient)),
    op("Transpose", transpose, Some(transpose_gradient)),
    fused("BatchTranspose", transpose, None),
];

fn to_shape(dims: &[i64]) -> Result<Vec<usize>, String> {
    dims.iter().map(|dim| usize::try_from(*dim).map_err(|_| format!("dimension {dim}"))).collect()
}

fn reshape(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let (x, shape) = (ty(graph, node, 0)?, to_shape(&constant_ints(graph, node, 1)?)?);
    if shape.iter().product::<usize>() != x.elements() {
        return Err(format!("{x} has another number of elements than {shape:?}"));
    }
    if shape.iter().filter(|dim| **dim != 0 && **dim % DYNAMIC_BATCH == 0).count() > 1 {
        return Err("two dimensions depend on the batch".into());
    }
    Ok(vec![TensorType::new(x.dtype, shape)])
}

fn reshape_gradient(back: &mut Backward<'_>) -> Result<(), String> {
    let shape = back.graph.shape(back.node.input(0)).to_vec();
    let gradient = back.graph.reshape(back.dy()?, &shape);
    back.add(0, gradient);
    Ok(())
}

fn order(node: &Node, rank: usize) -> Result<Vec<usize>, String> {
    let default: Vec<_> = (0..rank as i64).rev().collect();
    let order = to_shape(&node.ints("perm", &default))?;
    let mut sorted = order.clone();
    sorted.sort_unstable();
    if sorted == (0..rank).collect::<Vec<_>>() {
        Ok(order)
    } else {
        Err(format!("{order:?} is no order of {rank} axes"))
    }
}

fn transpose(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
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

fn transpose_gradient(back: &mut Backward<'_>) -> Result<(), String> {
    let order = order(back.node, back.graph.shape(back.node.outputs[0]).len())?;
    let gradient = back.graph.transpose(back.dy()?, &inverse(&order));
    back.add(0, gradient);
    Ok(())
}

fn concat(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let mut result = ty(graph, node, 0)?;
    let along = axis(node.int("axis", 0), result.rank())?;
    for i in 1..node.inputs.len() {
        let part = ty(graph, node, i)?;
        let fits = part.rank() == result.rank() && part.dtype == result.dtype;
        if !fits || (0..part.rank()).any(|i| i != along && part.shape[i] != result.shape[i]) {
            return Err(format!("{part} does not fit {result} along axis {along}"));
        }
        result.shape[along] += part.shape[along];
    }
    Ok(vec![result])
}

fn concat_gradient(back: &mut Backward<'_>) -> Result<(), String> {
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

fn split(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let (x, sizes) = (ty(graph, node, 0)?, to_shape(&constant_ints(graph, node, 1)?)?);
    let along = axis(node.int("axis", 0), x.rank())?;
    if sizes.iter().any(|size| *size != 0 && size.is_multiple_of(DYNAMIC_BATCH)) {
        return Err("the parts depend on the batch".into());
    }
    if sizes.iter().sum::<usize>() != x.shape[along] {
        return Err(format!("parts {sizes:?} do not add up to {}", x.shape[along]));
    }
    let part = |size: usize| {
        let mut part = x.clone();
        part.shape[along] = size;
        part
    };
    Ok(sizes.into_iter().map(part).collect())
}

fn split_gradient(back: &mut Backward<'_>) -> Result<(), String> {
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

/// What a slice takes: (start, end, step) for each axis.
pub(in super::super) struct Ranges(Vec<(usize, usize, usize)>);

impl Ranges {
    /// From starts and ends, and perhaps axes and steps, for a tensor of `shape`.
    pub(in super::super) fn new(shape: &[usize], lists: &[Vec<i64>]) -> Result<Self, String> {
        let [starts, ends, rest @ ..] = lists else { return Err("starts and ends are missing".into()) };
        let axes = rest.first().cloned().unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = rest.get(1).cloned().unwrap_or_else(|| vec![1; starts.len()]);
        let mut ranges: Vec<_> = shape.iter().map(|dim| (0, *dim, 1)).collect();
        for (((start, end), along), step) in starts.iter().zip(ends).zip(axes).zip(steps) {
            let along = axis(along, shape.len())?;
            let size = shape[along] as i64;
            let clip = |at: i64| (if at < 0 { at.saturating_add(size) } else { at }).clamp(0, size) as usize;
            let step =
                usize::try_from(step).ok().filter(|step| *step > 0).ok_or("backward slices are not supported")?;
            let (start, end) = (clip(*start), clip(*end).max(clip(*start)));
            // Of a step beyond the end only the start is taken; its gradient would be spread as far as the step.
            ranges[along] = if step < end - start { (start, end, step) } else { (start, end.min(start + 1), 1) };
        }
        Ok(Self(ranges))
    }

    fn of(graph: &Graph, node: &Node) -> Result<Self, String> {
        let given = (1..node.inputs.len()).map(|i| constant_ints(graph, node, i));
        Self::new(&ty(graph, node, 0)?.shape, &given.collect::<Result<Vec<_>, _>>()?)
    }

    fn shape(&self) -> Vec<usize> {
        self.0.iter().map(|(start, end, step)| (end - start).div_ceil(*step)).collect()
    }

    /// Where element `index` of the slice comes from.
    pub(in super::super) fn source(&self, index: &[usize]) -> Vec<usize> {
        self.0.iter().zip(index).map(|((start, _, step), at)| start + at * step).collect()
    }
}

fn slice(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    Ok(vec![TensorType::new(ty(graph, node, 0)?.dtype, Ranges::of(graph, node)?.shape())])
}

/// Zeros go where the slice took nothing: between its elements if it took steps, then before and after.
fn slice_gradient(back: &mut Backward<'_>) -> Result<(), String> {
    let shape = back.graph.shape(back.node.input(0)).to_vec();
    let mut gradient = back.dy()?;
    for (along, (start, _, step)) in Ranges::of(back.graph, back.node)?.0.into_iter().enumerate() {
        if step > 1 {
            gradient = back.graph.spread(gradient, along, step);
        }
        let after = shape[along] - start - back.graph.shape(gradient)[along];
        gradient = back.graph.pad(gradient, along, start, after);
    }
    back.add(0, gradient);
    Ok(())
}

fn pads(graph: &Graph, node: &Node) -> Result<Vec<(usize, usize)>, String> {
    let (rank, pads) = (ty(graph, node, 0)?.rank(), to_shape(&constant_ints(graph, node, 1)?)?);
    if pads.len() != 2 * rank {
        return Err(format!("{} pads for {rank} axes", pads.len()));
    }
    Ok((0..rank).map(|i| (pads[i], pads[rank + i])).collect())
}

fn pad(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let mut x = ty(graph, node, 0)?;
    for (dim, (before, after)) in x.shape.iter_mut().zip(pads(graph, node)?) {
        *dim += before + after;
    }
    Ok(vec![x])
}

fn pad_gradient(back: &mut Backward<'_>) -> Result<(), String> {
    let mut gradient = back.dy()?;
    for (along, (before, after)) in pads(back.graph, back.node)?.into_iter().enumerate() {
        let end = back.graph.shape(gradient)[along] - after;
        gradient = back.graph.slice(gradient, along, before, end);
    }
    back.add(0, gradient);
    Ok(())
}

fn expand(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let (x, shape) = (ty(graph, node, 0)?, to_shape(&constant_ints(graph, node, 1)?)?);
    Ok(vec![TensorType::new(x.dtype, broadcast(&x.shape, &shape)?)])
}

fn expand_gradient(back: &mut Backward<'_>) -> Result<(), String> {
    let dy = back.dy()?;
    back.add_broadcast(0, dy);
    Ok(())
}
