//! Angles over whole recordings, by an exported model.

mod error;
mod output;
mod predictor;
mod recording;
mod signature;

pub use error::PredictError;
pub use output::{Predicted, Prediction};
pub use predictor::Predictor;
