//! Channels last: what is computed from a convolution's output stays in the order in which that lies in memory, until
//! something needs its channels second. Two transpositions that meet go.

use super::super::attributes::{Attribute, Attributes};
use super::super::core::{Graph, Node, Value};
use super::super::operators::{Part, order, pads, ranges, reduced_axes};
use super::plan::part;

/// Moves transpositions from "channels last" down behind pointwise operators, reductions, pads, slices and
/// concatenations.
pub(in super::super) fn keep_channels_last(graph: &mut Graph) {
    graph.rewrite(|graph, node, _| {
        let rank = graph.shape(*node.inputs.iter().flatten().next()?).len();
        let turned = node.inputs.iter().flatten().any(|x| turned(graph, *x).is_some());
        if !turned {
            return None;
        }
        match (part(graph, node), node.operator.name) {
            (Some(Part::Pointwise), _) => pointwise(graph, node),
            (Some(Part::Reduction), _) => reduction(graph, node),
            (_, "Slice") => slice(graph, node, rank),
            (_, "Pad") => pad(graph, node, rank),
            (_, "Concat") => concat(graph, node, rank),
            _ => None,
        }
    });
}

/// What `value` is with its channels last, if it is that with its channels second.
fn turned(graph: &Graph, value: Value) -> Option<Value> {
    let node = graph.producer(value).filter(|node| node.operator.name == "Transpose")?;
    let rank = graph.shape(value).len();
    let second = order(node, rank).is_ok_and(|order| (0..rank).all(|axis| order[axis] == moved(axis, rank)));
    (rank > 2 && second).then(|| node.input(0))
}

/// Where an axis of "channels second" is in "channels last".
fn moved(axis: usize, rank: usize) -> usize {
    match axis {
        0 => 0,
        1 => rank - 1,
        _ => axis - 1,
    }
}

/// A value that broadcasts against one of `rank` axes, with its channels last.
fn last(graph: &mut Graph, value: Value, rank: usize) -> Value {
    if let Some(turned) = turned(graph, value) {
        return turned;
    }
    if graph.ty(value).elements() == 1 {
        return value;
    }
    let own = graph.shape(value).to_vec();
    let shape: Vec<_> = std::iter::repeat_n(1, rank - own.len()).chain(own).collect();
    let mut to = vec![0; rank];
    (0..rank).for_each(|axis| to[moved(axis, rank)] = shape[axis]);
    // Where only axes of one element change places, the elements stay.
    let filled = |shape: &[usize]| shape.iter().copied().filter(|size| *size > 1).collect::<Vec<_>>();
    let alone = shape[1] == 1 || shape[2..].iter().all(|size| *size == 1);
    if alone && filled(&shape) == filled(&to) {
        return graph.reshape(value, &to);
    }
    let whole = graph.reshape(value, &shape);
    graph.channels_last(whole)
}

fn pointwise(graph: &mut Graph, node: &Node) -> Option<Vec<Value>> {
    let rank = graph.shape(node.outputs[0]).len();
    if node.inputs.iter().flatten().any(|x| turned(graph, *x).is_some() && graph.shape(*x).len() != rank) {
        return None;
    }
    let inputs = node.inputs.iter().map(|x| x.map(|x| last(graph, x, rank))).collect();
    let y = graph.try_apply(node.operator.name, inputs, node.attributes.clone()).ok()?[0];
    Some(vec![graph.channels_second(y)])
}

fn reduction(graph: &mut Graph, node: &Node) -> Option<Vec<Value>> {
    let x = turned(graph, node.input(0))?;
    let rank = graph.shape(x).len();
    let axes = reduced_axes(graph, node).ok()?;
    let own: Vec<_> = axes.iter().map(|axis| moved(*axis, rank) as i64).collect();
    let own = graph.i64s(&own);
    let keeps = node.int("keepdims", 1) != 0;
    let y = graph.try_apply(node.operator.name, vec![Some(x), Some(own)], node.attributes.clone()).ok()?[0];
    if keeps {
        return Some(vec![graph.channels_second(y)]);
    }
    // The axes that are left, as they come and as they should.
    let left: Vec<_> = (0..rank).filter(|axis| !axes.contains(axis)).collect();
    let mut there = left.clone();
    there.sort_by_key(|axis| moved(*axis, rank));
    let order: Vec<_> =
        left.iter().map(|axis| there.iter().position(|other| other == axis).expect("one of them")).collect();
    Some(vec![graph.transpose(y, &order)])
}

fn slice(graph: &mut Graph, node: &Node, rank: usize) -> Option<Vec<Value>> {
    let x = turned(graph, node.input(0))?;
    let given = ranges(graph, node).ok()?;
    let mut own = given.clone();
    (0..rank).for_each(|axis| own[moved(axis, rank)] = given[axis]);
    let y = (0..rank).fold(x, |x, axis| {
        let (start, end, step) = own[axis];
        graph.strided_slice(x, axis, start, end, step)
    });
    Some(vec![graph.channels_second(y)])
}

fn pad(graph: &mut Graph, node: &Node, rank: usize) -> Option<Vec<Value>> {
    let x = turned(graph, node.input(0))?;
    let given = pads(graph, node).ok()?;
    let mut own = vec![0; 2 * rank];
    for (axis, (before, after)) in given.into_iter().enumerate() {
        let to = moved(axis, rank);
        (own[to], own[rank + to]) = (before as i64, after as i64);
    }
    let mut inputs = node.inputs.clone();
    (inputs[0], inputs[1]) = (Some(x), Some(graph.i64s(&own)));
    let y = graph.try_apply("Pad", inputs, node.attributes.clone()).ok()?[0];
    Some(vec![graph.channels_second(y)])
}

fn concat(graph: &mut Graph, node: &Node, rank: usize) -> Option<Vec<Value>> {
    if node.inputs.iter().flatten().any(|x| turned(graph, *x).is_none()) {
        return None;
    }
    let axis = node.int("axis", 0).rem_euclid(rank as i64) as usize;
    let inputs = node.inputs.iter().map(|x| x.map(|x| last(graph, x, rank))).collect();
    let attributes = Attributes::from_iter([("axis".into(), Attribute::Int(moved(axis, rank) as i64))]);
    let y = graph.try_apply("Concat", inputs, attributes).ok()?[0];
    Some(vec![graph.channels_second(y)])
}
