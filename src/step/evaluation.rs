//! The evaluation step: forward and loss, no state changes.

use super::StepGraph;
use super::loss::outcome;
use super::problem::{Problem, to_radians};
use crate::graph::{Graph, Kernels, ModelInfo, TensorType, prune, select_kernels, to_onnx};
use crate::model::{Weights, total_elements};
use crate::runtime::StepperSpec;

/// Builds the evaluation step; with `predictions`, its last result is the predicted angles in radians.
pub fn evaluation_step(problem: &Problem, predictions: bool, kernels: Kernels) -> StepGraph {
    let mut graph = Graph::new();
    let parameters = problem.model.parameters();
    let elements = total_elements(&parameters);
    let flat = graph.input("parameters", TensorType::f32([elements]));
    let (weights, _) = Weights::split(&mut graph, flat, &parameters);
    let batch = problem.batch(&mut graph);
    let initial_pose = batch.initial_pose(&mut graph, &problem.model);
    let prediction = problem.model.forward(&mut graph, &weights, batch.emg, initial_pose, None);
    let outcome = outcome(&mut graph, problem, &batch, prediction);
    let mut results = outcome.outputs(&mut graph);
    if predictions {
        let radians = to_radians(&mut graph, prediction, batch.units);
        graph.output("prediction", radians);
        results.push(("prediction".to_owned(), graph.shape(radians).to_vec()));
    }
    select_kernels(&mut graph, kernels);
    prune(&mut graph);
    let spec = StepperSpec {
        state: vec![("parameters".to_owned(), None, elements)],
        inputs: problem.inputs(),
        integers: Vec::new(),
        results,
    };
    StepGraph { onnx: to_onnx(&graph, &[], &ModelInfo::default()), spec, nodes: graph.nodes().len() }
}
