//! Reverse-mode differentiation, from graph to graph.
//!
//! Each operator's gradient appends ordinary nodes. Two kinds of contribution are held back and summed in one
//! stroke: matrix products that belong to one weight (a recurrence uses its weights at every step; one product
//! over all steps replaces one per step) and row sums that belong to one bias.

use std::collections::HashMap;

use super::core::{Graph, Node, Value};
use super::error::GraphError;
use super::operators::reduce_to;

/// Gradients on their way to the values they belong to.
#[derive(Default)]
struct Adjoints {
    sums: HashMap<Value, Vec<Value>>,
    /// (a, b) of a' b for matrices a [rows, m], b [rows, n].
    products: HashMap<Value, Vec<(Value, Value)>>,
    /// x of the sum over rows of x [rows, n].
    row_sums: HashMap<Value, Vec<Value>>,
}

impl Adjoints {
    /// The whole gradient of `value`, if anything reached it.
    fn take(&mut self, graph: &mut Graph, value: Value) -> Option<Value> {
        let mut parts = self.sums.remove(&value).unwrap_or_default();
        if let Some(products) = self.products.remove(&value) {
            let (a, b): (Vec<_>, Vec<_>) = products.into_iter().unzip();
            let (a, b) = (graph.concat(&a, 0), graph.concat(&b, 0));
            parts.push(graph.gemm(a, b, None, true, false));
        }
        if let Some(rows) = self.row_sums.remove(&value) {
            let rows = graph.concat(&rows, 0);
            parts.push(graph.sum_rows(rows));
        }
        parts.into_iter().reduce(|sum, part| graph.add(sum, part))
    }
}

/// A node on the way back: the gradients that reached its outputs, and where those of its inputs go.
pub(super) struct Backward<'a> {
    pub(super) graph: &'a mut Graph,
    pub(super) node: &'a Node,
    /// Of each output, if the loss depends on it.
    gradients: &'a [Option<Value>],
    /// Which values' gradients are wanted, by number.
    needed: &'a [bool],
    /// Whether a `Where` behind the node may take none of what it gives.
    masked: bool,
    adjoints: &'a mut Adjoints,
}

impl Backward<'_> {
    /// The gradient of output `i`, if the loss depends on it.
    pub(super) fn gradient(&self, i: usize) -> Option<Value> {
        self.gradients[i]
    }

    /// The gradient of the first output, of an operator that is differentiated through that one alone.
    ///
    /// # Errors
    /// The loss depends on another output.
    pub(super) fn dy(&self) -> Result<Value, GraphError> {
        let others = self.gradients[1..].iter().any(Option::is_some);
        self.gradients[0]
            .filter(|_| !others)
            .ok_or_else(|| format!("{}: no gradient through outputs but the first", self.node.operator.name).into())
    }

    /// Whether the gradient of input `i` is wanted.
    pub(super) fn wanted(&self, i: usize) -> bool {
        self.node.optional(i).is_some_and(|value| self.needed[value.0 as usize])
    }

    /// `gradient`, or 0 where `dy` is 0, for a node whose results a `Where` may leave out: what is not taken has no
    /// gradient, also where the derivative is not finite, as that of a root at 0.
    pub(super) fn of_taken(&mut self, dy: Value, gradient: Value) -> Value {
        if !self.masked {
            return gradient;
        }
        let zero = self.graph.scalar_like(dy, 0.0);
        let unused = self.graph.equal(dy, zero);
        self.graph.select(unused, zero, gradient)
    }

    /// Adds to the gradient of input `i`, which has the same shape.
    pub(super) fn add(&mut self, i: usize, gradient: Value) {
        self.adjoints.sums.entry(self.node.input(i)).or_default().push(gradient);
    }

    /// Adds `gradient`, summed over the axes that broadcasting repeated, to that of input `i`.
    pub(super) fn add_broadcast(&mut self, i: usize, gradient: Value) {
        let shape = self.graph.shape(self.node.input(i)).to_vec();
        let reduced = reduce_to(self.graph, gradient, &shape);
        self.add(i, reduced);
    }

    /// Adds a' b for a [rows, m] and b [rows, n] to the gradient of input `i` [m, n].
    pub(super) fn add_product(&mut self, i: usize, a: Value, b: Value) {
        self.adjoints.products.entry(self.node.input(i)).or_default().push((a, b));
    }

    /// Adds the sum over rows of x [rows, n] to the gradient of input `i` [n].
    pub(super) fn add_row_sum(&mut self, i: usize, x: Value) {
        self.adjoints.row_sums.entry(self.node.input(i)).or_default().push(x);
    }
}

/// Appends nodes that compute the derivatives of the scalar `loss` with respect to each of `wrt`; `None`: the loss does
/// not depend on it. What is computed from them must not have been simplified before: see [`Graph::want_gradient`].
///
/// # Errors
/// The loss depends on one of `wrt` through operators that have no gradient (all are named), or is no scalar.
pub fn gradients(graph: &mut Graph, loss: Value, wrt: &[Value]) -> Result<Vec<Option<Value>>, GraphError> {
    if !graph.shape(loss).is_empty() {
        return Err(GraphError::NotScalar { found: graph.ty(loss).to_string() });
    }
    let needed = depends_on(graph, wrt);
    let masked = masked(graph);
    let mut adjoints = Adjoints::default();
    let one = graph.scalar(1.0);
    adjoints.sums.insert(loss, vec![one]);
    let mut finished = HashMap::new();
    let mut missing = Vec::new();
    // Nodes appended while walking belong to the backward pass and are not walked.
    for i in (0..graph.nodes().len()).rev() {
        let node = &graph.nodes()[i];
        if graph.stops_gradient(node) || !node.outputs.iter().any(|output| needed[output.0 as usize]) {
            continue;
        }
        let node = graph.nodes()[i].clone();
        let reached: Vec<_> = node
            .outputs
            .iter()
            .map(|output| {
                let gradient = adjoints.take(graph, *output);
                if let Some(gradient) = gradient {
                    finished.insert(*output, gradient);
                }
                gradient
            })
            .collect();
        if reached.iter().all(Option::is_none) {
            continue;
        }
        match node.operator.gradient {
            Some(gradient) => {
                let (needed, adjoints) = (&needed, &mut adjoints);
                let masked = node.outputs.iter().any(|output| masked[output.0 as usize]);
                gradient(&mut Backward { graph, node: &node, gradients: &reached, needed, masked, adjoints })?;
            }
            None => missing.push(match &node.origin {
                Some(origin) => format!("{} (node {origin})", node.operator.name),
                None => node.operator.name.to_owned(),
            }),
        }
    }
    if !missing.is_empty() {
        missing.sort_unstable();
        missing.dedup();
        return Err(GraphError::NoGradient(missing));
    }
    Ok(wrt.iter().map(|value| finished.get(value).copied().or_else(|| adjoints.take(graph, *value))).collect())
}

/// Operators that give each element of a gradient to few others, so that what a `Where` leaves out stays 0.
const ELEMENTWISE: [&str; 34] = [
    "Abs",
    "Acos",
    "Acosh",
    "Add",
    "Asin",
    "Atan",
    "Atanh",
    "Cast",
    "Concat",
    "Cos",
    "Div",
    "Exp",
    "Expand",
    "Gather",
    "Identity",
    "Log",
    "Max",
    "Min",
    "Mul",
    "Neg",
    "Pow",
    "Reciprocal",
    "ReduceMean",
    "ReduceSum",
    "Reshape",
    "Sigmoid",
    "Sin",
    "Slice",
    "Split",
    "Sqrt",
    "Sub",
    "Tan",
    "Transpose",
    "Where",
];

/// Which values a `Where` may leave out, element by element.
fn masked(graph: &Graph) -> Vec<bool> {
    let mut masked = vec![false; graph.values.len()];
    for node in graph.nodes().iter().rev() {
        let chooses = node.operator.name == "Where";
        let passes = ELEMENTWISE.contains(&node.operator.name) && node.outputs.iter().any(|y| masked[y.0 as usize]);
        if chooses || passes {
            for input in node.inputs.iter().skip(usize::from(chooses)).flatten() {
                masked[input.0 as usize] = true;
            }
        }
    }
    masked
}

/// Which values depend on any of `sources`.
fn depends_on(graph: &Graph, sources: &[Value]) -> Vec<bool> {
    let mut depends = vec![false; graph.values.len()];
    for source in sources {
        depends[source.0 as usize] = true;
    }
    for node in graph.nodes().iter().filter(|node| !graph.stops_gradient(node)) {
        if node.inputs.iter().flatten().any(|input| depends[input.0 as usize]) {
            for output in &node.outputs {
                depends[output.0 as usize] = true;
            }
        }
    }
    depends
}
