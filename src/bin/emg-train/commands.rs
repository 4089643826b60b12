//! What each command of emg-train does.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use clap::CommandFactory;
use emg_pipeline::cache::{
    self, Access, BuildOptions, Cache, Io, Key, Manifest, ManifestRecording, Stage, Store, Verify,
};
use emg_pipeline::config::{self, Config, Loaded, ModelType};
use emg_pipeline::files::FileError;
use emg_pipeline::model::Model;
use emg_pipeline::recording::Hdf5;
use emg_pipeline::report::CountProgress;
use emg_pipeline::runtime::{self, Provider};
use emg_pipeline::startup::prepare_process;
use emg_pipeline::train::{
    self, BenchmarkLength, Checkpoint, EvaluateOptions, IMPORTED, TrainError, apply_manifest, apply_splits,
    checkpoint_folder, evaluate, load_model, load_trained_model, throughput,
};
use emg_pipeline::{note, say};

use crate::args::{
    AccessArgs, Args, BenchArgs, CacheArgs, CheckpointArgs, Command, Derivatives, EvalArgs, IoArg, VerifyArg,
};
use crate::errors::UsageError;
use crate::export::export;
use crate::fit::fit;
use crate::predict::predict;
use crate::report::report;
use crate::{doctor, print};

pub(crate) fn run(command: Command, started: Instant) -> Result<ExitCode> {
    prepare_process();
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
        Command::Doctor { ort_lib, model: Some(model), of, json } => {
            doctor::model(ort_lib.as_deref(), &model, &of, json, started)
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
    let model = load_trained_model(&checkpoint, &run.run)?;
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

fn bench_data(args: &BenchArgs, started: Instant) -> Result<ExitCode> {
    let mut loaded = config::load(args.cache.config.as_deref(), &args.cache.set)?;
    let (root, key) = find_cache(&args.cache, &mut loaded)?;
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

pub(crate) fn access_of(args: &AccessArgs) -> Access {
    let announce = |segments, bytes| note!("staging {segments} segments ({})", emg_pipeline::report::bytes(bytes));
    let io = match args.io {
        IoArg::Mmap => Io::Mmap,
        IoArg::Read => Io::Read,
    };
    let verify = match args.verify {
        VerifyArg::Off => Verify::Off,
        VerifyArg::FirstTouch => Verify::FirstTouch,
        VerifyArg::Open => Verify::Open,
    };
    Access { io, verify, stage: args.stage.clone().map(|folder| Stage::new(folder, args.stage_bytes, announce)) }
}

/// Folders of runs in a folder that is none.
fn runs_below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut runs: Vec<_> = entries.filter(|path| path.join("config.yaml").exists()).collect();
    // 2 before 10.
    runs.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
    runs
}

pub(crate) fn run_config(run: &Path) -> Result<Config> {
    let path = run.join("config.yaml");
    if !path.try_exists().map_err(|source| FileError { path: path.clone(), source })? {
        return Err(UsageError::NoRun { run: run.to_owned(), below: runs_below(run) }.into());
    }
    Ok(config::load_file(&path, &[])?.config)
}

/// The store and the key of the cache to train on.
pub(crate) fn find_cache(args: &CacheArgs, loaded: &mut Loaded) -> Result<(PathBuf, Key)> {
    let root = loaded.config.data.store_path(args.store.clone())?;
    let format = root.join("format.json");
    if !format.try_exists().map_err(|source| FileError { path: format.clone(), source })? {
        return Err(UsageError::NoStore { store: root, build: build_command(args) }.into());
    }
    let store = Store::open(&root)?;
    if let Some(prefix) = &args.cache {
        let key = store.resolve(prefix)?;
        apply_splits(loaded, &Manifest::read(&store, &key)?)?;
        return Ok((root, key));
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
    let root = config.data.store_path(args.store.clone())?;
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
pub(crate) fn own_model(config: &mut Config, path: &Path, freeze: &[String], train: &[String]) -> Result<Model> {
    config.model.kind = Some(ModelType::Onnx);
    config.model.onnx = Some(IMPORTED.into());
    config.model.freeze.extend_from_slice(freeze);
    config.model.train.extend_from_slice(train);
    config.validate()?;
    Ok(train::own_model(config, path)?)
}
