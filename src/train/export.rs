//! Exporting a checkpoint as an ONNX model.

use super::checkpoint::Checkpoint;
use super::error::TrainError;
use crate::cache::{Manifest, Split};
use crate::config::Normalize;
use crate::model::Model;
use crate::step::{Affine, Exported, ExportedEmg, export};

/// The 20 angles of emg2pose, in order.
const HAND: [&str; 20] = [
    "thumb_CMC_FE",
    "thumb_CMC_AA",
    "thumb_MCP_FE",
    "thumb_IP_FE",
    "index_MCP_AA",
    "index_MCP_FE",
    "index_PIP_FE",
    "index_DIP_FE",
    "middle_MCP_AA",
    "middle_MCP_FE",
    "middle_PIP_FE",
    "middle_DIP_FE",
    "ring_MCP_AA",
    "ring_MCP_FE",
    "ring_PIP_FE",
    "ring_DIP_FE",
    "pinky_MCP_AA",
    "pinky_MCP_FE",
    "pinky_PIP_FE",
    "pinky_DIP_FE",
];

/// The checkpoint's model as ONNX bytes. `length`: rows per window (default: the cache's test windows).
///
/// # Errors
/// Angles normalized by recording, or a length too short for the model.
pub fn export_run(
    model: &Model,
    checkpoint: &Checkpoint,
    manifest: &Manifest,
    length: Option<usize>,
) -> Result<Vec<u8>, TrainError> {
    let rows = length.unwrap_or(manifest.settings.windows(Split::Test).rows());
    model.check_window(rows).map_err(TrainError::Usage)?;
    let normalization = &checkpoint.normalization;
    let train_emg = || Affine::new(&normalization.train_emg);
    let exported = Exported {
        model,
        parameters: checkpoint.weights(),
        buffers: checkpoint.buffers(),
        rows,
        emg: match normalization.emg {
            Normalize::None => ExportedEmg::None,
            Normalize::Train => ExportedEmg::Train(train_emg()),
            Normalize::Recording => ExportedEmg::Recording(train_emg()),
        },
        angles: normalization.angle_units(),
        metadata: metadata(checkpoint, manifest, model, rows),
    };
    export(&exported).map_err(TrainError::Usage)
}

fn metadata(checkpoint: &Checkpoint, manifest: &Manifest, model: &Model, rows: usize) -> Vec<(String, String)> {
    let settings = &manifest.settings;
    let channels: Vec<_> = (0..settings.emg_channels).map(|i| format!("emg{i}")).collect();
    let joints: Vec<_> = match settings.joint_angles_channels {
        20 => HAND.iter().map(ToString::to_string).collect(),
        n => (0..n).map(|i| format!("joint{i}")).collect(),
    };
    let entries = [
        ("sample_rate", settings.sample_rate.to_string()),
        ("channels", channels.join(",")),
        ("joints", joints.join(",")),
        ("units", "radians".to_owned()),
        ("window", rows.to_string()),
        ("left_context", model.left_context().to_string()),
        ("normalize_emg", settings.normalize_emg.to_string()),
        ("normalize_angles", settings.normalize_angles.to_string()),
        ("architecture", model.config().architecture().to_string()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    let cache = checkpoint.cache.as_ref().map(|key| ("cache", key.to_string()));
    entries.into_iter().chain(cache).map(|(name, value)| (name.to_owned(), value)).collect()
}
