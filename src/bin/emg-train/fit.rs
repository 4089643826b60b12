//! `emg-train fit`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use emg_pipeline::cache::Cache;
use emg_pipeline::config::{self, Config, Loaded};
use emg_pipeline::files::FileError;
use emg_pipeline::report::FitReport;
use emg_pipeline::runtime;
use emg_pipeline::train::{
    self, Checkpoint, FitOptions, Resumed, RunFolder, Start, TrainError, apply_manifest, check_resume,
    checkpoint_folder, load_model, load_trained_model, resume_from,
};
use emg_pipeline::{note, say};
use serde_json::json;

use crate::args::FitArgs;
use crate::commands::{access_of, find_cache, own_model, run_config};
use crate::errors::UsageError;
use crate::print;
use crate::signals::Signals;

pub(crate) fn fit(mut args: FitArgs, started: Instant) -> Result<ExitCode> {
    let signals = Signals::new(args.requeue)?;
    let claimed = if args.run.is_none() { Some(ClaimedRun::new()?) } else { None };
    let run = args.run.clone().or_else(|| claimed.as_ref().map(|run| run.path.clone())).expect("named or claimed");
    // A job that SLURM starts again has the same command line.
    args.resume |= args.requeue && run.join("config.yaml").exists();
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
        (loaded.config.data.store_path(args.cache.store.clone())?, key.clone())
    } else {
        find_cache(&args.cache, &mut loaded)?
    };
    let cache = Arc::new(Cache::open(&root, &key, &access_of(&args.cache.access))?);
    apply_manifest(&mut loaded, cache.manifest())?;
    let mut config = loaded.config;
    if let Start::Resume(checkpoint) = &start {
        check_resume(&checkpoint.config, &config)?;
    }
    runtime::prefer(args.ort_lib.as_deref());
    let own = args.model.clone().or_else(|| config.model.onnx.clone()).filter(|_| !args.resume);
    let model = match &own {
        Some(path) => own_model(&mut config, path, &args.freeze, &args.train)?,
        None => match &start {
            Start::Resume(checkpoint) => load_trained_model(checkpoint, &run)?,
            Start::New | Start::Weights(_) => load_model(&config, &run)?,
        },
    };
    set_absolute_paths(&mut config, &root)?;
    signals.listen_to_stop()?;
    let metrics = RunFolder::metrics_path(&run, &config);
    let mut report = FitReport::new(metrics.clone());
    let summary = train::fit(FitOptions {
        config,
        cache,
        model,
        run: run.clone(),
        start,
        ort_lib: args.ort_lib,
        interrupted: Arc::clone(&signals.stop),
        save_now: Arc::clone(&signals.save),
        started,
        listener: &mut report,
    });
    drop(report);
    if matches!(summary, Err(TrainError::Interrupted)) {
        signals.requeue();
    }
    let summary = summary?;
    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let summary = json!({
            "run": text(&run), "checkpoint": text(&summary.best_checkpoint),
            "last_checkpoint": text(&summary.last_checkpoint), "model": summary.model.as_deref().map(text),
            "metrics": text(&metrics), "epochs": summary.epochs, "monitor": summary.monitor, "best": summary.best,
            "seconds": seconds,
        });
        say!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        print::fit(&summary, &run, &metrics, seconds);
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes paths into the configuration that mean the same from any working folder. It is kept as YAML, which is text.
fn set_absolute_paths(config: &mut Config, store: &Path) -> Result<()> {
    config.data.store = Some(std::path::absolute(store)?);
    for folder in [&mut config.logging.checkpoint_dir, &mut config.logging.log_dir].into_iter().flatten() {
        *folder = std::path::absolute(&*folder)?;
    }
    let logging = [&config.logging.checkpoint_dir, &config.logging.log_dir];
    let paths = logging.into_iter().chain([&config.data.store, &config.data.dataset_path]).flatten();
    match paths.into_iter().find(|path| path.to_str().is_none()) {
        Some(path) => Err(UsageError::NotText { path: path.clone() }.into()),
        None => Ok(()),
    }
}

/// The folder of a run without a name: the first of runs/1, runs/2, .. that does not exist, made at once, so that another
/// fit chooses another one. Removed again if nothing was written to it.
struct ClaimedRun {
    path: PathBuf,
}

impl ClaimedRun {
    fn new() -> Result<Self> {
        let failed = |path: &Path, source| FileError { path: path.to_owned(), source };
        let folder = Path::new("runs");
        std::fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
        let mut number = 1;
        loop {
            let path = folder.join(number.to_string());
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(failed(&path, error).into()),
            }
        }
    }
}

impl Drop for ClaimedRun {
    fn drop(&mut self) {
        // Only where it is empty.
        let _ = std::fs::remove_dir(&self.path);
    }
}

fn load_config(args: &FitArgs, run: &Path) -> Result<Loaded> {
    match &args.cache.config {
        // What a job that is started again has on its command line is in the run's own.
        Some(_) if args.resume && args.requeue => Ok(config::load_file(&run.join("config.yaml"), &args.cache.set)?),
        None if args.resume => Ok(config::load_file(&run.join("config.yaml"), &args.cache.set)?),
        given => Ok(config::load(given.as_deref(), &args.cache.set)?),
    }
}

fn start_of(args: &FitArgs, run: &Path) -> Result<Start> {
    if let Some(path) = args.init.as_ref().filter(|_| !args.resume) {
        return Ok(Start::Weights(Box::new(Checkpoint::load(path)?)));
    }
    if !args.resume {
        return Ok(Start::New);
    }
    let folder = checkpoint_folder(run, &run_config(run)?);
    if !folder.join("last.safetensors").exists() {
        return Err(UsageError::NoLast { run: run.to_owned() }.into());
    }
    let Resumed { checkpoint, warnings } = resume_from(&folder)?;
    warnings.iter().for_each(|warning| note!("warning: {warning}"));
    Ok(Start::Resume(Box::new(checkpoint)))
}
