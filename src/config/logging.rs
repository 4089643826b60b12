//! The keys of the section `logging`, with their types, defaults and accepted values. The keys and defaults of the
//! reference system are kept, so its YAML files load unchanged.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::training::MonitoredMetric;
use super::validate::{AT_LEAST_ONE, Checked, require};
use super::words::words;

/// What a run writes and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct LoggingConfig {
    /// Folder of checkpoints (default: `RUN/checkpoints`).
    pub checkpoint_dir: Option<PathBuf>,
    /// Folder of metrics.jsonl, metrics.csv, environment.json and TensorBoard event files (default: `RUN`).
    pub log_dir: Option<PathBuf>,
    /// Epochs between numbered checkpoints (0: none).
    pub save_every: usize,
    /// Steps between progress lines.
    pub log_every: usize,
    /// Write no numbered checkpoints, only `best` and `last`.
    pub save_best_only: bool,
    /// Metric that decides which epoch is best.
    pub monitor: MonitoredMetric,
    /// Whether a smaller or a larger `monitor` is better.
    pub mode: Mode,
    /// Batches between checkpoints within an epoch (0: none); after a crash, `fit --resume` repeats at most this many.
    pub save_every_steps: usize,
    /// Number of numbered checkpoints to keep.
    pub keep_last: usize,
}

impl Default for LoggingConfig {
    fn default() -> Self {
        Self {
            checkpoint_dir: None,
            log_dir: None,
            save_every: 5,
            log_every: 10,
            save_best_only: true,
            monitor: MonitoredMetric::ValLoss,
            mode: Mode::Min,
            save_every_steps: 0,
            keep_last: 3,
        }
    }
}

impl LoggingConfig {
    pub(super) fn validate(&self) -> Checked {
        require(self.log_every >= 1, "logging.log_every", AT_LEAST_ONE, self.log_every)?;
        require(self.keep_last >= 1, "logging.keep_last", AT_LEAST_ONE, self.keep_last)
    }
}

words!(
    /// Direction of a monitored metric.
    Mode { Min = "min", Max = "max" }
);
