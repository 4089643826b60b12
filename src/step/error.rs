//! Errors in building a step or an exported model.

use crate::graph::GraphError;
use crate::model::{ModelError, UnmatchedPattern};

#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error("training.no_decay: {0}")]
    NoDecay(UnmatchedPattern),
    #[error(
        "angles were normalized by recording (data.normalize_angles), and the statistics of a new recording's angles \
         are not known: train with normalize_angles: train to export"
    )]
    UnknownAngles,
}
