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
    Runtime {
        #[from]
        source: RuntimeError,
    },
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{}: the configuration says {}, but the cache was built with {}", .0.key, .0.here, .0.there)]
    SettingsMismatch(Box<Difference>),
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
    #[error("the {split} windows have no valid row: every row is marked as failed")]
    NoValidRow { split: String },
    #[error(
        "training.data_residency is device, but the training split is too large: expected {expected}, found {found}; set it to auto or host"
    )]
    NoRoom { expected: String, found: String },
    #[error("training.num_workers: {source}")]
    Threads {
        #[from]
        source: rayon::ThreadPoolBuildError,
    },
    #[error("{} cannot change when a run is resumed: it was {}, now it is {}", .0.key, .0.here, .0.there)]
    CannotChange(Box<Difference>),
    #[error("the run was trained on cache {was}, not {now}; resume it with the same cache")]
    CacheMismatch { was: Key, now: Key },
    #[error("--init: the checkpoint is from model type {checkpoint}, but the model is {model}")]
    ArchitectureMismatch { checkpoint: ModelType, model: ModelType },
    #[error("--init: the checkpoint is from a different model: its parameters have other names or shapes")]
    ModelMismatch,
    #[error("--init: parameter {model} of the model is {checkpoint} in the checkpoint")]
    ParameterMismatch { model: String, checkpoint: String },
    #[error("--init: the model has {model} {what}, but the checkpoint has {checkpoint}")]
    CountMismatch { what: &'static str, model: usize, checkpoint: usize },
    #[error("the checkpoint is of another model: {what}")]
    OtherModel { what: String },
    #[error("the checkpoint's weights are not all finite numbers")]
    WeightsNotFinite,
    #[error("the checkpoint stands at step {batch} of an epoch of {steps} steps")]
    BeyondEpoch { batch: u64, steps: u64 },
    #[error(
        "a batch of {batch} windows takes {bytes} bytes, and up to {buffers} are kept, but this process may have {limit} bytes of \
         memory; lower training.batch_size, data.window_size or training.prefetch_factor"
    )]
    BatchTooLarge { batch: usize, bytes: u128, buffers: usize, limit: u64 },
    #[error("the model has {elements} parameters; expected at most {most}")]
    ModelTooLarge { elements: u128, most: u128 },
    #[error("ONNX Runtime does not run the exported model, so it was not written: {source}")]
    NotLoaded { source: RuntimeError },
    #[error("the checkpoint holds no {name}")]
    MissingState { name: &'static str },
    #[error("the checkpoint's {name} has {found} elements, expected {expected}")]
    StateMismatch { name: &'static str, found: usize, expected: usize },
    #[error("{folder}: another fit is running in this folder")]
    Locked { folder: PathBuf },
    #[error("{folder} already holds a run; use --resume to continue it, or --run to choose another folder")]
    RunExists { folder: PathBuf },
    #[error("{folder} holds no run to resume; check --run, or omit --resume to start a new run")]
    NoRun { folder: PathBuf },
    #[error("{key}: {folder} holds another run's results; choose a folder that only this run uses")]
    FolderInUse { key: &'static str, folder: PathBuf },
    /// It is damaged, or not one of this program's.
    #[error("{path}: {message}")]
    Checkpoint { path: PathBuf, message: String },
    #[error("{path}: expected checkpoint version {newest}, found {found}: another version of emg-train wrote it")]
    CheckpointVersion { path: PathBuf, newest: u32, found: u32 },
    #[error(
        "the {what} is not finite in epoch {epoch}, step {step}; the batch held the windows {}; try a lower training.learning_rate, or training.on_nan: skip",
        windows.join(", ")
    )]
    NotFinite { what: String, epoch: usize, step: u64, windows: Vec<String> },
    #[error("the {split} loss is not finite after epoch {epoch}; try a lower training.learning_rate")]
    NotFiniteSplit { split: String, epoch: usize },
    #[error("the model drops elements at random, so a single step says nothing: set its dropout to 0")]
    RandomTrial,
    #[error("interrupted; a checkpoint was saved, use --resume to continue")]
    Interrupted,
}

/// Which configuration keys help with an error of the runtime.
fn remedy(error: &RuntimeError) -> &'static str {
    match error {
        RuntimeError::OutOfMemory { .. } => {
            "; lower training.batch_size (and raise training.gradient_accumulation_steps to keep the effective batch size), or \
             data.window_size, or use training.precision: fp16, or set training.data_residency: host, or raise \
             training.device_memory_limit if it is set"
        }
        RuntimeError::KernelLimit { .. } => "; set training.cuda_kernels: false",
        RuntimeError::NoCuda { .. } => "; to train without CUDA, set training.device to cpu or auto",
        _ => "",
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
    /// Whether a checkpoint cannot be used because of what became of its bytes: they changed, or the disk does not give
    /// them back.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::Checkpoint { .. } => true,
            Self::File(error) => error.source.raw_os_error() == Some(libc::EIO),
            _ => false,
        }
    }

    /// Whether it is an error of usage or configuration, rather than a failure at run time.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Cache(error) => error.is_usage(),
            Self::File(_)
            | Self::Runtime { .. }
            | Self::Checkpoint { .. }
            | Self::CheckpointVersion { .. }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_library_name_the_keys_that_help() {
        let message = || "x".to_owned();
        for (source, key) in [
            (RuntimeError::OutOfMemory { doing: "running a step", message: message() }, "training.batch_size"),
            (RuntimeError::KernelLimit { doing: "running a step", message: message() }, "training.cuda_kernels: false"),
            (RuntimeError::NoCuda { reason: message() }, "training.device to cpu"),
        ] {
            let own = source.to_string();
            let told = TrainError::from(source).to_string();
            assert!(!own.contains("training.") && told.starts_with(&own) && told.contains(key), "{told}");
        }
    }
}
