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
use crate::config::{Config, Normalize};
use crate::digest::{self, PLACEHOLDER};
use crate::files::{read_regular, replace_file};
use crate::model::{Model, total_elements};
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

impl Progress {
    /// Detects what no training writes.
    fn check(&self) -> Result<(), String> {
        let counts = [self.epoch as u64, self.batch, self.step, self.pending.batches as u64, self.pending.rows as u64];
        // Far beyond any training, far below where sums of such numbers overflow.
        if counts.iter().any(|count| *count > 1 << 40) {
            return Err(format!("its progress is impossible: {counts:?}"));
        }
        let scale = self.loss_scale.scale;
        if scale.is_finite() && scale > 0.0 { Ok(()) } else { Err(format!("its loss scale is {scale}")) }
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
    /// BLAKE3 of a user's own model.
    pub own_model: Option<Key>,
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
    #[serde(default)]
    own_model: Option<Key>,
    /// Of the whole file; there is none in version 2.
    #[serde(default)]
    digest: Option<String>,
    normalization: Normalization,
    progress: Progress,
    config: Config,
}

/// The key of a model's parameters: their names and shapes in order.
pub(super) fn parameters_key(model: &Model) -> Key {
    Key::of(&model.parameters().iter().map(|p| (p.name.clone(), p.shape.clone())).collect::<Vec<_>>())
}

/// The BLAKE3 of a user's own model; `None` for a built-in architecture.
pub(super) fn own_model_key(model: &Model) -> Option<Key> {
    model.onnx().map(|onnx| blake3::hash(&onnx.bytes()).into())
}

const VERSION: u32 = 3;
/// Versions that are read.
const READ: std::ops::RangeInclusive<u32> = 2..=VERSION;
const HEADER: &str = "emg";

impl Checkpoint {
    /// The parameters to evaluate and export, end to end: their moving average where there is one.
    pub fn weights(&self) -> &[f32] {
        let average = self.vector(EMA).filter(|_| self.config.training.ema > 0.0);
        average.unwrap_or(&self.state[0].1)
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
            own_model: self.own_model.clone(),
            digest: Some(PLACEHOLDER.to_owned()),
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
        let mut bytes = safetensors::serialize(views, Some(metadata)).expect("float vectors serialize");
        digest::seal(&mut bytes);
        Ok(replace_file(path, &bytes)?)
    }

    /// Reads a checkpoint.
    ///
    /// # Errors
    /// Unreadable, damaged, or not a checkpoint of this program.
    pub fn load(path: &Path) -> Result<Self, TrainError> {
        Self::parse(path, &read_regular(path).map_err(TrainError::io(path))?)
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
        if !READ.contains(&header.version) {
            let path = path.to_owned();
            return Err(TrainError::CheckpointVersion { path, newest: VERSION, found: header.version });
        }
        match &header.digest {
            None if header.version == 2 => {}
            Some(digest) if digest::matches(bytes, digest) => {}
            _ => return Err(damaged("damaged: it does not match its digest".into())),
        }
        let file =
            safetensors::SafeTensors::deserialize(bytes).map_err(|error| damaged(format!("damaged: {error}")))?;
        let mut state: Vec<_> = file
            .tensors()
            .into_iter()
            .map(|(name, view)| {
                if view.dtype() != Dtype::F32 {
                    return Err(damaged(format!("{name}: expected float32, found {:?}", view.dtype())));
                }
                let values = view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
                Ok((name, values))
            })
            .collect::<Result<_, _>>()?;
        state.sort_by_key(|(name, _): &(String, Vec<f32>)| (name != PARAMETERS, name.clone()));
        if state.first().is_none_or(|(name, _)| name != PARAMETERS) {
            return Err(damaged("it holds no parameters".into()));
        }
        let Header { config, cache, parameters, own_model, normalization, progress, .. } = header;
        let checkpoint = Self { config, cache, parameters, own_model, normalization, progress, state };
        checkpoint.check().map_err(damaged)?;
        Ok(checkpoint)
    }

    /// A digest detects accidental damage; this detects a forged file, or one of another program.
    fn check(&self) -> Result<(), String> {
        self.config.validate().map_err(|error| format!("its configuration is invalid: {error}"))?;
        let (data, normalization) = (&self.config.data, &self.normalization);
        for (moments, columns, kind) in [
            (&normalization.train_emg, data.emg_channels, normalization.emg),
            (&normalization.train_joint_angles, data.joint_count(), normalization.joint_angles),
        ] {
            // What was trained elsewhere, without normalization, comes without statistics.
            let needs_none = self.cache.is_none() && kind == Normalize::None;
            if !(moments.has_columns(columns) || needs_none && moments.has_columns(0)) {
                return Err(format!("its statistics do not have {columns} columns"));
            }
            if kind == Normalize::Train && moments.n == 0 {
                return Err("its statistics are of no rows".into());
            }
        }
        self.progress.check()
    }

    /// Fails unless the weights are those of this model.
    ///
    /// # Errors
    /// What differs.
    pub fn check_model(&self, model: &Model) -> Result<(), TrainError> {
        let other = |what: String| Err(TrainError::OtherModel { what });
        if let (Some(was), Some(is)) = (&self.own_model, own_model_key(model))
            && *was != is
        {
            return other("it was trained with another ONNX file".into());
        }
        if self.parameters.as_ref().is_some_and(|key| *key != parameters_key(model)) {
            return other("its parameters have other names or shapes".into());
        }
        for (what, wanted, found) in [
            ("parameters", total_elements(&model.parameters()), self.weights().len()),
            ("buffers", total_elements(&model.buffers()), self.buffers().len()),
        ] {
            if wanted != found {
                return other(format!("it has {found} {what}, the model has {wanted}"));
            }
        }
        match self.weights().iter().chain(self.buffers()).all(|value| value.is_finite()) {
            true => Ok(()),
            false => Err(TrainError::WeightsNotFinite),
        }
    }
}
