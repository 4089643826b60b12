//! `emg-cache`: builds shared caches of normalized windows from HDF5 recordings.

mod args;
mod info;
mod upkeep;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use args::{Args, Command, ConfigArgs};
use clap::{CommandFactory, Parser};
use emg_pipeline::cache::{self, BuildOptions, CacheError, Manifest, PartSummary, Store};
use emg_pipeline::config::{self, ConfigError, UserPathError};
use emg_pipeline::recording::{self, Hdf5, RecordingError, SynthOptions, synthesize};
use emg_pipeline::report::{self, BuildProgress};
use emg_pipeline::startup::prepare_process;
use emg_pipeline::{note, say};
use serde_json::json;

fn main() -> ExitCode {
    // The programs start themselves this way to run the HDF5 library in a child process. Users never do, so --help
    // omits it.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == recording::WORKER_ARGUMENT) {
        return if recording::serve().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let args = Args::parse();
    report::log_to_stderr();
    recording::silence_hdf5_errors();
    match run(args.command) {
        Ok(code) => code,
        Err(error) => {
            // Messages already include their causes.
            note!("error: {error}");
            ExitCode::from(exit_code(&error))
        }
    }
}

/// 2 for wrong usage or configuration, 1 for everything else.
fn exit_code(error: &anyhow::Error) -> u8 {
    let usage = error.is::<ConfigError>()
        || error.is::<UserPathError>()
        || matches!(error.downcast_ref::<RecordingError>(), Some(RecordingError::Exists { .. }))
        || error.downcast_ref::<CacheError>().is_some_and(CacheError::is_usage);
    if usage { 2 } else { 1 }
}

fn run(command: Command) -> Result<ExitCode> {
    prepare_process();
    match command {
        Command::Synth(args) => synth(&args),
        Command::Build { config, part: None, inputs } => build(&config, inputs),
        Command::Build { config, part: Some(part), inputs } => build_part(&config, part, inputs),
        Command::List(args) => list(&open(args.store)?, args.json),
        Command::Info { key, plot, store } => info::info(&open(store.store)?, &key, plot.as_deref(), store.json),
        Command::Verify { key, store } => upkeep::verify(&open(store.store)?, key.as_deref(), store.json),
        Command::Repair { key, config, inputs } => upkeep::repair(&key, &config, inputs),
        Command::Explain { key, store } => upkeep::explain(&open(store.store)?, &key, store.json),
        Command::Compact { key, segment_bytes, store } => {
            upkeep::compact(&open(store.store)?, key.as_deref(), segment_bytes, store.json)
        }
        Command::Pin { key, store } => upkeep::pin(&open(store.store)?, &key, store.json),
        Command::Unpin { key, store } => upkeep::unpin(&open(store.store)?, &key, store.json),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "emg-cache", &mut script);
            say!("{}", String::from_utf8_lossy(&script).trim_end());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { folder } => man(&folder),
        Command::Gc { dry_run, unpinned, store } => upkeep::gc(&open(store.store)?, unpinned, dry_run, store.json),
    }
}

fn open(store: Option<PathBuf>) -> Result<Store> {
    Ok(Store::open(&config::DataConfig::default().store_path(store)?)?)
}

fn man(folder: &Path) -> Result<ExitCode> {
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(Args::command(), folder)?;
    say!("{}", folder.display());
    Ok(ExitCode::SUCCESS)
}

fn synth(args: &args::SynthArgs) -> Result<ExitCode> {
    let options = SynthOptions {
        recordings: args.recordings,
        seconds: args.seconds,
        users: args.users,
        seed: args.seed,
        gzip_chunk: args.gzip,
        ik_failures: args.ik_failures,
        emg_channels: args.channels,
        joint_angles: args.joints,
        sample_rate: args.rate,
    };
    let paths = synthesize(&args.folder, &options, &|_| ())?;
    if args.json {
        let metadata = args.folder.join("metadata.csv");
        say!(
            "{}",
            serde_json::to_string_pretty(
                &json!({ "recordings": texts(&paths), "metadata": metadata.to_string_lossy() })
            )?
        );
    } else {
        say!("{} recordings and metadata.csv in {}", paths.len(), args.folder.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn texts(paths: &[PathBuf]) -> Vec<Cow<'_, str>> {
    paths.iter().map(|path| path.to_string_lossy()).collect()
}

/// The store and the build options for a configuration and the given inputs.
fn prepare(args: &ConfigArgs, inputs: Vec<PathBuf>) -> Result<(PathBuf, BuildOptions)> {
    let loaded = config::load(args.config.as_deref(), &args.set)?;
    for warning in &loaded.warnings {
        note!("warning: {warning}");
    }
    let store = loaded.config.data.store_path(args.store.clone())?;
    let hdf5 = Hdf5::workers(std::env::current_exe()?);
    Ok((store, BuildOptions::new(&loaded.config, inputs, hdf5)?))
}

fn build_part(args: &ConfigArgs, part: (usize, usize), inputs: Vec<PathBuf>) -> Result<ExitCode> {
    let (store, options) = prepare(args, inputs)?;
    let progress = BuildProgress::new();
    let built = cache::build_part(&store, &options, part, &progress);
    progress.finish();
    let built = built?;
    if args.json {
        let PartSummary { planned, share, segments_written, recordings_read } = built;
        let part = json!({
            "part": part.0, "of": part.1, "planned": planned, "share": share,
            "segments_written": segments_written, "recordings_read": recordings_read,
        });
        say!("{}", serde_json::to_string_pretty(&part)?);
        return Ok(ExitCode::SUCCESS);
    }
    note!(
        "part {}/{}: {} of {} segments, {} written, {} recordings read",
        part.0,
        part.1,
        built.share,
        built.planned,
        built.segments_written,
        built.recordings_read
    );
    Ok(ExitCode::SUCCESS)
}

fn build(args: &ConfigArgs, inputs: Vec<PathBuf>) -> Result<ExitCode> {
    let (store, options) = prepare(args, inputs)?;
    let progress = BuildProgress::new();
    let built = cache::build(&store, &options, &progress);
    progress.finish();
    let built = built?;
    for warning in &built.warnings {
        note!("warning: {warning}");
    }
    built.left_out.iter().for_each(|line| note!("left out: {line}"));
    built.skipped.iter().for_each(|line| note!("skipped: {line}"));
    if !built.skipped.is_empty() {
        note!("{} recordings skipped", built.skipped.len());
    }
    if built.reused {
        note!("nothing to do: the cache already exists");
    }
    note!("{} recordings read, {} segments written", built.recordings_read, built.segments_written);
    if args.json {
        let built = json!({
            "key": built.key, "reused": built.reused, "recordings_read": built.recordings_read,
            "segments_written": built.segments_written, "skipped": built.skipped, "left_out": built.left_out,
            "warnings": built.warnings,
        });
        say!("{}", serde_json::to_string_pretty(&built)?);
    } else {
        say!("{}", built.key);
    }
    Ok(ExitCode::SUCCESS)
}

fn list(store: &Store, json: bool) -> Result<ExitCode> {
    let mut rows = Vec::new();
    for key in store.cache_keys()? {
        match Manifest::read(store, &key) {
            Ok(manifest) => rows.push((key, manifest)),
            Err(error) => note!("warning: {error}"),
        }
    }
    if json {
        let rows: Vec<_> = rows.iter().map(|(key, manifest)| info::brief(key, manifest)).collect();
        say!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(ExitCode::SUCCESS);
    }
    for (key, manifest) in rows {
        let bytes = report::bytes(manifest.segments.iter().map(|segment| segment.bytes).sum());
        let [train, val, test] = manifest.windows;
        say!("{key}  {} recordings  {bytes}  windows {train}/{val}/{test}", manifest.recordings.len());
    }
    Ok(ExitCode::SUCCESS)
}
