//! One step of a model on a made-up batch: what it gives, and every parameter's gradient, for comparison with other
//! implementations and with differences of the loss.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};

use super::error::TrainError;
use crate::config::{self, Optimizer, Precision, TrainingConfig};
use crate::files::{FileError, replace_named_file};
use crate::graph::Kernels;
use crate::model::{Parameter, initialize, total_elements};
use crate::ports::{EMG, EMG_MEAN, EMG_STD, JOINT_ANGLES, MASK, Values};
use crate::random::Random;
use crate::runtime::{Library, Provider, Session, Stepper, Tensor};
use crate::step::{
    BUFFERS, Exported, HYPERPARAMETERS, Hyperparameters, PARAMETERS, Problem, RANDOM, export, gradient_graph, results,
    training_step,
};
use crate::units::{Affine, Units};

/// A model with a made-up batch: EMG [batch, rows, channels] of standard deviation 1, angles [batch, target rows, joints]
/// within half a radian, and a mask [batch, target rows] in which one row in eight does not count; EMG statistics [batch,
/// channels] for a model that takes them.
#[derive(Debug)]
pub struct Trial<'a> {
    pub(super) problem: &'a Problem,
    pub(super) batch: Vec<(&'static str, Tensor)>,
    pub(super) parameters: Vec<f32>,
    pub(super) buffers: Vec<f32>,
}

/// Loss, prediction and gradients at the model's own weights.
#[derive(Debug)]
pub struct TrialGradients {
    pub loss: f32,
    /// [batch, target rows, joints] in the model's units.
    pub prediction: Tensor,
    /// Of each parameter, in order.
    pub gradients: Vec<Tensor>,
}

/// Weights after one step of plain gradient descent.
#[derive(Debug)]
pub struct TrialStep {
    pub parameters: Vec<f32>,
    pub buffers: Vec<f32>,
}

impl<'a> Trial<'a> {
    /// A batch that depends on `seed` alone.
    pub fn new(problem: &'a Problem, seed: u64) -> Self {
        let shape = problem.shape;
        let targets = shape.target_rows();
        let noise = |tensor: u64, scale: f32, sizes: [usize; 3]| {
            let mut random = Random::new(&[seed, tensor]);
            let mut unit = || unit(&mut random) - 0.5;
            // Of four uniform numbers: nearly normal.
            let values = (0..sizes.iter().product()).map(|_| scale * (unit() + unit() + unit() + unit()) * 3f32.sqrt());
            Tensor::new(sizes, values.collect())
        };
        let emg = noise(0, 1.0, [shape.batch, shape.rows, shape.channels]);
        let joint_angles = noise(1, 0.25, [shape.batch, targets, shape.joints]);
        let mut random = Random::new(&[seed, 2]);
        let mask = (0..shape.batch * targets).map(|_| f32::from(u8::from(random.up_to(7) > 0))).collect();
        let mask = Tensor::new([shape.batch, targets], mask);
        let mut batch = vec![(EMG, emg), (JOINT_ANGLES, joint_angles), (MASK, mask)];
        if problem.model.takes_emg_statistics() {
            let mut random = Random::new(&[seed, 3]);
            let mut between = |low: f32, high: f32| {
                let sizes = [shape.batch, shape.channels];
                let values = (0..sizes.iter().product()).map(|_| low + (high - low) * unit(&mut random));
                Tensor::new(sizes, values.collect())
            };
            batch.extend([(EMG_MEAN, between(-0.5, 0.5)), (EMG_STD, between(0.5, 1.5))]);
        }
        let (parameters, buffers) =
            (initialize(&problem.model.parameters(), seed), initialize(&problem.model.buffers(), seed));
        Self { problem, batch, parameters, buffers }
    }

    /// Loss, prediction and gradients at these parameters, without dropout.
    ///
    /// # Errors
    /// The model cannot be differentiated, or the library's.
    pub fn gradients(&self, library: &Library) -> Result<TrialGradients, TrainError> {
        let onnx = gradient_graph(self.problem, Kernels::Cpu)?;
        let mut session = Session::new(library, Provider::Cpu, &onnx)?;
        let parameters = Tensor::new([self.parameters.len()], self.parameters.clone());
        let buffers = Tensor::new([self.buffers.len()], self.buffers.clone());
        let takes = |name: &str| session.inputs().iter().any(|input| input.name == name);
        let batch = self.batch.iter().map(|(name, tensor)| (*name, tensor));
        let all = [(PARAMETERS, &parameters), (BUFFERS, &buffers)].into_iter().chain(batch);
        let given: Vec<_> = all.filter(|(name, _)| takes(name)).collect();
        let mut outputs = session.run(&given)?.into_iter();
        let loss = outputs.next().map_or(f32::NAN, |loss| loss.values[0]);
        let prediction = outputs.next().expect("the graph gives a prediction");
        Ok(TrialGradients { loss, prediction, gradients: outputs.collect() })
    }

    /// One step of gradient descent at `training`'s learning rate, without momentum, decay, clipping or dropout.
    ///
    /// # Errors
    /// As [`gradients`](Self::gradients).
    pub fn step(&self, library: &Library, training: &TrainingConfig) -> Result<TrialStep, TrainError> {
        let config = TrainingConfig {
            optimizer: Optimizer::Sgd,
            weight_decay: 0.0,
            gradient_clip_norm: 0.0,
            clip_value: None,
            gradient_accumulation_steps: 1,
            precision: Precision::Fp32,
            ema: 0.0,
            ..training.clone()
        };
        let graph = training_step(self.problem, &config, Kernels::Cpu)?;
        if graph.ports.has_control(RANDOM) {
            return Err(TrainError::RandomTrial);
        }
        let has_buffers = graph.ports.has_state(BUFFERS);
        let mut stepper = Stepper::new(library, Provider::Cpu, &graph.onnx, graph.ports)?;
        stepper.set_state(PARAMETERS, &self.parameters)?;
        if has_buffers {
            stepper.set_state(BUFFERS, &self.buffers)?;
        }
        let hyper = Hyperparameters::new(config.learning_rate, 1).values();
        let batch: Vec<_> = self.batch.iter().map(|(name, tensor)| (*name, Values::F32(&tensor.values))).collect();
        stepper.step(&batch, &[(HYPERPARAMETERS, Values::F32(&hyper))], |_| ())?;
        let parameters = stepper.state(PARAMETERS)?;
        let buffers = if has_buffers { stepper.state(BUFFERS)? } else { self.buffers.clone() };
        Ok(TrialStep { parameters, buffers })
    }

    /// Writes `step.safetensors` into `folder` (`emg`, `joint_angles`, `mask`, `loss`, `prediction`, and for each
    /// parameter NAME `gradient/NAME` and `parameter/NAME`, which is after the step, as is `buffer/NAME` of running
    /// statistics) and `model.onnx`, the model after the step.
    ///
    /// # Errors
    /// As [`gradients`](Self::gradients); a file cannot be written.
    pub fn save(&self, library: &Library, training: &TrainingConfig, folder: &Path) -> Result<(), TrainError> {
        let found = self.gradients(library)?;
        let step = self.step(library, training)?;
        let (parameters, buffers) = (self.problem.model.parameters(), self.problem.model.buffers());
        let mut tensors: HashMap<_, _> =
            self.batch.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect();
        tensors.insert(results::LOSS.to_owned(), Tensor::new([], vec![found.loss]));
        tensors.insert(results::PREDICTION.to_owned(), found.prediction);
        for (parameter, gradient) in parameters.iter().zip(found.gradients) {
            tensors.insert(format!("gradient/{}", parameter.name), gradient);
        }
        for (kind, list, values) in [("parameter", &parameters, &step.parameters), ("buffer", &buffers, &step.buffers)]
        {
            tensors.extend(parts(list, values).map(|(name, tensor)| (format!("{kind}/{name}"), tensor)));
        }
        let channels = self.problem.shape.channels;
        let onnx = export(&Exported {
            model: &self.problem.model,
            parameters: &step.parameters,
            buffers: &step.buffers,
            rows: self.problem.shape.rows,
            emg: Units::Raw,
            train_emg: Affine { mean: vec![0.0; channels], divisor: vec![1.0; channels] },
            angles: Units::Raw,
            dtype: config::Dtype::Float32,
            metadata: Vec::new(),
        })?;
        std::fs::create_dir_all(folder).map_err(|source| FileError { path: folder.to_owned(), source })?;
        replace_named_file(&folder.join("step.safetensors"), &serialized(&tensors))?;
        replace_named_file(&folder.join("model.onnx"), &onnx)?;
        Ok(())
    }
}

/// A number in [0, 1).
fn unit(random: &mut Random) -> f32 {
    (random.next_u64() >> 40) as f32 / (1 << 24) as f32
}

/// The parameters that `values` are, end to end.
fn parts<'a>(list: &'a [Parameter], values: &'a [f32]) -> impl Iterator<Item = (String, Tensor)> {
    assert_eq!(total_elements(list), values.len());
    let mut rest = values;
    list.iter().map(move |parameter| {
        let (own, others) = rest.split_at(parameter.elements());
        rest = others;
        (parameter.name.clone(), Tensor::new(parameter.shape.clone(), own.to_vec()))
    })
}

fn serialized(tensors: &HashMap<String, Tensor>) -> Vec<u8> {
    let bytes: HashMap<_, _> = tensors
        .iter()
        .map(|(name, tensor)| (name, tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>()))
        .collect();
    let view = |(name, tensor): (&String, &Tensor)| {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), &bytes[name]);
        (name.clone(), view.expect("as many bytes as the shape says"))
    };
    safetensors::serialize(tensors.iter().map(view), None).expect("float tensors serialize")
}
