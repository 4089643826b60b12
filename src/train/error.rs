//! What can go wrong in training.

use std::path::PathBuf;

use crate::cache::CacheError;
use crate::files::FileError;
use crate::recording::RecordingError;
use crate::runtime::RuntimeError;

#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error(transparent)]
    Recording(#[from] RecordingError),
    #[error("{source}{}", remedy(source))]
    Runtime { source: RuntimeError },
    #[error(transparent)]
    File(#[from] FileError),
    /// Wrong usage or configuration.
    #[error("{0}")]
    Usage(String),
    #[error("{path}: {message}")]
    Model { path: PathBuf, message: String },
    #[error("{path}: expected at least {window} rows, a window of the model, found {rows}")]
    Short { path: PathBuf, rows: u64, window: usize },
    #[error(
        "{path}: expected a row with a pose to start from (a tracking model goes on from the true pose), found none"
    )]
    NoPose { path: PathBuf },
    #[error("{path}: the model's angles of row {row} are not finite; nothing is written")]
    NotFinitePrediction { path: PathBuf, row: usize },
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

impl TrainError {
    pub(crate) fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::File(FileError::at(path)(source))
    }
}
