//! ONNX Runtime: finding and loading the library, providers, sessions, bound buffers. The only place with `ort`
//! and CUDA.

mod device;
mod error;
mod kernels;
mod library;
mod memory;
mod probe;
mod providers;
mod session;
mod stepper;

pub use error::RuntimeError;
pub use library::{Library, candidates, load, prefer};
pub use probe::LibraryProbe;
pub use providers::{CudaSettings, Provider, providers};
pub use session::{Session, Tensor, TensorInfo};
pub use stepper::{Results, Stepper};
