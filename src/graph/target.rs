//! From the operators that differentiation uses to those that a provider has.

use super::core::{Attribute, Graph, Node, Value};
use super::operators::{self, as_batch_transpose};
use super::precision::{lacks_bf16, widen};
use super::tensor::DType;

/// Which operators a graph may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernels {
    /// ONNX's own only, in types that the CUDA provider has them in: what every other program runs, too.
    Standard,
    /// Also this project's fused operators, which the CPU has kernels of; and no half precision, which it has not.
    Fused,
}

/// Rewrites the graph for these kernels. Without fused ones, each fused operator becomes standard ones; with them,
/// standard operators that have a faster kernel are exchanged.
pub fn select_kernels(graph: &mut Graph, kernels: Kernels) {
    match kernels {
        Kernels::Standard => {
            operators::expand_cells(graph);
            graph.rewrite(|graph, node, _| node.operator.expand.map(|expand| expand(graph, node)));
            widen(graph, |operator, dtype| dtype == DType::BF16 && lacks_bf16(operator));
        }
        Kernels::Fused => {
            widen(graph, |_, _| true);
            exchange(graph);
        }
    }
}

/// ONNX Runtime transposes on one thread and normalizes without vector instructions.
fn exchange(graph: &mut Graph) {
    for i in 0..graph.nodes.len() {
        if let Some(name) = faster(graph, &graph.nodes[i]) {
            graph.nodes[i].operator = operators::find(name).expect("in the table");
        }
    }
}

fn faster(graph: &Graph, node: &Node) -> Option<&'static str> {
    /// Below this, calling a kernel of our own costs more than it saves.
    const WORTHWHILE: usize = 1 << 14;
    let ty = graph.ty(node.outputs[0]);
    // What depends on no input is computed once, before the first run, but only by standard operators.
    let is_constant = |value: &Value| graph.as_constant(*value).is_some();
    if ty.dtype != DType::F32 || ty.elements() < WORTHWHILE || node.inputs.iter().flatten().all(is_constant) {
        return None;
    }
    match node.operator.name {
        "LayerNormalization" if node.inputs.iter().flatten().count() == 3 => Some("LayerNorm"),
        "Transpose" => {
            let Some(Attribute::Ints(order)) = node.attributes.get("perm") else { return None };
            let order: Vec<_> = order.iter().map(|axis| *axis as usize).collect();
            as_batch_transpose(graph.shape(node.input(0)), &order).map(|_| "BatchTranspose")
        }
        _ => None,
    }
}
