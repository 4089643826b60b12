//! Events that training sends to its listener.

use std::path::PathBuf;

use super::examples::Examples;
use super::record::EpochRecord;
use crate::config::MonitoredMetric;
use crate::model::ModelTensor;

/// An event during training.
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
    /// The tensors of a user's own model, what becomes of them, and names of parameters that the loss does not depend on.
    Tensors {
        tensors: &'a [ModelTensor],
        unreached: &'a [String],
    },
    /// The first batch is in memory, this long after the process started.
    FirstBatch {
        milliseconds: f64,
    },
    /// The training split's rows were copied to the memory of the device that runs the steps.
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
    /// Examples from the epoch's validation pass; sent after [`Epoch`](Self::Epoch).
    Examples {
        epoch: usize,
        examples: &'a Examples,
    },
    /// A new best value of the monitored metric.
    Best {
        monitor: MonitoredMetric,
        value: f64,
    },
    Saved {
        path: PathBuf,
    },
    /// A checkpoint was asked for from outside, after this step of the epoch.
    SavedOnRequest {
        batch: u64,
    },
    Stopped {
        epoch: usize,
        patience: usize,
    },
    Warning(String),
}

/// Receives events in order.
pub trait Listener {
    fn event(&mut self, event: &Event<'_>);
}
