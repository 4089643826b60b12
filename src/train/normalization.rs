//! How a model's EMG and angles are normalized.

use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Manifest};
use crate::config::{Config, Normalize};
use crate::dataset::BatchShape;
use crate::model::Model;
use crate::statistics::Moments;
use crate::step::Problem;
use crate::units::{Affine, Units};

/// How a model's EMG and angles are normalized: part of the model, whatever cache it is evaluated on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Normalization {
    pub emg: Normalize,
    pub joint_angles: Normalize,
    /// Statistics of the split that the model was trained on.
    pub train_emg: Moments,
    pub train_joint_angles: Moments,
}

impl Normalization {
    pub fn new(manifest: &Manifest) -> Self {
        Self {
            emg: manifest.settings.normalize_emg,
            joint_angles: manifest.settings.normalize_angles,
            train_emg: manifest.train_emg.clone(),
            train_joint_angles: manifest.train_joint_angles.clone(),
        }
    }

    /// Units of the model's EMG.
    pub(super) fn emg_units(&self) -> Units {
        units(self.emg, &self.train_emg)
    }

    /// Units of the model's angles.
    pub(super) fn angle_units(&self) -> Units {
        units(self.joint_angles, &self.train_joint_angles)
    }

    /// What `model` learns from batches of `shape` of a cache.
    pub(super) fn problem(&self, config: &Config, model: &Model, cache: &Cache, shape: BatchShape) -> Problem {
        let training = &config.training;
        let to_f32 = |weights: &Vec<f64>| weights.iter().map(|weight| *weight as f32).collect();
        Problem {
            emg: self.emg_units(),
            angles: self.angle_units(),
            joint_weights: training.joint_weights.as_ref().map(to_f32),
            unmeasured: cache.recordings().any(|recording| !recording.content.unmeasured_joints.is_empty()),
            ..Problem::new(model.clone(), shape, training.loss_type, training.mae_weight)
        }
    }
}

fn units(normalize: Normalize, train: &Moments) -> Units {
    match normalize {
        Normalize::None => Units::Raw,
        Normalize::Train => Units::Fixed(Affine::new(train)),
        Normalize::Recording => Units::PerRecording,
    }
}
