//! The training step: forward, loss, backward, clipping and optimizer in one graph.

#[cfg(doc)]
use super::HYPERPARAMETERS;
use super::error::StepError;
use super::loss::{Outcome, outcome, result};
use super::optimizer::{self, HyperValues, Updated};
use super::problem::Problem;
use super::state::{BUFFERS, EMA, GRADIENT, PARAMETERS, ROWS, moments, skips, state_vectors};
use super::{StepGraph, results};
use crate::config::{Precision, TrainingConfig};
use crate::graph::{Autocast, Graph, Kernels, ModelInfo, TensorType, Value, gradients, prune, select_kernels, to_onnx};
use crate::model::{Dropout, Parameter, Pass, Weights, total_elements};
use crate::ports::{Port, StatePort};

/// The control with two random numbers below [`Dropout::MODULUS`], of steps with dropout.
pub const RANDOM: &str = "random";

/// Builds the training step. Its state vectors are those of [`state_vectors`]; its controls [`HYPERPARAMETERS`] and, with
/// dropout, [`RANDOM`]; its results those of [`results`].
///
/// With accumulation a step adds the gradient of the loss *sum* over its batch to what is there; the one that
/// applies divides by all valid rows once, then clips: the same as one large batch. A batch without a valid row adds nothing
/// to it, nor does one whose gradient is not finite where the configuration skips such batches. Where every step applies,
/// a batch without a valid row must not be given: momentum and weight decay would still change the parameters.
///
/// # Errors
/// The model has operators without gradient; a pattern of `no_decay` matches no parameter.
pub fn training_step(problem: &Problem, config: &TrainingConfig, kernels: Kernels) -> Result<StepGraph, StepError> {
    let mut step = Step::new(problem, config, kernels)?;
    let gradient = step.gradient()?;
    let next = step.next_state(gradient)?;
    step.finish(next, kernels)
}

/// New state vectors, and on what they depend.
struct Chosen {
    /// Parameters, and what the optimizer keeps of them.
    updated: Vec<Value>,
    /// Whether the batch counts.
    counted: Value,
    /// Whether the parameters change; `None`: always.
    accepted: Option<Value>,
    /// Gradient and rows summed so far, where batches are accumulated.
    sums: Option<[Value; 2]>,
}

/// A training step under construction.
struct Step<'a> {
    problem: &'a Problem,
    config: &'a TrainingConfig,
    graph: Graph,
    parameters: Vec<Parameter>,
    /// Name, elements and value of each state vector.
    state: Vec<(&'static str, usize, Value)>,
    hyper: HyperValues,
    pass: Pass,
    outcome: Outcome,
    /// The parameters, in order.
    ordered: Vec<Value>,
    /// Which of them the loss depends on.
    reached: Vec<bool>,
    /// What the step gives besides its outcome.
    results: Vec<Port>,
}

impl<'a> Step<'a> {
    /// The forward pass and its loss.
    fn new(problem: &'a Problem, config: &'a TrainingConfig, kernels: Kernels) -> Result<Self, StepError> {
        let mut graph = Graph::new();
        let vectors = state_vectors(&problem.model, config);
        let state: Vec<_> =
            vectors.iter().map(|v| (v.name, v.elements, graph.input(v.name, TensorType::f32([v.elements])))).collect();
        let parameters = problem.model.parameters();
        let (mut weights, ordered) = Weights::split(&mut graph, state[0].2, &parameters);
        if let Some((.., buffers)) = state.iter().find(|(name, ..)| *name == BUFFERS) {
            weights = weights.and(Weights::split(&mut graph, *buffers, &problem.model.buffers()).0);
        }
        let hyper = HyperValues::new(&mut graph);
        let batch = problem.batch(&mut graph);
        let probability = problem.model.config().dropout;
        let dropout = problem.model.has_dropout().then(|| Dropout::new(&mut graph, RANDOM, probability));
        let inputs = batch.inputs(&mut graph, &problem.model);
        let mut pass = Pass::training(weights, dropout, kernels);
        graph.set_autocast(match config.precision {
            Precision::Bf16 => Some(Autocast::Bf16 { convolutions: kernels == Kernels::Cuda }),
            Precision::Fp16 => Some(Autocast::Fp16),
            Precision::Tf32 | Precision::Fp32 => None,
        });
        let prediction = problem.model.forward(&mut graph, &mut pass, &inputs)?;
        graph.set_autocast(None);
        let prediction = graph.to_f32(prediction);
        let outcome = outcome(&mut graph, problem, &batch, prediction);
        let reached = vec![true; parameters.len()];
        let results = Vec::new();
        Ok(Self { problem, config, graph, parameters, state, hyper, pass, outcome, ordered, reached, results })
    }

    fn vector(&self, name: &str) -> Option<Value> {
        self.state.iter().find(|(other, ..)| *other == name).map(|(.., value)| *value)
    }

    /// The gradient as one flat vector: of the mean loss, or, accumulated, of its sum over a constant number of
    /// elements, which keeps it in the range of half precision.
    fn gradient(&mut self) -> Result<Value, StepError> {
        let graph = &mut self.graph;
        let mut loss = self.outcome.loss;
        if self.config.gradient_accumulation_steps > 1 {
            let elements = graph.scalar(self.problem.rows() * self.problem.weight_per_row());
            loss = graph.div(self.outcome.total, elements);
        }
        let scaled = self.config.precision == Precision::Fp16;
        if scaled {
            let product = graph.mul(loss, self.hyper.loss_scale);
            loss = graph.reshape(product, &[]);
        }
        let found = gradients(graph, loss, &self.ordered)?;
        self.reached = found.iter().map(Option::is_some).collect();
        let parts: Vec<_> = found.into_iter().zip(&self.parameters).map(|(g, p)| flat(graph, g, p)).collect();
        let gradient = graph.concat(&parts, 0);
        Ok(if scaled { graph.div(gradient, self.hyper.loss_scale) } else { gradient })
    }

    /// The state vectors after the step, in order.
    fn next_state(&mut self, gradient: Value) -> Result<Vec<Value>, StepError> {
        let skips = skips(self.config);
        let graph = &mut self.graph;
        let (zero, half) = (graph.scalar(0.0), graph.scalar(0.5));
        let valid = graph.reshape(self.outcome.valid_rows, &[1]);
        let some_valid = graph.greater(valid, zero);
        // A sum of squares that is not below infinity has something in it that is not finite, or too large for float32.
        let square = graph.mul(gradient, gradient);
        let squares = graph.sum_all(square);
        let squares = graph.reshape(squares, &[1]);
        let (infinity, mut counted) = (graph.scalar(f32::INFINITY), some_valid);
        let finite = graph.less(squares, infinity);
        if skips {
            counted = graph.and(counted, finite);
        }

        let mut gradient = gradient;
        let (mut sums, mut accepted) = (None, skips.then_some(counted));
        if let (Some(before), Some(rows)) = (self.vector(GRADIENT), self.vector(ROWS)) {
            let graph = &mut self.graph;
            let (mut sum, mut all_rows) = (graph.add(before, gradient), graph.add(rows, valid));
            if skips {
                (sum, all_rows) = (graph.select(counted, sum, before), graph.select(counted, all_rows, rows));
            }
            sums = Some([sum, all_rows]);
            let (one, whole) = (graph.scalar(1.0), graph.scalar(self.problem.rows()));
            let least = graph.max(all_rows, one);
            let factor = graph.div(whole, least);
            gradient = graph.mul(sum, factor);
            let (due, some) = (graph.greater(self.hyper.apply, half), graph.greater(all_rows, zero));
            accepted = Some(graph.and(due, some));
        }
        let (value, norm) = (self.config.clip_value.unwrap_or(0.0), self.config.gradient_clip_norm);
        let gradient = optimizer::clip(&mut self.graph, gradient, value, norm);
        let own = &self.state[..=moments(self.config.optimizer).len()];
        let own: Vec<_> = own.iter().map(|(.., value)| *value).collect();
        let (graph, config) = (&mut self.graph, self.config);
        let parameters = Updated { list: &self.parameters, reached: &self.reached };
        let updated = optimizer::update(graph, config, &parameters, &self.hyper, &own, gradient)?;
        for (name, condition) in [(results::FINITE, finite), (results::APPLIED, accepted.unwrap_or(some_valid))] {
            let number = graph.to_f32(condition);
            self.results.push(result(graph, name, number));
        }

        let chosen = Chosen { updated, counted, accepted, sums };
        Ok(self.chosen(chosen))
    }

    /// The state vectors after the step: the new ones where the batch is accepted, else the old ones.
    fn chosen(&mut self, chosen: Chosen) -> Vec<Value> {
        let Chosen { updated, counted, accepted, sums } = chosen;
        let (zero, half) = (self.graph.scalar(0.0), self.graph.scalar(0.5));
        let mut updated = updated.into_iter();
        let parameters = updated.clone().next().expect("parameters come first");
        let state = self.state.clone();
        let mut next = Vec::with_capacity(state.len());
        for (name, _, old) in state {
            let (new, condition) = match name {
                BUFFERS => (self.next_buffers(), Some(counted)),
                EMA => (self.graph.moving_average(old, parameters, self.config.ema as f32), accepted),
                GRADIENT | ROWS => {
                    let sum = sums.expect("accumulated")[usize::from(name == ROWS)];
                    let done = self.graph.greater(self.hyper.apply, half);
                    (self.graph.select(done, zero, sum), None)
                }
                _ => (updated.next().expect("one for each of the optimizer's"), accepted),
            };
            next.push(match condition {
                Some(condition) => self.graph.select(condition, new, old),
                None => new,
            });
        }
        next
    }

    fn next_buffers(&mut self) -> Value {
        let parts: Vec<_> = self
            .problem
            .model
            .buffers()
            .iter()
            .map(|buffer| {
                let value = self.pass.updated(&buffer.name);
                self.graph.reshape(value, &[buffer.elements()])
            })
            .collect();
        self.graph.concat(&parts, 0)
    }

    fn finish(self, next: Vec<Value>, kernels: Kernels) -> Result<StepGraph, StepError> {
        let Self { problem, mut graph, parameters, reached, state, pass, outcome, results: own_results, .. } = self;
        let mut ports = problem.ports();
        for ((name, elements, _), value) in state.into_iter().zip(next) {
            let next = format!("{name}_next");
            graph.output(&next, value);
            ports.state.push(StatePort { port: Port::f32(name, [elements]), next: Some(next) });
        }
        ports.controls.push(HyperValues::port());
        ports.results = outcome.outputs(&mut graph);
        ports.results.extend(own_results);
        select_kernels(&mut graph, kernels);
        prune(&mut graph);
        // A model may have dropout configured and no place for it, such as a decoder of one LSTM layer.
        if pass.dropout.is_some() {
            if graph.uses_input(RANDOM) {
                ports.controls.push(Port::i64(RANDOM, [Dropout::SEEDS]));
            } else {
                graph.remove_input(RANDOM);
            }
        }
        let unreached = parameters.into_iter().zip(reached).filter(|(_, reached)| !reached).map(|(p, _)| p.name);
        Ok(StepGraph { unreached: unreached.collect(), ..StepGraph::new(&graph, ports) })
    }
}

/// A parameter's gradient [elements]; zeros where the loss does not depend on it.
fn flat(graph: &mut Graph, gradient: Option<Value>, parameter: &Parameter) -> Value {
    let gradient = gradient.unwrap_or_else(|| graph.scalar(0.0));
    if graph.shape(gradient).is_empty() {
        return graph.expand(gradient, &[parameter.elements()]);
    }
    graph.reshape(gradient, &[parameter.elements()])
}

/// A graph that gives loss and gradients instead of updating: for tests against other implementations.
///
/// # Errors
/// As [`training_step`].
pub fn gradient_graph(problem: &Problem, kernels: Kernels) -> Result<Vec<u8>, StepError> {
    let parameters = problem.model.parameters();
    let (mut graph, [loss, prediction], ordered) = loss_of(problem, kernels)?;
    let gradients = gradients(&mut graph, loss, &ordered)?;
    graph.output(results::LOSS, loss);
    graph.output(results::PREDICTION, prediction);
    for (gradient, parameter) in gradients.into_iter().zip(&parameters) {
        let gradient = flat(&mut graph, gradient, parameter);
        let gradient = graph.reshape(gradient, &parameter.shape);
        graph.output(&format!("gradient/{}", parameter.name), gradient);
    }
    Ok(written(graph, kernels))
}

/// A graph that gives the loss that [`gradient_graph`] differentiates.
///
/// # Errors
/// As [`training_step`].
pub fn loss_graph(problem: &Problem, kernels: Kernels) -> Result<Vec<u8>, StepError> {
    let (mut graph, [loss, _], _) = loss_of(problem, kernels)?;
    graph.output(results::LOSS, loss);
    Ok(written(graph, kernels))
}

fn written(mut graph: Graph, kernels: Kernels) -> Vec<u8> {
    select_kernels(&mut graph, kernels);
    prune(&mut graph);
    if !graph.uses_input(BUFFERS) {
        graph.remove_input(BUFFERS);
    }
    to_onnx(&graph, &[], &ModelInfo::default())
}

/// A graph of the loss as in training, without dropout: loss and prediction, and the parameters in order.
fn loss_of(problem: &Problem, kernels: Kernels) -> Result<(Graph, [Value; 2], Vec<Value>), StepError> {
    let mut graph = Graph::new();
    let (parameters, buffers) = (problem.model.parameters(), problem.model.buffers());
    let all = graph.input(PARAMETERS, TensorType::f32([total_elements(&parameters)]));
    let (mut weights, ordered) = Weights::split(&mut graph, all, &parameters);
    if !buffers.is_empty() {
        let all = graph.input(BUFFERS, TensorType::f32([total_elements(&buffers)]));
        weights = weights.and(Weights::split(&mut graph, all, &buffers).0);
    }
    let batch = problem.batch(&mut graph);
    let inputs = batch.inputs(&mut graph, &problem.model);
    let mut pass = Pass::training(weights, None, kernels);
    let prediction = problem.model.forward(&mut graph, &mut pass, &inputs)?;
    let outcome = outcome(&mut graph, problem, &batch, prediction);
    Ok((graph, [outcome.loss, prediction], ordered))
}
