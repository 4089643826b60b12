//! What can go wrong in predicting.

use std::path::PathBuf;

use super::signature::SignatureError;
use crate::cache::{CacheError, Split};
use crate::files::FileError;
use crate::graph::GraphError;
use crate::recording::RecordingError;
use crate::runtime::RuntimeError;

#[derive(Debug, thiserror::Error)]
pub enum PredictError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Recording(#[from] RecordingError),
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("cannot quantize the model: {0}")]
    Quantize(GraphError),
    #[error("the model has no linear layer or convolution to quantize; export it with --dtype float32 or float16")]
    NothingToQuantize,
    #[error(
        "cannot calibrate 8-bit integers: no recording of the cache's {split} split has {window} rows (one window of the model)"
    )]
    NothingToCalibrate { split: Split, window: usize },
    #[error(
        "cannot calibrate 8-bit integers: the model starts from the true pose, and no window of the cache's {split} split has one"
    )]
    NoPoseToCalibrate { split: Split },
    #[error("cannot quantize the model: its value {name} is not finite for a window of the training split")]
    NotFiniteActivation { name: String },
    #[error(
        "{path}: damaged, or changed since it was exported: it does not match its digest; export it again (if it was changed on purpose, remove its metadata entry `digest`)"
    )]
    Damaged { path: PathBuf },
    #[error("{path}: here is {by}, which would be lost; choose another --out, or remove it")]
    Occupied { path: PathBuf, by: &'static str },
    #[error("{path}: {source}")]
    Load { path: PathBuf, source: RuntimeError },
    #[error("{path}: {source}")]
    Signature { path: PathBuf, source: SignatureError },
    #[error("{path}: expected {rows} rows of {joints} angles for each of {windows} windows, found {found:?}")]
    Output { path: PathBuf, rows: usize, joints: usize, windows: usize, found: Vec<usize> },
    #[error("{path}: expected at least {window} rows (one window of the model), found {rows}")]
    Short { path: PathBuf, rows: u64, window: usize },
    #[error(
        "{path}: expected a row with a pose to start from (a tracking model starts from the true pose), found none"
    )]
    NoPose { path: PathBuf },
    #[error("{path}: the model's angles of row {row} are not finite; no file was written")]
    NotFinite { path: PathBuf, row: usize },
}
