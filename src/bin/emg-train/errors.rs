//! What can be wrong with a command line beyond what its parser checks, and what exit codes say.

use std::path::PathBuf;

use emg_pipeline::cache::{CacheError, Key};
use emg_pipeline::config::ConfigError;
use emg_pipeline::files::PathError;
use emg_pipeline::train::TrainError;

/// Wrong usage of a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    #[error("{} holds no run", .run.display())]
    NoRun { run: PathBuf },
    #[error("{} holds no checkpoint `last` to go on from; --init starts anew from weights", .run.display())]
    NoLast { run: PathBuf },
    #[error("there is no store at {}; build the cache: {build}", .store.display())]
    NoStore { store: PathBuf, build: String },
    #[error("{key} has no effect with --cache: the splits are the cache's")]
    NoEffect { key: &'static str },
    #[error("{source}, or name a cache with --cache KEY (`emg-cache list` shows them)")]
    NoInput { source: CacheError },
    #[error("the cache {key} of this configuration is not in {}; build it: {build}", .store.display())]
    NotBuilt { key: Key, store: PathBuf, build: String },
    #[error(
        "this machine has not read all recordings yet; build the cache: {build}\n\
         or train on an existing one: emg-train fit --cache KEY (`emg-cache list` shows them)"
    )]
    NotRead { build: String },
    #[error("{} was not trained on a cache of ours: name one with --cache KEY", .checkpoint.display())]
    NoCache { checkpoint: PathBuf },
    #[error("--out {}: expected .h5, .hdf5 or .csv, or a folder", .out.display())]
    OutFormat { out: PathBuf },
    #[error("--out {} is one file, but there are {recordings} recordings: name a folder", .out.display())]
    OutOne { out: PathBuf, recordings: usize },
    #[error("--out {} has another extension than --format", .out.display())]
    OutExtension { out: PathBuf },
    #[error("--out: {} is the {what} itself", .out.display())]
    OutIsInput { out: PathBuf, what: &'static str },
    #[error("{} and {} would both be written to {}", .first.display(), .second.display(), .out.display())]
    OutTwice { first: PathBuf, second: PathBuf, out: PathBuf },
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
        || train.is_some_and(TrainError::is_usage)
        || error.downcast_ref::<CacheError>().is_some_and(CacheError::is_usage);
    if usage { 2 } else { 1 }
}
