//! A run's model: a built-in architecture, or the user's own.

use std::path::Path;
use std::sync::Arc;

use super::checkpoint::Checkpoint;
use super::error::TrainError;
use crate::config::{Config, ModelType, Target};
use crate::graph::OnnxModel;
use crate::model::{Model, total_elements_exact};
use crate::runtime::LibraryProbe;

/// Where a run keeps a user's own model.
pub const IMPORTED: &str = "imported.onnx";

/// The model of a run: its architecture, or the user's own that lies in its folder.
///
/// # Errors
/// The user's model cannot be read.
pub fn load_model(config: &Config, run: &Path) -> Result<Model, TrainError> {
    match &config.model.onnx {
        None if config.model.architecture() == ModelType::Onnx => Err(TrainError::NoModelFile),
        None => checked(Model::new(&config.model)),
        Some(path) => own_model(config, &run.join(path)),
    }
}

/// The user's own model that lies in a file.
///
/// # Errors
/// It cannot be read; [`TrainError::OwnModel`]: it cannot be trained.
pub fn own_model(config: &Config, path: &Path) -> Result<Model, TrainError> {
    read_own_model(config, path, OnnxModel::load(path)?)
}

/// The model of a run with a checkpoint. Where that has not the parameters that this version trains of the user's file, but
/// those that earlier versions did, it is read as they read it.
///
/// # Errors
/// The user's model cannot be read.
pub fn load_trained_model(checkpoint: &Checkpoint, run: &Path) -> Result<Model, TrainError> {
    let config = &checkpoint.config;
    let model = load_model(config, run);
    let fits = model.as_ref().is_ok_and(|model| checkpoint.check_model(model).is_ok());
    let Some(path) = config.model.onnx.as_ref().filter(|_| !fits) else { return model };
    let path = run.join(path);
    let legacy = OnnxModel::load_legacy(&path).map_err(TrainError::from);
    let legacy = legacy.and_then(|onnx| read_own_model(config, &path, onnx));
    legacy.ok().filter(|legacy| checkpoint.check_model(legacy).is_ok()).map_or(model, Ok)
}

fn read_own_model(config: &Config, path: &Path, onnx: OnnxModel) -> Result<Model, TrainError> {
    let mut settings = config.model.clone();
    let around = config.data.window_size + config.data.padding.iter().sum::<usize>() - 1;
    (settings.left_context, settings.right_context) = match settings.target {
        Target::Rows => (settings.left_context, settings.right_context),
        Target::Last => (around, 0),
        Target::Center => (around.div_ceil(2), around / 2),
    };
    let refuse = |source| TrainError::OwnModel { path: path.to_owned(), source: Box::new(source) };
    let probe = Arc::new(LibraryProbe);
    checked(Model::imported(&settings, onnx, Some(probe)).map_err(refuse)?)
}

/// Fails for a model that no step could hold: the library counts elements in 32 bits.
fn checked(model: Model) -> Result<Model, TrainError> {
    const MOST: u128 = i32::MAX as u128;
    let elements = total_elements_exact(&model.parameters());
    if elements > MOST { Err(TrainError::ModelTooLarge { elements, most: MOST }) } else { Ok(model) }
}
