//! What each fuzz target does with the bytes it is given: no panic, no endless loop, no allocation that a header makes up.
//!
//! The targets in fuzz_targets/ give them to libFuzzer, tests/fuzz_targets.rs runs their seeds.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use emg_pipeline::cache::{CacheSettings, Manifest, SegmentIndex, Split};
use emg_pipeline::config::{self, Config, LossType, ModelConfig, ModelType, TrainingConfig};
use emg_pipeline::dataset::BatchShape;
use emg_pipeline::graph::{Kernels, OnnxModel};
use emg_pipeline::model::Model;
use emg_pipeline::recording::{Hdf5, Reader, silence_hdf5_errors};
use emg_pipeline::step::{Problem, StepError, training_step};
use emg_pipeline::train::Checkpoint;

fn reader() -> &'static (Reader, PathBuf) {
    static READER: OnceLock<(Reader, PathBuf)> = OnceLock::new();
    READER.get_or_init(|| {
        silence_hdf5_errors();
        let layout = CacheSettings::new(&Config::default()).segment().table_layout(1 << 20);
        let path = PathBuf::from(format!("/dev/shm/emg-fuzz-{}.hdf5", std::process::id()));
        (Reader::new(layout, Hdf5::InProcess), path)
    })
}

/// An HDF5 recording: what a worker and its parent do with it, in one process, so that the fuzzer sees both. What the
/// HDF5 library itself does wrong shows here as a crash; in emg-cache it stays in a child process. Whether the recording
/// was read to its end.
pub(crate) fn recording(bytes: &[u8]) -> bool {
    let (reader, path) = reader();
    std::fs::write(path, bytes).expect("room for the input");
    let Ok(recording) = reader.open(&path.clone().into()) else { return false };
    let mut rows = 0;
    let result = recording.visit_hashed(&mut |first, block| {
        assert_eq!(first, rows);
        rows += block.len() as u64;
        recording.validity().for_each(block, |_, _| ());
        block.for_each_magnitude(recording.emg(), |_, _| ());
        Ok(())
    });
    assert!(result.is_err() || rows == recording.rows());
    result.is_ok()
}

/// An ONNX model: import, and the training step where its input and output have known widths. Whether there is a step.
pub(crate) fn onnx(bytes: &[u8]) -> bool {
    OnnxModel::parse(bytes).is_ok_and(|onnx| step(onnx).is_ok())
}

fn step(onnx: OnnxModel) -> Result<(), StepError> {
    let known = |dims: Option<&Vec<Option<usize>>>| -> Vec<usize> {
        dims.into_iter().flatten().skip(1).flatten().copied().collect()
    };
    let (inputs, outputs) = (onnx.inputs(), onnx.outputs());
    let channels = known(inputs.first().map(|port| &port.dims)).into_iter().min().unwrap_or(4);
    let joints = known(outputs.first().map(|port| &port.dims)).into_iter().min().unwrap_or(3);
    let rows = known(inputs.first().map(|port| &port.dims)).into_iter().max().unwrap_or(64).min(1 << 12);
    let config = ModelConfig {
        kind: Some(ModelType::Onnx),
        onnx: Some("imported.onnx".into()),
        input_size: channels.clamp(1, 1 << 10),
        output_size: joints.clamp(1, 1 << 10),
        ..Default::default()
    };
    let shape =
        BatchShape { batch: 2, rows, channels: config.input_size, joints: config.output_size, context: 0, after: 0 };
    let model = Model::imported(&config, onnx, None)?;
    model.check_window(rows)?;
    let problem = Problem::new(model, shape, LossType::Mse, 0.0);
    training_step(&problem, &TrainingConfig::default(), Kernels::Cpu).map(|_| ())
}

/// The bytes of a sealed file from those of its document: a fuzzer would never find the digest.
fn sealed(document: &[u8]) -> Vec<u8> {
    let open = document.strip_suffix(b"}").unwrap_or(document);
    let digest = blake3::hash(&[open, b"}"].concat()).to_hex();
    [open, b",\"digest\":\"", digest.as_bytes(), b"\"}\n"].concat()
}

/// The document of a sealed file, without its digest.
pub(crate) fn document(sealed: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(sealed);
    let (open, _) = text.rsplit_once(",\"digest\":").expect("a sealed file");
    format!("{open}}}").into_bytes()
}

/// A cache's manifest, as bytes before they are sealed. Whether it was accepted.
pub(crate) fn manifest(bytes: &[u8]) -> bool {
    let path = Path::new("manifest.json");
    let _ = Manifest::parse(path, &mut bytes.to_vec());
    let Ok(manifest) = Manifest::parse(path, &mut sealed(bytes)) else { return false };
    manifest.warnings();
    for split in Split::ALL {
        manifest.window_count(split);
    }
    manifest.key();
    true
}

/// A segment's index, as bytes before they are sealed. Whether it was accepted.
pub(crate) fn segment(bytes: &[u8]) -> bool {
    let path = Path::new("segment.json");
    let _ = SegmentIndex::parse(path, &mut bytes.to_vec());
    let Ok(index) = SegmentIndex::parse(path, &mut sealed(bytes)) else { return false };
    index.key();
    index.bytes();
    true
}

/// A checkpoint. Whether it was accepted.
pub(crate) fn checkpoint(bytes: &[u8]) -> bool {
    let Ok(checkpoint) = Checkpoint::parse(Path::new("last.ckpt"), bytes) else { return false };
    checkpoint.weights();
    checkpoint.buffers();
    true
}

/// A configuration's YAML. Whether it was accepted.
pub(crate) fn configuration(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(loaded) = config::parse("fuzz.yaml", text, &[]) else { return false };
    let model = &loaded.config.model;
    if model.architecture() != ModelType::Onnx {
        let _ = Model::new(model).check_window(loaded.config.data.window_size);
    }
    true
}
