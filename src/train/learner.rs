//! Step graphs in use: batches in, sums out.

use super::checkpoint::Partial;
use super::error::TrainError;
use crate::config::TrainingConfig;
use crate::dataset::{Batch, RowBlock};
use crate::graph::Kernels;
use crate::model::{Dropout, Model};
use crate::ports::{Named, Values};
use crate::random::Random;
use crate::runtime::{Library, Provider, Results, Session, Stepper, Tensor};
use crate::step::{
    BUFFERS, EMA, HYPERPARAMETERS, Hyperparameters, PARAMETERS, Problem, RANDOM, StateVector, StepGraph,
    gradient_graph, results, state_vectors,
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
    fn read(step: &Results<'_>) -> Self {
        let sum = |name| step.get(name).iter().map(|value| f64::from(*value)).sum();
        let loss = f64::from(step.get(results::LOSS)[0]);
        let flag = |name| step.find(name).map(|flag| flag[0] == 1.0);
        Self {
            loss,
            finite: loss.is_finite() && flag(results::FINITE) != Some(false),
            applied: flag(results::APPLIED) == Some(true),
            rows: f64::from(step.get(results::VALID_ROWS)[0]),
            absolute: sum(results::ABSOLUTE),
            squared: sum(results::SQUARED),
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

/// The training step.
pub(super) struct Learner {
    stepper: Stepper,
    vectors: Vec<StateVector>,
    seed: u64,
    problem: Problem,
    library: Library,
    /// Whether gradients that are not finite have been looked for: it takes its time, so once a run.
    has_looked: bool,
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
        let vectors = state_vectors(&problem.model, config);
        let stepper = Stepper::new(library, provider, &graph.onnx, graph.ports)?;
        let stepper = stepper.shrink_every(config.empty_cache_every as u64);
        Ok(Self {
            stepper,
            vectors,
            seed: config.seed,
            problem: problem.clone(),
            library: library.clone(),
            has_looked: false,
        })
    }

    /// Loads the batch of the next step, also while one runs.
    pub(super) fn load(&mut self, batch: &Batch) -> Result<(), TrainError> {
        Ok(self.stepper.load(&batch.ports())?)
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
    pub(super) fn write_rows(&mut self, block: &RowBlock<'_>) -> Result<(), TrainError> {
        for (name, first, values) in block.tables() {
            self.stepper.write_table(name, first, values)?;
        }
        Ok(())
    }

    /// Starts the step on the batch loaded last; `draw` numbers the batches of the whole training, for dropout.
    pub(super) fn launch(&mut self, hyper: Hyperparameters, draw: u64) -> Result<(), TrainError> {
        const DROPOUT_STREAM: u64 = 0x6472_6f70;
        let hyper = hyper.values();
        let mut controls: Vec<Named<'_>> = vec![(HYPERPARAMETERS, Values::F32(&hyper))];
        let mut random = Random::new(&[self.seed, DROPOUT_STREAM, draw]);
        let seeds: [i64; Dropout::SEEDS] = std::array::from_fn(|_| random.up_to(Dropout::MODULUS - 1) as i64);
        if self.stepper.ports().has_control(RANDOM) {
            controls.push((RANDOM, Values::I64(&seeds)));
        }
        Ok(self.stepper.launch(&controls)?)
    }

    /// What the step gave.
    pub(super) fn finish(&mut self) -> Result<Outcome, TrainError> {
        Ok(self.stepper.finish(Outcome::read)?)
    }

    /// Names of parameters whose gradient of this batch was not finite in the last step, as far as it can be found out:
    /// computed anew, without dropout, which takes rows that are on the host. Only the first time.
    pub(super) fn infinite_gradients(&mut self, batch: &Batch) -> Vec<String> {
        if std::mem::replace(&mut self.has_looked, true) {
            return Vec::new();
        }
        self.gradients_before(batch).map_or_else(Vec::new, |gradients| {
            let infinite = |tensor: &Tensor| tensor.values.iter().any(|value| !value.is_finite());
            let parameters = self.problem.model.parameters().into_iter().zip(gradients);
            parameters.filter(|(_, gradient)| infinite(gradient)).map(|(parameter, _)| parameter.name).collect()
        })
    }

    /// Gradients of the batch at the weights before the last step.
    fn gradients_before(&self, batch: &Batch) -> Option<Vec<Tensor>> {
        let ports = self.problem.resident.is_none().then(|| self.problem.ports())?;
        let onnx = gradient_graph(&self.problem, Kernels::Cpu).ok()?;
        let mut session = Session::new(&self.library, Provider::Cpu, &onnx).ok()?;
        let mut inputs = Vec::new();
        for (name, values) in batch.ports() {
            let port = ports.batch.iter().find(|port| port.name == name)?;
            let Values::F32(values) = values else { return None };
            inputs.push((name, Tensor::new(port.shape.clone(), values.to_vec())));
        }
        for name in [PARAMETERS, BUFFERS].into_iter().filter(|name| self.stepper.ports().has_state(name)) {
            let values = self.stepper.state_before(name).ok()?;
            inputs.push((name, Tensor::new([values.len()], values)));
        }
        let known: Vec<_> = session.inputs().into_iter().map(|input| input.name).collect();
        inputs.retain(|(name, _)| known.iter().any(|other| other == name));
        let outputs = session.run(&inputs.iter().map(|(name, tensor)| (*name, tensor)).collect::<Vec<_>>()).ok()?;
        // Loss and prediction come first.
        Some(outputs.into_iter().skip(2).collect())
    }

    /// Sets every state vector to where training starts.
    pub(super) fn initialize(&mut self, model: &Model) -> Result<(), TrainError> {
        for vector in &self.vectors {
            self.stepper.set_state(vector.name, &vector.initial(model, self.seed))?;
        }
        Ok(())
    }

    /// Sets parameters, and their moving average, and buffers.
    pub(super) fn set_weights(&mut self, parameters: &[f32], buffers: &[f32]) -> Result<(), TrainError> {
        for vector in &self.vectors {
            match vector.name {
                PARAMETERS | EMA => self.stepper.set_state(vector.name, parameters)?,
                BUFFERS => self.stepper.set_state(vector.name, buffers)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// State vectors by name.
    pub(super) fn state(&self) -> Result<State, TrainError> {
        let vector = |vector: &StateVector| Ok((vector.name.to_owned(), self.stepper.state(vector.name)?));
        self.vectors.iter().map(vector).collect()
    }

    /// Sets every state vector from a checkpoint's.
    pub(super) fn restore(&mut self, state: &[(String, Vec<f32>)]) -> Result<(), TrainError> {
        for StateVector { name, elements } in &self.vectors {
            let values = state.iter().find(|(other, _)| other == name).map(|(_, values)| values);
            let values = values.ok_or(TrainError::MissingState { name })?;
            if values.len() != *elements {
                return Err(TrainError::StateMismatch { name, found: values.len(), expected: *elements });
            }
            self.stepper.set_state(name, values)?;
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
        Ok(Self { stepper: Stepper::new(library, provider, &graph.onnx, graph.ports)? })
    }

    pub(super) fn set_weights(&mut self, parameters: &[f32], buffers: &[f32]) -> Result<(), TrainError> {
        for (name, values) in [(PARAMETERS, parameters), (BUFFERS, buffers)] {
            if self.stepper.ports().has_state(name) {
                self.stepper.set_state(name, values)?;
            }
        }
        Ok(())
    }

    /// Takes over the weights that are trained (their moving average where there is one), where they are.
    pub(super) fn take_weights(&mut self, learner: &Learner) -> Result<(), TrainError> {
        let averaged = if learner.stepper.ports().has_state(EMA) { EMA } else { PARAMETERS };
        for (name, from) in [(PARAMETERS, averaged), (BUFFERS, BUFFERS)] {
            if self.stepper.ports().has_state(name) {
                self.stepper.copy_state(name, &learner.stepper, from)?;
            }
        }
        Ok(())
    }

    /// The batch's sums, and its predictions to `predictions` where the graph gives them.
    pub(super) fn step(&mut self, batch: &Batch, predictions: &mut Vec<f32>) -> Result<Outcome, TrainError> {
        Ok(self.stepper.step(&batch.ports(), &[], |step| {
            predictions.clear();
            predictions.extend_from_slice(step.find(results::PREDICTION).unwrap_or_default());
            Outcome::read(step)
        })?)
    }
}
