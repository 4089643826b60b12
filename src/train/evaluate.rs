//! Evaluating a checkpoint on a split, with all metrics, beside the mean predictor.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::checkpoint::Checkpoint;
use super::error::TrainError;
use super::examples::Example;
use super::groups::{Collector, Group, Labels};
use super::learner::{Evaluator, Outcome};
use super::passes::gather;
use crate::cache::{Cache, Split};
use crate::dataset::{Batch, Gather, Loader, Pass};
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
    /// By other labels that were asked for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub by_label: BTreeMap<String, Vec<Group>>,
}

/// How an evaluation goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvaluateOptions {
    pub split: Split,
    /// Multiply derivatives of every order by the rate once, as emg2pose's code does, instead of once for each order.
    pub emg2pose_derivatives: bool,
    /// Labels to group by, beside user, stage and generalization.
    pub by: Vec<String>,
}

/// Predictions of a split's windows by a checkpoint.
pub(super) struct Predicting {
    gather: Arc<Gather>,
    evaluator: Evaluator,
    workers: usize,
    prefetch: usize,
}

impl Predicting {
    /// # Errors
    /// The library's, or a split without windows.
    pub(super) fn new(
        library: &Library,
        provider: Provider,
        cache: &Arc<Cache>,
        model: &Model,
        checkpoint: &Checkpoint,
        split: Split,
    ) -> Result<Self, TrainError> {
        checkpoint.check_model(model)?;
        let config = &checkpoint.config;
        let gather = Arc::new(gather(cache, config, model, split)?);
        if gather.index.is_empty() {
            return Err(TrainError::NoWindows { cache: cache.key().clone(), split });
        }
        let problem = checkpoint.normalization.problem(config, model, gather.index.cache(), gather.shape);
        let graph = evaluation_step(&problem, gather.shape.batch, provider.kernels())?;
        let mut evaluator = Evaluator::new(library, provider, graph)?;
        evaluator.set_weights(checkpoint.weights(), checkpoint.buffers())?;
        let (workers, prefetch) = (config.training.num_workers, config.training.prefetch_factor);
        Ok(Self { gather, evaluator, workers, prefetch })
    }

    /// Evaluates every window; `seen` gets each batch with its predictions [batch, target rows, joints], in order.
    ///
    /// # Errors
    /// The cache's, the library's, or no valid row.
    pub(super) fn evaluate(
        &mut self,
        checkpoint: &Checkpoint,
        options: &EvaluateOptions,
        mut seen: impl FnMut(&Batch, &[f32]),
    ) -> Result<Evaluation, TrainError> {
        let gather = Arc::clone(&self.gather);
        let mut tally = Tally::new(gather.index.cache(), checkpoint, options);
        let mut predictions = Vec::new();
        let mut loader = Loader::start(Arc::clone(&self.gather), Pass::Evaluation, self.workers, self.prefetch);
        while let Some(batch) = loader.next_batch()? {
            let outcome = self.evaluator.step(&batch, &mut predictions)?;
            tally.push(&batch, &predictions, &outcome);
            seen(&batch, &predictions);
            loader.recycle(batch);
        }
        tally.finish(options.split, gather.index.len())
    }

    /// These windows, as many as a batch has at most, with their predictions.
    pub(super) fn examples(&mut self, windows: &[u64]) -> Result<Vec<Example>, TrainError> {
        let (shape, cache) = (self.gather.shape, self.gather.index.cache());
        let mut batch = self.gather.batch();
        let windows: Vec<_> = windows.iter().take(shape.batch).map(|k| self.gather.window(*k, None)).collect();
        self.gather.fill(&mut batch, &windows, true)?;
        let mut predictions = Vec::new();
        self.evaluator.step(&batch, &mut predictions)?;
        Ok((0..windows.len()).map(|i| Example::of(cache, &batch, &predictions, i)).collect())
    }
}

/// What a pass over a split adds up to.
struct Tally<'a> {
    cache: &'a Cache,
    by: &'a [String],
    metrics: Collector,
    baseline: Collector,
    means: Vec<f32>,
    loss: f64,
    rows: f64,
    seconds: f64,
}

impl<'a> Tally<'a> {
    fn new(cache: &'a Cache, checkpoint: &Checkpoint, options: &'a EvaluateOptions) -> Self {
        let settings = &cache.manifest().settings;
        let online = checkpoint.config.training.compute_metrics_online;
        let collector = || Collector::new(online, settings, options.emg2pose_derivatives);
        let means = mean_angles(checkpoint, cache);
        Self {
            cache,
            by: &options.by,
            metrics: collector(),
            baseline: collector(),
            means,
            loss: 0.0,
            rows: 0.0,
            seconds: 0.0,
        }
    }

    fn push(&mut self, batch: &Batch, predictions: &[f32], outcome: &Outcome) {
        let begin = Instant::now();
        self.loss += outcome.loss * outcome.rows;
        self.rows += outcome.rows;
        if self.means.len() < predictions.len() {
            self.means = self.means.repeat(predictions.len() / self.means.len());
        }
        self.metrics.push(batch, predictions, |window| Labels::of(self.cache, window, self.by));
        self.baseline.push(batch, &self.means, |_| Labels::default());
        self.seconds += begin.elapsed().as_secs_f64();
    }

    fn finish(self, split: Split, windows: u64) -> Result<Evaluation, TrainError> {
        if self.rows == 0.0 {
            return Err(TrainError::NoValidRow { split: split.to_string() });
        }
        let (begin, metrics) = (Instant::now(), self.metrics);
        let others = self.by.iter().enumerate();
        let by_label = others.map(|(i, name)| (name.clone(), metrics.groups(|labels| labels.others[i].as_deref())));
        let by_label = by_label.collect();
        let result = Evaluation {
            split,
            cache: self.cache.key().to_string(),
            windows,
            loss: self.loss / self.rows,
            metrics: metrics.all().expect("some row is valid"),
            over_users: metrics.over_users(|_| true),
            mean_predictor: self.baseline.all().expect("some row is valid"),
            by_user: metrics.groups(|labels| labels.user.as_deref()),
            by_stage: metrics.groups(|labels| labels.stage.as_deref()),
            by_generalization: metrics.groups(|labels| labels.generalization.as_deref()),
            by_label,
        };
        let seconds = self.seconds + begin.elapsed().as_secs_f64();
        tracing::info!("metrics took {seconds:.4} s");
        Ok(result)
    }
}

/// Evaluates `checkpoint` on every window of a split; `advanced` is called with the number of windows of each batch.
///
/// # Errors
/// The cache's, the library's, or a split without windows.
pub fn evaluate(
    library: &Library,
    provider: Provider,
    cache: &Arc<Cache>,
    model: &Model,
    checkpoint: &Checkpoint,
    options: &EvaluateOptions,
    advanced: &mut dyn FnMut(u64),
) -> Result<Evaluation, TrainError> {
    let start = Instant::now();
    let mut predicting = Predicting::new(library, provider, cache, model, checkpoint, options.split)?;
    let result = predicting.evaluate(checkpoint, options, |batch, _| advanced(batch.windows.len() as u64))?;
    tracing::info!("evaluated in {:.3} s", start.elapsed().as_secs_f64());
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
