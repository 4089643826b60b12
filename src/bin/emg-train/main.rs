//! `emg-train`: a cache in, a trained ONNX model out.

mod args;
mod commands;
mod doctor;
mod predict;
mod print;
mod report;

use std::process::ExitCode;
use std::time::Instant;

use args::Args;
use clap::Parser;
use emg_pipeline::cache::CacheError;
use emg_pipeline::config::ConfigError;
use emg_pipeline::note;
use emg_pipeline::recording;
use emg_pipeline::train::TrainError;

fn main() -> ExitCode {
    let started = Instant::now();
    // This program starts itself for the HDF5 library; nobody types it, so --help is silent about it.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == recording::WORKER_ARGUMENT) {
        return if recording::serve().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    match commands::run(args.command, started) {
        Ok(code) => code,
        Err(error) => {
            // Messages tell their causes themselves.
            note!("error: {error}");
            ExitCode::from(exit_code(&error))
        }
    }
}

/// 2 for wrong usage or configuration, 130 for an interrupt, 1 for everything else.
fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<ConfigError>() {
        return 2;
    }
    let cache_usage = |error: &CacheError| {
        matches!(error, CacheError::BadKey { .. } | CacheError::NoCache { .. } | CacheError::Ambiguous { .. })
    };
    match error.downcast_ref::<TrainError>() {
        Some(TrainError::Interrupted) => 130,
        Some(TrainError::Usage(_)) => 2,
        Some(TrainError::Cache(error)) if cache_usage(error) => 2,
        Some(_) => 1,
        None if error.downcast_ref::<CacheError>().is_some_and(cache_usage) => 2,
        None => 1,
    }
}
