//! Architectures, as builders of forward graphs.

mod decoder;
mod dropout;
mod encoder;
mod parameter;
mod resample;
mod tds;

pub use dropout::Dropout;
pub use parameter::{Init, Parameter, Weights, initialize, total_elements};
pub use resample::{align_corners, half_pixel};
pub use tds::Model;
