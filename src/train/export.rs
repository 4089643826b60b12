//! Exporting a checkpoint as an ONNX model.

use std::path::Path;

use serde::Serialize;
use serde_json::json;

use super::checkpoint::Checkpoint;
use super::error::TrainError;
use crate::cache::{Manifest, Split};
use crate::config::{AxisLayout, Dtype};
use crate::metrics::joint_names;
use crate::model::Model;
use crate::step::{Exported, export, export_stream};
use crate::units::Affine;

/// What kind of file an export is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExportOptions {
    /// Rows per window (default: the cache's test windows).
    pub length: Option<usize>,
    pub dtype: Dtype,
    pub form: Form,
}

/// How a model takes its EMG.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// A window at a time.
    #[default]
    Window,
    /// In chunks of so many rows (default: some 20 ms), with a state.
    Stream { chunk: Option<usize> },
}

/// An exported model.
#[derive(Debug, Clone)]
pub struct ExportedModel {
    pub onnx: Vec<u8>,
    pub window: usize,
    pub left_context: usize,
    /// Rows of a stream's chunk, and rows that its angles lag behind.
    pub chunk: Option<usize>,
    pub lag: Option<usize>,
}

impl ExportedModel {
    /// What a program that uses the file must know.
    pub fn about(&self, path: &Path) -> impl Serialize + use<> {
        let Self { onnx, window, left_context, chunk, lag } = self;
        json!({
            "model": path, "bytes": onnx.len(), "window": window, "left_context": left_context, "chunk": chunk, "lag": lag,
        })
    }
}

/// The checkpoint's model as ONNX bytes.
///
/// # Errors
/// Angles normalized by recording, a length too short for the model, or a model that has no such form.
pub fn export_run(
    model: &Model,
    checkpoint: &Checkpoint,
    manifest: &Manifest,
    options: ExportOptions,
) -> Result<ExportedModel, TrainError> {
    let rows = options.length.unwrap_or(manifest.settings.windows(Split::Test).rows());
    model.check_window(rows).map_err(TrainError::Usage)?;
    let normalization = &checkpoint.normalization;
    let stream = match options.form {
        Form::Window => None,
        Form::Stream { chunk } => Some(model.stream(rows, chunk).map_err(TrainError::Usage)?),
    };
    let mut metadata = metadata(checkpoint, manifest, model, rows);
    let (chunk, lag) = stream.as_ref().map(|stream| (stream.chunk(), stream.lag())).unzip();
    metadata.push(("form".into(), if stream.is_some() { "stream" } else { "window" }.into()));
    let counts = [("chunk", chunk), ("lag", lag)].into_iter().filter_map(|(name, rows)| Some((name, rows?)));
    metadata.extend(counts.map(|(name, rows)| (name.to_owned(), rows.to_string())));
    let exported = Exported {
        model,
        parameters: checkpoint.weights(),
        buffers: checkpoint.buffers(),
        rows,
        emg: normalization.emg_units(),
        train_emg: Affine::new(&normalization.train_emg),
        angles: normalization.angle_units(),
        dtype: options.dtype,
        metadata,
    };
    let onnx = match &stream {
        None => export(&exported),
        Some(stream) => export_stream(&exported, stream),
    };
    let onnx = onnx.map_err(TrainError::Usage)?;
    Ok(ExportedModel { onnx, window: rows, left_context: model.left_context(), chunk, lag })
}

fn metadata(checkpoint: &Checkpoint, manifest: &Manifest, model: &Model, rows: usize) -> Vec<(String, String)> {
    let settings = &manifest.settings;
    let channels: Vec<_> = (0..settings.emg_channels).map(|i| format!("emg{i}")).collect();
    let recordings = serde_json::to_string(&settings.segment()).expect("plain data serializes");
    let [emg, angles] = model.channels_first(rows).unwrap_or_default().map(|first| match first {
        true => AxisLayout::ChannelsFirst,
        false => AxisLayout::ChannelsLast,
    });
    let entries = [
        ("sample_rate", settings.sample_rate.to_string()),
        ("channels", channels.join(",")),
        ("joints", joint_names(settings.joint_angles_channels).join(",")),
        ("units", "radians".to_owned()),
        ("window", rows.to_string()),
        ("left_context", model.left_context().to_string()),
        ("normalize_emg", checkpoint.normalization.emg.to_string()),
        ("normalize_angles", checkpoint.normalization.joint_angles.to_string()),
        ("emg_layout", emg.to_string()),
        ("angles_layout", angles.to_string()),
        ("recordings", recordings),
        ("architecture", model.config().architecture().to_string()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    let cache = checkpoint.cache.as_ref().map(|key| ("cache", key.to_string()));
    entries.into_iter().chain(cache).map(|(name, value)| (name.to_owned(), value)).collect()
}
