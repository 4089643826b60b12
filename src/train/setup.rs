//! From configuration and cache to what is learned.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::checkpoint::{Checkpoint, parameters_key};
use super::error::TrainError;
use crate::cache::{Cache, CacheSettings, Manifest, Split};
use crate::config::{Config, LayoutChoice, Loaded, ModelType, Normalize};
use crate::dataset::{BatchShape, Gather, Targets, WindowIndex};
use crate::graph::OnnxModel;
use crate::model::{Model, total_elements};
use crate::statistics::Moments;
use crate::step::Problem;
use crate::units::{Affine, Units};

/// Puts the cache's settings in the place of the configuration's.
///
/// # Errors
/// A key that was set explicitly to something else.
pub fn apply_manifest(loaded: &mut Loaded, manifest: &Manifest) -> Result<(), TrainError> {
    let (given, cached) = (CacheSettings::new(&loaded.config), &manifest.settings);
    let as_json = |settings: &CacheSettings| serde_json::to_value(settings).expect("settings serialize");
    let (given, has) = (as_json(&given), as_json(cached));
    for (name, value) in given.as_object().expect("a struct") {
        let key = CacheSettings::config_key(name);
        let shorthand = match name.as_str() {
            "normalize_emg" | "normalize_angles" => loaded.explicit.contains("data.normalize"),
            "layout" => ["data.hdf5_group", "data.table_name"].iter().any(|key| loaded.explicit.contains(*key)),
            _ => false,
        };
        if *value != has[name] && (loaded.explicit.contains(&key) || shorthand) {
            let message = format!("{key}: the configuration says {value}, the cache was built with {}", has[name]);
            return Err(TrainError::Usage(message));
        }
    }
    let data = &mut loaded.config.data;
    data.layout = LayoutChoice::Described(cached.layout.clone());
    data.emg_channels = cached.emg_channels;
    data.joint_angles_channels = cached.joint_angles_channels;
    data.dtype = cached.dtype;
    data.statistics = cached.statistics;
    data.max_samples_for_normalize = cached.max_samples_for_normalize;
    data.normalize_emg = Some(cached.normalize_emg);
    data.normalize_angles = Some(cached.normalize_angles);
    data.window_size = cached.window_size;
    data.stride = cached.stride;
    data.padding = cached.padding;
    data.skip_ik_failures = cached.skip_ik_failures;
    data.eval_window = Some(cached.eval_window);
    data.eval_stride = Some(cached.eval_stride);
    let model = &mut loaded.config.model;
    model.original_sampling_rate = cached.sample_rate;
    for (key, own, has) in [
        ("model.input_size", &mut model.input_size, cached.emg_channels),
        ("model.output_size", &mut model.output_size, cached.joint_angles_channels),
    ] {
        if *own != has && loaded.explicit.contains(key) {
            return Err(TrainError::Usage(format!("{key}: the configuration says {own}, the cache has {has}")));
        }
        *own = has;
    }
    loaded.config.validate().map_err(|error| TrainError::Usage(error.to_string()))
}

/// Where a run keeps a user's own model.
pub const IMPORTED: &str = "imported.onnx";

/// The model of a run: its architecture, or the user's own that lies in its folder.
///
/// # Errors
/// The user's model cannot be read.
pub fn load_model(config: &Config, run: &Path) -> Result<Model, TrainError> {
    match &config.model.onnx {
        None if config.model.architecture() == ModelType::Onnx => {
            Err(TrainError::Usage("model.type is onnx: name the file with `fit --model FILE` or model.onnx".into()))
        }
        None => Ok(Model::new(&config.model)),
        Some(path) => OnnxModel::load(&run.join(path))
            .and_then(|onnx| Model::imported(&config.model, onnx))
            .map_err(TrainError::Usage),
    }
}

/// Keys that a resumed run may change, besides the section `logging`.
const MAY_CHANGE: [&str; 8] = [
    "training.num_epochs",
    "training.patience",
    "training.num_workers",
    "training.prefetch_factor",
    "training.device_memory_limit",
    "training.data_residency",
    "training.pin_memory",
    "training.cuda_kernels",
];

/// Compares a run's configuration with the one it is to go on with.
///
/// # Errors
/// The first key that differs and must not.
pub fn check_resume(run: &Config, now: &Config) -> Result<(), TrainError> {
    let as_json = |config: &Config| serde_json::to_value(config).expect("a configuration serializes");
    let (run, now) = (as_json(run), as_json(now));
    for (section, keys) in run.as_object().expect("a struct") {
        for (name, value) in keys.as_object().expect("a struct") {
            let key = format!("{section}.{name}");
            let may_change = section == "logging" || MAY_CHANGE.contains(&key.as_str());
            // Where recordings and store lie does not matter: the cache's key says what they hold.
            let place = ["data.dataset_path", "data.store"].contains(&key.as_str());
            if !may_change && !place && *value != now[section][name] {
                let message =
                    format!("{key} cannot change when a run is resumed: it was {value}, now {}", now[section][name]);
                return Err(TrainError::Usage(message));
            }
        }
    }
    Ok(())
}

/// Whether training of `model` can start from a checkpoint's weights; tells what differs all the same.
///
/// # Errors
/// The checkpoint's parameters are not the model's.
pub(super) fn check_weights(
    model: &Model,
    checkpoint: &Checkpoint,
    normalization: &Normalization,
) -> Result<Option<String>, TrainError> {
    let usage = |message: String| Err(TrainError::Usage(format!("--init: {message}")));
    let config = &checkpoint.config.model;
    let (own, has) = (model.config().architecture(), config.architecture());
    if own != has {
        return usage(format!("the checkpoint is of a {has}, the model is a {own}"));
    }
    // A user's own model is not part of the checkpoint, but what its parameters are is.
    if checkpoint.parameters.as_ref().is_some_and(|key| has == ModelType::Onnx && *key != parameters_key(model)) {
        return usage("the checkpoint is of another model: its parameters have other names or shapes".into());
    }
    if has != ModelType::Onnx {
        let (wanted, found) = (model.parameters(), Model::new(config).parameters());
        let differing = wanted.iter().zip(&found).find(|(a, b)| (&a.name, &a.shape) != (&b.name, &b.shape));
        if let Some((a, b)) = differing {
            let message = format!("{} {:?} of the model is {} {:?} there", a.name, a.shape, b.name, b.shape);
            return usage(message);
        }
    }
    for (what, wanted, found) in [
        ("parameters", total_elements(&model.parameters()), checkpoint.weights().len()),
        ("buffers", total_elements(&model.buffers()), checkpoint.buffers().len()),
    ] {
        if wanted != found {
            return usage(format!("the model has {wanted} {what}, the checkpoint {found}"));
        }
    }
    let theirs = &checkpoint.normalization;
    let kinds = |n: &Normalization| format!("EMG by {}, angles by {}", n.emg, n.joint_angles);
    let same = (theirs.emg, theirs.joint_angles) == (normalization.emg, normalization.joint_angles);
    let message = || format!("the weights were trained with {}; now {}", kinds(theirs), kinds(normalization));
    Ok((!same).then(message))
}

/// The windows of `split`, ready to be batched for `model`.
///
/// # Errors
/// Windows too short for the model.
pub(super) fn gather(cache: &Arc<Cache>, config: &Config, model: &Model, split: Split) -> Result<Gather, TrainError> {
    let index = WindowIndex::new(Arc::clone(cache), split);
    let rows = index.shape().rows();
    model.check_window(rows).map_err(|message| TrainError::Usage(format!("{split} windows: {message}")))?;
    let settings = &cache.manifest().settings;
    let shape = BatchShape {
        batch: config.training.batch_size,
        rows,
        channels: settings.emg_channels,
        joints: settings.joint_angles_channels,
        context: model.left_context(),
    };
    let targets = Targets {
        true_initial_pose: model.takes_initial_pose(),
        recording_statistics: settings.normalize_angles == Normalize::Recording,
    };
    Ok(Gather { index, shape, targets, resident: None })
}

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

    /// What `model` learns from batches of `shape`.
    pub(super) fn problem(&self, config: &Config, model: &Model, shape: BatchShape) -> Problem {
        Problem {
            model: model.clone(),
            shape,
            emg: self.emg_units(),
            angles: self.angle_units(),
            loss: config.training.loss_type,
            mae_weight: config.training.mae_weight,
            joint_weights: config
                .training
                .joint_weights
                .as_ref()
                .map(|weights| weights.iter().map(|weight| *weight as f32).collect()),
            resident: None,
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
