//! `emg-train`: trains a model on a cache and exports it as ONNX.

mod args;
mod commands;
mod doctor;
mod errors;
mod export;
mod fit;
mod predict;
mod print;
mod report;
mod signals;

use std::process::ExitCode;
use std::time::Instant;

use args::Args;
use clap::Parser;
use emg_pipeline::note;
use emg_pipeline::recording;
use emg_pipeline::report::log_to_stderr;

fn main() -> ExitCode {
    let started = Instant::now();
    // This program starts itself this way to run the HDF5 library in a child process. Users never do, so --help omits
    // it.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == recording::WORKER_ARGUMENT) {
        return if recording::serve().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let args = Args::parse();
    log_to_stderr();
    match commands::run(args.command, started) {
        Ok(code) => code,
        Err(error) => {
            // Messages already include their causes.
            note!("error: {error}");
            ExitCode::from(errors::exit_code(&error))
        }
    }
}
