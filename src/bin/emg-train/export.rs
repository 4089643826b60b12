//! `emg-train export`: writes a run's model in another form.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use emg_pipeline::cache::Access;
use emg_pipeline::config::Dtype;
use emg_pipeline::files::{check_file_path, replace_named_file};
use emg_pipeline::predict::int8;
use emg_pipeline::runtime::{self, Provider};
use emg_pipeline::train::{ExportOptions, Form, TrainError, check_loads, export_run, load_trained_model};
use emg_pipeline::{note, say};
use serde_json::json;

use crate::args::{ExportArgs, ExportDtype};
use crate::commands::open_run;
use crate::errors::UsageError;
use crate::print;

/// Windows that int8 is calibrated on by default.
const CALIBRATION_WINDOWS: u32 = 128;

pub(crate) fn export(args: &ExportArgs) -> Result<ExitCode> {
    let &ExportArgs { ref run, length, dtype, streaming, chunk, calibrate, json, .. } = args;
    if dtype == ExportDtype::Int8 && streaming {
        return Err(UsageError::Int8Stream.into());
    }
    if dtype != ExportDtype::Int8 && calibrate.is_some() {
        return Err(UsageError::CalibratesNothing.into());
    }
    let (checkpoint, cache) = open_run(&run.run, &run.of, &Access::default())?;
    let model = load_trained_model(&checkpoint, &run.run)?;
    let out = out(args);
    check_file_path(&out)?;
    let form = if streaming { Form::Stream { chunk } } else { Form::Window };
    let options = ExportOptions { length, dtype: dtype.of_floats(), form };
    let mut exported = export_run(&model, &checkpoint, cache.manifest(), options)?;
    let needs_library = dtype == ExportDtype::Int8 || model.onnx().is_some();
    let mut report = None;
    if needs_library {
        let library = runtime::load(args.ort_lib.as_deref())?;
        let provider = Provider::choose(&library, &checkpoint.config.training).map_err(TrainError::from)?;
        check_loads(&library, provider, &model, &exported)?;
        if dtype == ExportDtype::Int8 {
            let windows = calibrate.unwrap_or(CALIBRATION_WINDOWS);
            let is_weight = |name: &str| exported.weights.contains(name);
            let quantized = int8(&library, &exported.onnx, is_weight, &cache, windows as usize)?;
            exported.onnx = quantized.onnx;
            report = Some(quantized.about);
        }
    }
    replace_named_file(&out, &exported.onnx)?;
    if json {
        let mut about = serde_json::to_value(exported.about(&out))?;
        if let Some(report) = report {
            about["int8"] = json!(report);
        }
        say!("{}", serde_json::to_string_pretty(&about)?);
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(report) = report {
        note!("{}", print::int8(&report));
    }
    say!("{}", out.display());
    Ok(ExitCode::SUCCESS)
}

/// The file to write: exports with other weights, forms, lengths or types are written next to what `fit` wrote and do not
/// replace it.
fn out(args: &ExportArgs) -> PathBuf {
    let ExportArgs { run, out, length, dtype, streaming, chunk, .. } = args;
    let weights = Path::new(&run.of.checkpoint).file_stem().filter(|name| *name != "best");
    let parts = [
        Some(if *streaming { "stream" } else { "model" }.to_owned()),
        weights.map(|name| name.to_string_lossy().into_owned()),
        length.map(|rows| rows.to_string()),
        chunk.map(|rows| format!("chunk{rows}")),
        dtype.suffix().map(str::to_owned),
        Some("onnx".to_owned()),
    ];
    let name = parts.into_iter().flatten().collect::<Vec<_>>().join(".");
    out.clone().unwrap_or_else(|| run.run.join(name))
}

impl ExportDtype {
    /// Type of what is not quantized.
    fn of_floats(self) -> Dtype {
        match self {
            Self::Float32 | Self::Int8 => Dtype::Float32,
            Self::Float16 => Dtype::Float16,
        }
    }

    /// Part of a file's name.
    fn suffix(self) -> Option<&'static str> {
        match self {
            Self::Float32 => None,
            Self::Float16 => Some("float16"),
            Self::Int8 => Some("int8"),
        }
    }
}
