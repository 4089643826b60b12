//! `emg-train doctor`: which library is used, and what a model costs.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use emg_pipeline::config::{self, Device, TrainingConfig};
use emg_pipeline::dataset::BatchShape;
use emg_pipeline::model::total_elements;
use emg_pipeline::runtime::{self, Provider, Stepper};
use emg_pipeline::step::{Problem, training_step};
use emg_pipeline::train::{GradientCheck, TrainError, Trial, check_size, load_model};
use emg_pipeline::{report, say};
use serde_json::json;

use crate::args::ModelArgs;
use crate::commands::own_model;
use crate::print;

/// The library, and what is missing.
pub(crate) fn library(option: Option<&Path>, json: bool) -> Result<ExitCode> {
    let library = match runtime::load(option) {
        Ok(library) => library,
        Err(error) if json => {
            say!("{}", json!({ "library": null, "missing": [error.to_string()] }));
            return Ok(ExitCode::FAILURE);
        }
        Err(error) => return Err(error.into()),
    };
    let providers = runtime::providers(&library);
    let mut missing = Vec::new();
    let cuda = TrainingConfig { device: Device::Cuda, ..Default::default() };
    match Provider::choose(&library, &cuda) {
        Ok(provider) => {
            missing.extend(provider.missing_kernels(&cuda).map(|why| format!("for its own CUDA kernels: {why}")));
        }
        Err(error) => missing.push(format!("for CUDA: {error}")),
    }
    if json {
        let library =
            json!({ "path": library.path.to_string_lossy(), "found_by": library.source, "version": library.version });
        say!(
            "{}",
            serde_json::to_string_pretty(&json!({ "library": library, "providers": providers, "missing": missing }))?
        );
        return Ok(ExitCode::SUCCESS);
    }
    say!("library    {}", library.path.display());
    say!("found by   {}", library.source);
    say!("version    {}", library.version);
    say!("providers  {}", providers.join(", "));
    for line in missing {
        say!("missing    {line}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds and loads the training step of a model, and prints its size.
pub(crate) fn model(
    option: Option<&Path>,
    source: &str,
    args: &ModelArgs,
    json: bool,
    started: Instant,
) -> Result<ExitCode> {
    let own = source.ends_with(".onnx");
    runtime::prefer(option);
    let mut config = config::load((!own).then_some(source), &args.set)?.config;
    let folder = Path::new(source).parent().unwrap_or(Path::new(""));
    let model = match own {
        true => own_model(&mut config, Path::new(source), &args.freeze, &args.train)?,
        false => load_model(&config, folder)?,
    };
    let (data, training) = (&config.data, &config.training);
    let shape = BatchShape {
        batch: training.batch_size,
        rows: data.window_size + data.padding.iter().sum::<usize>(),
        channels: data.emg_channels,
        joints: data.joint_count(),
        context: model.left_context(),
        after: model.right_context(),
    };
    model.check_window(shape.rows).map_err(TrainError::from)?;
    check_size(shape, training)?;
    let library = runtime::load(option)?;
    let provider = Provider::choose(&library, training).map_err(TrainError::from)?;
    let problem = Problem::new(model, shape, training.loss_type, training.mae_weight);
    let building = Instant::now();
    let graph = training_step(&problem, training, provider.kernels()).map_err(TrainError::from)?;
    let (nodes, unreached, built) = (graph.nodes, graph.unreached.clone(), building.elapsed());
    let loading = Instant::now();
    Stepper::new(&library, provider, &graph.onnx, graph.ports).map_err(TrainError::from)?;
    let loaded = loading.elapsed();
    let parameters = total_elements(&problem.model.parameters());
    let tensors = problem.model.tensors();
    let trial = Trial::new(&problem, training.seed);
    if let Some(folder) = &args.step {
        trial.save(&library, training, folder)?;
    }
    let checked = args.check.then(|| trial.check_gradients(&library)).transpose()?;
    let wrong =
        checked.as_ref().filter(|checked| !checked.stops_gradients).map_or(0, |checked| checked.wrong().count());
    let code = if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let (seconds, total) = ((built + loaded).as_secs_f64(), started.elapsed().as_secs_f64());
    if json {
        let figures = json!({
            "parameters": parameters, "nodes": nodes, "batch": shape.batch, "window": shape.rows,
            "creation_seconds": seconds, "seconds_since_start": total, "provider": provider.to_string(),
            "unreached": unreached,
            "exporter": problem.model.onnx().map(|onnx| onnx.exporter().to_string()),
            "tensors": tensors.iter().map(|tensor| json!({
                "name": tensor.name, "shape": tensor.shape, "role": tensor.role.to_string(),
                "may_be_buffer": tensor.may_be_buffer,
            })).collect::<Vec<_>>(),
        });
        let mut figures = figures;
        if let Some(checked) = &checked {
            let gradient = |check: &GradientCheck| json!({ "name": check.name, "error": check.error });
            figures["check"] = json!({
                "float64": checked.float64, "tolerance": checked.tolerance, "wrong": wrong,
                "stops_gradients": checked.stops_gradients,
                "gradients": checked.checks.iter().map(gradient).collect::<Vec<_>>(),
            });
        }
        say!("{}", serde_json::to_string_pretty(&figures)?);
        return Ok(code);
    }
    if !tensors.is_empty() {
        report::tensor_table(&tensors, &unreached).iter().for_each(|line| say!("{line}"));
    }
    say!("parameters {parameters}");
    say!("nodes      {nodes} in the training step of {} x {} rows", shape.batch, shape.rows);
    say!("creation   {seconds:.2} s on {provider} ({total:.2} s since the program started)");
    if let Some(checked) = &checked {
        print::gradient_checks(checked);
    }
    Ok(code)
}
