//! Evaluating a checkpoint on a split, with all metrics, beside the mean predictor.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::checkpoint::Checkpoint;
use super::error::TrainError;
use super::groups::{Collector, Group, Labels};
use super::learner::Evaluator;
use super::setup::gather;
use crate::cache::{Cache, Split};
use crate::dataset::{Loader, Pass};
use crate::metrics::{Metrics, OverUsers};
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
    /// Mean and standard deviation over the users, where recordings name theirs.
    pub over_users: Option<OverUsers>,
    /// Of always predicting the mean angles of the split that the model was trained on; where that is not known, of this
    /// cache's training split.
    pub mean_predictor: Metrics,
    /// By what the recordings' labels say: user, stage, and what of them the training split did not have.
    pub by_user: Vec<Group>,
    pub by_stage: Vec<Group>,
    pub by_generalization: Vec<Group>,
}

/// How an evaluation goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvaluateOptions {
    pub split: Split,
    /// Multiply derivatives of every order by the rate once, as emg2pose's code does, instead of once for each order.
    pub emg2pose_derivatives: bool,
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
    options: EvaluateOptions,
    advanced: &mut dyn FnMut(u64),
) -> Result<Evaluation, TrainError> {
    let (config, split) = (&checkpoint.config, options.split);
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
    let collector =
        || Collector::new(config.training.compute_metrics_online, shape.joints, rate, options.emg2pose_derivatives);
    let (mut metrics, mut baseline) = (collector(), collector());
    let means = mean_angles(checkpoint, cache).repeat(shape.target_rows() * shape.batch);
    let (mut loss, mut rows, mut predictions) = (0.0, 0.0, Vec::new());
    let training = &config.training;
    let windows = gather.index.len();
    let (start, mut metrics_seconds) = (Instant::now(), 0.0);
    let mut loader =
        Loader::start(Arc::clone(&gather), Pass::Evaluation, training.num_workers, training.prefetch_factor);
    while let Some(batch) = loader.next_batch()? {
        let outcome = evaluator.step(&batch, &mut predictions)?;
        loss += outcome.loss * outcome.rows;
        rows += outcome.rows;
        let begin = Instant::now();
        metrics.push(&batch, &predictions, |window| Labels::of(cache, window));
        baseline.push(&batch, &means, |_| Labels::default());
        metrics_seconds += begin.elapsed().as_secs_f64();
        advanced(batch.windows.len() as u64);
        loader.recycle(batch);
    }
    if rows == 0.0 {
        return Err(TrainError::Usage(format!("every row of the {split} windows failed")));
    }
    let begin = Instant::now();
    let result = Evaluation {
        split,
        cache: cache.key().to_string(),
        windows,
        loss: loss / rows,
        metrics: metrics.all().expect("some row is valid"),
        over_users: metrics.over_users(|_| true),
        mean_predictor: baseline.all().expect("some row is valid"),
        by_user: metrics.groups(|labels| labels.user.as_deref()),
        by_stage: metrics.groups(|labels| labels.stage.as_deref()),
        by_generalization: metrics.groups(|labels| labels.generalization.as_deref()),
    };
    metrics_seconds += begin.elapsed().as_secs_f64();
    tracing::info!("evaluated in {:.3} s, of which metrics {metrics_seconds:.4} s", start.elapsed().as_secs_f64());
    Ok(result)
}

/// What the mean predictor predicts.
fn mean_angles(checkpoint: &Checkpoint, cache: &Cache) -> Vec<f32> {
    let trained = match &checkpoint.cache {
        Some(_) => &checkpoint.normalization.train_joint_angles,
        None => &cache.manifest().train_joint_angles,
    };
    trained.mean.iter().map(|value| *value as f32).collect()
}
