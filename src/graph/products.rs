//! Products as other programs expect them in a file.

use std::collections::HashMap;

use super::core::{Graph, Node, Value};
use super::tensor::Constant;

/// What the name of a weight ends with that is stored as a product takes it.
pub const TRANSPOSED: &str = ".transposed";

/// Writes each Gemm as a MatMul, and an Add for its bias, with weights stored as the product takes them: tools such as ONNX
/// Runtime's quantizer trip over a transposed weight that several products share, and over a second factor that is no
/// initializer.
pub fn plain_products(graph: &mut Graph) {
    let mut transposed: HashMap<Value, Value> = HashMap::new();
    graph.rewrite(|graph, node: &Node, _| {
        if node.operator.name != "Gemm" {
            return None;
        }
        let mut factor = |graph: &mut Graph, i: usize, flag: &str| {
            let x = node.input(i);
            if node.int(flag, 0) == 0 {
                return x;
            }
            *transposed.entry(x).or_insert_with(|| match graph.as_constant(x).map(transpose) {
                Some(constant) => {
                    let y = graph.constant(constant);
                    if let Some(name) = graph.names.get(&x).map(|name| format!("{name}{TRANSPOSED}")) {
                        graph.names.insert(y, name);
                    }
                    y
                }
                None => graph.transpose(x, &[1, 0]),
            })
        };
        let (a, b) = (factor(graph, 0, "transA"), factor(graph, 1, "transB"));
        let product = graph.matmul(a, b);
        Some(vec![match node.inputs.get(2).copied().flatten() {
            Some(c) => graph.add(product, c),
            None => product,
        }])
    });
}

/// A constant matrix with its axes exchanged.
fn transpose(matrix: &Constant) -> Constant {
    let [rows, columns] = *matrix.shape() else { unreachable!("a factor of a Gemm is a matrix") };
    let numbers = matrix.numbers();
    let numbers: Vec<_> = (0..rows * columns).map(|i| numbers[i % rows * columns + i / rows]).collect();
    Constant::from_numbers(matrix.dtype(), vec![columns, rows], &numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{DType, TensorType};

    #[test]
    fn a_weight_that_products_share_is_transposed_once() {
        let mut graph = Graph::new();
        let x = graph.input("x", TensorType::f32([2, 3]));
        let weight = graph.named_constant("w", [3, 3], (0..9).map(|i| i as f32).collect(), DType::F32);
        let bias = graph.f32([3], vec![1.0, 2.0, 3.0]);
        let y = graph.gemm(x, weight, Some(bias), false, true);
        let y = graph.gemm(y, weight, None, false, true);
        graph.output("y", y);
        plain_products(&mut graph);
        let nodes: Vec<_> = graph.nodes().iter().map(|node| node.operator.name).collect();
        assert_eq!(nodes, ["MatMul", "Add", "MatMul"]);
        let weights: Vec<_> = [0, 2].map(|i| graph.nodes()[i].input(1)).into();
        assert_eq!((weights[0], &graph.names[&weights[0]][..]), (weights[1], "w.transposed"));
        assert_eq!(graph.as_constant(weights[0]).unwrap().numbers()[..3], [0.0, 3.0, 6.0]);
    }
}
