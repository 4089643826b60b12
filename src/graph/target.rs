//! From the operators that differentiation uses to those that a provider has.

use super::core::{Graph, Node};
use super::operators::{self, absorb_sums, is_cell};
use super::precision::widen;
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
        return exchange(graph);
    }
    let fuses = |graph: &Graph, node: &Node| {
        let has_kernel = node.operator.has_cuda_kernel && graph.dtype(node.outputs[0]) == DType::F32;
        kernels == Kernels::Cuda && has_kernel
    };
    // A cell's gradient and its forward pass belong together.
    if graph.nodes.iter().any(|node| is_cell(node) && !fuses(graph, node)) {
        operators::expand_cells(graph);
    }
    graph.rewrite(|graph, node, _| match node.operator.expand.filter(|_| !fuses(graph, node)) {
        Some(expand) => Some(expand(graph, node)),
        None => node.operator.cuda_form.filter(|_| kernels == Kernels::Cuda)?(graph, node).map(|y| vec![y]),
    });
    widen(graph, |operator, dtype| dtype == DType::BF16 && operator.lacks_bf16);
    if kernels == Kernels::Cuda {
        absorb_sums(graph);
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
    let (name, fits) = node.operator.cpu_stand_in?;
    let ty = graph.ty(node.outputs[0]);
    // What depends on no input is computed once, before the first run, but only by standard operators.
    let is_constant = |value: &super::core::Value| graph.as_constant(*value).is_some();
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
