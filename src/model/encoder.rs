//! The time-depth-separable encoder (Hannun et al. 2019, "Sequence-to-sequence speech recognition with
//! time-depth separable convolutions"), over valid convolutions.

use super::error::ModelError;
use super::parameter::ParameterList;
use super::pass::Pass;
use crate::config::TdsStage;
use crate::graph::{Graph, Value};

/// Stages, then a linear layer to fewer features where there is a projection.
#[derive(Debug, Clone)]
pub(super) struct Encoder {
    pub(super) channels: usize,
    pub(super) stages: Vec<TdsStage>,
    pub(super) projection: Option<usize>,
}

impl Encoder {
    /// Rows at the start of a window that have no output: the sum of (kernel - 1) x stride so far.
    pub(super) fn left_context(&self) -> usize {
        let (mut context, mut stride) = (0, 1);
        for stage in &self.stages {
            context += (stage.in_conv_kernel - 1) * stride;
            stride *= stage.in_conv_stride;
            context += stage.num_blocks * (stage.kernel_width - 1) * stride;
        }
        context
    }

    /// Rows from one feature to the next.
    pub(super) fn stride(&self) -> usize {
        self.stages.iter().map(|stage| stage.in_conv_stride).product()
    }

    /// Features that come out.
    pub(super) fn features(&self) -> usize {
        let last = self.stages.last().map_or(0, |stage| stage.channels * stage.feature_width);
        self.projection.unwrap_or(last)
    }

    /// Rows of features that `rows` rows of EMG give; `None` if there are too few.
    pub(super) fn output_rows(&self, rows: usize) -> Option<usize> {
        let mut rows = rows;
        for stage in &self.stages {
            rows = rows.checked_sub(stage.in_conv_kernel)? / stage.in_conv_stride + 1;
            rows = rows.checked_sub(stage.num_blocks * (stage.kernel_width - 1)).filter(|rows| *rows > 0)?;
        }
        Some(rows)
    }

    pub(super) fn parameters(&self, list: &mut ParameterList) {
        let mut inputs = self.channels;
        for (s, stage) in self.stages.iter().enumerate() {
            let features = stage.channels * stage.feature_width;
            list.affine(&format!("encoder.{s}.conv"), &[features, inputs, stage.in_conv_kernel]);
            list.layer_norm(&format!("encoder.{s}.norm"), features);
            for b in 0..stage.num_blocks {
                let name = format!("encoder.{s}.blocks.{b}");
                list.affine(&format!("{name}.conv"), &[stage.channels, stage.channels, 1, stage.kernel_width]);
                list.layer_norm(&format!("{name}.norm1"), features);
                list.affine(&format!("{name}.fc1"), &[features, features]);
                list.affine(&format!("{name}.fc2"), &[features, features]);
                list.layer_norm(&format!("{name}.norm2"), features);
            }
            inputs = features;
        }
        if let Some(features) = self.projection {
            list.affine("encoder.linear", &[features, inputs]);
        }
    }

    /// Shapes of what each convolution keeps of a stream: [1, rows, features].
    ///
    /// # Errors
    /// A convolution that leaves out rows between its taps.
    pub(super) fn history_shapes(&self) -> Result<Vec<Vec<usize>>, ModelError> {
        let (mut shapes, mut ahead, mut inputs) = (Vec::new(), 0, self.channels);
        for stage in &self.stages {
            let (kernel, stride) = (stage.in_conv_kernel, stage.in_conv_stride);
            let rows = kept_rows(kernel, stride, ahead).ok_or(ModelError::LeavesOutRows { kernel, stride })?;
            shapes.push(vec![1, rows, inputs]);
            ahead = (ahead + rows) / stride;
            inputs = stage.channels * stage.feature_width;
            for _ in 0..stage.num_blocks {
                shapes.push(vec![1, stage.kernel_width - 1, inputs]);
                ahead += stage.kernel_width - 1;
            }
        }
        Ok(shapes)
    }

    /// EMG [batch, rows, channels] to features [batch, output_rows, features]; with a stream's `history`, to those that
    /// the rows complete, [batch, rows / stride, features].
    pub(super) fn forward(
        &self,
        graph: &mut Graph,
        pass: &Pass,
        emg: Value,
        mut history: Option<&mut History>,
    ) -> Value {
        let mut x = emg;
        for (s, stage) in self.stages.iter().enumerate() {
            let name = format!("encoder.{s}");
            x = History::extend(&mut history, graph, x);
            let channels_first = graph.transpose(x, &[0, 2, 1]);
            let (weight, bias) = pass.affine(&format!("{name}.conv"));
            let y = graph.conv(channels_first, weight, Some(bias), &[stage.in_conv_stride]);
            let y = graph.transpose(y, &[0, 2, 1]);
            let y = graph.relu(y);
            x = pass.layer_norm(graph, &format!("{name}.norm"), y);
            for b in 0..stage.num_blocks {
                x = History::extend(&mut history, graph, x);
                x = block(graph, pass, &format!("{name}.blocks.{b}"), stage, x);
            }
        }
        if self.projection.is_some() {
            x = pass.linear(graph, "encoder.linear", x);
        }
        x
    }
}

/// Rows that a stream's convolution keeps, so that each chunk gives as many rows as it has strides: from the stream's start
/// on, where `ahead` rows lie before the first real one, they fall on the strides of a window.
fn kept_rows(kernel: usize, stride: usize, ahead: usize) -> Option<usize> {
    (kernel.saturating_sub(stride)..kernel).find(|rows| (rows + ahead).is_multiple_of(stride))
}

/// The last rows before each convolution, from chunk to chunk.
pub(super) struct History {
    before: std::vec::IntoIter<Value>,
    after: Vec<Value>,
}

impl History {
    /// `before`: in the order and of the shapes of [`Encoder::history_shapes`].
    pub(super) fn new(before: Vec<Value>) -> Self {
        Self { before: before.into_iter(), after: Vec::new() }
    }

    /// `x` behind the rows kept before it, where there is a history.
    fn extend(history: &mut Option<&mut Self>, graph: &mut Graph, x: Value) -> Value {
        let Some(history) = history else { return x };
        let before = history.before.next().expect("one history per convolution");
        let kept = graph.shape(before)[1];
        let all = if kept == 0 { x } else { graph.concat(&[before, x], 1) };
        let rows = graph.shape(all)[1];
        history.after.push(if kept == 0 { before } else { graph.slice(all, 1, rows - kept, rows) });
        all
    }

    /// What the next chunk needs.
    pub(super) fn next(self) -> Vec<Value> {
        self.after
    }
}

fn block(graph: &mut Graph, pass: &Pass, name: &str, stage: &TdsStage, x: Value) -> Value {
    let [batch, rows, features] = graph.shape(x)[..] else { unreachable!("features are [batch, rows, features]") };
    let out_rows = rows - (stage.kernel_width - 1);
    let image = graph.reshape(x, &[batch, rows, stage.channels, stage.feature_width]);
    let image = graph.transpose(image, &[0, 2, 3, 1]);
    let (weight, bias) = pass.affine(&format!("{name}.conv"));
    let y = graph.conv(image, weight, Some(bias), &[1, 1]);
    let y = graph.transpose(y, &[0, 3, 1, 2]);
    let y = graph.reshape(y, &[batch, out_rows, features]);
    let y = graph.relu(y);
    let skip = graph.slice(x, 1, rows - out_rows, rows);
    let sum = graph.add(skip, y);
    let x = pass.layer_norm(graph, &format!("{name}.norm1"), sum);
    let y = pass.linear(graph, &format!("{name}.fc1"), x);
    let y = graph.relu(y);
    let y = pass.linear(graph, &format!("{name}.fc2"), y);
    let sum = graph.add(x, y);
    pass.layer_norm(graph, &format!("{name}.norm2"), sum)
}
