//! Optimizers over one flat vector, as PyTorch defines them: AdamW (decoupled decay; Loshchilov and Hutter 2019),
//! Adam and SGD with momentum (L2 decay in the gradient).

use super::error::StepError;
use super::problem::add_input;
use crate::config::{Optimizer, TrainingConfig};
use crate::graph::{Adam, Graph, Value};
use crate::model::{Parameter, matching};
use crate::ports::Port;

const BETAS: [f64; 2] = [0.9, 0.999];
const EPSILON: f32 = 1e-8;
const MOMENTUM: f32 = 0.9;

/// The control with what changes from step to step: [`Hyperparameters::values`].
pub const HYPERPARAMETERS: &str = "hyperparameters";
const ELEMENTS: usize = 5;

/// What changes from step to step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hyperparameters {
    pub learning_rate: f64,
    /// Optimizer steps, this one included.
    pub step: u64,
    /// Whether the parameters change, or this batch's gradient only adds to that of the next.
    pub apply: bool,
    /// Factor on the loss while gradients are computed, a power of 2 (`precision: fp16`).
    pub loss_scale: f32,
}

impl Hyperparameters {
    /// A step of its own, without loss scale.
    pub fn new(learning_rate: f64, step: u64) -> Self {
        Self { learning_rate, step, apply: true, loss_scale: 1.0 }
    }

    /// The elements of [`HYPERPARAMETERS`]: learning rate, Adam's two bias corrections, whether to apply, loss scale.
    pub fn values(&self) -> [f32; ELEMENTS] {
        let correction = |beta: f64| 1.0 - beta.powf(self.step as f64);
        let (first, second) = (correction(BETAS[0]) as f32, correction(BETAS[1]).sqrt() as f32);
        [self.learning_rate as f32, first, second, f32::from(u8::from(self.apply)), self.loss_scale]
    }
}

/// The [`Hyperparameters`] as values [1].
pub(super) struct HyperValues {
    rate: Value,
    corrections: [Value; 2],
    pub(super) apply: Value,
    pub(super) loss_scale: Value,
}

impl HyperValues {
    pub(super) fn port() -> Port {
        Port::f32(HYPERPARAMETERS, [ELEMENTS])
    }

    pub(super) fn new(graph: &mut Graph) -> Self {
        let input = add_input(graph, &Self::port());
        let parts = graph.split(input, 0, &[1; ELEMENTS]);
        Self { rate: parts[0], corrections: [parts[1], parts[2]], apply: parts[3], loss_scale: parts[4] }
    }
}

/// Cuts each element to at most `value`, then scales the whole so that its norm is at most `norm`; 0 is no limit.
pub(super) fn clip(graph: &mut Graph, gradient: Value, value: f64, norm: f64) -> Value {
    let mut gradient = gradient;
    if value > 0.0 {
        let (most, least) = (graph.scalar(value as f32), graph.scalar(-value as f32));
        let below = graph.min(gradient, most);
        gradient = graph.max(below, least);
    }
    if norm > 0.0 {
        let square = graph.mul(gradient, gradient);
        let sum = graph.sum_all(square);
        let length = graph.sqrt(sum);
        let (tiny, limit, one) = (graph.scalar(1e-6), graph.scalar(norm as f32), graph.scalar(1.0));
        let length = graph.add(length, tiny);
        let scale = graph.div(limit, length);
        let scale = graph.min(scale, one);
        gradient = graph.mul(gradient, scale);
    }
    gradient
}

/// What an update changes.
pub(super) struct Updated<'a> {
    pub(super) list: &'a [Parameter],
    /// Which of them the loss depends on. The others stay as they are, as in PyTorch: nothing decays them.
    pub(super) reached: &'a [bool],
}

/// Appends the update. Takes and gives parameters and what the optimizer keeps of them.
pub(super) fn update(
    graph: &mut Graph,
    config: &TrainingConfig,
    list: &Updated<'_>,
    hyper: &HyperValues,
    state: &[Value],
    gradient: Value,
) -> Result<Vec<Value>, StepError> {
    let parameters = state[0];
    let decay = decay(graph, config, list)?;
    if config.optimizer == Optimizer::Sgd {
        let mut gradient = gradient;
        // What is not finite, such as a mask's minus infinity, stays as it is without decay.
        if config.weight_decay != 0.0 {
            let pull = graph.mul(parameters, decay);
            gradient = graph.add(gradient, pull);
        }
        let momentum = graph.scalar(MOMENTUM);
        let kept = graph.mul(state[1], momentum);
        let velocity = graph.add(kept, gradient);
        let change = graph.mul(velocity, hyper.rate);
        return Ok(vec![graph.sub(parameters, change), velocity]);
    }
    let adam = Adam { betas: BETAS, epsilon: EPSILON, decoupled: config.optimizer == Optimizer::Adamw };
    let step = [hyper.rate, hyper.corrections[0], hyper.corrections[1], decay];
    Ok(graph.adam_update([parameters, state[1], state[2], gradient], step, &adam))
}

/// Weight decay [1], or one number per element where some parameters have none.
fn decay(graph: &mut Graph, config: &TrainingConfig, updated: &Updated<'_>) -> Result<Value, StepError> {
    let list = updated.list;
    let mut free = matching(list, &config.no_decay).map_err(StepError::NoDecay)?;
    free.iter_mut().zip(updated.reached).for_each(|(free, reached)| *free |= !reached);
    let number = |free: bool| vec![if free { 0.0 } else { config.weight_decay as f32 }];
    if !free.contains(&true) || config.weight_decay == 0.0 {
        return Ok(graph.f32([1], number(false)));
    }
    let mut part = |(parameter, free): (&Parameter, bool)| {
        let value = graph.f32([1], number(free));
        graph.expand(value, &[parameter.elements()])
    };
    let parts: Vec<_> = list.iter().zip(free).map(&mut part).collect();
    Ok(graph.concat(&parts, 0))
}
