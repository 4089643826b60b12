//! Passes over a split: endless training batches, and the validation after every epoch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::checkpoint::{Partial, Progress};
use super::error::TrainError;
use super::examples::{Examples, OF_BATCH};
use super::learner::{Evaluator, Learner};
use super::normalization::Normalization;
use crate::cache::{Cache, Split};
use crate::config::{Config, Normalize, TrainingConfig};
use crate::dataset::{Augment, Batch, BatchShape, Gather, Loader, Needs, Pass, WindowIndex};
use crate::model::Model;
use crate::runtime::{Library, Provider};
use crate::startup::memory_limit;
use crate::step::evaluation_step;

/// The windows of `split`, ready to be batched for `model`.
///
/// # Errors
/// Windows too short for the model.
pub(super) fn gather(cache: &Arc<Cache>, config: &Config, model: &Model, split: Split) -> Result<Gather, TrainError> {
    let index = WindowIndex::new(Arc::clone(cache), split);
    let rows = index.shape().rows();
    model.check_window(rows).map_err(|source| TrainError::Window { split, source })?;
    let settings = &cache.manifest().settings;
    let shape = BatchShape {
        batch: config.training.batch_size,
        rows,
        channels: settings.emg_channels,
        joints: settings.joint_angles_channels,
        context: model.left_context(),
        after: model.right_context(),
    };
    check_size(shape, &config.training)?;
    let needs = Needs {
        true_initial_pose: model.takes_initial_pose(),
        angle_statistics: settings.normalize_angles == Normalize::Recording,
        emg_statistics: model.takes_emg_statistics(),
    };
    Ok(Gather { index, shape, needs, resident: None })
}

/// Fails if batches of this shape cannot fit into memory.
///
/// # Errors
/// [`TrainError::BatchTooLarge`].
pub fn check_size(shape: BatchShape, training: &TrainingConfig) -> Result<(), TrainError> {
    let (buffers, limit) = (training.prefetch_factor + 1, memory_limit());
    let bytes = shape.bytes();
    if bytes.saturating_mul(buffers as u128) <= u128::from(limit) {
        return Ok(());
    }
    Err(TrainError::BatchTooLarge { batch: shape.batch, bytes, buffers, limit })
}

/// Training batches from where training stands on.
pub(super) struct TrainingBatches {
    gather: Arc<Gather>,
    pass: Pass,
    workers: usize,
    prefetch: usize,
    persistent: bool,
    pub(super) per_epoch: u64,
    loader: Option<Loader>,
}

impl TrainingBatches {
    pub(super) fn new(gather: Arc<Gather>, config: &Config, position: &Progress) -> Self {
        let (data, training) = (&config.data, &config.training);
        let augment = Augment { jitter: data.jitter, rotation: data.rotation, seed: training.seed };
        let (first_epoch, first_batch) = (position.epoch as u64, position.batch);
        let pass = Pass::Training { shuffle: data.shuffle, augment, first_epoch, first_batch };
        let (workers, prefetch) = (training.num_workers, training.prefetch_factor);
        let loader = Loader::start(Arc::clone(&gather), pass, workers, prefetch);
        let per_epoch = loader.batches_per_epoch();
        Self {
            gather,
            pass,
            workers,
            prefetch,
            persistent: training.persistent_workers,
            per_epoch,
            loader: Some(loader),
        }
    }

    fn loader(&mut self) -> &mut Loader {
        self.loader.as_mut().expect("there is one but while it is replaced")
    }

    pub(super) fn next_batch(&mut self) -> Result<Batch, TrainError> {
        Ok(self.loader().next_batch()?.expect("training batches do not end"))
    }

    /// Gives a batch back, to be filled again.
    pub(super) fn recycle(&mut self, batch: Batch) {
        self.loader().recycle(batch);
    }

    /// Without persistent workers every epoch starts its own.
    pub(super) fn start_epoch(&mut self, epoch: usize) {
        if !self.persistent
            && let Pass::Training { first_epoch, first_batch, .. } = &mut self.pass
        {
            (*first_epoch, *first_batch) = (epoch as u64, 0);
            // The old one's batches go before the new one has any.
            self.loader = None;
            self.loader = Some(Loader::start(Arc::clone(&self.gather), self.pass, self.workers, self.prefetch));
        }
    }
}

/// The validation pass after every epoch.
pub(super) struct Validation {
    gather: Arc<Gather>,
    evaluator: Option<Evaluator>,
    workers: usize,
    prefetch: usize,
}

impl Validation {
    pub(super) fn new(
        library: &Library,
        provider: Provider,
        normalization: &Normalization,
        config: &Config,
        model: &Model,
        gather: Arc<Gather>,
    ) -> Result<Self, TrainError> {
        let problem = normalization.problem(config, model, gather.index.cache(), gather.shape);
        let evaluator = if gather.index.is_empty() {
            None
        } else {
            let predicted = gather.shape.batch.min(OF_BATCH);
            let graph = evaluation_step(&problem, predicted, provider.kernels())?;
            Some(Evaluator::new(library, provider, graph)?)
        };
        let (workers, prefetch) = (config.training.num_workers, config.training.prefetch_factor);
        Ok(Self { gather, evaluator, workers, prefetch })
    }

    /// Runs the step with whatever weights it has, so that it has taken the memory that it needs.
    pub(super) fn rehearse(&mut self) -> Result<(), TrainError> {
        let batch = self.gather.batch();
        let Some(evaluator) = &mut self.evaluator else { return Ok(()) };
        // One captured graph for each of the two sets of buffers.
        (0..2).try_for_each(|_| evaluator.step(&batch, &mut Vec::new()).map(|_| ()))
    }

    /// The sums over the split with the weights that are trained, and examples of it; `None` for a split without windows.
    pub(super) fn run(
        &mut self,
        learner: &Learner,
        interrupted: &AtomicBool,
        done: &mut dyn FnMut(u64, u64),
    ) -> Result<Option<(Partial, Examples)>, TrainError> {
        let Some(evaluator) = &mut self.evaluator else { return Ok(None) };
        evaluator.take_weights(learner)?;
        let (mut sums, mut predictions) = (Partial::default(), Vec::new());
        let cache = self.gather.index.cache();
        let mut examples = Examples::new(cache, self.gather.shape.joints);
        let mut loader = Loader::start(Arc::clone(&self.gather), Pass::Evaluation, self.workers, self.prefetch);
        let batches = loader.batches_per_epoch();
        for number in 0.. {
            let Some(batch) = loader.next_batch()? else { break };
            if interrupted.load(Ordering::Relaxed) {
                return Err(TrainError::Interrupted);
            }
            sums.add(&evaluator.step(&batch, &mut predictions)?);
            examples.push(cache, &batch, &predictions, [number, batches]);
            loader.recycle(batch);
            done(number + 1, batches);
        }
        Ok(Some((sums, examples)))
    }
}
