//! The operators, one family per file. A file holds everything specific to its operators: output types, gradients,
//! forms in other operators, values on constants, precision, and how they are imported from a user's model. A new
//! operator is an entry in its file; a new file is an entry in [`TABLE`].
//!
//! Sources: the ONNX operator specification (opset 18 forms) for shapes; PyTorch for what gradients must equal.

mod activation;
mod adam;
mod arithmetic;
mod batch_norm;
mod call;
mod cast;
mod concat;
mod conv;
mod cumsum;
mod dropout;
mod fourier;
mod frames;
mod geometry;
mod group_norm;
mod index;
mod layer_norm;
mod logic;
mod lstm_cell;
mod math;
mod matmul;
mod pad;
mod pool;
pub(super) mod random;
mod recurrence;
mod recurrent;
mod reduce;
mod region;
mod reshape;
mod resize;
mod slice;
mod softmax;
mod transpose;

pub use call::TrainingOperators;
pub(super) use call::{Call, Import};
pub(super) use concat::import_concat;
pub(super) use lstm_cell::{absorb_sums, expand_cells, is_cell};
pub(super) use matmul::part_sums;
pub(super) use pad::pads;
pub use recurrence::Cell as RecurrentCell;
pub(super) use reduce::{axes as reduced_axes, root_of_sum};
pub(super) use slice::ranges;
pub(crate) use transpose::as_batch_transpose;
pub(super) use transpose::order;

use std::sync::{Mutex, PoisonError};

use super::attributes::Attributes;
use super::autodiff::Backward;
use super::core::{Graph, Node, Value};
use super::error::GraphError;
use super::fold::Fold;
use super::simplify::Given;
use super::tensor::{DType, TensorType};

/// Types of a node's outputs, from its inputs, attributes and constants.
type Infer = fn(&Graph, &Node) -> Result<Vec<TensorType>, GraphError>;

/// Adds the contributions of a node to the gradients of its inputs.
type Gradient = fn(&mut Backward<'_>) -> Result<(), GraphError>;

/// Writes a fused operator as standard ones; gives the values that replace its outputs.
type Expand = fn(&mut Graph, &Node) -> Vec<Value>;

/// What may take the place of a node about to be made.
type Simplify = fn(&mut Graph, &Given<'_>) -> Option<Value>;

/// Whether an operator that stands in for another does the same for a node.
type Fits = fn(&Graph, &Node) -> bool;

/// Writes a node for regions; `None`: this one stays as it is.
type RegionForm = fn(&mut Graph, &Node) -> Option<Vec<Value>>;

/// What a region may do with an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Pointwise,
    View,
    Reduction,
}

/// What precision an operator computes in under an [`Autocast`](super::Autocast).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Precision {
    /// float32.
    Full,
    /// That of its inputs; float32 where they differ.
    Follow,
    /// The lower one: `bf16`: also where that is bfloat16; `weights`: also where only products with weights are in half
    /// precision.
    Product { bf16: bool, weights: bool },
}

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
    pub(super) fold: Option<Fold>,
    pub(super) simplify: Option<Simplify>,
    pub(super) precision: Precision,
    /// Whether ONNX Runtime's CUDA provider lacks a bfloat16 kernel of it (docs/OperatorKernels.md of
    /// microsoft/onnxruntime).
    pub(super) lacks_bf16: bool,
    /// Whether a fused operator has a CUDA kernel, in float32.
    pub(super) has_cuda_kernel: bool,
    /// Whether that kernel computes in half precision, too.
    pub(super) cuda_halves: bool,
    /// Which nodes of a fused operator that can be expanded the CPU's kernel is worth it for.
    pub(super) cpu_kernel: Fits,
    /// A fused operator that does the same on the CPU, faster, for nodes that it fits.
    pub(super) cpu_stand_in: Option<(&'static str, Fits)>,
    /// What a region may do with it.
    pub(super) part: Option<Part>,
    /// Whether a pointwise operator is exact on integers and truth values, too.
    pub(super) is_exact: bool,
    /// How it is written so that a region can take it. `None`: as it is, or by `expand`.
    pub(super) region_form: Option<RegionForm>,
    /// Whether it is in no table: a user's node that is taken as it is.
    pub(super) is_foreign: bool,
    /// The element types that decide whether a provider has a kernel for a node.
    pub(super) computes_in: fn(&Graph, &Node) -> Vec<DType>,
}

/// Domain of the operators that `runtime::kernels` implements.
pub const FUSED_DOMAIN: &str = "emg";

const fn op(name: &'static str, infer: Infer) -> Operator {
    Operator {
        name,
        domain: "",
        infer,
        gradient: None,
        expand: None,
        fold: None,
        simplify: None,
        precision: Precision::Full,
        lacks_bf16: false,
        has_cuda_kernel: false,
        cuda_halves: false,
        cpu_kernel: |_, _| true,
        cpu_stand_in: None,
        part: None,
        is_exact: false,
        region_form: None,
        is_foreign: false,
        computes_in: |graph, node| vec![graph.dtype(node.input(0))],
    }
}

const fn fused(name: &'static str, infer: Infer) -> Operator {
    Operator { domain: FUSED_DOMAIN, ..op(name, infer) }
}

impl Operator {
    const fn gradient(self, gradient: Gradient) -> Self {
        Self { gradient: Some(gradient), ..self }
    }

    const fn expand(self, expand: Expand) -> Self {
        Self { expand: Some(expand), ..self }
    }

    const fn fold(self, fold: Fold) -> Self {
        Self { fold: Some(fold), ..self }
    }

    const fn simplify(self, simplify: Simplify) -> Self {
        Self { simplify: Some(simplify), ..self }
    }

    const fn precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    const fn no_bf16(self) -> Self {
        Self { lacks_bf16: true, ..self }
    }

    const fn on_cuda(self) -> Self {
        Self { has_cuda_kernel: true, ..self }
    }

    const fn halves(self) -> Self {
        Self { cuda_halves: true, ..self }
    }

    const fn on_cpu_if(self, fits: Fits) -> Self {
        Self { cpu_kernel: fits, ..self }
    }

    const fn for_cpu(self, name: &'static str, fits: Fits) -> Self {
        Self { cpu_stand_in: Some((name, fits)), ..self }
    }

    /// One element of each input for one of the output.
    const fn pointwise(self) -> Self {
        Self { part: Some(Part::Pointwise), ..self }
    }

    /// Pointwise on elements of every type.
    const fn exact(self) -> Self {
        Self { is_exact: true, ..self.pointwise() }
    }

    /// Elements of the input in another place.
    const fn view(self) -> Self {
        Self { part: Some(Part::View), ..self }
    }

    const fn reduction(self) -> Self {
        Self { part: Some(Part::Reduction), ..self }
    }

    const fn for_regions(self, form: RegionForm) -> Self {
        Self { region_form: Some(form), ..self }
    }

    const fn computes_in(self, types: fn(&Graph, &Node) -> Vec<DType>) -> Self {
        Self { computes_in: types, ..self }
    }
}

/// A file's operators.
pub(super) struct Family {
    operators: &'static [Operator],
    /// How nodes of a user's model are written. Operators that are not among them are taken as they are.
    imports: &'static [(&'static str, Import)],
}

/// All families.
static TABLE: &[&Family] = &[
    &activation::FAMILY,
    &adam::FAMILY,
    &arithmetic::FAMILY,
    &batch_norm::FAMILY,
    &cast::FAMILY,
    &concat::FAMILY,
    &conv::FAMILY,
    &cumsum::FAMILY,
    &dropout::FAMILY,
    &fourier::FAMILY,
    &frames::FAMILY,
    &group_norm::FAMILY,
    &index::FAMILY,
    &layer_norm::FAMILY,
    &logic::FAMILY,
    &lstm_cell::FAMILY,
    &math::FAMILY,
    &matmul::FAMILY,
    &pad::FAMILY,
    &pool::FAMILY,
    &random::FAMILY,
    &recurrence::FAMILY,
    &recurrent::FAMILY,
    &region::FAMILY,
    &reduce::FAMILY,
    &reshape::FAMILY,
    &resize::FAMILY,
    &slice::FAMILY,
    &softmax::FAMILY,
    &transpose::FAMILY,
];

fn operators() -> impl Iterator<Item = &'static Operator> {
    TABLE.iter().flat_map(|family| family.operators)
}

fn imports() -> impl Iterator<Item = &'static (&'static str, Import)> {
    TABLE.iter().flat_map(|family| family.imports)
}

/// Names of the operators that a node of a user's model may have, but for those on sequences.
pub(super) fn known() -> impl Iterator<Item = &'static str> {
    let plain = operators().filter(|operator| operator.domain.is_empty() && import(operator.name).is_none());
    imports().map(|(name, _)| *name).chain(plain.map(|operator| operator.name))
}

/// The operator of that name.
pub fn find(name: &str) -> Option<&'static Operator> {
    operators().find(|operator| operator.name == name)
}

/// An operator that is taken as it is, whatever it does: no gradient flows through it.
pub(super) fn foreign(name: &str, domain: &str) -> &'static Operator {
    static KNOWN: Mutex<Vec<&'static Operator>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let found = known.iter().find(|operator| operator.name == name && operator.domain == domain);
    if let Some(operator) = found {
        return operator;
    }
    // A program meets a handful of them.
    let leak = |text: &str| -> &'static str { Box::leak(text.to_owned().into_boxed_str()) };
    let infer: Infer = |_, node| Err(format!("the shapes of {} are not known", node.operator.name).into());
    let types = |graph: &Graph, node: &Node| vec![graph.dtype(node.outputs[0])];
    let domain = leak(domain);
    let operator = Operator { domain, is_foreign: true, computes_in: types, ..op(leak(name), infer) };
    known.push(Box::leak(Box::new(operator)));
    known[known.len() - 1]
}

/// How a user's node of that operator is written; `None`: as it is.
pub(super) fn import(name: &str) -> Option<Import> {
    imports().find(|(other, _)| *other == name).map(|(_, import)| *import)
}

/// Names of the fused operators with a CUDA kernel, in float32.
pub fn fused_on_cuda() -> impl Iterator<Item = &'static str> {
    operators().filter(|operator| operator.has_cuda_kernel).map(|operator| operator.name)
}

/// Whether a fused operator's CUDA kernel computes in every type.
pub fn fused_in_halves(name: &str) -> bool {
    operators().any(|operator| operator.name == name && operator.cuda_halves)
}

/// Names of the operators that are functions of single elements.
#[cfg(test)]
pub(crate) fn pointwise() -> impl Iterator<Item = &'static str> {
    operators().filter(|operator| operator.part == Some(Part::Pointwise)).map(|operator| operator.name)
}

/// Shapes of a fused operator's outputs from those of its inputs.
///
/// # Errors
/// They do not fit it.
pub(crate) fn fused_shapes(
    operator: &'static Operator,
    inputs: &[TensorType],
    attributes: &Attributes,
) -> Result<Vec<Vec<usize>>, GraphError> {
    let mut graph = Graph::new();
    let inputs = inputs.iter().map(|ty| Some(graph.input("", ty.clone()))).collect();
    let node = Node { operator, inputs, outputs: Vec::new(), attributes: attributes.clone(), origin: None };
    Ok((operator.infer)(&graph, &node)?.into_iter().map(|ty| ty.shape).collect())
}

/// Input `i`, which the node must have.
fn required(node: &Node, i: usize) -> Result<Value, GraphError> {
    node.optional(i).ok_or_else(|| format!("input {i} is missing").into())
}

fn ty(graph: &Graph, node: &Node, i: usize) -> Result<TensorType, GraphError> {
    Ok(graph.ty(required(node, i)?).clone())
}

/// The constant int64 list that input `i` must be.
fn constant_ints(graph: &Graph, node: &Node, i: usize) -> Result<Vec<i64>, GraphError> {
    graph
        .as_i64s(required(node, i)?)
        .map(<[i64]>::to_vec)
        .ok_or_else(|| format!("input {i} must be a constant list of integers").into())
}

/// A possibly negative axis as an index.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize, GraphError> {
    let index = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(index)
        .ok()
        .filter(|i| *i < rank)
        .ok_or_else(|| format!("axis {axis} is out of range for {rank} dimensions").into())
}

/// The shape that `a` and `b` broadcast to.
fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>, GraphError> {
    let rank = a.len().max(b.len());
    let dim = |shape: &[usize], i: usize| (i + shape.len()).checked_sub(rank).map_or(1, |i| shape[i]);
    (0..rank)
        .map(|i| match (dim(a, i), dim(b, i)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            (x, y) => Err(format!("dimensions {x} and {y} do not broadcast").into()),
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
