//! Parts of tensors.

use super::super::attributes::Attribute;
use super::super::autodiff::Backward;
use super::super::build::attributes;
use super::super::core::{Graph, Node, Value};
use super::super::error::GraphError;
use super::super::fold::{self, Fold};
use super::super::tensor::{Constant, TensorType};
use super::call::Call;
use super::{Family, Precision, axis, constant_ints, op, ty};

pub(super) static FAMILY: Family = Family {
    operators: &[op("Slice", slice)
        .view()
        .gradient(slice_gradient)
        .precision(Precision::Follow)
        .fold(Fold::Node(taken))
        .simplify(|graph, given| given.unchanged(graph))],
    imports: &[("Slice", import_slice)],
};

/// What a slice takes of each axis: start, end and step.
pub(in crate::graph) fn ranges(graph: &Graph, node: &Node) -> Result<Vec<(usize, usize, usize)>, GraphError> {
    Ok(Ranges::of(graph, node)?.0)
}

/// What a slice takes: (start, end, step) for each axis.
struct Ranges(Vec<(usize, usize, usize)>);

impl Ranges {
    /// From starts and ends, and perhaps axes and steps, for a tensor of `shape`.
    fn new(shape: &[usize], lists: &[Vec<i64>]) -> Result<Self, GraphError> {
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

    fn of(graph: &Graph, node: &Node) -> Result<Self, GraphError> {
        let given = (1..node.inputs.len()).map(|i| constant_ints(graph, node, i));
        Self::new(&ty(graph, node, 0)?.shape, &given.collect::<Result<Vec<_>, _>>()?)
    }

    fn shape(&self) -> Vec<usize> {
        self.0.iter().map(|(start, end, step)| (end - start).div_ceil(*step)).collect()
    }

    /// Where element `index` of the slice comes from.
    fn source(&self, index: &[usize]) -> Vec<usize> {
        self.0.iter().zip(index).map(|((start, _, step), at)| start + at * step).collect()
    }
}

fn slice(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    Ok(vec![TensorType::new(ty(graph, node, 0)?.dtype, Ranges::of(graph, node)?.shape())])
}

/// Zeros go where the slice took nothing: between its elements if it took steps, then before and after.
fn slice_gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
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

fn taken(_: &Node, inputs: &[&Constant], ty: &TensorType) -> Option<Vec<f64>> {
    let (x, shape) = (inputs[0].numbers(), inputs[0].shape());
    let lists = inputs[1..].iter().map(|list| fold::integers(list)).collect::<Option<Vec<_>>>()?;
    let ranges = Ranges::new(shape, &lists).ok()?;
    fold::each(&ty.shape, |index| Some(x[fold::position(shape, &ranges.source(index))]))
}

/// Forward slices as they are; a backward one turns its axis around by picking rows.
fn import_slice(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let mut x = call.input(0)?;
    let rank = call.shape(x).len();
    let list = |call: &Call<'_>, i: usize| call.integers(i);
    let (starts, ends) = (list(call, 1)?.ok_or("starts are missing")?, list(call, 2)?.ok_or("ends are missing")?);
    let axes = list(call, 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = list(call, 4)?.unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return Err("starts, ends, axes and steps have different lengths".into());
    }
    for (((start, end), along), step) in starts.into_iter().zip(ends).zip(axes).zip(steps) {
        let along = axis(along, rank)?;
        let size = call.shape(x)[along] as i64;
        let wrap = |at: i64| if at < 0 { at.saturating_add(size) } else { at };
        if step > 0 {
            let (start, end) = (wrap(start).clamp(0, size) as usize, wrap(end).clamp(0, size) as usize);
            x = call.graph.strided_slice(x, along, start, end.max(start), step as usize);
        } else if step < 0 {
            let (start, end) = (wrap(start).clamp(-1, size - 1), wrap(end).clamp(-1, size - 1));
            let picked: Vec<_> = (0..).map(|i| start + i * step).take_while(|at| *at > end).collect();
            let indices = call.graph.i64s(&picked);
            let attributes = attributes([("axis", Attribute::Int(along as i64))]);
            x = call.apply("Gather", &[x, indices], attributes)?[0];
        } else {
            return Err("a step must not be 0".into());
        }
    }
    Ok(vec![x])
}
