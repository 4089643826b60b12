//! Where training starts: from random weights, from a checkpoint's weights, or where a run stands.

use super::checkpoint::{Checkpoint, Progress, parameters_key};
use super::error::TrainError;
use super::events::{Event, Listener};
use super::learner::Learner;
use super::normalization::Normalization;
use super::resume::{position_of, schedule_change};
use crate::cache::Cache;
use crate::config::{Config, ModelType};
use crate::model::{Model, total_elements};

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

/// Where training begins; what is odd about it is a warning.
pub(super) fn begin(
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
        Start::Resume(checkpoint) => {
            checkpoint.check_model(model)?;
            let progress = position_of(checkpoint, config, cache)?;
            let change = schedule_change(&checkpoint.config.training, &config.training, &progress);
            change.into_iter().for_each(|message| listener.event(&Event::Warning(message)));
            Ok(progress)
        }
    }
}

/// Sets the initial values of the state vectors.
pub(super) fn set_out(learner: &mut Learner, start: &Start, model: &Model) -> Result<(), TrainError> {
    match start {
        Start::New => learner.initialize(model),
        Start::Weights(checkpoint) => {
            learner.initialize(model)?;
            learner.set_weights(checkpoint.weights(), checkpoint.buffers())
        }
        Start::Resume(checkpoint) => learner.restore(&checkpoint.state),
    }
}

/// Whether training of `model` can start from a checkpoint's weights; returns a warning about other differences.
///
/// # Errors
/// The checkpoint's parameters are not the model's.
fn check_weights(
    model: &Model,
    checkpoint: &Checkpoint,
    normalization: &Normalization,
) -> Result<Option<String>, TrainError> {
    let config = &checkpoint.config.model;
    let (own, has) = (model.config().architecture(), config.architecture());
    if own != has {
        return Err(TrainError::ArchitectureMismatch { checkpoint: has, model: own });
    }
    // A user's own model is not part of the checkpoint, but what its parameters are is.
    if checkpoint.parameters.as_ref().is_some_and(|key| has == ModelType::Onnx && *key != parameters_key(model)) {
        return Err(TrainError::ModelMismatch);
    }
    if has != ModelType::Onnx {
        let (wanted, found) = (model.parameters(), Model::new(config).parameters());
        let differing = wanted.iter().zip(&found).find(|(a, b)| (&a.name, &a.shape) != (&b.name, &b.shape));
        if let Some((a, b)) = differing {
            let [model, checkpoint] = [a, b].map(|p| format!("{} {:?}", p.name, p.shape));
            return Err(TrainError::ParameterMismatch { model, checkpoint });
        }
    }
    for (what, wanted, found) in [
        ("parameters", total_elements(&model.parameters()), checkpoint.weights().len()),
        ("buffers", total_elements(&model.buffers()), checkpoint.buffers().len()),
    ] {
        if wanted != found {
            return Err(TrainError::CountMismatch { what, model: wanted, checkpoint: found });
        }
    }
    let theirs = &checkpoint.normalization;
    let kinds = |n: &Normalization| format!("EMG normalized by {}, angles by {}", n.emg, n.joint_angles);
    let same = (theirs.emg, theirs.joint_angles) == (normalization.emg, normalization.joint_angles);
    let message = || format!("the weights were trained with {}; this run uses {}", kinds(theirs), kinds(normalization));
    Ok((!same).then(message))
}
