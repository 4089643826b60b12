//! What each command of emg-train does.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Result;
use emg_pipeline::cache::{self, Access, Cache, Io, Key, Stage, Store};
use emg_pipeline::config::{self, Config, Device, Loaded};
use emg_pipeline::dataset::build_options;
use emg_pipeline::recording::Hdf5;
use emg_pipeline::report::FitReport;
use emg_pipeline::runtime::{self, Provider};
use emg_pipeline::train::{
    Checkpoint, Evaluation, FitOptions, RunFolder, TrainError, apply_manifest, check_resume, checkpoint_folder,
    evaluate, export_run,
};
use serde_json::json;

use crate::args::{AccessArgs, Command, FitArgs, IoArg, RunArgs};

pub(crate) fn run(command: Command, started: Instant) -> Result<ExitCode> {
    match command {
        Command::Fit(args) => fit(args, started),
        Command::Eval { run, split, cache, access, json, device, ort_lib } => {
            let (mut checkpoint, cache) = open_run(&run, cache.as_deref(), &access_of(&access))?;
            if let Some(device) = device {
                checkpoint.config.training.device = device;
            }
            let library = runtime::load(ort_lib.as_deref())?;
            let training = &checkpoint.config.training;
            let provider = Provider::choose(&library, training.device, training.precision)?;
            let result = evaluate(&library, provider, &Arc::new(cache), &checkpoint, split.into(), &mut |_| ())?;
            if json {
                println!("{}", serde_json::to_string_pretty(&result)?);
            } else {
                print_evaluation(&result);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Export { run, out, length } => {
            let (checkpoint, cache) = open_run(&run, None, &Access::default())?;
            let bytes = export_run(&checkpoint, cache.manifest(), length)?;
            let out = out.unwrap_or_else(|| run.run.join("model.onnx"));
            std::fs::write(&out, bytes).map_err(|source| TrainError::Io { path: out.clone(), source })?;
            println!("{}", out.display());
            Ok(ExitCode::SUCCESS)
        }
        Command::Doctor { ort_lib, json } => doctor(ort_lib.as_deref(), json),
    }
}

fn fit(args: FitArgs, started: Instant) -> Result<ExitCode> {
    let run = args.run.clone().unwrap_or_else(next_run);
    RunFolder::check(&run, args.resume)?;
    let mut loaded = load_config(&args, &run)?;
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    let (root, key) = find_cache(&args, &loaded, &run)?;
    let cache = Arc::new(Cache::open(&root, &key, &access_of(&args.access))?);
    apply_manifest(&mut loaded, cache.manifest())?;
    let mut config = loaded.config;
    if args.resume {
        check_resume(&run_config(&run)?, &config)?;
    }
    config.data.store = Some(std::path::absolute(&root)?);

    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The first signal asks the loop to save and stop, a second one ends the process at once.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupted))?;
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let mut report = FitReport::new(RunFolder::metrics_path(&run, &config));
    let summary = emg_pipeline::train::fit(FitOptions {
        config,
        cache,
        run: run.clone(),
        resume: args.resume,
        ort_lib: args.ort_lib,
        interrupted,
        started,
        listener: &mut report,
    })?;
    println!("run         {}", run.display());
    println!("checkpoint  {}", summary.best_checkpoint.display());
    if let Some(model) = &summary.model {
        println!("model       {}", model.display());
    }
    if let Some(best) = summary.best {
        println!("best {} {best:.6} in {} epochs", summary.monitor, summary.epochs);
    }
    Ok(ExitCode::SUCCESS)
}

fn access_of(args: &AccessArgs) -> Access {
    let announce = |segments, bytes| eprintln!("staging {segments} segments ({})", emg_pipeline::report::bytes(bytes));
    let io = match args.io {
        IoArg::Mmap => Io::Mmap,
        IoArg::Read => Io::Read,
    };
    Access { io, stage: args.stage.clone().map(|folder| Stage::new(folder, args.stage_bytes, announce)) }
}

fn next_run() -> PathBuf {
    (1..).map(|i| PathBuf::from(format!("runs/{i}"))).find(|path| !path.exists()).expect("a free number")
}

fn run_config(run: &Path) -> Result<Config> {
    let path = run.join("config.yaml");
    if !path.exists() {
        return Err(TrainError::Usage(format!("{} holds no run", run.display())).into());
    }
    Ok(config::load(path.to_str(), &[])?.config)
}

fn load_config(args: &FitArgs, run: &Path) -> Result<Loaded> {
    let own = run.join("config.yaml");
    let source = match &args.config {
        None if args.resume => own.to_str(),
        given => given.as_deref(),
    };
    Ok(config::load(source, &args.set)?)
}

/// The store and the key of the cache to train on.
fn find_cache(args: &FitArgs, loaded: &Loaded, run: &Path) -> Result<(PathBuf, Key)> {
    let root = loaded.config.data.store_path(args.store.clone());
    if !root.join("format.json").exists() {
        let message = format!("there is no store at {}; build the cache: {}", root.display(), build_command(args));
        return Err(TrainError::Usage(message).into());
    }
    let store = Store::open(&root)?;
    if args.cache.is_some()
        && let Some(key) =
            ["data.split_ratio", "data.split_by", "data.seed"].iter().find(|k| loaded.explicit.contains(**k))
    {
        return Err(TrainError::Usage(format!("{key} has no effect with --cache: the splits are the cache's")).into());
    }
    if let Some(prefix) = &args.cache {
        return Ok((root, store.resolve(prefix)?));
    }
    if args.resume {
        // A run goes on with the cache it began with.
        let folder = checkpoint_folder(run, &loaded.config);
        return Ok((root, Checkpoint::load(&folder.join("last.safetensors"))?.cache));
    }
    let options = build_options(&loaded.config, Vec::new(), Hdf5::InProcess).map_err(|message| {
        TrainError::Usage(format!("{message}, or name a cache with --cache KEY (`emg-cache list` shows them)"))
    })?;
    let command = build_command(args);
    match cache::locate(&store, &options)? {
        Some(key) if store.manifest_path(&key).exists() => Ok((root, key)),
        Some(key) => {
            let message =
                format!("the cache {key} of this configuration is not in {}; build it: {command}", root.display());
            Err(TrainError::Usage(message).into())
        }
        None => {
            let message = format!(
                "this machine has not read all recordings yet; build the cache: {command}\n\
                 or train on an existing one: emg-train fit --cache KEY (`emg-cache list` shows them)"
            );
            Err(TrainError::Usage(message).into())
        }
    }
}

/// The command that builds the cache this fit looks for.
fn build_command(args: &FitArgs) -> String {
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

/// A run's checkpoint and the cache it was trained on, or `key`.
fn open_run(args: &RunArgs, key: Option<&str>, access: &Access) -> Result<(Checkpoint, Cache)> {
    let config = run_config(&args.run)?;
    let path = match args.checkpoint.as_str() {
        name @ ("best" | "last") => checkpoint_folder(&args.run, &config).join(format!("{name}.safetensors")),
        path => path.into(),
    };
    let checkpoint = Checkpoint::load(&path)?;
    let root = config.data.store_path(args.store.clone());
    let key = match key {
        Some(prefix) => Store::open(&root)?.resolve(prefix)?,
        None => checkpoint.cache.clone(),
    };
    let cache = Cache::open(&root, &key, access)?;
    let mut own = Loaded { config: checkpoint.config.clone(), explicit: Default::default(), warnings: Vec::new() };
    own.explicit.extend(
        [
            "data.normalize_emg",
            "data.normalize_angles",
            "data.emg_channels",
            "data.joint_angles_channels",
            "model.original_sampling_rate",
        ]
        .map(str::to_owned),
    );
    apply_manifest(&mut own, cache.manifest())?;
    Ok((checkpoint, cache))
}

fn print_evaluation(evaluation: &Evaluation) {
    let (metrics, mean) = (&evaluation.metrics, &evaluation.mean_predictor);
    println!("{} split: {} windows, {} valid rows", evaluation.split, evaluation.windows, metrics.rows);
    println!(
        "loss {:.6}  mae {:.3} deg  rmse {:.3} deg  r2 {:.4}",
        evaluation.loss, metrics.mae_deg, metrics.rmse_deg, metrics.r2
    );
    println!("mean predictor: mae {:.3} deg  rmse {:.3} deg", mean.mae_deg, mean.rmse_deg);
    for parts in [&metrics.mae_deg_per_finger, &metrics.mae_deg_per_group].into_iter().flatten() {
        let parts: Vec<_> = parts.iter().map(|(name, mae)| format!("{name} {mae:.2}")).collect();
        println!("mae deg: {}", parts.join("  "));
    }
    let smooth = &metrics.smoothness;
    println!(
        "predicted velocity {:.3} rad/s  acceleration {:.2} rad/s2  jerk {:.1} rad/s3",
        smooth.velocity, smooth.acceleration, smooth.jerk
    );
}

fn doctor(option: Option<&Path>, json: bool) -> Result<ExitCode> {
    let library = match runtime::load(option) {
        Ok(library) => library,
        Err(error) if json => {
            println!("{}", json!({ "library": null, "missing": [error.to_string()] }));
            return Ok(ExitCode::FAILURE);
        }
        Err(error) => return Err(error.into()),
    };
    let providers = runtime::providers(&library);
    let mut missing = Vec::new();
    if let Err(error) = Provider::choose(&library, Device::Cuda, config::Precision::Fp32) {
        missing.push(format!("for CUDA: {error}"));
    }
    if json {
        let library = json!({ "path": library.path, "found_by": library.source, "version": library.version });
        println!(
            "{}",
            serde_json::to_string_pretty(&json!({ "library": library, "providers": providers, "missing": missing }))?
        );
        return Ok(ExitCode::SUCCESS);
    }
    println!("library    {}", library.path.display());
    println!("found by   {}", library.source);
    println!("version    {}", library.version);
    println!("providers  {}", providers.join(", "));
    for line in missing {
        println!("missing    {line}");
    }
    Ok(ExitCode::SUCCESS)
}
