//! `emg-train report`: runs in, one HTML page out.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use emg_pipeline::cache::{Access, Cache};
use emg_pipeline::model::total_elements;
use emg_pipeline::report::{self, CountProgress, Environment, ReportedRun, read_epochs, report_page};
use emg_pipeline::runtime::{self, Provider};
use emg_pipeline::train::{Checkpoint, EvaluateOptions, Gallery, RunFolder, TrainError, gallery, load_model};
use serde_json::json;

use crate::args::{ReportArgs, RunArgs};
use crate::commands::{open_run, run_config};

pub(crate) fn report(args: &ReportArgs) -> Result<ExitCode> {
    let out = match (&args.out, args.runs.as_slice()) {
        (Some(out), _) => out.clone(),
        (None, [run]) => run.join("report.html"),
        (None, _) => PathBuf::from("comparison.html"),
    };
    if out.file_name().is_none() || out.is_dir() {
        return Err(TrainError::Usage(format!("--out {}: expected the path of a file", out.display())).into());
    }
    let runs = args.runs.iter().map(|run| reported(args, run)).collect::<Result<Vec<_>>>()?;
    std::fs::write(&out, report_page(&runs)).map_err(|source| TrainError::Io { path: out.clone(), source })?;
    if args.json {
        let runs: Vec<_> = runs.iter().map(summary).collect();
        println!("{}", serde_json::to_string_pretty(&json!({ "report": out, "runs": runs }))?);
    } else {
        println!("{}", out.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn summary(run: &ReportedRun) -> serde_json::Value {
    let evaluation = run.gallery.as_ref().map(|gallery| &gallery.evaluation);
    json!({ "run": run.name, "epochs": run.epochs.len(), "evaluation": evaluation.ok(), "not_evaluated": evaluation.err() })
}

/// What a page says of the run in `folder`. A run that cannot be evaluated here is shown with the reason.
fn reported(args: &ReportArgs, folder: &Path) -> Result<ReportedRun> {
    let config = run_config(folder)?;
    let metrics = RunFolder::metrics_path(folder, &config);
    let epochs = match read_epochs(&metrics) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        epochs => epochs.map_err(|source| TrainError::Io { path: metrics.clone(), source })?,
    };
    let mut facts = vec![("run".to_owned(), std::path::absolute(folder)?.display().to_string())];
    let environment = metrics.parent().and_then(Environment::of_run);
    facts.extend(environment.iter().flat_map(Environment::facts));
    let own = RunArgs {
        run: folder.to_owned(),
        checkpoint: args.checkpoint.clone(),
        cache: args.cache.clone(),
        store: args.store.clone(),
    };
    let opened = if args.no_eval {
        Err("--no-eval".to_owned())
    } else {
        open_run(&own, &Access::default()).map_err(|e| e.to_string())
    };
    let mut rate = config.model.original_sampling_rate;
    let gallery = match opened {
        Err(reason) => Err(reason),
        Ok((checkpoint, cache)) => {
            rate = cache.manifest().settings.sample_rate;
            facts.extend(cache_facts(&cache));
            let cache = Arc::new(cache);
            match evaluated(args, folder, checkpoint, &cache, &mut facts) {
                Ok(gallery) => Ok(gallery),
                // The cache has no such windows, or the library is not here: all else can be shown.
                Err(error) if usage(&error) => Err(error.to_string()),
                Err(error) => return Err(error),
            }
        }
    };
    Ok(ReportedRun { name: folder.display().to_string(), config, epochs, gallery, rate, facts })
}

fn usage(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<TrainError>(), Some(TrainError::Usage(_))) || error.is::<runtime::RuntimeError>()
}

fn evaluated(
    args: &ReportArgs,
    folder: &Path,
    mut checkpoint: Checkpoint,
    cache: &Arc<Cache>,
    facts: &mut Vec<(String, String)>,
) -> Result<Gallery> {
    if let Some(device) = args.device {
        checkpoint.config.training.device = device;
    }
    let library = runtime::load(args.ort_lib.as_deref())?;
    let training = &checkpoint.config.training;
    let provider = Provider::choose(&library, training.device, training.precision)?;
    let model = load_model(&checkpoint.config, folder)?;
    facts.push(("parameters".into(), total_elements(&model.parameters()).to_string()));
    facts.push(("checkpoint".into(), format!("{}, after epoch {}", args.checkpoint, checkpoint.progress.epoch)));
    facts.push(("evaluated on".into(), format!("{provider}, ONNX Runtime {}", library.version)));
    let split = args.split.into();
    let options = EvaluateOptions { split, emg2pose_derivatives: false };
    let [train, val, test] = cache.manifest().windows;
    let total = match args.split {
        crate::args::SplitArg::Train => train,
        crate::args::SplitArg::Val => val,
        crate::args::SplitArg::Test => test,
    };
    let progress = CountProgress::start(&format!("evaluating {} on {split}", folder.display()), total, "windows");
    let shown = gallery(&library, provider, cache, &model, &checkpoint, options, &mut |n| progress.advance(n));
    progress.finish();
    Ok(shown?)
}

fn cache_facts(cache: &Cache) -> Vec<(String, String)> {
    let (manifest, settings) = (cache.manifest(), &cache.manifest().settings);
    let rows = cache.recordings().map(|recording| recording.content.rows).sum();
    let [train, val, test] = manifest.windows;
    let facts = [
        ("cache", cache.key().to_string()),
        ("recordings", format!("{}, {}", manifest.recordings.len(), report::hours(rows, settings.sample_rate))),
        ("windows", format!("{train} training, {val} validation, {test} test")),
        (
            "EMG",
            format!(
                "{} channels at {} Hz, normalized by {}",
                settings.emg_channels, settings.sample_rate, settings.normalize_emg
            ),
        ),
        ("angles", format!("{}, normalized by {}", settings.joint_angles_channels, settings.normalize_angles)),
    ];
    facts.map(|(name, value)| (name.to_owned(), value)).into()
}
