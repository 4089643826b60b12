//! ONNX Runtime: finding and loading the library, providers, sessions, bound buffers. The only place with `ort`
//! and CUDA.

mod cuda;
mod error;
mod host;
mod kernels;
mod library;
mod session;
mod stepper;

pub use error::RuntimeError;
pub use library::{Library, Provider, candidates, load, providers};
pub use session::{Port, Session, Tensor};
pub use stepper::{Inputs, Stepper, StepperSpec};
