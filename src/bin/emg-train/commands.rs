//! What each command of emg-train does.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Result;
use clap::CommandFactory;
use emg_pipeline::cache::{self, Access, BuildOptions, Cache, Io, Key, Manifest, ManifestRecording, Stage, Store};
use emg_pipeline::config::{self, Config, Dtype, Loaded, ModelType};
use emg_pipeline::files::{check_file_path, replace_file};
use emg_pipeline::model::Model;
use emg_pipeline::recording::Hdf5;
use emg_pipeline::report::{CountProgress, FitReport};
use emg_pipeline::runtime::{self, Provider};
use emg_pipeline::train::{
    self, BenchmarkLength, Checkpoint, EvaluateOptions, ExportOptions, FitOptions, Form, IMPORTED, RunFolder, Start,
    TrainError, apply_manifest, check_resume, checkpoint_folder, evaluate, export_run, load_model, throughput,
};
use emg_pipeline::{note, say};
use serde_json::json;

use crate::args::{
    AccessArgs, Args, BenchArgs, CacheArgs, CheckpointArgs, Command, Derivatives, EvalArgs, ExportArgs, FitArgs, IoArg,
};
use crate::errors::UsageError;
use crate::predict::predict;
use crate::report::report;
use crate::{doctor, print};

pub(crate) fn run(command: Command, started: Instant) -> Result<ExitCode> {
    match command {
        Command::Fit(args) => fit(args, started),
        Command::Eval(args) => eval(args),
        Command::Export(args) => export(&args),
        Command::Report(args) => report(&args),
        Command::Predict(args) => predict(&args),
        Command::Config { schema: true, .. } => {
            say!("{}", serde_json::to_string_pretty(&config::json_schema())?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Config { config, set, json, .. } => {
            let loaded = config::load(config.as_deref(), &set)?;
            loaded.warnings.iter().for_each(|warning| note!("warning: {warning}"));
            if json {
                say!("{}", serde_json::to_string_pretty(&loaded.config)?);
            } else {
                say!("{}", loaded.config.to_yaml().trim_end());
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::BenchData(args) => bench_data(&args, started),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "emg-train", &mut script);
            say!("{}", String::from_utf8_lossy(&script).trim_end());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { folder } => {
            std::fs::create_dir_all(&folder)?;
            clap_mangen::generate_to(Args::command(), &folder)?;
            say!("{}", folder.display());
            Ok(ExitCode::SUCCESS)
        }
        Command::Doctor { ort_lib, model: None, json, .. } => doctor::library(ort_lib.as_deref(), json),
        Command::Doctor { ort_lib, model: Some(model), set, json } => {
            doctor::model(ort_lib.as_deref(), &model, &set, json, started)
        }
    }
}

fn eval(args: EvalArgs) -> Result<ExitCode> {
    let EvalArgs { run, split, by, derivatives, access, json, device, ort_lib } = args;
    let (mut checkpoint, cache) = open_run(&run.run, &run.of, &access_of(&access))?;
    if let Some(device) = device {
        checkpoint.config.training.device = device;
    }
    let library = runtime::load(ort_lib.as_deref())?;
    let training = &checkpoint.config.training;
    let provider = Provider::choose(&library, training).map_err(TrainError::from)?;
    let model = load_model(&checkpoint.config, &run.run)?;
    let cache = Arc::new(cache);
    let emg2pose_derivatives = derivatives == Derivatives::Emg2pose;
    let others = other_labels(&by, cache.manifest())?;
    let options = EvaluateOptions { split, emg2pose_derivatives, by: others };
    let total = cache.manifest().windows[options.split as usize];
    let progress = CountProgress::start(&format!("evaluating {}", options.split), total, "windows");
    let result = evaluate(&library, provider, &cache, &model, &checkpoint, &options, &mut |n| progress.advance(n));
    progress.finish();
    let result = result?;
    if json {
        say!("{}", serde_json::to_string_pretty(&result)?);
    } else {
        print::evaluation(&result, &by, derivatives);
    }
    Ok(ExitCode::SUCCESS)
}

/// Labels to group by that every evaluation does not group by anyway.
fn other_labels(by: &[String], manifest: &Manifest) -> Result<Vec<String>> {
    let others = by.iter().filter(|label| !print::ALWAYS_GROUPED.contains(&label.as_str()));
    let others: Vec<_> = others.cloned().collect();
    for label in &others {
        let has = |recording: &ManifestRecording| recording.label(label).is_some();
        if !manifest.recordings.iter().any(has) {
            let known = print::ALWAYS_GROUPED.into_iter().chain(["session", "side"]).map(str::to_owned);
            let columns = manifest.recordings.iter().flat_map(|recording| recording.labels.keys().cloned());
            let known: Vec<_> = known.chain(columns.collect::<BTreeSet<_>>()).collect();
            return Err(UsageError::NoLabel { label: label.clone(), known: known.join(", ") }.into());
        }
    }
    Ok(others)
}

fn export(args: &ExportArgs) -> Result<ExitCode> {
    let &ExportArgs { ref run, ref out, length, dtype, streaming, chunk, json } = args;
    let (checkpoint, cache) = open_run(&run.run, &run.of, &Access::default())?;
    let model = load_model(&checkpoint.config, &run.run)?;
    let form = if streaming { Form::Stream { chunk } } else { Form::Window };
    // Exports with other weights, forms, lengths or types are written next to what `fit` wrote and do not replace it.
    let weights = Path::new(&run.of.checkpoint).file_stem().filter(|name| *name != "best");
    let parts = [
        Some(if streaming { "stream" } else { "model" }.to_owned()),
        weights.map(|name| name.to_string_lossy().into_owned()),
        length.map(|rows| rows.to_string()),
        chunk.map(|rows| format!("chunk{rows}")),
        (dtype != Dtype::Float32).then(|| dtype.to_string()),
        Some("onnx".to_owned()),
    ];
    let name = parts.into_iter().flatten().collect::<Vec<_>>().join(".");
    let out = out.clone().unwrap_or_else(|| run.run.join(name));
    check_file_path(&out)?;
    let exported = export_run(&model, &checkpoint, cache.manifest(), ExportOptions { length, dtype, form })?;
    replace_file(&out, &exported.onnx)?;
    if json {
        say!("{}", serde_json::to_string_pretty(&exported.about(&out))?);
    } else {
        say!("{}", out.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn fit(args: FitArgs, started: Instant) -> Result<ExitCode> {
    let run = args.run.clone().unwrap_or_else(next_run);
    RunFolder::check(&run, args.resume)?;
    let mut loaded = load_config(&args, &run)?;
    for warning in &loaded.warnings {
        note!("warning: {warning}");
    }
    let start = start_of(&args, &run)?;
    let (root, key) = if let Start::Resume(checkpoint) = &start
        && let (None, Some(key)) = (&args.cache.cache, &checkpoint.cache)
    {
        // A resumed run uses the cache it started with.
        (loaded.config.data.store_path(args.cache.store.clone()), key.clone())
    } else {
        find_cache(&args.cache, &loaded)?
    };
    let cache = Arc::new(Cache::open(&root, &key, &access_of(&args.cache.access))?);
    apply_manifest(&mut loaded, cache.manifest())?;
    let mut config = loaded.config;
    if let Start::Resume(checkpoint) = &start {
        check_resume(&checkpoint.config, &config)?;
    }
    let own = args.model.clone().or_else(|| config.model.onnx.clone().filter(|_| !args.resume));
    let model = match &own {
        Some(path) => own_model(&mut config, path, &args.freeze)?,
        None => load_model(&config, &run)?,
    };
    config.data.store = Some(std::path::absolute(&root)?);
    for folder in [&mut config.logging.checkpoint_dir, &mut config.logging.log_dir].into_iter().flatten() {
        *folder = std::path::absolute(&*folder)?;
    }

    let interrupted = interrupt_flag()?;
    let metrics = RunFolder::metrics_path(&run, &config);
    let mut report = FitReport::new(metrics.clone());
    let summary = emg_pipeline::train::fit(FitOptions {
        config,
        cache,
        model,
        run: run.clone(),
        start,
        ort_lib: args.ort_lib,
        interrupted,
        started,
        listener: &mut report,
    })?;
    drop(report);
    if args.json {
        let summary = json!({
            "run": run, "checkpoint": summary.best_checkpoint, "last_checkpoint": summary.last_checkpoint,
            "model": summary.model, "metrics": metrics, "epochs": summary.epochs, "monitor": summary.monitor,
            "best": summary.best, "seconds": started.elapsed().as_secs_f64(),
        });
        say!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        print::fit(&summary, &run, &metrics, started.elapsed().as_secs_f64());
    }
    Ok(ExitCode::SUCCESS)
}

/// Set by the first SIGINT or SIGTERM, which asks the loop to save and stop; a second one ends the process at once.
fn interrupt_flag() -> std::io::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupted))?;
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    Ok(interrupted)
}

fn bench_data(args: &BenchArgs, started: Instant) -> Result<ExitCode> {
    let mut loaded = config::load(args.cache.config.as_deref(), &args.cache.set)?;
    let (root, key) = find_cache(&args.cache, &loaded)?;
    let cache = Arc::new(Cache::open(&root, &key, &access_of(&args.cache.access))?);
    apply_manifest(&mut loaded, cache.manifest())?;
    let model = load_model(&loaded.config, Path::new("."))?;
    let duty = args.epochs.map_or(BenchmarkLength::Seconds(args.seconds), BenchmarkLength::Epochs);
    let result = throughput(&loaded.config, &cache, &model, duty, started)?;
    if args.json {
        say!("{}", serde_json::to_string_pretty(&result)?);
        return Ok(ExitCode::SUCCESS);
    }
    print::throughput(&result);
    Ok(ExitCode::SUCCESS)
}

fn access_of(args: &AccessArgs) -> Access {
    let announce = |segments, bytes| note!("staging {segments} segments ({})", emg_pipeline::report::bytes(bytes));
    let io = match args.io {
        IoArg::Mmap => Io::Mmap,
        IoArg::Read => Io::Read,
    };
    Access { io, stage: args.stage.clone().map(|folder| Stage::new(folder, args.stage_bytes, announce)) }
}

fn next_run() -> PathBuf {
    (1..).map(|i| PathBuf::from(format!("runs/{i}"))).find(|path| !path.exists()).expect("a free number")
}

pub(crate) fn run_config(run: &Path) -> Result<Config> {
    let path = run.join("config.yaml");
    if !path.exists() {
        return Err(UsageError::NoRun { run: run.to_owned() }.into());
    }
    Ok(config::load(path.to_str(), &[])?.config)
}

fn load_config(args: &FitArgs, run: &Path) -> Result<Loaded> {
    let own = run.join("config.yaml");
    let source = match &args.cache.config {
        None if args.resume => own.to_str(),
        given => given.as_deref(),
    };
    Ok(config::load(source, &args.cache.set)?)
}

fn start_of(args: &FitArgs, run: &Path) -> Result<Start> {
    if let Some(path) = &args.init {
        return Ok(Start::Weights(Box::new(Checkpoint::load(path)?)));
    }
    if !args.resume {
        return Ok(Start::New);
    }
    let path = checkpoint_folder(run, &run_config(run)?).join("last.safetensors");
    if !path.exists() {
        return Err(UsageError::NoLast { run: run.to_owned() }.into());
    }
    Ok(Start::Resume(Box::new(Checkpoint::load(&path)?)))
}

/// The store and the key of the cache to train on.
fn find_cache(args: &CacheArgs, loaded: &Loaded) -> Result<(PathBuf, Key)> {
    let root = loaded.config.data.store_path(args.store.clone());
    if !root.join("format.json").exists() {
        return Err(UsageError::NoStore { store: root, build: build_command(args) }.into());
    }
    let store = Store::open(&root)?;
    if args.cache.is_some()
        && let Some(key) =
            ["data.split_ratio", "data.split_by", "data.seed"].iter().find(|k| loaded.explicit.contains(**k))
    {
        return Err(UsageError::NoEffect { key }.into());
    }
    if let Some(prefix) = &args.cache {
        return Ok((root, store.resolve(prefix)?));
    }
    let options = BuildOptions::new(&loaded.config, Vec::new(), Hdf5::InProcess)
        .map_err(|source| UsageError::NoInput { source })?;
    let command = build_command(args);
    match cache::locate(&store, &options)? {
        Some(key) if store.manifest_path(&key).exists() => Ok((root, key)),
        Some(key) => Err(UsageError::NotBuilt { key, store: root, build: command }.into()),
        None => Err(UsageError::NotRead { build: command }.into()),
    }
}

/// The command that builds the missing cache.
fn build_command(args: &CacheArgs) -> String {
    let mut command = "emg-cache build".to_owned();
    let quoted = |text: &str| if text.contains([' ', '[', '*']) { format!("'{text}'") } else { text.to_owned() };
    if let Some(config) = &args.config {
        command += &format!(" --config {}", quoted(config));
    }
    for set in &args.set {
        command += &format!(" --set {}", quoted(set));
    }
    if let Some(store) = &args.store {
        command += &format!(" --store {}", quoted(&store.display().to_string()));
    }
    command
}

/// A run's checkpoint and the cache it was trained on, or another.
pub(crate) fn open_run(run: &Path, args: &CheckpointArgs, access: &Access) -> Result<(Checkpoint, Cache)> {
    let config = run_config(run)?;
    let path = match args.checkpoint.as_str() {
        name @ ("best" | "last") => checkpoint_folder(run, &config).join(format!("{name}.safetensors")),
        path => path.into(),
    };
    let checkpoint = Checkpoint::load(&path)?;
    let root = config.data.store_path(args.store.clone());
    let key = match &args.cache {
        Some(prefix) => Store::open(&root)?.resolve(prefix)?,
        None => checkpoint.cache.clone().ok_or(UsageError::NoCache { checkpoint: path })?,
    };
    let cache = Cache::open(&root, &key, access)?;
    let mut own = Loaded { config: checkpoint.config.clone(), explicit: Default::default(), warnings: Vec::new() };
    own.explicit.extend(
        [
            "data.normalize_emg",
            "data.normalize_angles",
            "data.emg_channels",
            "data.joint_angles_channels",
            "data.joints",
            "model.original_sampling_rate",
        ]
        .map(str::to_owned),
    );
    apply_manifest(&mut own, cache.manifest())?;
    Ok((checkpoint, cache))
}

/// Loads a user's own model. The run keeps a copy of it.
pub(crate) fn own_model(config: &mut Config, path: &Path, freeze: &[String]) -> Result<Model> {
    config.model.kind = Some(ModelType::Onnx);
    config.model.onnx = Some(IMPORTED.into());
    config.model.freeze.extend_from_slice(freeze);
    config.validate()?;
    Ok(train::own_model(config, path)?)
}
