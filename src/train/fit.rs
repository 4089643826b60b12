//! The training loop.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::checkpoint::{Checkpoint, Partial, Pending, Progress, parameters_key};
use super::error::TrainError;
use super::events::{EpochRecord, Event, Listener};
use super::examples::Examples;
use super::export::{ExportOptions, export_run};
use super::learner::{Learner, Outcome};
use super::passes::{TrainingBatches, Validation};
use super::residency;
use super::run::RunFolder;
use super::schedule::{LossScale, Watch, learning_rate};
use super::setup::{IMPORTED, Normalization, check_weights, gather};
use crate::cache::{Cache, Split};
use crate::config::{Config, Mode, Normalize, OnNan, Precision, Schedule};
use crate::dataset::{Batch, Gather, Window};
use crate::files::replace_file;
use crate::model::{Model, total_elements};
use crate::runtime::{self, Library, Provider};
use crate::step::{BUFFERS, EMA, Hyperparameters, PARAMETERS, training_step};

/// What to train, and where.
pub struct FitOptions<'a> {
    pub config: Config,
    pub cache: Arc<Cache>,
    pub model: Model,
    /// Folder of the run; made once everything that can be wrong beforehand is not.
    pub run: PathBuf,
    pub start: Start,
    /// Library named by the user.
    pub ort_lib: Option<PathBuf>,
    /// Set from outside to stop after the current step.
    pub interrupted: Arc<AtomicBool>,
    /// When the process started.
    pub started: Instant,
    pub listener: &'a mut dyn Listener,
}

/// Where training starts.
#[derive(Debug, Clone, PartialEq)]
pub enum Start {
    /// From random weights.
    New,
    /// Anew, from a checkpoint's weights.
    Weights(Box<Checkpoint>),
    /// Where this checkpoint of the same run stands.
    Resume(Box<Checkpoint>),
}

/// How training ended.
#[derive(Debug, Clone, PartialEq)]
pub struct FitSummary {
    pub epochs: usize,
    pub monitor: String,
    pub best: Option<f64>,
    pub best_checkpoint: PathBuf,
    pub last_checkpoint: PathBuf,
    /// The exported model, unless it cannot be exported.
    pub model: Option<PathBuf>,
}

/// Trains as configured. Checkpoints `last` after every epoch and `best` at every best one, then exports the model.
///
/// # Errors
/// [`TrainError`]; [`TrainError::Interrupted`] after saving where training stood.
pub fn fit(options: FitOptions<'_>) -> Result<FitSummary, TrainError> {
    let FitOptions { config, cache, model, run, start, ort_lib, interrupted, started, listener } = options;
    // The exported model's windows are those of the test split.
    let test = cache.manifest().settings.windows(Split::Test).rows();
    model.check_window(test).map_err(|message| TrainError::Usage(format!("test windows: {message}")))?;
    let host = Arc::new(gather(&cache, &config, &model, Split::Train)?);
    let val = Arc::new(gather(&cache, &config, &model, Split::Val)?);
    check_windows(&config, &host, &val, cache.manifest().settings.normalize_angles, listener)?;

    let position = begin(&start, &config, &cache, &model, listener)?;

    // The first batch needs no session, so it is loaded first.
    let (mut batches, mut first) = first_batch(&host, &config, &position)?;
    listener.event(&Event::FirstBatch { milliseconds: started.elapsed().as_secs_f64() * 1e3 });

    let library = runtime::load(ort_lib.as_deref())?;
    let provider = Provider::choose(&library, &config.training)?;
    if let Some(reason) = provider.missing_kernels(&config.training) {
        let message = format!("steps take longer, by standard operators only: {reason}");
        listener.event(&Event::Warning(message));
    }
    let resident = residency::resident(&config, provider, &host)?;
    let steps = Steps {
        library: &library,
        provider,
        config: &config,
        model: &model,
        start: &start,
        first_epoch: position.epoch + 1,
        per_epoch: batches.per_epoch,
    };
    let mut train = Arc::clone(&host);
    if resident.is_some() {
        train = Arc::new(Gather { resident, ..Gather::clone(&host) });
        (batches, first) = first_batch(&train, &config, &position)?;
    }
    let (learner, validation) = match steps.build(&train, &val, &first, &cache, listener) {
        Err(TrainError::Runtime { source: error })
            if train.resident.is_some() && residency::goes_back(&config, &error) =>
        {
            tracing::info!("{error}");
            let message = "the training rows stay on the host: a step has no room beside them";
            listener.event(&Event::Warning(message.into()));
            train = host;
            (batches, first) = first_batch(&train, &config, &position)?;
            steps.build(&train, &val, &first, &cache, listener)?
        }
        built => built?,
    };
    let resumed = match &start {
        Start::Resume(checkpoint) => Some(&**checkpoint),
        Start::New | Start::Weights(_) => None,
    };
    let run = RunFolder::open(&run, &config, resumed)?;
    if let Some(onnx) = model.onnx() {
        replace_file(&run.root().join(IMPORTED), &onnx.bytes())?;
    }
    run.truncate_metrics(position.epoch)?;
    let mut fit = Fit { model, config, cache, run, learner, validation, position, interrupted, listener };
    if resumed.is_none() {
        // A run that dies in its first epoch can be resumed, too.
        fit.must_save("last")?;
    }
    fit.run.write_config(&fit.config)?;
    let uploading = Instant::now();
    if let Some(bytes) = residency::upload(&mut fit.learner, &train, &fit.interrupted)? {
        fit.listener.event(&Event::Uploaded { bytes, seconds: uploading.elapsed().as_secs_f64() });
    }
    fit.train(batches, first)?;
    fit.finish()
}

/// Batches from where training stands on, and the first of them.
fn first_batch(
    train: &Arc<Gather>,
    config: &Config,
    position: &Progress,
) -> Result<(TrainingBatches, Batch), TrainError> {
    let mut batches = TrainingBatches::new(Arc::clone(train), config, position);
    let first = batches.next_batch()?;
    Ok((batches, first))
}

/// What the steps of training and validation are made of.
struct Steps<'a> {
    library: &'a Library,
    provider: Provider,
    config: &'a Config,
    model: &'a Model,
    start: &'a Start,
    first_epoch: usize,
    per_epoch: u64,
}

impl Steps<'_> {
    /// Both, with the state that training starts with. Where rows are to be resident they have run already, so that what
    /// memory they need is known before any row is copied.
    fn build(
        &self,
        train: &Gather,
        val: &Arc<Gather>,
        first: &Batch,
        cache: &Cache,
        listener: &mut dyn Listener,
    ) -> Result<(Learner, Validation), TrainError> {
        let Self { library, provider, config, model, .. } = *self;
        let normalization = Normalization::new(cache.manifest());
        let mut problem = normalization.problem(config, model, train.shape);
        problem.resident = residency::described(train, config);
        let graph = training_step(&problem, &config.training, provider.kernels()).map_err(TrainError::Usage)?;
        listener.event(&Event::Started {
            parameters: total_elements(&model.parameters()),
            provider: format!("{provider}, ONNX Runtime {}", library.version),
            train_windows: train.index.len(),
            val_windows: val.index.len(),
            steps_per_epoch: self.per_epoch,
            first_epoch: self.first_epoch,
            num_epochs: config.training.num_epochs,
            nodes: graph.nodes,
            log_every: config.logging.log_every as u64,
        });
        let mut learner = Learner::new(library, provider, graph, &problem, &config.training)?;
        let mut validation = Validation::new(library, provider, &normalization, config, model, Arc::clone(val))?;
        if train.resident.is_some() {
            learner.rehearse(first)?;
            validation.rehearse()?;
        }
        set_out(&mut learner, self.start, model)?;
        Ok((learner, validation))
    }
}

/// Where training begins; what is odd about it is a warning.
fn begin(
    start: &Start,
    config: &Config,
    cache: &Cache,
    model: &Model,
    listener: &mut dyn Listener,
) -> Result<Progress, TrainError> {
    match start {
        Start::New => Ok(Progress::start()),
        Start::Weights(checkpoint) => {
            let differs = check_weights(model, checkpoint, &Normalization::new(cache.manifest()))?;
            differs.into_iter().for_each(|message| listener.event(&Event::Warning(message)));
            Ok(Progress::start())
        }
        Start::Resume(checkpoint) => position_of(checkpoint, config, cache),
    }
}

/// Gives the state vectors what they start with.
fn set_out(learner: &mut Learner, start: &Start, model: &Model) -> Result<(), TrainError> {
    match start {
        Start::New => learner.initialize(model),
        Start::Weights(checkpoint) => {
            learner.initialize(model)?;
            learner.set_weights(checkpoint.weights(), checkpoint.buffers())
        }
        Start::Resume(checkpoint) => learner.restore(&checkpoint.state),
    }
}

fn check_windows(
    config: &Config,
    train: &Gather,
    val: &Gather,
    angles: Normalize,
    listener: &mut dyn Listener,
) -> Result<(), TrainError> {
    if train.index.is_empty() {
        return Err(TrainError::Usage("the cache has no training windows".into()));
    }
    for (key, metric) in
        [("training.monitor_metric", &config.training.monitor_metric), ("logging.monitor", &config.logging.monitor)]
    {
        if !METRICS.contains(&metric.as_str()) {
            let message = format!("{key}: expected one of {}, found `{metric}`", METRICS.join(", "));
            return Err(TrainError::Usage(message));
        }
        if val.index.is_empty() && metric.starts_with("val_") {
            let message = format!("{key} is {metric}, but the cache has no validation windows; set it to train_loss");
            return Err(TrainError::Usage(message));
        }
    }
    if angles == Normalize::Recording {
        let message =
            "angles are normalized by recording (data.normalize_angles): no model can be exported from this run";
        listener.event(&Event::Warning(message.into()));
    }
    Ok(())
}

/// Where the checkpoint stands, for a run that goes on as now configured.
fn position_of(checkpoint: &Checkpoint, config: &Config, cache: &Cache) -> Result<Progress, TrainError> {
    if let Some(key) = checkpoint.cache.as_ref().filter(|key| *key != cache.key()) {
        return Err(TrainError::Usage(format!("the run was trained on cache {key}, not {}", cache.key())));
    }
    let (was, now) = (&checkpoint.config.logging, &config.logging);
    let mut progress = checkpoint.progress.clone();
    if (&was.monitor, was.mode) != (&now.monitor, now.mode) {
        // The best value so far was another metric's.
        progress.monitor = Watch::new();
    }
    Ok(progress)
}

const METRICS: [&str; 5] = ["val_loss", "val_mae", "val_rmse", "train_loss", "train_mae"];

fn metric(record: &EpochRecord, name: &str) -> f64 {
    let value = match name {
        "val_loss" => record.val_loss,
        "val_mae" => record.val_mae_deg,
        "val_rmse" => record.val_rmse_deg,
        "train_loss" => Some(record.train_loss),
        _ => Some(record.train_mae_deg),
    };
    value.unwrap_or(f64::NAN)
}

/// An epoch's losses must say something.
fn check_sums(split: &str, sums: &Partial, epoch: usize) -> Result<(), TrainError> {
    if sums.rows == 0.0 && sums.skipped_steps == 0 {
        return Err(TrainError::Usage(format!("every row of the {split} windows failed")));
    }
    if sums.mean_loss().is_finite() {
        Ok(())
    } else {
        Err(TrainError::NotFiniteSplit { split: split.into(), epoch: epoch + 1 })
    }
}

/// Seconds of an epoch's steps.
#[derive(Debug, Default)]
struct Times {
    /// Starting steps; on the CPU, steps themselves.
    launching: f64,
    /// Waiting for batches.
    waiting: f64,
    /// Handing batches on.
    loading: f64,
    /// Waiting for steps.
    finishing: f64,
}

/// Adds the seconds that `work` takes.
fn timed<R>(seconds: &mut f64, work: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let result = work();
    *seconds += start.elapsed().as_secs_f64();
    result
}

struct Fit<'a> {
    model: Model,
    config: Config,
    cache: Arc<Cache>,
    run: RunFolder,
    learner: Learner,
    validation: Validation,
    position: Progress,
    interrupted: Arc<AtomicBool>,
    listener: &'a mut dyn Listener,
}

impl Fit<'_> {
    fn train(&mut self, mut batches: TrainingBatches, first: Batch) -> Result<(), TrainError> {
        let mut waiting = Some(first);
        while self.position.epoch < self.config.training.num_epochs && !self.is_patience_over() {
            let (record, examples) = self.epoch(&mut batches, &mut waiting)?;
            self.end_epoch(&record, examples.as_ref())?;
            if self.is_patience_over() {
                let (epoch, patience) = (self.position.epoch, self.config.training.patience);
                self.listener.event(&Event::Stopped { epoch, patience });
            } else if waiting.is_none() && self.position.epoch < self.config.training.num_epochs {
                batches.start_epoch(self.position.epoch);
            }
        }
        Ok(())
    }

    fn is_patience_over(&self) -> bool {
        self.config.training.early_stopping && self.position.early_stopping.waited >= self.config.training.patience
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
        let averaged =
            self.learner.vector(EMA)?.map_or_else(|| self.learner.vector(PARAMETERS), |ema| Ok(Some(ema)))?;
        let (parameters, buffers) = (averaged.unwrap_or_default(), self.learner.vector(BUFFERS)?.unwrap_or_default());
        let mut heard = |batch, batches| self.listener.event(&Event::Validating { batch, batches });
        let val = match self.validation.run(&parameters, &buffers, &self.interrupted, &mut heard) {
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
            train_loss: sums.mean_loss(),
            train_mae_deg: sums.mae_deg(joints),
            val_loss: val.as_ref().map(Partial::mean_loss),
            val_mae_deg: val.as_ref().map(|val| val.mae_deg(joints)),
            val_rmse_deg: val.as_ref().map(|val| val.rmse_deg(joints)),
            skipped_batches: sums.skipped_batches,
            skipped_steps: sums.skipped_steps,
            windows: sums.windows,
            train_seconds,
            wait_seconds: times.waiting,
            val_seconds: start.elapsed().as_secs_f64(),
        };
        Ok((record, examples))
    }

    /// The steps that are left of the current epoch; tells where time went.
    fn steps(&mut self, batches: &mut TrainingBatches, waiting: &mut Option<Batch>) -> Result<Times, TrainError> {
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
    fn rate(&self, batches_per_epoch: u64) -> f64 {
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
        if training.on_nan == OnNan::Stop {
            return Err(TrainError::NotFinite { epoch, step, windows });
        }
        let windows = windows.join(", ");
        let message = format!("epoch {epoch}, batch {step}: not finite, skipped; its windows are {windows}");
        self.listener.event(&Event::Warning(message));
        Ok(())
    }

    fn end_epoch(&mut self, record: &EpochRecord, examples: Option<&Examples>) -> Result<(), TrainError> {
        let (training, logging) = (&self.config.training, &self.config.logging);
        self.position.epoch += 1;
        self.position.batch = 0;
        let watched = metric(record, &training.monitor_metric);
        self.position.early_stopping.update(watched, Mode::Min, training.min_delta);
        if training.scheduler == Schedule::Plateau {
            self.position.plateau.update(watched, Mode::Min, 0.0);
            self.position.reductions += u32::from(self.position.plateau.met_plateau());
        }
        let value = metric(record, &logging.monitor);
        let best = self.position.monitor.update(value, logging.mode, 0.0);
        self.listener.event(&Event::Epoch(record));
        if let Some(examples) = examples {
            self.listener.event(&Event::Examples { epoch: record.epoch, examples });
        }
        if best {
            self.listener.event(&Event::Best { monitor: &self.config.logging.monitor, value });
            self.save("best")?;
        }
        let epoch = self.position.epoch;
        let numbered = !self.config.logging.save_best_only && self.config.logging.save_every > 0;
        if numbered && epoch.is_multiple_of(self.config.logging.save_every) {
            self.save(&format!("epoch_{epoch:05}"))?;
            if let Err(error) = self.run.keep_newest(self.config.logging.keep_last) {
                self.listener.event(&Event::Warning(format!("old checkpoints stay: {error}")));
            }
        }
        self.save("last")
    }

    /// Saves a checkpoint, or warns where it cannot be written: the one before is intact, and the run folder tries again
    /// with the next.
    fn save(&mut self, name: &str) -> Result<(), TrainError> {
        let checkpoint = self.checkpoint()?;
        if let Err(error) = self.write(name, checkpoint) {
            let message = format!("the checkpoint {name} is not saved, training goes on: {error}");
            self.listener.event(&Event::Warning(message));
        }
        Ok(())
    }

    /// Saves a checkpoint without which there is no use in going on.
    fn must_save(&mut self, name: &str) -> Result<(), TrainError> {
        let checkpoint = self.checkpoint()?;
        self.write(name, checkpoint)
    }

    fn write(&mut self, name: &str, checkpoint: Checkpoint) -> Result<(), TrainError> {
        let saved = self.run.save(name, checkpoint)?;
        saved.into_iter().for_each(|path| self.listener.event(&Event::Saved { path }));
        Ok(())
    }

    fn checkpoint(&self) -> Result<Checkpoint, TrainError> {
        Ok(Checkpoint {
            config: self.config.clone(),
            cache: Some(self.cache.key().clone()),
            parameters: Some(parameters_key(&self.model)),
            normalization: Normalization::new(self.cache.manifest()),
            progress: self.position.clone(),
            state: self.learner.state()?,
        })
    }

    /// Saves where training stands if it is to stop.
    fn check_interrupt(&mut self) -> Result<(), TrainError> {
        if !self.interrupted.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.must_save("last")?;
        Err(TrainError::Interrupted)
    }

    /// Exports the model that training ends with.
    fn finish(mut self) -> Result<FitSummary, TrainError> {
        let (best, last) = (self.run.checkpoint("best"), self.run.checkpoint("last"));
        let manifest = self.cache.manifest();
        let model = self.run.model();
        let exportable = manifest.settings.normalize_angles != Normalize::Recording;
        let saved = self.run.save_rest();
        if exportable {
            let wanted = if self.config.training.restore_best_weights { "best" } else { "last" };
            let checkpoint = self.run.load(wanted)?.map_or_else(|| self.checkpoint(), Ok)?;
            replace_file(&model, &export_run(&self.model, &checkpoint, manifest, ExportOptions::default())?.onnx)?;
        }
        saved?;
        Ok(FitSummary {
            epochs: self.position.epoch,
            monitor: self.config.logging.monitor.clone(),
            best: self.position.monitor.best,
            best_checkpoint: best,
            last_checkpoint: last,
            model: exportable.then_some(model),
        })
    }
}
