//! Reverse-mode differentiation, from graph to graph.
//!
//! Each operator's gradient appends ordinary nodes. Two kinds of contribution are held back and summed in one
//! stroke: matrix products that belong to one weight (a recurrence uses its weights at every step; one product
//! over all steps replaces one per step) and row sums that belong to one bias.

use std::collections::HashMap;

use super::core::{Graph, Value};

/// Gradients on their way to the values they belong to.
#[derive(Default)]
pub(super) struct Adjoints {
    sums: HashMap<Value, Vec<Value>>,
    /// (a, b) of a' b for matrices a [rows, m], b [rows, n].
    products: HashMap<Value, Vec<(Value, Value)>>,
    /// x of the sum over rows of x [rows, n].
    row_sums: HashMap<Value, Vec<Value>>,
}

impl Adjoints {
    /// Adds `gradient`, of the same shape as `value`.
    pub(super) fn add(&mut self, value: Value, gradient: Value) {
        self.sums.entry(value).or_default().push(gradient);
    }

    /// Adds a' b for a [rows, m] and b [rows, n] to the gradient of `value` [m, n].
    pub(super) fn add_product(&mut self, value: Value, a: Value, b: Value) {
        self.products.entry(value).or_default().push((a, b));
    }

    /// Adds the sum over rows of x [rows, n] to the gradient of `value` [n].
    pub(super) fn add_row_sum(&mut self, value: Value, x: Value) {
        self.row_sums.entry(value).or_default().push(x);
    }

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

/// Appends nodes that compute the derivatives of the scalar `loss` with respect to each of `wrt`.
///
/// # Errors
/// The loss depends on one of `wrt` through operators that have no gradient (all are named), or is no scalar.
pub fn gradients(graph: &mut Graph, loss: Value, wrt: &[Value]) -> Result<Vec<Value>, String> {
    if !graph.shape(loss).is_empty() {
        return Err(format!("the loss must be a scalar, not {}", graph.ty(loss)));
    }
    let needed = depends_on(graph, wrt);
    let mut adjoints = Adjoints::default();
    let one = graph.scalar(1.0);
    adjoints.add(loss, one);
    let mut finished = HashMap::new();
    let mut missing = Vec::new();
    // Nodes appended while walking belong to the backward pass and are not walked.
    for i in (0..graph.nodes().len()).rev() {
        if !graph.nodes()[i].outputs.iter().any(|output| needed[output.0 as usize]) {
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
                let wanted = |value: Value| needed[value.0 as usize];
                gradient(graph, &node, &reached, &wanted, &mut adjoints)?;
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
        return Err(format!("no gradient for the operators {}", missing.join(", ")));
    }
    Ok(wrt
        .iter()
        .map(|value| {
            let gradient = finished.get(value).copied().or_else(|| adjoints.take(graph, *value));
            gradient.unwrap_or_else(|| {
                let shape = graph.shape(*value).to_vec();
                let zero = graph.scalar_like(*value, 0.0);
                graph.expand(zero, &shape)
            })
        })
        .collect())
}

/// Which values depend on any of `sources`.
fn depends_on(graph: &Graph, sources: &[Value]) -> Vec<bool> {
    let mut depends = vec![false; graph.values.len()];
    for source in sources {
        depends[source.0 as usize] = true;
    }
    for node in graph.nodes() {
        if node.inputs.iter().flatten().any(|input| depends[input.0 as usize]) {
            for output in &node.outputs {
                depends[output.0 as usize] = true;
            }
        }
    }
    depends
}
