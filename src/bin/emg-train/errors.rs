//! Usage errors that the command line parser cannot find, and the exit codes.

use std::path::PathBuf;

use emg_pipeline::cache::{CacheError, Key};
use emg_pipeline::config::{ConfigError, UserPathError};
use emg_pipeline::files::PathError;
use emg_pipeline::train::TrainError;

/// Wrong usage of a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    #[error("--by: no recording of the cache has a label {label}; expected one of {known}")]
    NoLabel { label: String, known: String },
    #[error("{} holds no run: it has no config.yaml{}", .run.display(), runs_below(.below))]
    NoRun { run: PathBuf, below: Vec<PathBuf> },
    #[error("{}: a run's configuration can only name paths that are valid UTF-8", .path.display())]
    NotText { path: PathBuf },
    #[error("{} has no checkpoint `last` to resume from; to start a new run from saved weights, use --init CHECKPOINT", .run.display())]
    NoLast { run: PathBuf },
    #[error("there is no store at {}; build the cache: {build}", .store.display())]
    NoStore { store: PathBuf, build: String },
    #[error("{source}, or choose a cache with --cache KEY (`emg-cache list` shows the keys)")]
    NoInput { source: CacheError },
    #[error("the cache {key} for this configuration is not in the store {}; build it: {build}", .store.display())]
    NotBuilt { key: Key, store: PathBuf, build: String },
    #[error(
        "this machine does not know all recordings yet, so the key of the cache is not known; train on an existing cache: \
         emg-train fit --cache KEY (`emg-cache list` shows them)\nor build the cache here: {build}"
    )]
    NotRead { build: String },
    #[error("{}: this checkpoint does not say which cache it was trained on; choose a cache with --cache KEY", .checkpoint.display())]
    NoCache { checkpoint: PathBuf },
    #[error("--dtype int8 is for whole windows; export a stream with --dtype float32 or float16")]
    Int8Stream,
    #[error("--calibrate is for --dtype int8")]
    CalibratesNothing,
    #[error("--out {}: expected .h5, .hdf5 or .csv, or a folder", .out.display())]
    OutFormat { out: PathBuf },
    #[error("--out {} is one file, but there are {recordings} recordings: name a folder", .out.display())]
    OutOne { out: PathBuf, recordings: usize },
    #[error("--out {}: the extension does not match --format", .out.display())]
    OutExtension { out: PathBuf },
    #[error("--out {} is the {what} itself; choose another file", .out.display())]
    OutIsInput { out: PathBuf, what: &'static str },
    #[error("{} and {} would both be written to {}", .first.display(), .second.display(), .out.display())]
    OutTwice { first: PathBuf, second: PathBuf, out: PathBuf },
}

/// At most this many runs are listed in one error.
const LISTED: usize = 20;

fn runs_below(runs: &[PathBuf]) -> String {
    let mut names: Vec<_> = runs.iter().take(LISTED).map(|run| run.display().to_string()).collect();
    if runs.len() > LISTED {
        names.push(format!("{} more", runs.len() - LISTED));
    }
    if names.is_empty() { String::new() } else { format!("; below it are {}", names.join(", ")) }
}

/// 2 for wrong usage or configuration, 130 for an interrupt, 1 for everything else.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    let train = error.downcast_ref::<TrainError>();
    if matches!(train, Some(TrainError::Interrupted)) {
        return 130;
    }
    let usage = error.is::<ConfigError>()
        || error.is::<UsageError>()
        || error.is::<PathError>()
        || error.is::<UserPathError>()
        || train.is_some_and(TrainError::is_usage)
        || error.downcast_ref::<CacheError>().is_some_and(CacheError::is_usage);
    if usage { 2 } else { 1 }
}
