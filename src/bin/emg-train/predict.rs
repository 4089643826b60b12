//! `emg-train predict`: recordings in, recordings with predicted angles out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use emg_pipeline::files::FileError;
use emg_pipeline::recording::{self, Found, Hdf5};
use emg_pipeline::report::CountProgress;
use emg_pipeline::runtime::{self, Provider};
use emg_pipeline::say;
use emg_pipeline::train::{Predicted, Prediction, Predictor, TrainError, check_file_path};
use serde_json::json;

use crate::args::{Format, PredictArgs, format_of};

pub(crate) fn predict(args: &PredictArgs) -> Result<ExitCode> {
    let found = recording::find(&args.recordings)?;
    let outputs = outputs(args, &found)?;
    let library = runtime::load(args.ort_lib.as_deref())?;
    let provider = Provider::choose(&library, &args.computing()).map_err(TrainError::from)?;
    let mut predictor = Predictor::load(&library, provider, &args.model)?;
    let reader = predictor.reader(Hdf5::workers(std::env::current_exe()?));
    // All are looked at before the first is predicted.
    let windows = found.iter().map(|found| predictor.check(&reader, &found.place)).sum::<Result<u64, TrainError>>()?;
    if args.is_folder() {
        std::fs::create_dir_all(&args.out).map_err(|source| FileError { path: args.out.clone(), source })?;
    }
    let progress = CountProgress::start(&format!("predicting {} recordings", found.len()), windows, "windows");
    let mut predicted = Vec::new();
    for (found, out) in found.iter().zip(&outputs) {
        let prediction = predictor.predict(&reader, &found.place, &mut |windows| progress.advance(windows))?;
        save(&prediction, out, &predictor)?;
        tell(&prediction.about, out, args.json, &progress);
        predicted.push((prediction.about, out));
    }
    progress.finish();
    if args.json {
        let all: Vec<_> = predicted
            .iter()
            .map(|(about, out)| {
                let mut entry = serde_json::to_value(about)?;
                entry["out"] = json!(out);
                Ok(entry)
            })
            .collect::<Result<_>>()?;
        say!("{}", serde_json::to_string_pretty(&json!({ "recordings": all }))?);
    }
    Ok(ExitCode::SUCCESS)
}

fn save(prediction: &Prediction, out: &Path, predictor: &Predictor) -> Result<(), TrainError> {
    match format_of(out) {
        Some(Format::Csv) => prediction.save_csv(out, predictor.joints()),
        _ => prediction.save_hdf5(out, predictor.sample_rate()),
    }
}

fn tell(about: &Predicted, out: &Path, json: bool, progress: &CountProgress) {
    if let Some(row) = about.started_from_row {
        progress.line(&format!(
            "warning: {}: the first predicted row has no true pose to start from; that of row {row} is taken",
            about.recording.display()
        ));
    }
    if !json {
        let error = about.mae_deg.map_or(String::new(), |mae| format!("  mae {mae:.3} deg"));
        progress.result(&format!("{}  {} of {} rows{error}", out.display(), about.predicted_rows, about.rows));
    }
}

/// Where each recording's prediction goes.
fn outputs(args: &PredictArgs, found: &[Found]) -> Result<Vec<PathBuf>, TrainError> {
    if !args.is_folder() {
        check_file_path(&args.out)?;
        if format_of(&args.out).is_none() {
            let message = format!("--out {}: expected .h5, .hdf5 or .csv, or a folder", args.out.display());
            return Err(TrainError::Usage(message));
        }
        if found.len() > 1 {
            let message = format!(
                "--out {} is one file, but there are {} recordings: name a folder",
                args.out.display(),
                found.len()
            );
            return Err(TrainError::Usage(message));
        }
        if args.format.is_some_and(|format| format_of(&args.out) != Some(format)) {
            return Err(TrainError::Usage(format!("--out {} has another extension than --format", args.out.display())));
        }
    }
    let extension = match args.format {
        Some(Format::Csv) => "csv",
        Some(Format::Hdf5) | None => "hdf5",
    };
    let of = |found: &Found| {
        if args.is_folder() { args.out.join(format!("{}.{extension}", found.name)) } else { args.out.clone() }
    };
    let mut taken: BTreeMap<PathBuf, &Found> = BTreeMap::new();
    for found in found {
        let out = of(found);
        let same = |a: &Path, b: &Path| a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b));
        for (input, what) in [(&found.place.path, "recording"), (&args.model, "model")] {
            if same(&out, input) {
                return Err(TrainError::Usage(format!("--out: {} is the {what} itself", out.display())));
            }
        }
        if let Some(other) = taken.insert(out.clone(), found) {
            let (a, b) = (other.place.label(), found.place.label());
            let message = format!("{} and {} would both be written to {}", a.display(), b.display(), out.display());
            return Err(TrainError::Usage(message));
        }
    }
    Ok(found.iter().map(of).collect())
}
