//! What can go wrong with ONNX Runtime.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error(
        "no ONNX Runtime library found; looked for:\n{}\nrun scripts/setup, `pip install onnxruntime==1.31.*` in the active virtual environment, or pass the path of a library with --ort-lib or ORT_DYLIB_PATH",
        looked.iter().map(|place| format!("  {place}")).collect::<Vec<_>>().join("\n")
    )]
    NoLibrary { looked: Vec<String> },
    #[error("{path}: cannot be used as ONNX Runtime: {message}")]
    Load { path: PathBuf, message: String },
    #[error("CUDA cannot be used: {reason}")]
    NoCuda { reason: String },
    #[error("CUDA error while {doing}: {message}")]
    Device { doing: &'static str, message: String },
    #[error("the device ran out of memory while {doing}: {message}")]
    OutOfMemory { doing: &'static str, message: String },
    /// Tensors beyond what this project's own kernels can count.
    #[error("ONNX Runtime error while {doing}: {message}")]
    KernelLimit { doing: &'static str, message: String },
    #[error("ONNX Runtime error while {doing}: {message}")]
    Ort { doing: &'static str, message: String },
}

/// What kernels that refuse too large a tensor say.
pub(super) const KERNEL_LIMIT: &str = "too large for this kernel";

impl RuntimeError {
    pub(crate) fn ort<R>(doing: &'static str) -> impl FnOnce(ort::Error<R>) -> Self {
        move |error| {
            let message = error.message().to_owned();
            let full = ["Failed to allocate memory", "out of memory", "CUDA failure 2", "Available memory of"];
            if full.iter().any(|part| message.contains(part)) {
                Self::OutOfMemory { doing, message }
            } else if message.contains(KERNEL_LIMIT) {
                Self::KernelLimit { doing, message }
            } else {
                Self::Ort { doing, message }
            }
        }
    }
}
