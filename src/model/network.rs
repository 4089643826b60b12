//! The interface of every architecture.

use super::error::ModelError;
use super::limits::{LARGEST_MATRIX, MOST_CELLS};
use super::parameter::Parameter;
use super::pass::Pass;
use super::roles::ModelTensor;
use super::stream::Stream;
use crate::graph::{Graph, Value};
use crate::ports::INITIAL_POSE;
use crate::units::EMG_STATISTICS;

/// What a model takes of a batch.
#[derive(Debug, Clone, Copy)]
pub struct ModelInputs {
    /// [batch, rows, channels], normalized.
    pub emg: Value,
    /// [batch, joints] in the model's own units, for models that take it.
    pub initial_pose: Option<Value>,
    /// Mean and divisor of each recording's EMG [batch, channels], for models that take them.
    pub emg_statistics: Option<[Value; 2]>,
}

impl ModelInputs {
    /// What there is beside the EMG, by name.
    pub(super) fn beside_emg(&self) -> impl Iterator<Item = (String, Value)> {
        let pose = self.initial_pose.map(|pose| (INITIAL_POSE, pose));
        let statistics = self.emg_statistics.into_iter().flat_map(|values| EMG_STATISTICS.into_iter().zip(values));
        pose.into_iter().chain(statistics).map(|(name, value)| (name.to_owned(), value))
    }
}

/// An architecture with its sizes.
pub(super) trait Network: std::fmt::Debug + Send + Sync {
    /// Rows at a window's start that have no prediction.
    fn left_context(&self) -> usize;

    /// Rows at a window's end that have no prediction.
    fn right_context(&self) -> usize {
        0
    }

    /// Whether the pose before the first step is the recording's.
    fn takes_initial_pose(&self) -> bool {
        false
    }

    /// Whether it takes the EMG statistics of each recording.
    fn takes_emg_statistics(&self) -> bool {
        false
    }

    /// Whether it drops elements in training; `None`: where `model.dropout` says so.
    fn has_dropout(&self) -> Option<bool> {
        None
    }

    /// Fails where a window of `rows` rows does not suit the model.
    fn check_window(&self, rows: usize) -> Result<(), ModelError>;

    /// The network as a stream on the grid of windows of `rows` rows.
    fn stream(&self, _rows: usize, _chunk: Option<usize>) -> Result<Stream, ModelError> {
        Err(ModelError::NeedsWholeWindow)
    }

    /// The parameters in the order of the flat vector.
    fn parameters(&self) -> Vec<Parameter>;

    /// The tensors of a user's file, and what becomes of them; none of other architectures.
    fn tensors(&self) -> Vec<ModelTensor> {
        Vec::new()
    }

    /// What training changes beside the parameters, such as running statistics.
    fn buffers(&self) -> Vec<Parameter> {
        Vec::new()
    }

    /// Angles [batch, rows - left_context - right_context, joints] in the model's own units. Without an initial pose, a network
    /// that could take one starts from zeros.
    ///
    /// # Errors
    /// A user's model does not fit these sizes, or has operators that are not known.
    fn forward(&self, graph: &mut Graph, pass: &mut Pass, inputs: &ModelInputs) -> Result<Value, ModelError>;
}

/// Steps at `rate` per second in `rows` rows, rounded half to even, at least one.
pub(super) fn steps(rows: usize, rate: f64, sampling_rate: f64) -> usize {
    ((rows as f64 * rate / sampling_rate).round_ties_even() as usize).max(1)
}

/// Fails where a recurrence is unrolled into more cells (steps x layers x directions) than can be loaded in seconds.
pub(super) fn check_cells(steps: usize, layers: usize) -> Result<(), ModelError> {
    if steps.saturating_mul(layers) <= MOST_CELLS {
        return Ok(());
    }
    Err(ModelError::TooManyCells { steps, layers })
}

/// Fails where interpolating between so many rows and steps needs too large a matrix.
pub(super) fn check_matrix(rows: usize, steps: usize) -> Result<(), ModelError> {
    if rows < LARGEST_MATRIX && steps.saturating_mul(rows) <= LARGEST_MATRIX {
        return Ok(());
    }
    Err(ModelError::WindowTooLong { rows, steps })
}
