//! Step graphs in use: batches in, sums out.

use super::checkpoint::Partial;
use super::error::TrainError;
use crate::config::TrainingConfig;
use crate::dataset::{Batch, BatchShape, RowBlock};
use crate::model::{Dropout, Model};
use crate::random::Random;
use crate::runtime::{Inputs, Library, Provider, Stepper};
use crate::step::{
    BUFFERS, EMA, Hyperparameters, PARAMETERS, Problem, StateVector, StepGraph, hyperparameters, results, state_vectors,
};

/// What a batch gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Outcome {
    pub(super) loss: f64,
    pub(super) rows: f64,
    /// Over rows and joints, radians.
    pub(super) absolute: f64,
    pub(super) squared: f64,
    /// Whether loss and gradient were finite.
    pub(super) finite: bool,
    /// Whether the parameters changed.
    pub(super) applied: bool,
}

impl Outcome {
    fn read(outputs: &[&[f32]]) -> Self {
        let sum = |values: &[f32]| values.iter().map(|value| f64::from(*value)).sum();
        let loss = f64::from(outputs[results::LOSS][0]);
        Self {
            loss,
            finite: loss.is_finite(),
            applied: false,
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

/// What of a batch a step takes as float32, in the order of its inputs.
fn floats(batch: &Batch) -> Vec<&[f32]> {
    let all = [&batch.emg, &batch.joint_angles, &batch.mask, &batch.angle_mean, &batch.angle_divisor];
    all.into_iter().map(Vec::as_slice).filter(|values| !values.is_empty()).collect()
}

/// The training step.
pub(super) struct Learner {
    stepper: Stepper,
    vectors: Vec<StateVector>,
    seed: u64,
    /// Integers of the batch loaded last: where resident rows are taken from.
    places: Vec<Vec<i64>>,
    dropout: bool,
}

/// State vectors by name.
pub(super) type State = Vec<(String, Vec<f32>)>;

impl Learner {
    pub(super) fn new(
        library: &Library,
        provider: Provider,
        graph: StepGraph,
        problem: &Problem,
        config: &TrainingConfig,
    ) -> Result<Self, TrainError> {
        let places = vec![Vec::new(); problem.integers().len()];
        let dropout = graph.spec.integers.len() > places.len();
        let vectors = state_vectors(&problem.model, config);
        let stepper = Stepper::new(library, provider, &graph.onnx, graph.spec)?;
        let stepper = stepper.shrink_every(config.empty_cache_every as u64);
        Ok(Self { stepper, vectors, seed: config.seed, places, dropout })
    }

    /// Loads the batch of the next step, also while one runs.
    pub(super) fn load(&mut self, batch: &Batch) -> Result<(), TrainError> {
        self.places.iter_mut().zip([&batch.first_rows, &batch.channels]).for_each(|(own, new)| own.clone_from(new));
        Ok(self.stepper.load(&floats(batch))?)
    }

    /// Runs the step, so that it has taken the memory that it needs. The state vectors are nothing to go on from then.
    pub(super) fn rehearse(&mut self, batch: &Batch) -> Result<(), TrainError> {
        // One captured graph for each of the two sets of buffers.
        (0..2).try_for_each(|_| {
            self.load(batch)?;
            self.launch(Hyperparameters::new(0.0, 1), 0)?;
            self.finish().map(|_| ())
        })
    }

    /// Puts rows where the step gathers windows from.
    pub(super) fn write_rows(&mut self, block: &RowBlock<'_>, shape: BatchShape) -> Result<(), TrainError> {
        let first = block.first as usize;
        let tables = [(block.emg, shape.channels), (block.joint_angles, shape.joints), (block.valid, 1)];
        for (i, (values, columns)) in tables.into_iter().enumerate() {
            self.stepper.write_table(i, first * columns, values)?;
        }
        Ok(())
    }

    /// Starts the step on the batch loaded last; `draw` numbers the batches of the whole training, for dropout.
    pub(super) fn launch(&mut self, hyper: Hyperparameters, draw: u64) -> Result<(), TrainError> {
        const DROPOUT_STREAM: u64 = 0x6472_6f70;
        let mut random = Random::new(&[self.seed, DROPOUT_STREAM, draw]);
        let seeds: [i64; Dropout::SEEDS] = std::array::from_fn(|_| random.up_to(Dropout::MODULUS - 1) as i64);
        let places = self.places.iter().map(Vec::as_slice);
        let integers: Vec<_> = places.chain(self.dropout.then_some(&seeds[..])).collect();
        Ok(self.stepper.launch(&[&hyperparameters(hyper)], &integers)?)
    }

    /// What the step gave.
    pub(super) fn finish(&mut self) -> Result<Outcome, TrainError> {
        Ok(self.stepper.finish(|outputs| {
            let mut outcome = Outcome::read(outputs);
            outcome.finite &= outputs[results::FINITE][0] == 1.0;
            outcome.applied = outputs[results::APPLIED][0] == 1.0;
            outcome
        })?)
    }

    /// Sets every state vector to where training starts.
    pub(super) fn initialize(&mut self, model: &Model) -> Result<(), TrainError> {
        for (i, vector) in self.vectors.iter().enumerate() {
            self.stepper.set_state(i, &vector.initial(model, self.seed))?;
        }
        Ok(())
    }

    /// Sets parameters, and their moving average, and buffers.
    pub(super) fn set_weights(&mut self, parameters: &[f32], buffers: &[f32]) -> Result<(), TrainError> {
        for (i, vector) in self.vectors.iter().enumerate() {
            match vector.name {
                PARAMETERS | EMA => self.stepper.set_state(i, parameters)?,
                BUFFERS => self.stepper.set_state(i, buffers)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// State vectors by name.
    pub(super) fn state(&self) -> Result<State, TrainError> {
        let vector = |(i, vector): (usize, &StateVector)| Ok((vector.name.to_owned(), self.stepper.state(i)?));
        self.vectors.iter().enumerate().map(vector).collect()
    }

    /// One state vector, if there is one of that name.
    pub(super) fn vector(&self, name: &str) -> Result<Option<Vec<f32>>, TrainError> {
        let i = self.vectors.iter().position(|vector| vector.name == name);
        Ok(i.map(|i| self.stepper.state(i)).transpose()?)
    }

    /// Sets every state vector from a checkpoint's.
    pub(super) fn restore(&mut self, state: &[(String, Vec<f32>)]) -> Result<(), TrainError> {
        for (i, StateVector { name, elements }) in self.vectors.iter().enumerate() {
            let values = state.iter().find(|(other, _)| other == name).map(|(_, values)| values);
            let values = values.ok_or_else(|| TrainError::Usage(format!("the checkpoint holds no {name}")))?;
            if values.len() != *elements {
                let message = format!("the checkpoint's {name} has {} elements, expected {elements}", values.len());
                return Err(TrainError::Usage(message));
            }
            self.stepper.set_state(i, values)?;
        }
        Ok(())
    }
}

/// The evaluation step.
pub(super) struct Evaluator {
    stepper: Stepper,
    vectors: Vec<String>,
}

impl Evaluator {
    pub(super) fn new(library: &Library, provider: Provider, graph: StepGraph) -> Result<Self, TrainError> {
        let vectors = graph.spec.state.iter().map(|(name, ..)| name.clone()).collect();
        Ok(Self { stepper: Stepper::new(library, provider, &graph.onnx, graph.spec)?, vectors })
    }

    pub(super) fn set_weights(&mut self, parameters: &[f32], buffers: &[f32]) -> Result<(), TrainError> {
        for (i, name) in self.vectors.iter().enumerate() {
            let values = if name == BUFFERS { buffers } else { parameters };
            debug_assert!(name == BUFFERS || name == PARAMETERS);
            self.stepper.set_state(i, values)?;
        }
        Ok(())
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
