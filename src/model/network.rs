//! What every architecture offers, and what a forward pass has at hand.

use super::dropout::Dropout;
use super::parameter::{Parameter, Weights};
use super::resample::Interpolate;
use super::stream::Stream;
use crate::graph::{Graph, Value};

/// One forward pass in a graph.
#[derive(Debug)]
pub struct Pass {
    /// Parameters and buffers.
    pub weights: Weights,
    /// Off in evaluation, and where the model's dropout is 0.
    pub dropout: Option<Dropout>,
    /// Whether statistics are the batch's own, and the running ones follow them.
    pub training: bool,
    /// How rows are interpolated.
    pub interpolate: Interpolate,
    /// New values of the buffers, by name.
    updates: Vec<(String, Value)>,
}

impl Pass {
    pub fn training(weights: Weights, dropout: Option<Dropout>) -> Self {
        Self { weights, dropout, training: true, interpolate: Interpolate::Product, updates: Vec::new() }
    }

    pub fn evaluation(weights: Weights) -> Self {
        Self { weights, dropout: None, training: false, interpolate: Interpolate::Product, updates: Vec::new() }
    }

    /// As [`evaluation`](Self::evaluation), for a file that others run.
    pub fn export(weights: Weights) -> Self {
        Self { interpolate: Interpolate::Pick, ..Self::evaluation(weights) }
    }

    /// The new value of a buffer; what it was where nothing changed it.
    pub fn updated(&self, buffer: &str) -> Value {
        let update = self.updates.iter().rev().find(|(name, _)| name == buffer);
        update.map_or_else(|| self.weights.get(buffer), |(_, value)| *value)
    }

    /// Weight and bias of a layer.
    pub(super) fn affine(&self, name: &str) -> (Value, Value) {
        (self.weights.get(&format!("{name}.weight")), self.weights.get(&format!("{name}.bias")))
    }

    pub(super) fn linear(&self, graph: &mut Graph, name: &str, x: Value) -> Value {
        let (weight, bias) = self.affine(name);
        graph.linear(x, weight, Some(bias))
    }

    pub(super) fn layer_norm(&self, graph: &mut Graph, name: &str, x: Value) -> Value {
        let (scale, bias) = self.affine(name);
        graph.layer_norm(x, scale, bias)
    }

    /// Batch normalization of x [batch, channels, ..] with PyTorch's epsilon and momentum.
    pub(super) fn batch_norm(&mut self, graph: &mut Graph, name: &str, x: Value) -> Value {
        const KEPT: f32 = 0.9;
        const EPSILON: f32 = 1e-5;
        let (scale, bias) = self.affine(name);
        let names = ["running_mean", "running_var"].map(|own| format!("{name}.{own}"));
        let statistics = names.each_ref().map(|own| (own.as_str(), self.weights.get(own)));
        self.running_norm(graph, x, [scale, bias], statistics, EPSILON, KEPT)
    }

    /// Batch normalization whose running statistics, by name, keep a share of `kept` at each step of training.
    pub(super) fn running_norm(
        &mut self,
        graph: &mut Graph,
        x: Value,
        affine: [Value; 2],
        statistics: [(&str, Value); 2],
        epsilon: f32,
        kept: f32,
    ) -> Value {
        if !self.training {
            return graph.fixed_norm(x, affine, statistics.map(|(_, value)| value), epsilon);
        }
        let (y, mean, variance) = graph.batch_norm(x, affine[0], affine[1], epsilon);
        for ((name, running), now) in statistics.into_iter().zip([mean, variance]) {
            let next = graph.moving_average(running, now, kept);
            self.updates.push((name.to_owned(), next));
        }
        y
    }

    /// x with a share of its elements dropped, where this pass drops any.
    pub(super) fn drop(&mut self, graph: &mut Graph, x: Value) -> Value {
        let share = self.dropout.as_ref().map(Dropout::probability);
        share.map_or(x, |share| self.drop_share(graph, x, share))
    }

    /// x with a share of its elements dropped, where this pass drops any.
    pub(super) fn drop_share(&mut self, graph: &mut Graph, x: Value, share: f64) -> Value {
        let Some(dropout) = &mut self.dropout else { return x };
        let shape = graph.shape(x).to_vec();
        let mask = dropout.mask_like(graph, share, &shape);
        graph.mul(x, mask)
    }
}

/// An architecture with its sizes.
pub(super) trait Network: std::fmt::Debug + Send + Sync {
    /// Rows at a window's start that have no prediction.
    fn left_context(&self) -> usize;

    /// Whether the pose before the first step is the recording's.
    fn takes_initial_pose(&self) -> bool {
        false
    }

    /// Whether it drops elements in training; `None`: where `model.dropout` says so.
    fn drops(&self) -> Option<bool> {
        None
    }

    /// Fails where a window of `rows` rows does not suit the model.
    fn check_window(&self, rows: usize) -> Result<(), String>;

    /// The network as a stream on the grid of windows of `rows` rows.
    fn stream(&self, _rows: usize, _chunk: Option<usize>) -> Result<Stream, String> {
        Err("it needs the whole window at once: only tds_lstm, tds_mlp and emg2pose's networks but neuropose can be \
             streamed"
            .into())
    }

    /// The parameters in the order of the flat vector.
    fn parameters(&self) -> Vec<Parameter>;

    /// What training changes beside the parameters, such as running statistics.
    fn buffers(&self) -> Vec<Parameter> {
        Vec::new()
    }

    /// EMG [batch, rows, channels], normalized, to angles [batch, rows - left_context, joints] in the model's own
    /// units. `initial_pose` [batch, joints] in the same units, `None` for zeros.
    ///
    /// # Errors
    /// A user's model does not fit these sizes, or has operators that are not known.
    fn forward(
        &self,
        graph: &mut Graph,
        pass: &mut Pass,
        emg: Value,
        initial_pose: Option<Value>,
    ) -> Result<Value, String>;
}

/// Interpolation is a product with a matrix of as many elements; a larger one is refused.
pub(super) const LARGEST_MATRIX: usize = 1 << 26;

/// Steps at `rate` per second in `rows` rows, rounded half to even, at least one.
pub(super) fn steps(rows: usize, rate: f64, sampling_rate: f64) -> usize {
    ((rows as f64 * rate / sampling_rate).round_ties_even() as usize).max(1)
}

/// Fails where a recurrence is unrolled into more cells (steps x layers x directions) than can be loaded in seconds.
pub(super) fn check_cells(steps: usize, layers: usize) -> Result<(), String> {
    const MOST: usize = 2048;
    if steps.saturating_mul(layers) <= MOST {
        return Ok(());
    }
    Err(format!(
        "{steps} decoder steps in {layers} layers are unrolled, and more than {MOST} are too many to load: use a shorter \
         window or a lower model.rollout_freq"
    ))
}

/// Fails where interpolating between so many rows and steps needs too large a matrix.
pub(super) fn check_matrix(rows: usize, steps: usize) -> Result<(), String> {
    if rows < LARGEST_MATRIX && steps.saturating_mul(rows) <= LARGEST_MATRIX {
        return Ok(());
    }
    Err(format!("a window of {rows} rows, {steps} steps, is too long: rows x steps must stay below {LARGEST_MATRIX}"))
}
