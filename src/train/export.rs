//! Exporting a checkpoint as an ONNX model.

use std::collections::HashSet;
use std::path::Path;

use serde::Serialize;
use serde_json::json;

use super::checkpoint::Checkpoint;
use super::error::TrainError;
use crate::cache::{Manifest, Split};
use crate::config::{AxisLayout, Dtype};
use crate::digest;
use crate::graph::TRANSPOSED;
use crate::model::{Model, Role};
use crate::runtime::{Library, Provider, RuntimeError, Session, Tensor, TensorInfo};
use crate::step::{Exported, ExportedForm, ModelMetadata, export, export_stream};
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
    /// Names that parameters, trained or frozen, may have in the file.
    pub weights: HashSet<String>,
    /// Rows of a stream's chunk, and rows that its angles lag behind.
    pub chunk: Option<usize>,
    pub lag: Option<usize>,
}

impl ExportedModel {
    /// What a program that uses the file must know.
    pub fn about(&self, path: &Path) -> impl Serialize + use<> {
        let Self { onnx, window, left_context, chunk, lag, .. } = self;
        json!({
            "model": path.to_string_lossy(), "bytes": onnx.len(), "window": window, "left_context": left_context, "chunk": chunk, "lag": lag,
        })
    }
}

/// Fails where ONNX Runtime does not load the exported model of a user's own file, or does not run it on a window: on the
/// CPU, which has memory to spare beside a training, or else by the run's provider, which may have operators of its own.
///
/// # Errors
/// [`TrainError::NotLoaded`].
pub fn check_loads(
    library: &Library,
    provider: Provider,
    model: &Model,
    exported: &ExportedModel,
) -> Result<(), TrainError> {
    match model.onnx() {
        None => Ok(()),
        Some(_) => run_once(library, Provider::Cpu, exported)
            .or_else(|_| run_once(library, provider, exported))
            .map_err(|source| TrainError::NotLoaded { source }),
    }
}

/// Runs a model on a window of zeros; a stream, which takes integers, is only loaded.
fn run_once(library: &Library, provider: Provider, exported: &ExportedModel) -> Result<(), RuntimeError> {
    let mut session = Session::new(library, provider, &exported.onnx)?;
    if exported.chunk.is_some() {
        return Ok(());
    }
    let zeros = |input: &TensorInfo| {
        let size = |(axis, size): (usize, &Option<usize>)| size.unwrap_or(if axis == 0 { 1 } else { exported.window });
        let shape: Vec<_> = input.shape.iter().enumerate().map(size).collect();
        let elements = shape.iter().product();
        (input.name.clone(), Tensor::new(shape, vec![0.0; elements]))
    };
    let inputs: Vec<_> = session.inputs().iter().map(zeros).collect();
    let inputs: Vec<_> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    session.try_run(&inputs)
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
    checkpoint.check_model(model)?;
    let rows = options.length.unwrap_or(manifest.settings.windows(Split::Test).rows());
    model.check_window(rows)?;
    let normalization = &checkpoint.normalization;
    let stream = match options.form {
        Form::Window => None,
        Form::Stream { chunk } => Some(model.stream(rows, chunk)?),
    };
    let form = match &stream {
        None => ExportedForm::Window,
        Some(stream) => ExportedForm::Stream { chunk: stream.chunk(), lag: stream.lag() },
    };
    let (chunk, lag) = stream.as_ref().map(|stream| (stream.chunk(), stream.lag())).unzip();
    let metadata = metadata(checkpoint, manifest, model, rows, form).entries();
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
    let mut onnx = onnx?;
    digest::seal_model(&mut onnx);
    Ok(ExportedModel { onnx, window: rows, left_context: model.left_context(), weights: weights(model), chunk, lag })
}

fn weights(model: &Model) -> HashSet<String> {
    let (parameters, tensors) = (model.parameters(), model.tensors());
    let frozen = tensors.iter().filter(|tensor| tensor.role == Role::Frozen).map(|tensor| &tensor.name);
    let names = parameters.iter().map(|parameter| &parameter.name).chain(frozen);
    names.flat_map(|name| [name.clone(), format!("{name}{TRANSPOSED}")]).collect()
}

fn metadata(
    checkpoint: &Checkpoint,
    manifest: &Manifest,
    model: &Model,
    rows: usize,
    form: ExportedForm,
) -> ModelMetadata {
    let settings = &manifest.settings;
    let [emg_layout, angles_layout] = model.channels_first(rows).unwrap_or_default().map(|first| match first {
        true => AxisLayout::ChannelsFirst,
        false => AxisLayout::ChannelsLast,
    });
    ModelMetadata {
        joints: settings.joint_names(),
        window: rows,
        left_context: model.left_context(),
        right_context: model.right_context(),
        normalize_emg: Some(checkpoint.normalization.emg),
        normalize_angles: Some(checkpoint.normalization.joint_angles),
        emg_layout,
        angles_layout,
        recordings: settings.segment(),
        architecture: Some(model.config().architecture()),
        cache: checkpoint.cache.clone(),
        form,
    }
}
