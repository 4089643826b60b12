//! `emg-train predict`: writes predicted angles for recordings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use emg_pipeline::files::{FileError, check_file_path};
use emg_pipeline::predict::{PredictError, Predicted, Prediction, Predictor};
use emg_pipeline::recording::{self, Found, Hdf5, Reader, RecordingError, Search, Verdict};
use emg_pipeline::report::CountProgress;
use emg_pipeline::runtime::{self, Provider};
use emg_pipeline::train::TrainError;
use emg_pipeline::{note, say};
use serde_json::json;

use crate::args::{Format, PredictArgs, format_of};
use crate::errors::UsageError;

pub(crate) fn predict(args: &PredictArgs) -> Result<ExitCode> {
    let Search { found, left_out } = recording::find(&args.recordings)?;
    for left_out in left_out {
        note!("left out: {left_out}");
    }
    let library = runtime::load(args.ort_lib.as_deref())?;
    let provider = Provider::choose(&library, &args.computing()).map_err(TrainError::from)?;
    let mut predictor = Predictor::load(&library, provider, &args.model)?;
    let reader = predictor.reader(Hdf5::workers(std::env::current_exe()?));
    let written = predictor.reader_of_predictions(Hdf5::workers(std::env::current_exe()?));
    // All recordings are checked before the first is predicted.
    let (found, windows) = check(&predictor, &reader, found);
    let outputs = outputs(args, &found)?;
    let windows = windows?;
    if args.is_folder() {
        std::fs::create_dir_all(&args.out).map_err(|source| FileError { path: args.out.clone(), source })?;
    }
    let progress = CountProgress::start(&format!("predicting {} recordings", found.len()), windows, "windows");
    let mut predicted = Vec::new();
    for (found, out) in found.iter().zip(&outputs) {
        let prediction = predictor.predict(&reader, &found.place, &mut |windows| progress.advance(windows))?;
        prediction.check_replaces_own(out, !args.is_folder(), &written)?;
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
                entry["out"] = json!(out.to_string_lossy());
                Ok(entry)
            })
            .collect::<Result<_>>()?;
        say!("{}", serde_json::to_string_pretty(&json!({ "recordings": all }))?);
    }
    Ok(ExitCode::SUCCESS)
}

/// The recordings among what was found, and their windows or what is wrong with the first that cannot be predicted. What
/// lies among them but is none is left out: above all, earlier predictions.
fn check(predictor: &Predictor, reader: &Reader, found: Vec<Found>) -> (Vec<Found>, Result<u64, PredictError>) {
    let (mut windows, mut recordings) = (Ok(0), Vec::new());
    let only_recorded = reader.refusing_predictions();
    for found in found {
        let reader = if found.root.is_some() { &only_recorded } else { reader };
        let checked = match found.unreadable {
            Some(reason) => Err(RecordingError::Unreadable { path: found.place.label(), reason }.into()),
            None => predictor.check(reader, &found.place),
        };
        match checked {
            Err(PredictError::Recording(error)) if error.verdict(found.is_doubtful) == Verdict::LeftOut => {
                note!("left out: {error}");
                continue;
            }
            checked => windows = windows.and_then(|sum: u64| Ok(sum + checked?)),
        }
        recordings.push(found);
    }
    (recordings, windows)
}

fn save(prediction: &Prediction, out: &Path, predictor: &Predictor) -> Result<(), PredictError> {
    match format_of(out) {
        Some(Format::Csv) => prediction.save_csv(out, predictor.joints()),
        _ => prediction.save_hdf5(out, predictor.sample_rate()),
    }
}

fn tell(about: &Predicted, out: &Path, json: bool, progress: &CountProgress) {
    if let Some(row) = about.started_from_row {
        progress.line(&format!(
            "warning: {}: the first predicted row has no true pose to start from; using the pose of row {row}",
            about.recording.display()
        ));
    }
    if !json {
        let error = about.mae_deg.map_or(String::new(), |mae| format!("  mae {mae:.3} deg"));
        progress.result(&format!("{}  {} of {} rows{error}", out.display(), about.predicted_rows, about.rows));
    }
}

/// Where each recording's prediction goes.
fn outputs(args: &PredictArgs, found: &[Found]) -> Result<Vec<PathBuf>> {
    if !args.is_folder() {
        check_one_file(args, found)?;
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
                return Err(UsageError::OutIsInput { out, what }.into());
            }
        }
        if let Some(other) = taken.insert(out.clone(), found) {
            let (first, second) = (other.place.label(), found.place.label());
            return Err(UsageError::OutTwice { first, second, out }.into());
        }
    }
    Ok(found.iter().map(of).collect())
}

/// Fails unless `--out` is a file that one recording's prediction can be written to.
fn check_one_file(args: &PredictArgs, found: &[Found]) -> Result<()> {
    let out = args.out.clone();
    check_file_path(&out)?;
    let format = format_of(&out);
    if format.is_none() {
        return Err(UsageError::OutFormat { out }.into());
    }
    if found.len() > 1 {
        return Err(UsageError::OutOne { out, recordings: found.len() }.into());
    }
    if args.format.is_some() && args.format != format {
        return Err(UsageError::OutExtension { out }.into());
    }
    Ok(())
}
