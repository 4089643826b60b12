//! Optimizers over one flat vector, as PyTorch defines them: AdamW (decoupled decay; Loshchilov and Hutter 2019),
//! Adam and SGD with momentum (L2 decay in the gradient).

use crate::config::{Optimizer, TrainingConfig};
use crate::graph::{Graph, TensorType, Value};

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f32 = 1e-8;
const MOMENTUM: f32 = 0.9;

/// Name of the input with a step's [`hyperparameters`].
pub(super) const HYPER: &str = "hyperparameters";
pub(super) const HYPER_ELEMENTS: usize = 3;

/// Names of an optimizer's state vectors beside the parameters.
pub struct OptimizerState;

impl OptimizerState {
    pub fn names(optimizer: Optimizer) -> &'static [&'static str] {
        match optimizer {
            Optimizer::Adamw | Optimizer::Adam => &["moment1", "moment2"],
            Optimizer::Sgd => &["momentum"],
        }
    }
}

/// What changes from step to step: learning rate and Adam's two bias corrections. `step` counts from 1.
pub fn hyperparameters(learning_rate: f64, step: u64) -> [f32; HYPER_ELEMENTS] {
    let correction = |beta: f64| 1.0 - beta.powf(step as f64);
    [learning_rate as f32, correction(BETA1) as f32, correction(BETA2).sqrt() as f32]
}

/// Scales `gradient` so that its norm is at most `limit`.
pub(super) fn clip(graph: &mut Graph, gradient: Value, limit: f64) -> Value {
    let square = graph.mul(gradient, gradient);
    let sum = graph.sum_all(square);
    let norm = graph.sqrt(sum);
    let (tiny, limit, one) = (graph.scalar(1e-6), graph.scalar(limit as f32), graph.scalar(1.0));
    let norm = graph.add(norm, tiny);
    let scale = graph.div(limit, norm);
    let scale = graph.min(scale, one);
    graph.mul(gradient, scale)
}

/// Appends the update. Takes and gives the state vectors: parameters, then those of [`OptimizerState`].
pub(super) fn update(graph: &mut Graph, config: &TrainingConfig, state: &[Value], gradient: Value) -> Vec<Value> {
    let hyper = graph.input(HYPER, TensorType::f32([HYPER_ELEMENTS]));
    let hyper = graph.split(hyper, 0, &[1; HYPER_ELEMENTS]);
    let rate = hyper[0];
    let parameters = state[0];
    match config.optimizer {
        Optimizer::Adamw => {
            let parameters = match config.weight_decay {
                0.0 => parameters,
                weight_decay => {
                    let decay = graph.scalar(weight_decay as f32);
                    let share = graph.mul(rate, decay);
                    let shrunk = graph.mul(parameters, share);
                    graph.sub(parameters, shrunk)
                }
            };
            adam(graph, parameters, &state[1..], gradient, &hyper)
        }
        Optimizer::Adam => {
            let gradient = l2(graph, config, parameters, gradient);
            adam(graph, parameters, &state[1..], gradient, &hyper)
        }
        Optimizer::Sgd => {
            let gradient = l2(graph, config, parameters, gradient);
            let momentum = graph.scalar(MOMENTUM);
            let kept = graph.mul(state[1], momentum);
            let velocity = graph.add(kept, gradient);
            let change = graph.mul(velocity, rate);
            vec![graph.sub(parameters, change), velocity]
        }
    }
}

fn l2(graph: &mut Graph, config: &TrainingConfig, parameters: Value, gradient: Value) -> Value {
    if config.weight_decay == 0.0 {
        return gradient;
    }
    let decay = graph.scalar(config.weight_decay as f32);
    let pull = graph.mul(parameters, decay);
    graph.add(gradient, pull)
}

fn adam(graph: &mut Graph, parameters: Value, moments: &[Value], gradient: Value, hyper: &[Value]) -> Vec<Value> {
    let square = graph.mul(gradient, gradient);
    let first = moving_average(graph, moments[0], gradient, BETA1);
    let second = moving_average(graph, moments[1], square, BETA2);
    let deviation = graph.sqrt(second);
    let deviation = graph.div(deviation, hyper[2]);
    let epsilon = graph.scalar(EPSILON);
    let deviation = graph.add(deviation, epsilon);
    let rate = graph.div(hyper[0], hyper[1]);
    let direction = graph.div(first, deviation);
    let change = graph.mul(direction, rate);
    vec![graph.sub(parameters, change), first, second]
}

/// beta x old + (1 - beta) x new.
fn moving_average(graph: &mut Graph, old: Value, new: Value, beta: f64) -> Value {
    let (keep, take) = (graph.scalar(beta as f32), graph.scalar((1.0 - beta) as f32));
    let (old, new) = (graph.mul(old, keep), graph.mul(new, take));
    graph.add(old, new)
}
