//! What can go wrong in training.

use std::path::PathBuf;

use crate::cache::{CacheError, Key, Split};
use crate::config::{ConfigError, Difference, ModelType, MonitoredMetric};
use crate::files::FileError;
use crate::graph::GraphError;
use crate::model::ModelError;
use crate::runtime::RuntimeError;
use crate::step::StepError;

#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("{source}{}", remedy(source))]
    Runtime { source: RuntimeError },
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{}: the configuration says {}, the cache was built with {}", .0.key, .0.here, .0.there)]
    OtherSettings(Box<Difference>),
    #[error("model.type is onnx: name the file with `fit --model FILE` or model.onnx")]
    NoModelFile,
    #[error("{path}: {source}")]
    OwnModel { path: PathBuf, source: Box<ModelError> },
    #[error(transparent)]
    Step(#[from] StepError),
    #[error("{split} windows: {source}")]
    Window { split: Split, source: ModelError },
    #[error("the cache has no training windows")]
    NoTrainingWindows,
    #[error("cache {cache} has no {split} windows")]
    NoWindows { cache: Key, split: Split },
    #[error("{key} is {metric}, but the cache has no validation windows; set it to train_loss")]
    NothingToMonitor { key: &'static str, metric: MonitoredMetric },
    #[error("every row of the {split} windows failed")]
    NoValidRow { split: String },
    #[error(
        "training.data_residency is device: expected {expected} of the training split, found {found}; leave it at auto or set it to host"
    )]
    NoRoom { expected: String, found: String },
    #[error("training.num_workers: {source}")]
    Threads {
        #[from]
        source: rayon::ThreadPoolBuildError,
    },
    #[error("{} cannot change when a run is resumed: it was {}, now {}", .0.key, .0.here, .0.there)]
    CannotChange(Box<Difference>),
    #[error("the run was trained on cache {was}, not {now}")]
    OtherCache { was: Key, now: Key },
    #[error("--init: the checkpoint is of a {checkpoint}, the model is a {model}")]
    OtherArchitecture { checkpoint: ModelType, model: ModelType },
    #[error("--init: the checkpoint is of another model: its parameters have other names or shapes")]
    OtherModel,
    #[error("--init: {model} of the model is {checkpoint} there")]
    OtherParameter { model: String, checkpoint: String },
    #[error("--init: the model has {model} {what}, the checkpoint {checkpoint}")]
    OtherCount { what: &'static str, model: usize, checkpoint: usize },
    #[error("the checkpoint holds no {name}")]
    MissingState { name: &'static str },
    #[error("the checkpoint's {name} has {found} elements, expected {expected}")]
    OtherState { name: &'static str, found: usize, expected: usize },
    #[error("{folder}: another fit is running in this folder")]
    Locked { folder: PathBuf },
    #[error("{folder} holds a run already; --resume goes on with it, --run names another")]
    RunExists { folder: PathBuf },
    #[error("{folder} holds no run to resume")]
    NoRun { folder: PathBuf },
    #[error("{key}: {folder} holds another run's results; name a folder of this run's own")]
    SharedFolder { key: &'static str, folder: PathBuf },
    #[error("{path}: {message}")]
    Checkpoint { path: PathBuf, message: String },
    #[error(
        "the loss is not finite in epoch {epoch}, step {step}; the batch held the windows {}; try a lower training.learning_rate, or training.on_nan: skip",
        windows.join(", ")
    )]
    NotFinite { epoch: usize, step: u64, windows: Vec<String> },
    #[error("the {split} loss is not finite after epoch {epoch}; try a lower training.learning_rate")]
    NotFiniteSplit { split: String, epoch: usize },
    #[error("interrupted; a checkpoint is saved, --resume goes on")]
    Interrupted,
}

/// The configuration keys that help against an error of the library.
fn remedy(error: &RuntimeError) -> &'static str {
    match error {
        RuntimeError::OutOfMemory { .. } => {
            "; lower training.batch_size (and raise training.gradient_accumulation_steps to keep the step), or \
             data.window_size, or use training.precision: fp16, or set training.data_residency: host, or raise \
             training.device_memory_limit if it is set"
        }
        RuntimeError::NoCuda { .. } => "; set training.device: cpu, or auto, to train without it",
        _ => "",
    }
}

impl From<RuntimeError> for TrainError {
    fn from(source: RuntimeError) -> Self {
        Self::Runtime { source }
    }
}

impl From<ModelError> for TrainError {
    fn from(source: ModelError) -> Self {
        Self::Step(StepError::Model(source))
    }
}

impl From<GraphError> for TrainError {
    fn from(source: GraphError) -> Self {
        Self::Step(StepError::Graph(source))
    }
}

impl TrainError {
    /// Whether it is wrong usage or configuration, rather than something that went wrong at work.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Cache(error) => error.is_usage(),
            Self::File(_)
            | Self::Runtime { .. }
            | Self::Checkpoint { .. }
            | Self::NotFinite { .. }
            | Self::NotFiniteSplit { .. }
            | Self::Interrupted => false,
            _ => true,
        }
    }

    pub(crate) fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::File(FileError::at(path)(source))
    }
}
