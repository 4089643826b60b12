//! From the operators that differentiation uses to those that a provider has.

use std::collections::HashSet;

use super::core::{Graph, Node, Value};
use super::operators::{self, absorb_sums, is_cell, part_sums};
use super::precision::widen;
use super::prune::prune;
use super::region;
use super::tensor::DType;

/// Which operators a graph may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernels {
    /// ONNX's own only, in types that the CUDA provider has them in: what every other program runs, too.
    Standard,
    /// Also this project's fused operators, which the CPU has kernels of; and no half precision, which it has not.
    Cpu,
    /// Also those fused operators that have a CUDA kernel ([`fused_on_cuda`](operators::fused_on_cuda)).
    Cuda,
}

/// Rewrites the graph for these kernels. For [`Kernels::Cpu`], standard operators that have a faster kernel are exchanged
/// for fused ones. Otherwise each fused operator without a kernel becomes standard ones, and operators take the form that
/// suits CUDA best.
pub fn select_kernels(graph: &mut Graph, kernels: Kernels) {
    if kernels == Kernels::Cpu {
        widen(graph, |_, _| true);
        graph.rewrite(|graph, node, _| {
            let expand = node.operator.expand.filter(|_| !(node.operator.cpu_kernel)(graph, node))?;
            Some(expand(graph, node))
        });
        exchange(graph);
        prune(graph);
        return region::grow(graph, WORTHWHILE, false);
    }
    let is_cuda = kernels == Kernels::Cuda;
    let stays = |graph: &Graph, node: &Node| {
        let fits = node.operator.cuda_halves || graph.dtype(node.outputs[0]) == DType::F32;
        is_cuda && node.operator.has_cuda_kernel && fits
    };
    // A cell's gradient and its forward pass belong together.
    if graph.nodes.iter().any(|node| is_cell(node) && !stays(graph, node)) {
        operators::expand_cells(graph);
    }
    // What an operator is expanded to may itself be fused.
    loop {
        graph.rewrite(|graph, node, _| {
            let form = node.operator.region_form.filter(|_| is_cuda).and_then(|form| form(graph, node));
            let expand = node.operator.expand.filter(|_| !stays(graph, node));
            form.or_else(|| expand.map(|expand| expand(graph, node)))
        });
        if graph.nodes.iter().all(|node| node.operator.expand.is_none() || stays(graph, node)) {
            break;
        }
    }
    widen(graph, |operator, dtype| dtype == DType::BF16 && operator.lacks_bf16);
    if is_cuda {
        absorb_sums(graph);
        part_sums(graph);
        region::keep_channels_last(graph);
        prune(graph);
        region::grow(graph, 1, true);
    }
}

/// Below so many elements, calling a kernel of our own on the CPU costs more than it saves.
const WORTHWHILE: usize = 1 << 14;

/// ONNX Runtime transposes on one thread and normalizes without vector instructions.
fn exchange(graph: &mut Graph) {
    let free = transposed_factors(graph);
    for i in 0..graph.nodes.len() {
        if let Some(name) = faster(graph, &graph.nodes[i]).filter(|_| !free.contains(&graph.nodes[i].outputs[0])) {
            graph.nodes[i].operator = operators::find(name).expect("in the table");
        }
    }
}

/// Matrices that only products take: ONNX Runtime's take them as they lie.
fn transposed_factors(graph: &Graph) -> HashSet<Value> {
    let swaps = |node: &&Node| {
        let rank = graph.shape(node.outputs[0]).len();
        let mut order: Vec<_> = (0..rank as i64).collect();
        order[rank.saturating_sub(2)..].reverse();
        node.operator.name == "Transpose" && rank >= 2 && node.ints("perm", &[]) == order
    };
    let mut free: HashSet<_> = graph.nodes.iter().filter(swaps).map(|node| node.outputs[0]).collect();
    for node in graph.nodes.iter().filter(|node| node.operator.name != "MatMul") {
        node.inputs.iter().flatten().for_each(|value| _ = free.remove(value));
    }
    graph.outputs.iter().for_each(|(_, value)| _ = free.remove(value));
    free
}

fn faster(graph: &Graph, node: &Node) -> Option<&'static str> {
    let (name, fits) = node.operator.cpu_stand_in?;
    let ty = graph.ty(node.outputs[0]);
    // What depends on no input is computed once, before the first run, but only by standard operators.
    let is_constant = |value: &Value| graph.as_constant(*value).is_some();
    let varies = !node.inputs.iter().flatten().all(is_constant);
    (ty.dtype == DType::F32 && ty.elements() >= WORTHWHILE && varies && fits(graph, node)).then_some(name)
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
        ["dw", "dr", "db"].into_iter().zip(found).for_each(|(name, gradient)| graph.output(name, gradient.unwrap()));
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
        }
    }

    #[test]
    fn transposed_factors_are_left_to_products() {
        let mut graph = Graph::new();
        let shape = TensorType::f32([2, 128, 128]);
        let (a, b) = (graph.input("a", shape.clone()), graph.input("b", shape));
        let [a, b] = [a, b].map(|x| graph.transpose(x, &[0, 2, 1]));
        let [a_b, b_a] = [[a, b], [b, a]].map(|[x, y]| graph.matmul(x, y));
        let sum = graph.add(a_b, b_a);
        graph.output("sum", sum);
        let mut seen = graph.clone();
        seen.output("b", b);
        for (mut graph, exchanged) in [(graph, 0), (seen, 1)] {
            select_kernels(&mut graph, Kernels::Cpu);
            let turned = graph.nodes().iter().filter(|node| node.operator.name == "BatchTranspose");
            assert_eq!(turned.count(), exchanged);
        }
    }
}
