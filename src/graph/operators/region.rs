//! Many operators as one node: see [`region`](super::super::region).

use super::super::core::{Graph, Node};
use super::super::error::GraphError;
use super::super::region::{PROGRAM, Program, REGION};
use super::super::tensor::TensorType;
use super::{Family, fused, ty};

pub(super) static FAMILY: Family = Family {
    operators: &[fused(REGION, outputs)
        .on_cuda()
        .halves()
        .computes_in(|graph, node| vec![graph.dtype(node.outputs[0])])],
    imports: &[],
};

/// Inputs and outputs: those of the program.
fn outputs(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let program = Program::from_text(node.text(PROGRAM, ""))?;
    let expected = program.input_types();
    for (i, expected) in expected.iter().enumerate() {
        let given = ty(graph, node, i)?;
        if given != *expected {
            return Err(format!("input {i} is {given}, expected {expected}").into());
        }
    }
    if node.inputs.len() != expected.len() {
        return Err(format!("{} inputs, expected {}", node.inputs.len(), expected.len()).into());
    }
    Ok(program.output_types())
}
