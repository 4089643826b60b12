//! Evaluating a checkpoint on a split, with all metrics, beside the mean predictor.

use std::sync::Arc;

use serde::Serialize;

use super::checkpoint::Checkpoint;
use super::error::TrainError;
use super::learner::Evaluator;
use super::setup::gather;
use crate::cache::{Cache, Split};
use crate::dataset::{Batch, Loader, Pass};
use crate::metrics::{Accumulator, Gathered, Metrics, Window};
use crate::model::Model;
use crate::runtime::{Library, Provider};
use crate::step::evaluation_step;

/// A split's metrics.
#[derive(Debug, Clone, Serialize)]
pub struct Evaluation {
    pub split: Split,
    pub cache: String,
    pub windows: u64,
    /// Pooled over the split, in the model's units.
    pub loss: f64,
    pub metrics: Metrics,
    /// Of always predicting the mean angles of the split that the model was trained on.
    pub mean_predictor: Metrics,
}

/// Where a split's predictions go.
enum Collector {
    Online(Accumulator),
    Offline { gathered: Gathered, joints: usize, rate: f64 },
}

impl Collector {
    fn push(&mut self, prediction: &[f32], target: &[f32], mask: &[f32]) {
        match self {
            Self::Online(accumulator) => accumulator.push(prediction, target, mask),
            Self::Offline { gathered, .. } => gathered.windows.push(Window {
                prediction: prediction.to_vec(),
                target: target.to_vec(),
                mask: mask.to_vec(),
            }),
        }
    }

    fn finish(&self) -> Metrics {
        match self {
            Self::Online(accumulator) => accumulator.finish(),
            Self::Offline { gathered, joints, rate } => gathered.finish(*joints, *rate),
        }
    }
}

/// Evaluates `checkpoint` on every window of `split`.
///
/// # Errors
/// The cache's, the library's, or a split without windows.
pub fn evaluate(
    library: &Library,
    provider: Provider,
    cache: &Arc<Cache>,
    model: &Model,
    checkpoint: &Checkpoint,
    split: Split,
    advanced: &mut dyn FnMut(u64),
) -> Result<Evaluation, TrainError> {
    let config = &checkpoint.config;
    let gather = Arc::new(gather(cache, config, model, split)?);
    if gather.index.is_empty() {
        return Err(TrainError::Usage(format!("cache {} has no {split} windows", cache.key())));
    }
    let (normalization, shape) = (&checkpoint.normalization, gather.shape);
    let problem = normalization.problem(config, model, shape);
    let graph = evaluation_step(&problem, true, provider.kernels()).map_err(TrainError::Usage)?;
    let mut evaluator = Evaluator::new(library, provider, graph)?;
    evaluator.set_weights(checkpoint.weights(), checkpoint.buffers())?;

    let rate = cache.manifest().settings.sample_rate;
    let collector = || {
        if config.training.compute_metrics_online {
            Collector::Online(Accumulator::new(shape.joints, rate))
        } else {
            Collector::Offline { gathered: Gathered::default(), joints: shape.joints, rate }
        }
    };
    let (mut metrics, mut baseline) = (collector(), collector());
    let mean: Vec<_> = normalization.train_joint_angles.mean.iter().map(|value| *value as f32).collect();
    let mean = mean.repeat(shape.target_rows());
    let (mut loss, mut rows, mut predictions) = (0.0, 0.0, Vec::new());
    let training = &config.training;
    let windows = gather.index.len();
    let mut loader =
        Loader::start(Arc::clone(&gather), Pass::Evaluation, training.num_workers, training.prefetch_factor);
    while let Some(batch) = loader.next_batch()? {
        let outcome = evaluator.step(&batch, &mut predictions)?;
        loss += outcome.loss * outcome.rows;
        rows += outcome.rows;
        for slot in 0..batch.windows.len() {
            let (prediction, target, mask) = window(&batch, &predictions, slot);
            metrics.push(prediction, target, mask);
            baseline.push(&mean, target, mask);
        }
        advanced(batch.windows.len() as u64);
        loader.recycle(batch);
    }
    if rows == 0.0 {
        return Err(TrainError::Usage(format!("every row of the {split} windows failed")));
    }
    Ok(Evaluation {
        split,
        cache: cache.key().to_string(),
        windows,
        loss: loss / rows,
        metrics: metrics.finish(),
        mean_predictor: baseline.finish(),
    })
}

/// Prediction, target and mask of one window of a batch.
fn window<'a>(batch: &'a Batch, predictions: &'a [f32], slot: usize) -> (&'a [f32], &'a [f32], &'a [f32]) {
    let rows = batch.shape.target_rows();
    let elements = rows * batch.shape.joints;
    let part = |values: &'a [f32]| &values[slot * elements..(slot + 1) * elements];
    (part(predictions), part(&batch.joint_angles), &batch.mask[slot * rows..(slot + 1) * rows])
}
