//! Angles over whole recordings, by an exported model.

mod error;
mod int8;
mod output;
mod predictor;
mod recording;
mod signature;

pub use error::PredictError;
pub use int8::{Int8Model, Int8Report, int8};
pub use output::{Predicted, Prediction};
pub use predictor::Predictor;
