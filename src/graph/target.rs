//! From the operators that differentiation uses to those that a provider has.

use std::collections::HashMap;

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
    Cpu,
    /// Also the fused operators of [`FUSED_ON_CUDA`].
    Cuda,
}

/// Fused operators with a CUDA kernel, in float32.
pub const FUSED_ON_CUDA: [&str; 4] = ["LayerNormGradient", "LstmCell", "LstmCellGradient", "ReluGradient"];

/// Rewrites the graph for these kernels. Without fused ones, each fused operator becomes standard ones; with them,
/// standard operators that have a faster kernel are exchanged.
pub fn select_kernels(graph: &mut Graph, kernels: Kernels) {
    if kernels == Kernels::Cpu {
        widen(graph, |_, _| true);
        return exchange(graph);
    }
    let fuses = |graph: &Graph, node: &Node| {
        let has_kernel = FUSED_ON_CUDA.contains(&node.operator.name) && graph.dtype(node.outputs[0]) == DType::F32;
        kernels == Kernels::Cuda && has_kernel
    };
    // A cell's gradient and its forward pass belong together.
    if graph.nodes.iter().any(|node| is_cell(node) && !fuses(graph, node)) {
        operators::expand_cells(graph);
    }
    graph.rewrite(|graph, node, _| match node.operator.expand.filter(|_| !fuses(graph, node)) {
        Some(expand) => Some(expand(graph, node)),
        None if kernels == Kernels::Cuda => sum_over_last(graph, node).map(|y| vec![y]),
        None => None,
    });
    widen(graph, |operator, dtype| dtype == DType::BF16 && lacks_bf16(operator));
    if kernels == Kernels::Cuda {
        absorb_sums(graph);
    }
}

fn is_cell(node: &Node) -> bool {
    ["LstmCell", "LstmCellGradient"].contains(&node.operator.name)
}

/// A large sum over one axis between others, for which ONNX Runtime asks cuDNN, whose kernel has a thread for each of
/// the few sums: as one over the last axis, which many threads share.
fn sum_over_last(graph: &mut Graph, node: &Node) -> Option<Value> {
    /// Elements below which the transposition is not worth it.
    const WORTHWHILE: usize = 1 << 20;
    if node.operator.name != "ReduceSum" || node.int("keepdims", 1) != 0 {
        return None;
    }
    let (x, rank) = (node.input(0), graph.shape(node.input(0)).len());
    let [axis] = graph.as_i64s(node.input(1))? else { return None };
    let axis = usize::try_from(*axis).ok().filter(|axis| (1..rank.saturating_sub(1)).contains(axis))?;
    if graph.ty(x).elements() < WORTHWHILE {
        return None;
    }
    let order: Vec<_> = (0..rank).filter(|other| *other != axis).chain([axis]).collect();
    let turned = graph.transpose(x, &order);
    Some(graph.reduce_sum(turned, &[rank - 1], false))
}

/// Takes sums into the kernels that need them: what is added to a product on its way to a cell's gates, which would be
/// copied first, and the two parts of a hidden state's gradient.
fn absorb_sums(graph: &mut Graph) {
    let mut uses: HashMap<Value, usize> = HashMap::new();
    let mut producers = HashMap::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        node.inputs.iter().flatten().for_each(|x| *uses.entry(*x).or_default() += 1);
        producers.extend(node.outputs.iter().map(|y| (*y, i)));
    }
    graph.outputs.iter().for_each(|(_, y)| *uses.entry(*y).or_default() += 1);
    // The node that makes `x` for one node alone.
    let maker = |x: Value| producers.get(&x).copied().filter(|_| uses[&x] == 1);
    for i in 0..graph.nodes.len() {
        let name = graph.nodes[i].operator.name;
        let Some(mut sum) = graph.nodes[i].optional(0).filter(|_| is_cell(&graph.nodes[i])) else { continue };
        if name == "LstmCell" {
            while let Some(j) = maker(sum).filter(|_| graph.nodes[i].inputs.len() < 4) {
                let whole = graph.shape(graph.nodes[j].outputs[0]).to_vec();
                let added = graph.nodes[j].inputs.get(2).copied().flatten();
                let fits = |c: &Value| [&whole[..], &whole[1..]].contains(&graph.shape(*c));
                let Some(c) = added.filter(|c| graph.nodes[j].operator.name == "Gemm" && fits(c)) else { break };
                graph.nodes[j].inputs.truncate(2);
                graph.nodes[i].inputs.push(Some(c));
                sum = c;
            }
        } else if let Some(j) = maker(sum).filter(|j| graph.nodes[*j].operator.name == "Add") {
            let [a, b] = [0, 1].map(|k| graph.nodes[j].inputs[k].expect("a sum of two"));
            if graph.shape(a) == graph.shape(b) {
                graph.nodes[i].inputs[0] = Some(a);
                graph.nodes[i].inputs.push(Some(b));
            }
        }
    }
    // Products without their sums are no longer what the same inputs once made.
    graph.made.clear();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{TensorType, gradients, prune};

    #[test]
    fn cells_take_in_the_sums_around_them() {
        let mut graph = Graph::new();
        let [x, weight, recurrent, bias] = [("x", [2, 5]), ("w", [12, 5]), ("r", [12, 3]), ("b", [2, 12])]
            .map(|(name, shape)| graph.input(name, TensorType::f32(shape)));
        let (first, state) = graph.lstm_step(bias, recurrent, None);
        let share = graph.gemm(x, weight, Some(bias), false, true);
        let (second, _) = graph.lstm_step(share, recurrent, Some((first, state)));
        let both = graph.add(first, second);
        let loss = graph.sum_all(both);
        let found = gradients(&mut graph, loss, &[weight, recurrent, bias]).unwrap();
        ["dw", "dr", "db"].into_iter().zip(found).for_each(|(name, gradient)| graph.output(name, gradient));
        // What something else needs, too, stays a sum.
        let mut shared = graph.clone();
        shared.output("share", share);
        for (mut graph, parts) in [(graph, [2, 4]), (shared, [2, 3])] {
            select_kernels(&mut graph, Kernels::Cuda);
            prune(&mut graph);
            let inputs = |name: &str| -> Vec<_> {
                graph.nodes().iter().filter(|node| node.operator.name == name).map(|node| node.inputs.len()).collect()
            };
            assert_eq!(inputs("LstmCell"), parts);
            // The first step's hidden state is used twice.
            assert_eq!(inputs("LstmCellGradient"), [6, 7]);
            // Of the bias's own gradient.
            assert_eq!(inputs("Add").len(), 1);
        }
    }

    #[test]
    fn large_sums_between_other_axes_go_over_the_last() {
        let sums = |shape: [usize; 3], axis: usize, kernels: Kernels| {
            let mut graph = Graph::new();
            let x = graph.input("x", TensorType::f32(shape));
            let y = graph.reduce_sum(x, &[axis], false);
            graph.output("y", y);
            select_kernels(&mut graph, kernels);
            assert_eq!(graph.shape(graph.outputs[0].1), [&shape[..axis], &shape[axis + 1..]].concat());
            graph.nodes().iter().map(|node| node.operator.name).collect::<Vec<_>>()
        };
        assert_eq!(sums([4, 1 << 16, 20], 1, Kernels::Cuda), ["Transpose", "ReduceSum"]);
        for (shape, axis, kernels) in [
            ([4, 1 << 16, 20], 1, Kernels::Standard),
            ([4, 9, 20], 1, Kernels::Cuda),
            ([4, 1 << 16, 20], 2, Kernels::Cuda),
        ] {
            assert_eq!(sums(shape, axis, kernels), ["ReduceSum"]);
        }
    }
}
