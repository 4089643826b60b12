//! The command line of emg-cache.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};
use emg_pipeline::config::preset_names;
use paths::path;

/// Build shared caches of normalized windows from HDF5 surface-EMG recordings.
#[derive(Debug, Parser)]
#[command(name = "emg-cache", version, about)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write synthetic recordings whose angles can be learned from the EMG
    #[command(
        after_help = "Examples:\n  emg-cache synth recordings\n  emg-cache synth small --recordings 4 --seconds 5 --gzip 489"
    )]
    Synth(SynthArgs),
    /// Build a cache; the last line on stdout is its key
    #[command(
        after_help = "Examples:\n  emg-cache build --config quick_demo recordings\n  emg-cache build --config my.yaml --store /nfs/lab/store /nfs/lab/emg2pose\n  emg-cache build --config my.yaml --store /nfs/lab/store --part 3/16    # one of 16 machines"
    )]
    Build {
        #[command(flatten)]
        config: ConfigArgs,
        /// Build only share I of N of the segments, e.g. 3/16; afterwards, a build without --part writes the cache
        #[arg(long, value_name = "I/N", value_parser = part)]
        part: Option<(usize, usize)>,
        /// Recordings, or folders of them (default: data.dataset_path)
        #[arg(value_parser = path())]
        inputs: Vec<PathBuf>,
    },
    /// List the caches of a store
    #[command(
        after_help = "Examples:\n  emg-cache list --store /nfs/lab/store\n  emg-cache list --json | python3 -m json.tool"
    )]
    List(StoreArgs),
    /// Show what a cache holds
    #[command(after_help = "Examples:\n  emg-cache info ed961c17\n  emg-cache info ed961c17 --plot cache.svg --json")]
    Info {
        /// The cache's key, or its first 8 or more digits
        key: String,
        /// Also draw EMG, angles, channel statistics and valid runs
        #[arg(long, value_name = "FILE.svg", value_parser = path())]
        plot: Option<PathBuf>,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Compare every byte of a cache, or of the whole store, with the recorded hashes
    #[command(after_help = "Examples:\n  emg-cache verify\n  emg-cache verify ed961c17 --store /nfs/lab/store")]
    Verify {
        /// The cache's key (default: all caches, and segments that no cache uses)
        key: Option<String>,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Rebuild damaged files of a cache from the recordings it was built from
    #[command(after_help = "Examples:\n  emg-cache repair ed961c17 --config my.yaml /nfs/lab/emg2pose")]
    Repair {
        /// The cache's key; all 64 digits if its manifest is missing
        key: String,
        #[command(flatten)]
        config: ConfigArgs,
        /// Recordings, or folders of them, as for build (default: data.dataset_path)
        #[arg(value_parser = path())]
        inputs: Vec<PathBuf>,
    },
    /// Show why a cache's key differs from that of the most similar cache
    #[command(after_help = "Examples:\n  emg-cache explain ed961c17")]
    Explain {
        /// The cache's key, or its first 8 or more digits
        key: String,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Protect a cache from gc --unpinned
    #[command(after_help = "Examples:\n  emg-cache pin ed961c17 --store /nfs/lab/store")]
    Pin {
        /// The cache's key, or its first 8 or more digits
        key: String,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Remove the pin of a cache
    #[command(after_help = "Examples:\n  emg-cache unpin ed961c17 --store /nfs/lab/store")]
    Unpin {
        /// The cache's key, or its first 8 or more digits
        key: String,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Remove segments older than 24 hours that no cache uses, and leftovers of dead builds
    #[command(after_help = "Examples:\n  emg-cache gc --dry-run\n  emg-cache gc --unpinned --store /nfs/lab/store")]
    Gc {
        /// Only show what would be removed
        #[arg(long)]
        dry_run: bool,
        /// Also remove caches without a pin
        #[arg(long)]
        unpinned: bool,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Copy a cache's small segments into few full ones; its key stays
    #[command(
        after_help = "Examples:\n  emg-cache compact ed961c17 --store /nfs/lab/store\n  emg-cache compact --json"
    )]
    Compact {
        /// The cache's key (default: all caches)
        key: Option<String>,
        /// Start a new segment before the current one grows beyond this many bytes
        #[arg(long, value_name = "BYTES", default_value_t = 4 << 30, value_parser = clap::value_parser!(u64).range(1 << 20..))]
        segment_bytes: u64,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Print a completion script for a shell
    #[command(
        after_help = "Examples:\n  emg-cache completions bash > ~/.local/share/bash-completion/completions/emg-cache"
    )]
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write man pages to a folder
    #[command(after_help = "Examples:\n  emg-cache man ~/.local/share/man/man1")]
    Man {
        #[arg(value_parser = path())]
        folder: PathBuf,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct StoreArgs {
    /// Folder of the store (default: EMG_STORE, then ./store)
    #[arg(long, value_parser = path())]
    pub(crate) store: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ConfigArgs {
    #[arg(long, help = format!("YAML file, or a preset: {}", preset_names()))]
    pub(crate) config: Option<String>,
    /// Override a key, e.g. --set data.window_size=1000
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Folder of the store (default: EMG_STORE, then data.store, then ./store)
    #[arg(long, value_parser = path())]
    pub(crate) store: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SynthArgs {
    /// Folder to write to
    #[arg(value_parser = path())]
    pub(crate) folder: PathBuf,
    /// Number of recordings
    #[arg(long, default_value_t = 20)]
    pub(crate) recordings: usize,
    /// Length of each recording in seconds
    #[arg(long, default_value_t = 20.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Number of users among the recordings
    #[arg(long, default_value_t = 5)]
    pub(crate) users: usize,
    /// The same seed gives the same recordings
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
    /// Store in chunks of this many rows, shuffled and gzipped (default: contiguous)
    #[arg(long, value_name = "ROWS", value_parser = rows)]
    pub(crate) gzip: Option<usize>,
    /// Share of rows where inverse kinematics failed
    #[arg(long, default_value_t = 0.05, value_parser = share)]
    pub(crate) ik_failures: f64,
    /// EMG channels
    #[arg(long, default_value_t = 16)]
    pub(crate) channels: usize,
    /// Joint angles
    #[arg(long, default_value_t = 20)]
    pub(crate) joints: usize,
    /// Sampling rate in Hz
    #[arg(long, default_value_t = 2000.0, value_parser = seconds)]
    pub(crate) rate: f64,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if (0.001..=1e6).contains(&value) { Ok(value) } else { Err("expected 0.001 to 1000000".into()) }
}

fn share(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err("expected 0 to 1".into()) }
}

fn rows(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|rows| *rows > 0).ok_or_else(|| "expected a number of at least 1".into())
}

fn part(text: &str) -> Result<(usize, usize), String> {
    let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    numbers.filter(|(i, n)| (1..=*n).contains(i)).ok_or_else(|| "expected I/N with 1 <= I <= N".into())
}

#[path = "../shared/paths.rs"]
mod paths;

#[cfg(test)]
#[path = "../shared/examples.rs"]
mod examples;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_a_command_line() {
        let parsed = examples::parsed::<Args>();
        assert!(parsed > 12, "{parsed}");
    }
}
