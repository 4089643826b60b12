//! The training loop: epochs, validation after each, and when it ends.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::checkpoint::{Partial, Progress};
use super::early_stopping::stops_early;
use super::error::TrainError;
use super::events::{Event, Listener};
use super::examples::Examples;
use super::learner::Learner;
use super::passes::{TrainingBatches, Validation};
use super::record::{EpochRecord, Figures};
use super::run::RunFolder;
use crate::cache::{Cache, Key};
use crate::config::{Config, Mode, Schedule};
use crate::dataset::Batch;
use crate::model::Model;
use crate::runtime::{Library, Provider};

/// A training under way.
pub(super) struct Training<'a> {
    pub(super) library: &'a Library,
    pub(super) provider: Provider,
    pub(super) model: Model,
    /// BLAKE3 of a user's own model.
    pub(super) own_model: Option<Key>,
    pub(super) config: Config,
    pub(super) cache: Arc<Cache>,
    pub(super) run: RunFolder,
    pub(super) learner: Learner,
    pub(super) validation: Validation,
    pub(super) position: Progress,
    pub(super) interrupted: Arc<AtomicBool>,
    pub(super) save_now: Arc<AtomicBool>,
    pub(super) listener: &'a mut dyn Listener,
}

/// An epoch's losses must say something.
fn check_sums(split: &'static str, sums: &Partial, epoch: usize) -> Result<(), TrainError> {
    if sums.rows == 0.0 && sums.skipped_steps == 0 {
        return Err(TrainError::NoValidRow { split: split.into() });
    }
    if sums.mean_loss().is_finite() {
        Ok(())
    } else {
        Err(TrainError::NotFiniteSplit { split: split.into(), epoch: epoch + 1 })
    }
}

impl Training<'_> {
    pub(super) fn train(&mut self, mut batches: TrainingBatches, first: Batch) -> Result<(), TrainError> {
        let mut waiting = Some(first);
        while self.position.epoch < self.config.training.num_epochs
            && !stops_early(&self.config.training, &self.position.early_stopping)
        {
            let (record, examples) = self.epoch(&mut batches, &mut waiting)?;
            self.end_epoch(&record, examples.as_ref())?;
            if stops_early(&self.config.training, &self.position.early_stopping) {
                let (epoch, patience) = (self.position.epoch, self.config.training.patience);
                self.listener.event(&Event::Stopped { epoch, patience });
            } else if waiting.is_none() && self.position.epoch < self.config.training.num_epochs {
                batches.start_epoch(self.position.epoch);
            }
        }
        Ok(())
    }

    /// Trains what is left of the current epoch and validates.
    fn epoch(
        &mut self,
        batches: &mut TrainingBatches,
        waiting: &mut Option<Batch>,
    ) -> Result<(EpochRecord, Option<Examples>), TrainError> {
        let (epoch, steps, start) = (self.position.epoch, batches.per_epoch, Instant::now());
        let times = self.steps(batches, waiting)?;
        let (train_seconds, start) = (start.elapsed().as_secs_f64(), Instant::now());
        let mut heard = |batch, batches| self.listener.event(&Event::Validating { batch, batches });
        let val = match self.validation.run(&self.learner, &self.interrupted, &mut heard) {
            Err(TrainError::Interrupted) => return self.check_interrupt().map(|()| unreachable!("just interrupted")),
            result => result?,
        };
        let (val, examples) = val.unzip();
        let joints = self.cache.manifest().settings.joint_angles_channels;
        let sums = std::mem::take(&mut self.position.partial);
        check_sums("training", &sums, epoch)?;
        val.as_ref().map_or(Ok(()), |val| check_sums("validation", val, epoch))?;
        let record = EpochRecord {
            epoch: epoch + 1,
            learning_rate: self.rate(steps),
            figures: Figures::new(&sums, val.as_ref(), joints),
            skipped_batches: sums.skipped_batches,
            skipped_steps: sums.skipped_steps,
            windows: sums.windows,
            train_seconds,
            wait_seconds: times.waiting,
            val_seconds: start.elapsed().as_secs_f64(),
        };
        Ok((record, examples))
    }

    fn end_epoch(&mut self, record: &EpochRecord, examples: Option<&Examples>) -> Result<(), TrainError> {
        let (training, logging) = (&self.config.training, &self.config.logging);
        self.position.epoch += 1;
        self.position.batch = 0;
        let watched = record.figures.monitored(training.monitor_metric);
        self.position.early_stopping.update(watched, Mode::Min, training.min_delta);
        if training.scheduler == Schedule::Plateau {
            self.position.plateau.update(watched, Mode::Min, 0.0);
            self.position.reductions += u32::from(self.position.plateau.plateau_reached());
        }
        let value = record.figures.monitored(logging.monitor);
        let best = self.position.monitor.update(value, logging.mode, 0.0);
        self.listener.event(&Event::Epoch(record));
        if let Some(examples) = examples {
            self.listener.event(&Event::Examples { epoch: record.epoch, examples });
        }
        if best {
            self.listener.event(&Event::Best { monitor: self.config.logging.monitor, value });
            self.save("best")?;
        }
        let epoch = self.position.epoch;
        let numbered = !self.config.logging.save_best_only && self.config.logging.save_every > 0;
        if numbered && epoch.is_multiple_of(self.config.logging.save_every) {
            self.save(&format!("epoch_{epoch:05}"))?;
            if let Err(error) = self.run.keep_newest(self.config.logging.keep_last) {
                self.listener.event(&Event::Warning(format!("cannot remove old checkpoints: {error}")));
            }
        }
        self.save("last")
    }
}
