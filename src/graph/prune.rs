//! Dead code: nodes that no output needs.

use super::core::Graph;

/// Removes nodes whose outputs lead to none of the graph's outputs. Values keep their identity.
pub fn prune(graph: &mut Graph) {
    let mut needed = vec![false; graph.values.len()];
    for (_, output) in &graph.outputs {
        needed[output.0 as usize] = true;
    }
    for node in graph.nodes.iter().rev() {
        if node.outputs.iter().any(|output| needed[output.0 as usize]) {
            for input in node.inputs.iter().flatten() {
                needed[input.0 as usize] = true;
            }
        }
    }
    graph.nodes.retain(|node| node.outputs.iter().any(|output| needed[output.0 as usize]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::TensorType;

    #[test]
    fn what_no_output_needs_goes() {
        let mut graph = Graph::new();
        let x = graph.input("x", TensorType::f32([2]));
        let (kept, _) = (graph.relu(x), graph.tanh(x));
        let kept = graph.neg(kept);
        graph.output("y", kept);
        prune(&mut graph);
        let names: Vec<_> = graph.nodes().iter().map(|node| node.operator.name).collect();
        assert_eq!(names, ["Relu", "Neg"]);
    }
}
