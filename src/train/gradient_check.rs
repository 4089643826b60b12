//! Comparison of a model's gradients with differences of its loss.

use super::error::TrainError;
use super::trial::Trial;
use crate::graph::{Kernels, OnnxModel, to_float64};
use crate::model::Parameter;
use crate::random::Random;
use crate::runtime::{Library, Provider, Session, Tensor};
use crate::step::{BUFFERS, PARAMETERS, loss_graph};

/// How a parameter's gradient compares with central differences of the loss along random directions.
#[derive(Debug, Clone, PartialEq)]
pub struct GradientCheck {
    pub name: String,
    /// The largest difference over the directions, relative to what a direction of that length can give.
    pub error: f64,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq)]
pub struct GradientChecks {
    /// Whether differences were computed in float64; in float32 where ONNX Runtime lacks an operator in float64.
    pub float64: bool,
    /// The error that is allowed.
    pub tolerance: f64,
    /// Whether the model stops gradients by itself, which differences of the loss do not know.
    pub stops_gradients: bool,
    pub checks: Vec<GradientCheck>,
}

impl GradientChecks {
    /// Parameters whose gradient is not what the differences say. Where the model stops gradients, that is no mistake.
    pub fn wrong(&self) -> impl Iterator<Item = &GradientCheck> {
        self.checks.iter().filter(|check| check.error > self.tolerance)
    }
}

/// Directions that each parameter is moved along.
const DIRECTIONS: u64 = 2;

impl Trial<'_> {
    /// Compares every parameter's gradient with central differences of the loss.
    ///
    /// # Errors
    /// The model cannot be differentiated, or the library's.
    pub fn check_gradients(&self, library: &Library) -> Result<GradientChecks, TrainError> {
        let gradients = self.gradients(library)?.gradients;
        let mut loss = Loss::new(self, library)?;
        let (step, tolerance) = if loss.float64 { (1e-5, 1e-3) } else { (1e-2, 5e-2) };
        let largest = gradients.iter().map(length).fold(0.0, f64::max);
        let mut checks = Vec::new();
        let mut first = 0;
        for (i, (parameter, gradient)) in self.problem.model.parameters().iter().zip(&gradients).enumerate() {
            let place = first..first + parameter.elements();
            first = place.end;
            let mut error: f64 = 0.0;
            for direction in 0..DIRECTIONS {
                let direction = unit(parameter, [i as u64, direction]);
                let values = &self.parameters[place.clone()];
                let size = (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>()).sqrt().max(1.0) * step;
                let mut moved = |sign: f64| loss.at(place.start, &direction, sign * size);
                let difference = (moved(1.0)? - moved(-1.0)?) / (2.0 * size);
                let slope: f64 = direction.iter().zip(&gradient.values).map(|(d, g)| d * f64::from(*g)).sum();
                let scale = length(gradient).max(1e-3 * largest).max(f64::MIN_POSITIVE);
                let off = (difference - slope).abs() / scale;
                error = if off.is_nan() { f64::INFINITY } else { error.max(off) };
            }
            checks.push(GradientCheck { name: parameter.name.clone(), error });
        }
        let stops_gradients = self.problem.model.onnx().is_some_and(OnnxModel::stops_gradients);
        Ok(GradientChecks { float64: loss.float64, tolerance, stops_gradients, checks })
    }
}

/// A direction of length 1.
fn unit(parameter: &Parameter, coordinates: [u64; 2]) -> Vec<f64> {
    let mut random = Random::new(&[0x6772_6164, coordinates[0], coordinates[1]]);
    let scale = 1.0 / (parameter.elements().max(1) as f64).sqrt();
    (0..parameter.elements()).map(|_| if random.up_to(1) == 0 { scale } else { -scale }).collect()
}

fn length(gradient: &Tensor) -> f64 {
    gradient.values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}

/// The loss as a function of the parameters.
struct Loss<'a> {
    trial: &'a Trial<'a>,
    session: Session,
    float64: bool,
    has_buffers: bool,
}

impl<'a> Loss<'a> {
    fn new(trial: &'a Trial<'a>, library: &Library) -> Result<Self, TrainError> {
        // Long recurrences have no standard form, and fused operators none in float64.
        let standard = loss_graph(trial.problem, Kernels::Standard);
        let wide = standard.as_ref().ok().and_then(|onnx| to_float64(onnx).ok());
        let wide = wide.and_then(|onnx| Session::new(library, Provider::Cpu, &onnx).ok());
        let onnx = standard.or_else(|_| loss_graph(trial.problem, Kernels::Cpu))?;
        let float64 = wide.is_some();
        let session = match wide {
            Some(session) => session,
            None => Session::new(library, Provider::Cpu, &onnx)?,
        };
        let has_buffers = session.inputs().iter().any(|input| input.name == BUFFERS);
        Ok(Self { trial, session, float64, has_buffers })
    }

    /// The loss with the parameters from `first` on moved by `size` along `direction`.
    fn at(&mut self, first: usize, direction: &[f64], size: f64) -> Result<f64, TrainError> {
        let trial = self.trial;
        let mut parameters: Vec<_> = trial.parameters.iter().map(|value| f64::from(*value)).collect();
        for (value, direction) in parameters[first..].iter_mut().zip(direction) {
            *value += size * direction;
        }
        let flat = |values: &[f64]| Tensor::new([values.len()], values.iter().map(|value| *value as f32).collect());
        let buffers = Tensor::new([trial.buffers.len()], trial.buffers.clone());
        let mut inputs: Vec<_> = trial.batch.iter().map(|(name, tensor)| (*name, tensor)).collect();
        inputs.extend(self.has_buffers.then_some((BUFFERS, &buffers)));
        if !self.float64 {
            let parameters = flat(&parameters);
            inputs.push((PARAMETERS, &parameters));
            return Ok(f64::from(self.session.run(&inputs)?[0].values[0]));
        }
        let wide: Vec<Vec<f64>> =
            inputs.iter().map(|(_, tensor)| tensor.values.iter().map(|value| f64::from(*value)).collect()).collect();
        let shape = [parameters.len()];
        let named = inputs.iter().zip(&wide).map(|((name, tensor), values)| (*name, &tensor.shape[..], &values[..]));
        let inputs: Vec<_> = named.chain([(PARAMETERS, &shape[..], &parameters[..])]).collect();
        Ok(self.session.run_float64(&inputs)?[0])
    }
}
