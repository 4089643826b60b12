//! The command line of emg-train.

use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use emg_pipeline::cache::Split;
use emg_pipeline::config::{Device, Precision, TrainingConfig, preset_names};
use paths::path;

/// Train models that predict joint angles from surface EMG, with ONNX Runtime.
#[derive(Debug, Parser)]
#[command(name = "emg-train", version, about)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train a model
    #[command(
        after_help = "Examples:\n  emg-train fit --config quick_demo --set data.dataset_path=recordings --run runs/first\n  emg-train fit --config my.yaml --store /nfs/lab/store --cache ed961c17 --stage /local/scratch\n  emg-train fit --resume --run runs/first --set training.num_epochs=20\n  emg-train fit --config my.yaml --model mine.onnx --freeze 'encoder.*'"
    )]
    Fit(FitArgs),
    /// Evaluate a run's checkpoint on a split
    #[command(
        after_help = "Examples:\n  emg-train eval runs/first\n  emg-train eval runs/first --split val --by user,stage --json"
    )]
    Eval(EvalArgs),
    /// Write a run's checkpoint as an ONNX model
    #[command(
        after_help = "Examples:\n  emg-train export runs/first --out model.onnx\n  emg-train export runs/first --dtype float16 --length 2000\n  emg-train export runs/first --streaming --chunk 40 --json"
    )]
    Export(ExportArgs),
    /// Show one run, or several side by side, as an HTML page
    #[command(
        after_help = "Examples:\n  emg-train report runs/first\n  emg-train report runs/first runs/second --split val --out comparison.html"
    )]
    Report(ReportArgs),
    /// Predict the angles of whole recordings with an exported model
    #[command(
        after_help = "Examples:\n  emg-train predict runs/first/model.onnx session.hdf5 --out predicted.h5\n  emg-train predict model.onnx recordings/ --out predicted/ --format csv"
    )]
    Predict(PredictArgs),
    /// Check a configuration and print it with every default, or the schema of all keys
    #[command(
        after_help = "Examples:\n  emg-train config --config my.yaml\n  emg-train config --schema > config.schema.json"
    )]
    Config {
        /// YAML file, or a preset (default: the preset default)
        #[arg(long)]
        config: Option<String>,
        /// Override a key
        #[arg(long, value_name = "SECTION.KEY=VALUE")]
        set: Vec<String>,
        /// Print the JSON Schema instead
        #[arg(long, conflicts_with_all = ["config", "set"])]
        schema: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Measure how fast batches are loaded, without training
    #[command(
        after_help = "Examples:\n  emg-train bench-data --config quick_demo --set data.dataset_path=recordings\n  emg-train bench-data --config my.yaml --cache ed961c17 --epochs 1"
    )]
    BenchData(BenchArgs),
    /// Show which ONNX Runtime library is used and what is missing
    #[command(after_help = "Examples:\n  emg-train doctor\n  emg-train doctor --model tracking_vemg2pose")]
    Doctor {
        /// Path of libonnxruntime
        #[arg(long, value_parser = path())]
        ort_lib: Option<PathBuf>,
        /// Also build the training step of a model (preset, configuration file, or your own .onnx file), and show its
        /// size and how long it takes to load
        #[arg(long, value_name = "MODEL")]
        model: Option<String>,
        #[command(flatten)]
        of: ModelArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a completion script for a shell
    #[command(
        after_help = "Examples:\n  emg-train completions bash > ~/.local/share/bash-completion/completions/emg-train"
    )]
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write man pages to a folder
    #[command(after_help = "Examples:\n  emg-train man ~/.local/share/man/man1")]
    Man {
        #[arg(value_parser = path())]
        folder: PathBuf,
    },
}

/// A configuration and the cache that goes with it.
#[derive(Debug, ClapArgs)]
pub(crate) struct CacheArgs {
    #[arg(long, help = format!("YAML file, or a preset: {} (default with --resume: the run's own)", preset_names()))]
    pub(crate) config: Option<String>,
    /// Override a key, e.g. --set training.num_epochs=20
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Folder of the store (default: EMG_STORE, then data.store, then ./store)
    #[arg(long, value_parser = path())]
    pub(crate) store: Option<PathBuf>,
    /// Cache to use (default: the one that `emg-cache build` builds for this configuration)
    #[arg(long, value_name = "KEY")]
    pub(crate) cache: Option<String>,
    #[command(flatten)]
    pub(crate) access: AccessArgs,
}

/// The model that `doctor` looks at, and how.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "With --model")]
pub(crate) struct ModelArgs {
    /// Override a key of the model's configuration
    #[arg(long, value_name = "SECTION.KEY=VALUE", requires = "model")]
    pub(crate) set: Vec<String>,
    /// Do not train the tensors of your own model that match, e.g. --freeze 'encoder.*'
    #[arg(long, value_name = "GLOB", requires = "model")]
    pub(crate) freeze: Vec<String>,
    /// Train the tensors of your own model that match, although its file calls them buffers or constants
    #[arg(long, value_name = "GLOB", requires = "model")]
    pub(crate) train: Vec<String>,
    /// Compare the gradient of every parameter with differences of the loss, on a made-up batch
    #[arg(long, requires = "model")]
    pub(crate) check: bool,
    /// Take one step of gradient descent on a made-up batch, and write the batch, the gradients and the weights
    /// (step.safetensors) and the model after it (model.onnx) to this folder, for comparison with other programs
    #[arg(long, value_name = "FOLDER", requires = "model", value_parser = path())]
    pub(crate) step: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    /// Seconds to spend loading batches; a plain memory copy alternates with them for as long
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Load this many whole epochs instead, without the memory copy; measures storage whose data is not in memory yet
    #[arg(long, conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) epochs: Option<u64>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct FitArgs {
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    /// Folder of the run (default: the first that does not exist of runs/1, runs/2, ..)
    #[arg(long, value_parser = path())]
    pub(crate) run: Option<PathBuf>,
    /// Train your own ONNX model (opset 13 to 22) instead of a built-in architecture
    #[arg(long, value_name = "MODEL.onnx", conflicts_with = "resume", value_parser = path())]
    pub(crate) model: Option<PathBuf>,
    /// Do not train the tensors of --model that match, e.g. --freeze 'encoder.*'
    #[arg(long, value_name = "GLOB", requires = "model")]
    pub(crate) freeze: Vec<String>,
    /// Train the tensors of --model that match, although its file calls them buffers or constants
    #[arg(long, value_name = "GLOB", requires = "model")]
    pub(crate) train: Vec<String>,
    /// Start a new run from the weights of this checkpoint
    #[arg(long, value_name = "CHECKPOINT", conflicts_with = "resume", value_parser = path())]
    pub(crate) init: Option<PathBuf>,
    /// Resume the run in --run
    #[arg(long, requires = "run")]
    pub(crate) resume: bool,
    /// On SIGUSR1, save a checkpoint, ask SLURM to start the job again, and exit; resume the run if it has begun already
    #[arg(long, requires = "run", conflicts_with = "resume")]
    pub(crate) requeue: bool,
    /// Print the final summary as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Path of libonnxruntime
    #[arg(long, value_parser = path())]
    pub(crate) ort_lib: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ReportArgs {
    /// Folders of runs
    #[arg(required = true, value_name = "RUN", value_parser = path())]
    pub(crate) runs: Vec<PathBuf>,
    /// File to write (default: report.html in the run's folder, or ./comparison.html for several runs)
    #[arg(long, value_name = "FILE.html", value_parser = path())]
    pub(crate) out: Option<PathBuf>,
    /// Split to evaluate
    #[arg(long, value_parser = split_parser(), default_value_t = Split::Test)]
    pub(crate) split: Split,
    /// Report only what training recorded, without evaluating
    #[arg(long)]
    pub(crate) no_eval: bool,
    #[command(flatten)]
    pub(crate) of: CheckpointArgs,
    /// Where to compute: auto, cpu or cuda (default: each run's)
    #[arg(long)]
    pub(crate) device: Option<Device>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Path of libonnxruntime
    #[arg(long, value_parser = path())]
    pub(crate) ort_lib: Option<PathBuf>,
}

impl ReportArgs {
    /// Whether options ask for a specific evaluation; if it is then impossible, that is an error.
    pub(crate) fn names_evaluation(&self) -> bool {
        self.of.cache.is_some() || self.of.store.is_some() || self.ort_lib.is_some() || self.of.checkpoint != "best"
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PredictArgs {
    /// Model that `fit` or `export` wrote
    #[arg(value_parser = path())]
    pub(crate) model: PathBuf,
    /// HDF5 recordings (files, folders or tar archives), in the layout of those the model was trained on
    #[arg(required = true, value_name = "RECORDING", value_parser = path())]
    pub(crate) recordings: Vec<PathBuf>,
    /// File to write (.h5, .hdf5 or .csv), or a folder; several recordings need a folder
    #[arg(long, value_name = "PATH", value_parser = path())]
    pub(crate) out: PathBuf,
    /// Format of the files in a folder: hdf5 (emg2pose's layout, the default) or csv
    #[arg(long, value_enum)]
    pub(crate) format: Option<Format>,
    /// Where to compute: auto, cpu or cuda
    #[arg(long, default_value_t = Device::Auto)]
    pub(crate) device: Device,
    /// On CUDA, compute float32 products in full precision instead of TF32
    #[arg(long)]
    pub(crate) fp32: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Path of libonnxruntime
    #[arg(long, value_parser = path())]
    pub(crate) ort_lib: Option<PathBuf>,
}

impl PredictArgs {
    /// Whether --out is a folder.
    pub(crate) fn is_folder(&self) -> bool {
        self.out.is_dir() || self.out.extension().is_none()
    }

    /// Where and how it computes.
    pub(crate) fn computing(&self) -> TrainingConfig {
        let precision = if self.fp32 { Precision::Fp32 } else { Precision::Tf32 };
        // A model is run as it is: none of its nodes has a kernel of this project.
        TrainingConfig { device: self.device, precision, cuda_kernels: false, ..Default::default() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Hdf5,
    Csv,
}

/// The format that an output's extension stands for.
pub(crate) fn format_of(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()?.to_lowercase().as_str() {
        "csv" => Some(Format::Csv),
        "h5" | "hdf5" => Some(Format::Hdf5),
        _ => None,
    }
}

/// What to evaluate.
#[derive(Debug, ClapArgs)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Split to evaluate
    #[arg(long, value_parser = split_parser(), default_value_t = Split::Test)]
    pub(crate) split: Split,
    /// Labels to group errors by, comma-separated: user, stage, generalization, session, side, or any other column of
    /// metadata.csv (--json has the first three in any case)
    #[arg(long, value_name = "LABEL", value_delimiter = ',', default_value = "generalization")]
    pub(crate) by: Vec<String>,
    /// Units of velocity, acceleration and jerk
    #[arg(long, value_enum, default_value_t = Derivatives::Si)]
    pub(crate) derivatives: Derivatives,
    #[command(flatten)]
    pub(crate) access: AccessArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Where to compute: auto, cpu or cuda (default: the run's)
    #[arg(long)]
    pub(crate) device: Option<Device>,
    /// Path of libonnxruntime
    #[arg(long, value_parser = path())]
    pub(crate) ort_lib: Option<PathBuf>,
}

/// What to export.
#[derive(Debug, ClapArgs)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// File to write (default: model.onnx in the run's folder; or e.g. model.2000.float16.onnx or stream.onnx)
    #[arg(long, value_parser = path())]
    pub(crate) out: Option<PathBuf>,
    /// Rows per window (default: the cache's test windows)
    #[arg(long)]
    pub(crate) length: Option<usize>,
    /// Element type of weights and products with them: float32, float16 for half the file size, or int8 for a quarter and for
    /// integer kernels, calibrated on the cache
    #[arg(long, value_enum, default_value_t = ExportDtype::Float32)]
    pub(crate) dtype: ExportDtype,
    /// Windows of the training split to calibrate int8 on, and of the test split to compare it with float32 (default: 128)
    #[arg(long, value_name = "WINDOWS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) calibrate: Option<u32>,
    /// Write a streaming model: its inputs are a chunk of EMG and a state, its outputs angles and the next state
    #[arg(long)]
    pub(crate) streaming: bool,
    /// Rows per chunk of --streaming (default: about 20 ms)
    #[arg(long, value_name = "ROWS", requires = "streaming")]
    pub(crate) chunk: Option<usize>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Path of libonnxruntime
    #[arg(long, value_parser = path())]
    pub(crate) ort_lib: Option<PathBuf>,
}

/// Element type of an exported model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportDtype {
    Float32,
    Float16,
    Int8,
}

/// How the cache's rows are accessed.
#[derive(Debug, ClapArgs)]
pub(crate) struct AccessArgs {
    /// Map the cache into memory, or read it. Reading is slower, but if the storage fails or a file shrinks, it causes
    /// an error instead of a crash
    #[arg(long, value_enum, default_value_t = IoArg::Mmap)]
    pub(crate) io: IoArg,
    /// Compare the cache's rows with their hashes: never, each block of 16 MiB when it is first read, or all at the start
    #[arg(long, value_enum, default_value_t = VerifyArg::Off)]
    pub(crate) verify: VerifyArg,
    /// Copy the cache's segments to this folder on a local disk first, and use the copies
    #[arg(long, value_name = "DIR", value_parser = path())]
    pub(crate) stage: Option<PathBuf>,
    /// Maximum size of the staging folder in bytes; the least recently used segments are removed first
    #[arg(long, value_name = "BYTES", requires = "stage", default_value_t = 1 << 40)]
    pub(crate) stage_bytes: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum VerifyArg {
    Off,
    FirstTouch,
    Open,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum IoArg {
    Mmap,
    Read,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RunArgs {
    /// Folder of the run
    #[arg(value_parser = path())]
    pub(crate) run: PathBuf,
    #[command(flatten)]
    pub(crate) of: CheckpointArgs,
}

/// Which weights of a run, and the cache that goes with them.
#[derive(Debug, ClapArgs)]
pub(crate) struct CheckpointArgs {
    /// Checkpoint: best, last, or the path of a file
    #[arg(long, default_value = "best")]
    pub(crate) checkpoint: String,
    /// Cache to use (default: the run's own)
    #[arg(long, value_name = "KEY")]
    pub(crate) cache: Option<String>,
    /// Folder of the store (default: EMG_STORE, then the run's data.store, then ./store)
    #[arg(long, value_parser = path())]
    pub(crate) store: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Derivatives {
    /// Radians per second, per second^2, per second^3
    Si,
    /// As in emg2pose's code: every order multiplied by the sampling rate only once
    Emg2pose,
}

fn split_parser() -> impl TypedValueParser<Value = Split> {
    PossibleValuesParser::new(Split::ALL.map(Split::name)).map(|name| Split::parse(&name).expect("a possible value"))
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|seconds| (0.01..=86_400.0).contains(seconds)).ok_or("expected 0.01 to 86400".into())
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
