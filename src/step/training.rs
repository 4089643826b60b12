//! The training step: forward, loss, backward, clipping and optimizer in one graph.

use super::StepGraph;
use super::loss::outcome;
use super::optimizer::{self, HYPER, HYPER_ELEMENTS, OptimizerState};
use super::problem::Problem;
use crate::config::TrainingConfig;
use crate::graph::{Graph, Kernels, ModelInfo, TensorType, gradients, prune, select_kernels, to_onnx};
use crate::model::{Dropout, Weights, total_elements};
use crate::runtime::StepperSpec;

const RANDOM: &str = "random";
const PARAMETERS: &str = "parameters";

/// Builds the training step. Its state vectors are the parameters and [`OptimizerState`]'s; its float inputs the
/// batch and the [hyperparameters](super::hyperparameters); with dropout, its integer input is two random numbers
/// below [`Dropout::MODULUS`]; its results are those of [`super::results`].
///
/// # Errors
/// The model has operators without gradient.
pub fn training_step(problem: &Problem, config: &TrainingConfig, kernels: Kernels) -> Result<StepGraph, String> {
    let mut graph = Graph::new();
    let parameters = problem.model.parameters();
    let elements = total_elements(&parameters);
    let names: Vec<_> = [PARAMETERS].iter().chain(OptimizerState::names(config.optimizer)).copied().collect();
    let state: Vec<_> = names.iter().map(|name| graph.input(name, TensorType::f32([elements]))).collect();
    let (weights, ordered) = Weights::split(&mut graph, state[0], &parameters);

    let batch = problem.batch(&mut graph);
    let probability = problem.model.config().dropout;
    let mut dropout = (probability > 0.0).then(|| Dropout::new(&mut graph, RANDOM, probability));
    let initial_pose = batch.initial_pose(&mut graph, &problem.model);
    let prediction = problem.model.forward(&mut graph, &weights, batch.emg, initial_pose, dropout.as_mut());
    let outcome = outcome(&mut graph, problem, &batch, prediction);

    let gradients = gradients(&mut graph, outcome.loss, &ordered)?;
    let flat: Vec<_> = gradients.into_iter().zip(&parameters).map(|(g, p)| graph.reshape(g, &[p.elements()])).collect();
    let mut gradient = graph.concat(&flat, 0);
    if config.gradient_clip_norm > 0.0 {
        gradient = optimizer::clip(&mut graph, gradient, config.gradient_clip_norm);
    }
    let next = optimizer::update(&mut graph, config, &state, gradient);

    let mut spec = StepperSpec { inputs: problem.inputs(), ..Default::default() };
    for (name, value) in names.iter().zip(next) {
        let next = format!("{name}_next");
        graph.output(&next, value);
        spec.state.push(((*name).to_owned(), Some(next), elements));
    }
    spec.inputs.push((HYPER.to_owned(), vec![HYPER_ELEMENTS]));
    spec.results = outcome.outputs(&mut graph);
    select_kernels(&mut graph, kernels);
    prune(&mut graph);
    // A model may have dropout configured and no place for it, such as a decoder of one LSTM layer.
    if dropout.is_some() {
        if graph.uses_input(RANDOM) {
            spec.integers.push((RANDOM.to_owned(), vec![Dropout::SEEDS]));
        } else {
            graph.remove_input(RANDOM);
        }
    }
    let onnx = to_onnx(&graph, &[], &ModelInfo::default());
    Ok(StepGraph { onnx, spec, nodes: graph.nodes().len() })
}

/// A graph that gives loss and gradients instead of updating: for tests against other implementations.
///
/// # Errors
/// As [`training_step`].
pub fn gradient_graph(problem: &Problem, kernels: Kernels) -> Result<Vec<u8>, String> {
    let mut graph = Graph::new();
    let parameters = problem.model.parameters();
    let flat = graph.input(PARAMETERS, TensorType::f32([total_elements(&parameters)]));
    let (weights, ordered) = Weights::split(&mut graph, flat, &parameters);
    let batch = problem.batch(&mut graph);
    let initial_pose = batch.initial_pose(&mut graph, &problem.model);
    let prediction = problem.model.forward(&mut graph, &weights, batch.emg, initial_pose, None);
    let outcome = outcome(&mut graph, problem, &batch, prediction);
    let gradients = gradients(&mut graph, outcome.loss, &ordered)?;
    graph.output("loss", outcome.loss);
    graph.output("prediction", prediction);
    for (gradient, parameter) in gradients.into_iter().zip(&parameters) {
        graph.output(&parameter.name, gradient);
    }
    select_kernels(&mut graph, kernels);
    prune(&mut graph);
    Ok(to_onnx(&graph, &[], &ModelInfo::default()))
}
