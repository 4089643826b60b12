//! The evaluation step: forward and loss, no state changes.

use super::StepGraph;
use super::loss::outcome;
use super::problem::{Problem, to_radians};
use super::state::{BUFFERS, PARAMETERS};
use crate::graph::{Graph, Kernels, TensorType, prune, select_kernels};
use crate::model::{Pass, Weights, total_elements};
use crate::runtime::StepperSpec;

/// Builds the evaluation step; its last result is the predicted angles in radians of the batch's first `predicted` windows, if
/// that is not 0.
///
/// # Errors
/// A user's model does not fit the problem's sizes.
pub fn evaluation_step(problem: &Problem, predicted: usize, kernels: Kernels) -> Result<StepGraph, String> {
    let mut graph = Graph::new();
    let mut state = Vec::new();
    let mut weights = Weights::default();
    for (name, list) in [(PARAMETERS, problem.model.parameters()), (BUFFERS, problem.model.buffers())] {
        let elements = total_elements(&list);
        if elements > 0 {
            let flat = graph.input(name, TensorType::f32([elements]));
            weights = weights.and(Weights::split(&mut graph, flat, &list).0);
            state.push((name.to_owned(), None, elements));
        }
    }
    let batch = problem.batch(&mut graph);
    let initial_pose = batch.initial_pose(&mut graph, &problem.model);
    let mut pass = Pass::evaluation(weights);
    let prediction = problem.model.forward(&mut graph, &mut pass, batch.emg, initial_pose)?;
    let outcome = outcome(&mut graph, problem, &batch, prediction);
    let mut results = outcome.outputs(&mut graph);
    if predicted > 0 {
        let radians = to_radians(&mut graph, prediction, batch.units);
        let radians = graph.slice(radians, 0, 0, predicted);
        graph.output("prediction", radians);
        results.push(("prediction".to_owned(), graph.shape(radians).to_vec()));
    }
    select_kernels(&mut graph, kernels);
    prune(&mut graph);
    let spec = StepperSpec { state, results, ..problem.spec() };
    Ok(StepGraph::new(&graph, spec))
}
