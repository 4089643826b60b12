//! The operators this project knows: one family to a file, with shape inference, gradient and tests side by side.
//! Sources: the ONNX operator specification (opset 18 forms) for shapes; PyTorch for what gradients must equal.

mod adam;
mod cell;
mod conv;
mod elementwise;
mod geometry;
mod index;
mod mask;
mod matmul;
mod norm;
mod pool;
mod reduce;
mod shape;
mod softmax;

pub(super) use cell::expand_cells;
pub(super) use geometry::{Geometry, resolve_auto_pad};
pub(super) use shape::Ranges;
pub(crate) use shape::as_batch_transpose;

use super::autodiff::Backward;
use super::core::{Graph, Node, Value};
use super::tensor::TensorType;

/// Types of a node's outputs, from its inputs, attributes and constants.
type Infer = fn(&Graph, &Node) -> Result<Vec<TensorType>, String>;

/// Adds the contributions of a node to the gradients of its inputs.
type Gradient = fn(&mut Backward<'_>) -> Result<(), String>;

/// Writes a fused operator as standard ones; gives the values that replace its outputs.
type Expand = fn(&mut Graph, &Node) -> Vec<Value>;

/// An operator of ONNX, or a fused one of this project's own domain ([`FUSED_DOMAIN`]).
#[derive(Debug)]
pub struct Operator {
    pub name: &'static str,
    /// Empty: ONNX's own.
    pub domain: &'static str,
    pub(super) infer: Infer,
    /// `None`: not differentiable, or not yet.
    pub(super) gradient: Option<Gradient>,
    /// How a fused operator is written for providers that have no kernel of it. `None`: a standard operator, or one
    /// that only ever stands in for it.
    pub(super) expand: Option<Expand>,
}

/// Domain of the operators that `runtime::kernels` implements.
pub const FUSED_DOMAIN: &str = "emg";

const fn op(name: &'static str, infer: Infer, gradient: Option<Gradient>) -> Operator {
    Operator { name, domain: "", infer, gradient, expand: None }
}

const fn fused(name: &'static str, infer: Infer, expand: Option<Expand>) -> Operator {
    Operator { name, domain: FUSED_DOMAIN, infer, gradient: None, expand }
}

/// All operators, by family.
static TABLE: &[&[Operator]] = &[
    adam::OPERATORS,
    elementwise::OPERATORS,
    matmul::OPERATORS,
    conv::OPERATORS,
    norm::OPERATORS,
    reduce::OPERATORS,
    shape::OPERATORS,
    cell::OPERATORS,
    index::OPERATORS,
    mask::OPERATORS,
    pool::OPERATORS,
    softmax::OPERATORS,
];

/// Names of ONNX's own operators in the table.
pub(super) fn standard() -> impl Iterator<Item = &'static str> {
    TABLE.iter().copied().flatten().filter(|operator| operator.domain.is_empty()).map(|operator| operator.name)
}

/// The operator of that name.
pub fn find(name: &str) -> Option<&'static Operator> {
    TABLE.iter().copied().flatten().find(|operator| operator.name == name)
}

fn ty(graph: &Graph, node: &Node, i: usize) -> Result<TensorType, String> {
    let value = node.inputs.get(i).copied().flatten().ok_or_else(|| format!("input {i} is missing"))?;
    Ok(graph.ty(value).clone())
}

/// The constant int64 list that input `i` must be.
fn constant_ints(graph: &Graph, node: &Node, i: usize) -> Result<Vec<i64>, String> {
    let value = node.inputs.get(i).copied().flatten().ok_or_else(|| format!("input {i} is missing"))?;
    graph.as_i64s(value).map(<[i64]>::to_vec).ok_or_else(|| format!("input {i} must be a constant list of integers"))
}

/// A possibly negative axis as an index.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize, String> {
    let index = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(index).ok().filter(|i| *i < rank).ok_or_else(|| format!("axis {axis} of {rank} dimensions"))
}

/// The shape that `a` and `b` broadcast to.
fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>, String> {
    let rank = a.len().max(b.len());
    let dim = |shape: &[usize], i: usize| (i + shape.len()).checked_sub(rank).map_or(1, |i| shape[i]);
    (0..rank)
        .map(|i| match (dim(a, i), dim(b, i)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            (x, y) => Err(format!("{x} and {y} do not broadcast")),
        })
        .collect()
}

/// Undoes broadcasting: sums `gradient` down to `shape`.
pub(super) fn reduce_to(graph: &mut Graph, gradient: Value, shape: &[usize]) -> Value {
    let from = graph.shape(gradient).to_vec();
    let lead = from.len() - shape.len();
    let axes: Vec<_> = (0..from.len()).filter(|i| *i < lead || (shape[i - lead] == 1 && from[*i] != 1)).collect();
    let summed = graph.reduce_sum(gradient, &axes, true);
    graph.reshape(summed, shape)
}
