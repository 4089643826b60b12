//! Checkpoints: state vectors as safetensors, and where training stood, in one file that is replaced atomically.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use super::early_stopping::Watch;
use super::error::TrainError;
use super::loss_scale::LossScale;
use super::normalization::Normalization;
use crate::cache::Key;
use crate::config::Config;
use crate::files::replace_file;
use crate::model::Model;
use crate::step::{BUFFERS, EMA, PARAMETERS};

/// Where training stands between two steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Completed epochs.
    pub epoch: usize,
    /// Steps done of the epoch after them.
    pub batch: u64,
    /// Optimizer steps in all.
    pub step: u64,
    /// Sums over the steps done of the unfinished epoch.
    pub partial: Partial,
    /// Batches, and valid rows in them, whose gradients wait to be applied.
    pub pending: Pending,
    /// Factor on the loss (`precision: fp16`).
    pub loss_scale: LossScale,
    pub early_stopping: Watch,
    pub plateau: Watch,
    pub reductions: u32,
    /// Best value of `logging.monitor`.
    pub monitor: Watch,
}

impl Progress {
    /// Before the first step.
    pub(super) fn start() -> Self {
        Self {
            epoch: 0,
            batch: 0,
            step: 0,
            partial: Partial::default(),
            pending: Pending::default(),
            loss_scale: LossScale::new(),
            early_stopping: Watch::new(),
            plateau: Watch::new(),
            reductions: 0,
            monitor: Watch::new(),
        }
    }
}

/// Sums over the batches of an epoch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Partial {
    /// Loss x valid rows.
    pub loss: f64,
    pub rows: f64,
    #[serde(default)]
    pub windows: u64,
    /// Of |error| and error^2 over rows and joints, radians.
    pub absolute: f64,
    pub squared: f64,
    /// Batches without a valid row.
    pub skipped_batches: u64,
    /// Optimizer steps whose gradient was not finite.
    pub skipped_steps: u64,
}

/// Gradients on their way to an optimizer step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    pub batches: usize,
    pub rows: usize,
}

/// A checkpoint in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    pub config: Config,
    /// What it was trained on; none of ours where it was imported.
    pub cache: Option<Key>,
    /// What the parameters are: [`parameters_key`].
    pub parameters: Option<Key>,
    pub normalization: Normalization,
    pub progress: Progress,
    /// State vectors by name; `parameters` first.
    pub state: Vec<(String, Vec<f32>)>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    cache: Option<Key>,
    #[serde(default)]
    parameters: Option<Key>,
    normalization: Normalization,
    progress: Progress,
    config: Config,
}

/// The key of a model's parameters: their names and shapes in order.
pub(super) fn parameters_key(model: &Model) -> Key {
    Key::of(&model.parameters().iter().map(|p| (p.name.clone(), p.shape.clone())).collect::<Vec<_>>())
}

const VERSION: u32 = 2;
const HEADER: &str = "emg";

impl Checkpoint {
    /// The parameters to evaluate and export, end to end: their moving average where there is one.
    pub fn weights(&self) -> &[f32] {
        self.vector(EMA).unwrap_or(&self.state[0].1)
    }

    /// The buffers end to end; empty for a model without.
    pub fn buffers(&self) -> &[f32] {
        self.vector(BUFFERS).unwrap_or_default()
    }

    fn vector(&self, name: &str) -> Option<&[f32]> {
        self.state.iter().find(|(other, _)| other == name).map(|(_, values)| values.as_slice())
    }

    /// Writes the file, replacing an older one only once the new one is safe on disk.
    ///
    /// # Errors
    /// The file cannot be written; an older one is then intact.
    pub fn save(&self, path: &Path) -> Result<(), TrainError> {
        let header = Header {
            version: VERSION,
            cache: self.cache.clone(),
            parameters: self.parameters.clone(),
            normalization: self.normalization.clone(),
            progress: self.progress.clone(),
            config: self.config.clone(),
        };
        let header = serde_json::to_string(&header).expect("plain data serializes");
        let views = self.state.iter().map(|(name, values)| {
            let view = TensorView::new(Dtype::F32, vec![values.len()], bytemuck::cast_slice(values));
            (name.clone(), view.expect("one element for each value"))
        });
        let metadata = HashMap::from([(HEADER.to_owned(), header)]);
        let bytes = safetensors::serialize(views, Some(metadata)).expect("float vectors serialize");
        Ok(replace_file(path, &bytes)?)
    }

    /// Reads a checkpoint.
    ///
    /// # Errors
    /// Unreadable, damaged, or not a checkpoint of this program.
    pub fn load(path: &Path) -> Result<Self, TrainError> {
        Self::parse(path, &std::fs::read(path).map_err(TrainError::io(path))?)
    }

    /// Parses the bytes of a checkpoint; `path` is what errors name.
    ///
    /// # Errors
    /// Damaged, or not a checkpoint of this program.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, TrainError> {
        let damaged = |message: String| TrainError::Checkpoint { path: path.to_owned(), message };
        let (_, metadata) =
            safetensors::SafeTensors::read_metadata(bytes).map_err(|error| damaged(format!("damaged: {error}")))?;
        let header = metadata.metadata().as_ref().and_then(|m| m.get(HEADER));
        let header = header.ok_or_else(|| damaged("not a checkpoint of emg-train".into()))?;
        let header: Header = serde_json::from_str(header).map_err(|error| damaged(format!("damaged: {error}")))?;
        if header.version != VERSION {
            return Err(damaged(format!("expected checkpoint version {VERSION}, found {}", header.version)));
        }
        let file =
            safetensors::SafeTensors::deserialize(bytes).map_err(|error| damaged(format!("damaged: {error}")))?;
        let mut state: Vec<_> = file
            .tensors()
            .into_iter()
            .filter(|(_, view)| view.dtype() == Dtype::F32)
            .map(|(name, view)| {
                let values = view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
                (name, values)
            })
            .collect();
        state.sort_by_key(|(name, _): &(String, Vec<f32>)| (name != PARAMETERS, name.clone()));
        if state.first().is_none_or(|(name, _)| name != PARAMETERS) {
            return Err(damaged("it holds no parameters".into()));
        }
        let Header { config, cache, parameters, normalization, progress, .. } = header;
        Ok(Self { config, cache, parameters, normalization, progress, state })
    }
}
