//! `emg-train report`: shows runs on one HTML page.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use emg_pipeline::cache::{Access, Cache, CacheError};
use emg_pipeline::files::{FileError, check_file_path, replace_named_file};
use emg_pipeline::model::total_elements;
use emg_pipeline::report::{self, CountProgress, Environment, ReportedRun, read_epochs, report_page};
use emg_pipeline::runtime::{self, Provider, RuntimeError};
use emg_pipeline::train::{Checkpoint, EvaluateOptions, Gallery, RunFolder, TrainError, gallery, load_trained_model};
use emg_pipeline::{note, say};
use serde_json::json;

use crate::args::ReportArgs;
use crate::commands::{open_run, run_config};
use crate::errors::UsageError;

pub(crate) fn report(args: &ReportArgs) -> Result<ExitCode> {
    let out = match (&args.out, args.runs.as_slice()) {
        (Some(out), _) => out.clone(),
        (None, [run]) => run.join("report.html"),
        (None, _) => PathBuf::from("comparison.html"),
    };
    // A missing run is reported before an invalid --out.
    args.runs.iter().try_for_each(|run| run_config(run).map(|_| ()))?;
    check_file_path(&out)?;
    let runs = args.runs.iter().map(|run| reported(args, run)).collect::<Result<Vec<_>>>()?;
    replace_named_file(&out, report::printable(&report_page(&runs)).as_bytes())?;
    if args.json {
        let runs: Vec<_> = runs.iter().map(summary).collect();
        say!("{}", serde_json::to_string_pretty(&json!({ "report": out.to_string_lossy(), "runs": runs }))?);
    } else {
        say!("{}", out.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn summary(run: &ReportedRun) -> serde_json::Value {
    let evaluation = run.gallery.as_ref().map(|gallery| &gallery.evaluation);
    json!({ "run": run.name, "epochs": run.epochs.len(), "evaluation": evaluation.ok(), "not_evaluated": evaluation.err() })
}

/// What the page shows of the run in `folder`. If the run cannot be evaluated here, the page shows the reason.
fn reported(args: &ReportArgs, folder: &Path) -> Result<ReportedRun> {
    let config = run_config(folder)?;
    let metrics = RunFolder::metrics_path(folder, &config);
    let epochs = match read_epochs(&metrics) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        epochs => epochs.map_err(|source| FileError { path: metrics.clone(), source })?,
    };
    let mut facts = vec![("run".to_owned(), std::path::absolute(folder)?.display().to_string())];
    let environment = match metrics.parent().map_or(Ok(None), Environment::of_run) {
        // A damaged one: the rest can still be shown.
        Err(error) if error.source.kind() == std::io::ErrorKind::InvalidData => {
            note!("warning: the page does not say where the run was trained: {error}");
            None
        }
        environment => environment?,
    };
    facts.extend(environment.iter().flat_map(Environment::facts));
    let (mut rate, mut gallery) = (config.model.original_sampling_rate, Err("--no-eval".to_owned()));
    if !args.no_eval {
        let evaluated = open_run(folder, &args.of, &Access::default()).and_then(|(checkpoint, cache)| {
            rate = cache.manifest().settings.sample_rate;
            facts.extend(cache_facts(&cache));
            evaluated(args, folder, checkpoint, &Arc::new(cache), &mut facts)
        });
        gallery = match evaluated {
            Err(error) if !is_missing(&error) || args.names_evaluation() => return Err(error),
            Err(error) => {
                let reason = error.to_string();
                note!("warning: {}: no evaluation: {reason}", folder.display());
                Err(reason)
            }
            Ok(gallery) => Ok(gallery),
        };
    }
    Ok(ReportedRun { name: folder.display().to_string(), config, epochs, gallery, rate, facts })
}

/// Whether an evaluation failed only because something it needs is missing: a checkpoint, the store, the cache or one
/// of its files, windows, or the library. The rest can still be shown. A damaged file is an error.
fn is_missing(error: &anyhow::Error) -> bool {
    let of_cache = |error: &CacheError| match error {
        CacheError::NoCache { .. } | CacheError::NotAStore { .. } => true,
        CacheError::File(error) => error.source.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    };
    match error.downcast_ref::<TrainError>() {
        Some(TrainError::File(error)) => error.source.kind() == std::io::ErrorKind::NotFound,
        Some(TrainError::Cache(error)) => of_cache(error),
        Some(TrainError::Runtime { source }) => matches!(source, RuntimeError::NoLibrary { .. }),
        Some(error) => error.is_usage(),
        None => {
            error.is::<UsageError>()
                || error.downcast_ref::<CacheError>().is_some_and(of_cache)
                || matches!(error.downcast_ref::<RuntimeError>(), Some(RuntimeError::NoLibrary { .. }))
        }
    }
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
    let provider = Provider::choose(&library, training).map_err(TrainError::from)?;
    let model = load_trained_model(&checkpoint, folder)?;
    facts.push(("parameters".into(), total_elements(&model.parameters()).to_string()));
    facts.push(("checkpoint".into(), format!("{}, after epoch {}", args.of.checkpoint, checkpoint.progress.epoch)));
    facts.push(("evaluated on".into(), format!("{provider}, ONNX Runtime {}", library.version)));
    let split = args.split;
    let options = EvaluateOptions { split, emg2pose_derivatives: false, by: Vec::new() };
    let total = cache.manifest().windows[split as usize];
    let progress = CountProgress::start(&format!("evaluating {} on {split}", folder.display()), total, "windows");
    let shown = gallery(&library, provider, cache, &model, &checkpoint, &options, &mut |n| progress.advance(n));
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
