//! What training tells those who listen.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::examples::Examples;

/// A line of metrics.jsonl.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Counts from 1.
    pub epoch: usize,
    pub learning_rate: f64,
    pub train_loss: f64,
    pub train_mae_deg: f64,
    pub val_loss: Option<f64>,
    pub val_mae_deg: Option<f64>,
    pub val_rmse_deg: Option<f64>,
    /// Batches without a single valid row, which changed nothing.
    pub skipped_batches: u64,
    /// Optimizer steps whose gradient was not finite, which changed nothing (`precision: fp16`, `on_nan: skip`).
    #[serde(default)]
    pub skipped_steps: u64,
    pub windows: u64,
    pub train_seconds: f64,
    /// Of these, waiting for batches: much of it says that storage or loader threads are too slow.
    #[serde(default)]
    pub wait_seconds: f64,
    pub val_seconds: f64,
}

/// Something happened.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    Started {
        parameters: usize,
        provider: String,
        train_windows: u64,
        val_windows: u64,
        steps_per_epoch: u64,
        first_epoch: usize,
        num_epochs: usize,
        nodes: usize,
        /// `logging.log_every`.
        log_every: u64,
    },
    /// The first batch is in memory, this long after the process started.
    FirstBatch {
        milliseconds: f64,
    },
    /// The training split's rows lie where steps compute.
    Uploaded {
        bytes: u64,
        seconds: f64,
    },
    /// A step is done.
    Step {
        epoch: usize,
        step: u64,
        steps: u64,
        loss: f64,
        windows_per_second: f64,
    },
    /// A batch of the validation pass is done.
    Validating {
        batch: u64,
        batches: u64,
    },
    Epoch(&'a EpochRecord),
    /// What the epoch's validation pass looked like; after [`Epoch`](Self::Epoch).
    Examples {
        epoch: usize,
        examples: &'a Examples,
    },
    /// A new best value of the monitored metric.
    Best {
        monitor: &'a str,
        value: f64,
    },
    Saved {
        path: PathBuf,
    },
    Stopped {
        epoch: usize,
        patience: usize,
    },
    Warning(String),
}

/// Hears events in order.
pub trait Listener {
    fn event(&mut self, event: &Event<'_>);
}
