//! What can go wrong with ONNX Runtime.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error(
        "no ONNX Runtime library found; looked for:\n{}\nrun scripts/setup, `pip install onnxruntime==1.31.*` in the active virtual environment, or name a library with --ort-lib or ORT_DYLIB_PATH",
        looked.iter().map(|place| format!("  {place}")).collect::<Vec<_>>().join("\n")
    )]
    NoLibrary { looked: Vec<String> },
    #[error("{path}: cannot be used as ONNX Runtime: {message}")]
    Load { path: PathBuf, message: String },
    #[error("training.device is cuda, but {message}")]
    Cuda { message: String },
    #[error("ONNX Runtime, {doing}: {message}")]
    Ort { doing: &'static str, message: String },
}

impl RuntimeError {
    pub(crate) fn ort<R>(doing: &'static str) -> impl FnOnce(ort::Error<R>) -> Self {
        move |error| Self::Ort { doing, message: error.message().to_owned() }
    }
}
