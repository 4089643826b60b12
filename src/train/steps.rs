//! The steps of an epoch: the next batch comes while one computes.

use std::collections::BTreeMap;
use std::time::Instant;

use super::checkpoint::Pending;
use super::clock::{Times, timed};
use super::error::TrainError;
use super::events::Event;
use super::learner::Outcome;
use super::loss_scale::LossScale;
use super::passes::TrainingBatches;
use super::schedule::learning_rate;
use super::training::Training;
use crate::config::{OnNan, Precision};
use crate::dataset::{Batch, Window};
use crate::step::Hyperparameters;

impl Training<'_> {
    /// The steps that are left of the current epoch; tells where time went.
    pub(super) fn steps(
        &mut self,
        batches: &mut TrainingBatches,
        waiting: &mut Option<Batch>,
    ) -> Result<Times, TrainError> {
        let (start, mut windows, mut times) = (Instant::now(), 0, Times::default());
        let steps = batches.per_epoch;
        // A run that stopped in validation has no batch of this epoch left.
        let mut current = match (self.position.batch < steps, waiting.take()) {
            (false, first) => {
                *waiting = first;
                None
            }
            (true, Some(first)) => Some(first),
            (true, None) => Some(timed(&mut times.waiting, || batches.next_batch())?),
        };
        current.as_ref().map_or(Ok(()), |batch| self.learner.load(batch))?;
        while let Some(batch) = current {
            self.check_interrupt()?;
            let started = timed(&mut times.launching, || self.start_step(&batch, steps))?;
            // The next batch comes while the device computes.
            let more = self.position.batch < steps;
            let next = more.then(|| timed(&mut times.waiting, || batches.next_batch())).transpose()?;
            timed(&mut times.loading, || next.as_ref().map_or(Ok(()), |next| self.learner.load(next)))?;
            let finish = || started.map_or(Ok(0.0), |apply| self.finish_step(&batch, apply));
            let loss = timed(&mut times.finishing, finish)?;
            windows += batch.windows.len() as u64;
            self.position.partial.windows += batch.windows.len() as u64;
            let step = self.position.batch;
            let windows_per_second = windows as f64 / start.elapsed().as_secs_f64();
            let epoch = self.position.epoch + 1;
            self.listener.event(&Event::Step { epoch, step, steps, loss, windows_per_second });
            batches.recycle(batch);
            current = next;
            let every = self.config.logging.save_every_steps as u64;
            if every > 0 && step.is_multiple_of(every) && step < steps {
                self.save("last")?;
            }
        }
        tracing::debug!("{windows} windows in {:.3} s: {times:?}", start.elapsed().as_secs_f64());
        Ok(times)
    }

    /// The learning rate of the step that the current batch belongs to.
    pub(super) fn rate(&self, batches_per_epoch: u64) -> f64 {
        let training = &self.config.training;
        let accumulate = training.gradient_accumulation_steps as u64;
        let step = self.position.batch.saturating_sub(1) / accumulate;
        let per_epoch = batches_per_epoch.div_ceil(accumulate);
        learning_rate(training, self.position.epoch, step, per_epoch, self.position.reductions)
    }

    /// Starts the step on the batch that was loaded; tells whether it applies the gradients. A batch without a valid row
    /// changes nothing, and `None` is started.
    fn start_step(&mut self, batch: &Batch, batches_per_epoch: u64) -> Result<Option<bool>, TrainError> {
        self.position.batch += 1;
        let valid = batch.valid_rows;
        let pending = &mut self.position.pending;
        (pending.batches, pending.rows) = (pending.batches + 1, pending.rows + valid);
        let complete = pending.batches >= self.config.training.gradient_accumulation_steps
            || self.position.batch == batches_per_epoch;
        let apply = complete && pending.rows > 0;
        if complete {
            *pending = Pending::default();
        }
        if valid == 0 {
            self.position.partial.skipped_batches += 1;
            if !apply {
                return Ok(None);
            }
        }
        let hyper = Hyperparameters {
            learning_rate: self.rate(batches_per_epoch),
            step: self.position.step + 1,
            apply,
            loss_scale: self.position.loss_scale.scale,
        };
        let draw = self.position.epoch as u64 * batches_per_epoch + self.position.batch;
        self.learner.launch(hyper, draw)?;
        Ok(Some(apply))
    }

    /// Waits for the step; returns its loss.
    fn finish_step(&mut self, batch: &Batch, apply: bool) -> Result<f64, TrainError> {
        let outcome = self.learner.finish()?;
        if !outcome.finite {
            self.not_finite(batch, &outcome)?;
        }
        if apply && outcome.applied {
            self.position.step += 1;
            self.position.loss_scale.update(true);
        } else if apply {
            self.position.partial.skipped_steps += 1;
        }
        if outcome.loss.is_finite() {
            self.position.partial.add(&outcome);
        }
        Ok(outcome.loss)
    }

    /// A loss or gradient that is infinite or undefined: a gradient beyond float16's range, which a smaller loss scale
    /// brings back, or something is wrong with the windows.
    fn not_finite(&mut self, batch: &Batch, outcome: &Outcome) -> Result<(), TrainError> {
        let training = &self.config.training;
        let scaled = training.precision == Precision::Fp16 && outcome.loss.is_finite();
        if scaled && self.position.loss_scale.scale > LossScale::SMALLEST {
            self.position.loss_scale.update(false);
            return Ok(());
        }
        let mut rows: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for Window { recording, start, .. } in &batch.windows {
            rows.entry(&self.cache.recording(*recording).listed.name).or_default().push(*start);
        }
        let windows: Vec<_> = rows.iter().map(|(name, rows)| format!("{name} from rows {rows:?}")).collect();
        let (epoch, step) = (self.position.epoch + 1, self.position.batch);
        let what = match outcome.loss.is_finite() {
            false => "loss".to_owned(),
            true => match self.learner.infinite_gradients(batch) {
                names if names.is_empty() => "gradient".to_owned(),
                names => format!("gradient of {}", names.join(", ")),
            },
        };
        if training.on_nan == OnNan::Stop {
            return Err(TrainError::NotFinite { what, epoch, step, windows });
        }
        let windows = windows.join(", ");
        let message =
            format!("epoch {epoch}, batch {step}: the {what} is not finite, batch skipped; its windows are {windows}");
        self.listener.event(&Event::Warning(message));
        Ok(())
    }
}
