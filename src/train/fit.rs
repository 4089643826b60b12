//! From a configuration and a cache to a training: windows, library, provider, steps, run folder.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::checkpoint::{Progress, own_model_key};
use super::error::TrainError;
use super::events::{Event, Listener};
use super::learner::Learner;
use super::normalization::Normalization;
use super::own_model::IMPORTED;
use super::passes::{TrainingBatches, Validation, gather};
use super::residency;
use super::run::RunFolder;
use super::saving::FitSummary;
use super::start::{Start, begin, set_out};
use super::training::Training;
use crate::cache::{Cache, Split};
use crate::config::{Config, Normalize};
use crate::dataset::{Batch, Gather, Resident};
use crate::files::replace_file;
use crate::graph::{Exporter, OnnxModel, listed};
use crate::model::{Model, ModelTensor, total_elements};
use crate::runtime::{self, Library, Provider};
use crate::step::training_step;

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
    /// Set from outside to save a checkpoint after the current step and continue.
    pub save_now: Arc<AtomicBool>,
    /// When the process started.
    pub started: Instant,
    pub listener: &'a mut dyn Listener,
}

/// Trains as configured. Checkpoints `last` after every epoch and `best` at every best one, then exports the model.
///
/// # Errors
/// [`TrainError`]; [`TrainError::Interrupted`] after saving where training stood.
pub fn fit(options: FitOptions<'_>) -> Result<FitSummary, TrainError> {
    let FitOptions { config, cache, model, run, start, ort_lib, interrupted, save_now, started, listener } = options;
    // The exported model's windows are those of the test split.
    let test = cache.manifest().settings.windows(Split::Test).rows();
    model.check_window(test).map_err(|source| TrainError::Window { split: Split::Test, source })?;
    let train = Arc::new(gather(&cache, &config, &model, Split::Train)?);
    let val = Arc::new(gather(&cache, &config, &model, Split::Val)?);
    check_windows(&config, &train, &val, cache.manifest().settings.normalize_angles, listener)?;
    let position = begin(&start, &config, &cache, &model, listener)?;

    // The first batch needs no session, so it is loaded first.
    let host = Loaded::new(train, &config, &position)?;
    listener.event(&Event::FirstBatch { milliseconds: started.elapsed().as_secs_f64() * 1e3 });

    let library = runtime::load(ort_lib.as_deref())?;
    let provider = Provider::choose(&library, &config.training)?;
    if let Some(reason) = provider.missing_kernels(&config.training) {
        let message = format!("using standard operators only, so steps take longer: {reason}");
        listener.event(&Event::Warning(message));
    }
    let resident = residency::resident(&config, provider, &host.train)?;
    let steps = Steps {
        library: &library,
        provider,
        config: &config,
        model: &model,
        start: &start,
        first_epoch: position.epoch + 1,
    };
    let Ready { loaded, learner, validation } = steps.ready(host, resident, &val, &cache, &position, listener)?;
    let resumed = match &start {
        Start::Resume(checkpoint) => Some(&**checkpoint),
        Start::New | Start::Weights(_) => None,
    };
    let mut run = RunFolder::open(&run, &config, resumed)?;
    run.warnings.drain(..).for_each(|message| listener.event(&Event::Warning(message)));
    if let Some(onnx) = model.onnx() {
        replace_file(&run.root().join(IMPORTED), &onnx.bytes())?;
    }
    run.truncate_metrics(position.epoch)?;
    let own_model = own_model_key(&model);
    let mut training = Training {
        library: &library,
        provider,
        model,
        own_model,
        config,
        cache,
        run,
        learner,
        validation,
        position,
        interrupted,
        save_now,
        listener,
    };
    if resumed.is_none() {
        // A run that dies in its first epoch can be resumed, too.
        training.must_save("last")?;
    }
    training.rehearse_export()?;
    training.run.write_config(&training.config)?;
    let uploading = Instant::now();
    if let Some(bytes) = residency::upload(&mut training.learner, &loaded.train, &training.interrupted)? {
        training.listener.event(&Event::Uploaded { bytes, seconds: uploading.elapsed().as_secs_f64() });
    }
    training.train(loaded.batches, loaded.first)?;
    training.finish()
}

/// Batches from where training stands on, with the first of them.
struct Loaded {
    train: Arc<Gather>,
    batches: TrainingBatches,
    first: Batch,
}

impl Loaded {
    fn new(train: Arc<Gather>, config: &Config, position: &Progress) -> Result<Self, TrainError> {
        let mut batches = TrainingBatches::new(Arc::clone(&train), config, position);
        if position.batch > batches.per_epoch {
            return Err(TrainError::BeyondEpoch { batch: position.batch, steps: batches.per_epoch });
        }
        let first = batches.next_batch()?;
        Ok(Self { train, batches, first })
    }
}

/// Batches, and the steps that take them.
struct Ready {
    loaded: Loaded,
    learner: Learner,
    validation: Validation,
}

/// What the steps of training and validation are made of.
struct Steps<'a> {
    library: &'a Library,
    provider: Provider,
    config: &'a Config,
    model: &'a Model,
    start: &'a Start,
    first_epoch: usize,
}

impl Steps<'_> {
    /// The steps for rows on the device, if there is room for them and for the steps; else for rows on the host.
    fn ready(
        &self,
        host: Loaded,
        resident: Option<Resident>,
        val: &Arc<Gather>,
        cache: &Cache,
        position: &Progress,
        listener: &mut dyn Listener,
    ) -> Result<Ready, TrainError> {
        if resident.is_some() {
            let train = Arc::new(Gather { resident, ..Gather::clone(&host.train) });
            let loaded = Loaded::new(train, self.config, position)?;
            match self.build(&loaded, val, cache, listener) {
                Err(TrainError::Runtime { source }) if residency::goes_back(self.config, &source) => {
                    tracing::info!("{source}");
                    let message = "the training rows stay on the host: the device has no room for a step beside them";
                    listener.event(&Event::Warning(message.into()));
                }
                built => {
                    let (learner, validation) = built?;
                    return Ok(Ready { loaded, learner, validation });
                }
            }
        }
        let (learner, validation) = self.build(&host, val, cache, listener)?;
        Ok(Ready { loaded: host, learner, validation })
    }

    /// Both, with the state that training starts with. Where rows are to be resident they have run already, so that what
    /// memory they need is known before any row is copied.
    fn build(
        &self,
        loaded: &Loaded,
        val: &Arc<Gather>,
        cache: &Cache,
        listener: &mut dyn Listener,
    ) -> Result<(Learner, Validation), TrainError> {
        let Self { library, provider, config, model, .. } = *self;
        let Loaded { train, batches, first } = loaded;
        let normalization = Normalization::new(cache.manifest());
        let mut problem = normalization.problem(config, model, cache, train.shape);
        problem.resident = residency::described(train, config);
        let graph = training_step(&problem, &config.training, provider.kernels())?;
        listener.event(&Event::Started {
            parameters: total_elements(&model.parameters()),
            provider: format!("{provider}, ONNX Runtime {}", library.version),
            train_windows: train.index.len(),
            val_windows: val.index.len(),
            steps_per_epoch: batches.per_epoch,
            first_epoch: self.first_epoch,
            num_epochs: config.training.num_epochs,
            nodes: graph.nodes,
            log_every: config.logging.log_every as u64,
        });
        tell_tensors(model, &graph.unreached, listener);
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

/// Tells what is trained of a user's own model, and what only seems to be.
fn tell_tensors(model: &Model, unreached: &[String], listener: &mut dyn Listener) {
    let tensors = model.tensors();
    if !tensors.is_empty() {
        listener.event(&Event::Tensors { tensors: &tensors, unreached });
    }
    if !unreached.is_empty() {
        let message = format!("the loss does not depend on {}: training leaves them as they are", listed(unreached));
        listener.event(&Event::Warning(message));
    }
    let named = |unsure: fn(&ModelTensor) -> bool| -> Vec<&str> {
        tensors.iter().filter(|tensor| unsure(tensor)).map(|tensor| tensor.name.as_str()).collect()
    };
    let constants = named(|tensor| tensor.may_be_parameter);
    if !constants.is_empty() {
        let message =
            format!("{} are taken for constants: if any is a parameter, name it with --train", constants.join(", "));
        listener.event(&Event::Warning(message));
    }
    let buffers = named(|tensor| tensor.may_be_buffer);
    let names = if buffers.is_empty() { String::new() } else { format!("; {} may be buffers", buffers.join(", ")) };
    let exporter = model.onnx().map(OnnxModel::exporter);
    if exporter == Some(Exporter::TorchScript) {
        let message = format!(
            "the older exporter wrote the model, which tells neither buffers from parameters nor where detach() and no_grad() \
             stop gradients: exclude buffers with --freeze, or export the model with dynamo=True{names}"
        );
        listener.event(&Event::Warning(message));
    } else if !buffers.is_empty() {
        let message = format!("the file does not tell buffers from parameters: exclude buffers with --freeze{names}");
        listener.event(&Event::Warning(message));
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
        return Err(TrainError::NoTrainingWindows);
    }
    let monitored =
        [("training.monitor_metric", config.training.monitor_metric), ("logging.monitor", config.logging.monitor)];
    for (key, metric) in monitored {
        if val.index.is_empty() && metric.is_of_validation() {
            return Err(TrainError::NothingToMonitor { key, metric });
        }
    }
    if angles == Normalize::Recording {
        let message = "angles are normalized by recording (data.normalize_angles): no model can be exported from this run; \
             set data.normalize_angles: train to export one";
        listener.event(&Event::Warning(message.into()));
    }
    Ok(())
}
