//! Step graphs in use: batches in, sums out.

use super::checkpoint::Partial;
use super::error::TrainError;
use crate::config::TrainingConfig;
use crate::dataset::{Batch, Random};
use crate::model::Dropout;
use crate::runtime::{Inputs, Library, Provider, Stepper};
use crate::step::{OptimizerState, StepGraph, hyperparameters, results};

/// What a batch gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Outcome {
    pub(super) loss: f64,
    pub(super) rows: f64,
    /// Over rows and joints, radians.
    pub(super) absolute: f64,
    pub(super) squared: f64,
}

impl Outcome {
    fn read(outputs: &[&[f32]]) -> Self {
        let sum = |values: &[f32]| values.iter().map(|value| f64::from(*value)).sum();
        Self {
            loss: f64::from(outputs[results::LOSS][0]),
            rows: f64::from(outputs[results::VALID_ROWS][0]),
            absolute: sum(outputs[results::ABSOLUTE]),
            squared: sum(outputs[results::SQUARED]),
        }
    }
}

impl Partial {
    pub(super) fn add(&mut self, outcome: &Outcome) {
        self.loss += outcome.loss * outcome.rows;
        self.rows += outcome.rows;
        self.absolute += outcome.absolute;
        self.squared += outcome.squared;
    }

    pub(super) fn mean_loss(&self) -> f64 {
        self.loss / self.rows
    }

    /// Mean absolute error in degrees.
    pub(super) fn mae_deg(&self, joints: usize) -> f64 {
        (self.absolute / (self.rows * joints as f64)).to_degrees()
    }

    pub(super) fn rmse_deg(&self, joints: usize) -> f64 {
        (self.squared / (self.rows * joints as f64)).sqrt().to_degrees()
    }
}

fn floats(batch: &Batch) -> Vec<&[f32]> {
    let mut floats: Vec<&[f32]> = vec![&batch.emg, &batch.joint_angles, &batch.mask];
    if !batch.angle_mean.is_empty() {
        floats.extend([batch.angle_mean.as_slice(), batch.angle_divisor.as_slice()]);
    }
    floats
}

/// The training step.
pub(super) struct Learner {
    stepper: Stepper,
    names: Vec<&'static str>,
    seed: u64,
    dropout: bool,
}

impl Learner {
    pub(super) fn new(
        library: &Library,
        provider: Provider,
        graph: StepGraph,
        config: &TrainingConfig,
    ) -> Result<Self, TrainError> {
        let dropout = !graph.spec.integers.is_empty();
        let names = ["parameters"].iter().chain(OptimizerState::names(config.optimizer)).copied().collect();
        let stepper = Stepper::new(library, provider, &graph.onnx, graph.spec)?;
        Ok(Self { stepper, names, seed: config.seed, dropout })
    }

    /// One optimizer step; `step` counts from 1.
    pub(super) fn step(&mut self, batch: &Batch, learning_rate: f64, step: u64) -> Result<Outcome, TrainError> {
        const DROPOUT_STREAM: u64 = 0x6472_6f70;
        let hyper = hyperparameters(learning_rate, step);
        let mut random = Random::new(&[self.seed, DROPOUT_STREAM, step]);
        let seeds: [i64; Dropout::SEEDS] = std::array::from_fn(|_| random.up_to(Dropout::MODULUS - 1) as i64);
        let mut inputs = Inputs { floats: floats(batch), integers: Vec::new() };
        inputs.floats.push(&hyper);
        if self.dropout {
            inputs.integers.push(&seeds);
        }
        Ok(self.stepper.step(&inputs, Outcome::read)?)
    }

    pub(super) fn set_parameters(&mut self, values: &[f32]) -> Result<(), TrainError> {
        Ok(self.stepper.set_state(0, values)?)
    }

    pub(super) fn parameters(&self) -> Result<Vec<f32>, TrainError> {
        Ok(self.stepper.state(0)?)
    }

    /// State vectors by name.
    pub(super) fn state(&self) -> Result<Vec<(String, Vec<f32>)>, TrainError> {
        let vector = |(i, name): (usize, &&str)| Ok(((*name).to_owned(), self.stepper.state(i)?));
        self.names.iter().enumerate().map(vector).collect()
    }

    /// Sets every state vector from a checkpoint's.
    pub(super) fn restore(&mut self, state: &[(String, Vec<f32>)]) -> Result<(), TrainError> {
        for (i, name) in self.names.iter().enumerate() {
            let values = state.iter().find(|(other, _)| other == name).map(|(_, values)| values);
            let values = values.ok_or_else(|| TrainError::Usage(format!("the checkpoint holds no {name}")))?;
            self.stepper.set_state(i, values)?;
        }
        Ok(())
    }
}

/// The evaluation step.
pub(super) struct Evaluator {
    stepper: Stepper,
}

impl Evaluator {
    pub(super) fn new(library: &Library, provider: Provider, graph: StepGraph) -> Result<Self, TrainError> {
        Ok(Self { stepper: Stepper::new(library, provider, &graph.onnx, graph.spec)? })
    }

    pub(super) fn set_parameters(&mut self, values: &[f32]) -> Result<(), TrainError> {
        Ok(self.stepper.set_state(0, values)?)
    }

    /// The batch's sums, and its predictions to `predictions` where the graph gives them.
    pub(super) fn step(&mut self, batch: &Batch, predictions: &mut Vec<f32>) -> Result<Outcome, TrainError> {
        let inputs = Inputs { floats: floats(batch), integers: Vec::new() };
        Ok(self.stepper.step(&inputs, |outputs| {
            predictions.clear();
            if let Some(values) = outputs.get(results::PREDICTION) {
                predictions.extend_from_slice(values);
            }
            Outcome::read(outputs)
        })?)
    }
}
