//! The flat vectors that a training step reads and writes.

use crate::config::{OnNan, Optimizer, Precision, TrainingConfig};
use crate::model::{Model, initialize, total_elements};

/// All parameters end to end, float32 in every precision.
pub const PARAMETERS: &str = "parameters";
/// Running statistics and the like.
pub const BUFFERS: &str = "buffers";
/// Moving average of the parameters.
pub const EMA: &str = "ema";
/// Gradient summed over the batches of a step so far.
pub(super) const GRADIENT: &str = "gradient";
/// Valid rows in those batches.
pub(super) const ROWS: &str = "gradient_rows";

/// A state vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateVector {
    pub name: &'static str,
    pub elements: usize,
}

/// The state of training `model`, parameters first, then what the optimizer keeps of each.
pub fn state_vectors(model: &Model, config: &TrainingConfig) -> Vec<StateVector> {
    let (parameters, buffers) = (total_elements(&model.parameters()), total_elements(&model.buffers()));
    let accumulates = config.gradient_accumulation_steps > 1;
    let own = [PARAMETERS].iter().chain(moments(config.optimizer)).map(|name| (*name, parameters));
    let more = [
        (BUFFERS, buffers),
        (EMA, if config.ema > 0.0 { parameters } else { 0 }),
        (GRADIENT, if accumulates { parameters } else { 0 }),
        (ROWS, usize::from(accumulates)),
    ];
    let more = more.into_iter().filter(|(_, elements)| *elements > 0);
    own.chain(more).map(|(name, elements)| StateVector { name, elements }).collect()
}

/// What an optimizer keeps of every parameter.
pub(super) fn moments(optimizer: Optimizer) -> &'static [&'static str] {
    match optimizer {
        Optimizer::Adamw | Optimizer::Adam => &["moment1", "moment2"],
        Optimizer::Sgd => &["momentum"],
    }
}

impl StateVector {
    /// What the vector holds before the first step.
    pub fn initial(&self, model: &Model, seed: u64) -> Vec<f32> {
        match self.name {
            PARAMETERS | EMA => initialize(&model.parameters(), seed),
            BUFFERS => initialize(&model.buffers(), seed),
            _ => vec![0.0; self.elements],
        }
    }
}

/// Whether a step that meets infinite or undefined numbers leaves the state as it was.
pub(super) fn skips(config: &TrainingConfig) -> bool {
    config.precision == Precision::Fp16 || config.on_nan == OnNan::Skip
}
