//! Architectures, as builders of forward graphs.

mod architecture;
mod causal_stream;
mod decoder;
mod dropout;
mod encoder;
mod error;
mod imported;
mod limits;
mod lstm;
mod network;
mod neuropose;
mod parameter;
mod pass;
mod resample;
mod roles;
mod stream;
mod tds;
mod tds_stream;

pub(crate) use architecture::ImportedParts;
pub use architecture::Model;
pub use dropout::Dropout;
pub use error::{Dims, ModelError, UnmatchedPattern};
pub use network::ModelInputs;
pub use parameter::{Init, Parameter, Weights, initialize, matching, total_elements, total_elements_exact};
pub use pass::Pass;
pub use resample::{Interpolate, align_corners, half_pixel};
pub use roles::{ModelTensor, Role};
pub use stream::{Stream, Streamed};
