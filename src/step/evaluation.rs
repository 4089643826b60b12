//! The evaluation step: forward and loss, no state changes.

use super::error::StepError;
use super::loss::{outcome, result};
use super::problem::{Problem, add_input, to_radians};
use super::state::{BUFFERS, PARAMETERS};
use super::{StepGraph, results};
use crate::graph::{Graph, Kernels, prune, select_kernels};
use crate::model::{Pass, Weights, total_elements};
use crate::ports::{Port, StatePort, StepPorts};

/// Builds the evaluation step; its result [`results::PREDICTION`] is the predicted angles in radians of the batch's first `predicted` windows, if
/// that is not 0.
///
/// # Errors
/// A user's model does not fit the problem's sizes.
pub fn evaluation_step(problem: &Problem, predicted: usize, kernels: Kernels) -> Result<StepGraph, StepError> {
    let mut graph = Graph::new();
    let mut state = Vec::new();
    let mut weights = Weights::default();
    for (name, list) in [(PARAMETERS, problem.model.parameters()), (BUFFERS, problem.model.buffers())] {
        let elements = total_elements(&list);
        if elements > 0 {
            let port = Port::f32(name, [elements]);
            let flat = add_input(&mut graph, &port);
            weights = weights.and(Weights::split(&mut graph, flat, &list).0);
            state.push(StatePort { port, next: None });
        }
    }
    let batch = problem.batch(&mut graph);
    let inputs = batch.inputs(&mut graph, &problem.model);
    let mut pass = Pass::evaluation(weights, kernels);
    let prediction = problem.model.forward(&mut graph, &mut pass, &inputs)?;
    let outcome = outcome(&mut graph, problem, &batch, prediction);
    let mut outputs = outcome.outputs(&mut graph);
    if predicted > 0 {
        let radians = to_radians(&mut graph, prediction, batch.units);
        let radians = graph.slice(radians, 0, 0, predicted);
        outputs.push(result(&mut graph, results::PREDICTION, radians));
    }
    select_kernels(&mut graph, kernels);
    prune(&mut graph);
    let ports = StepPorts { state, results: outputs, ..problem.ports() };
    Ok(StepGraph::new(&graph, ports))
}
