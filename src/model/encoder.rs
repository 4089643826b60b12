//! The time-depth-separable encoder (Hannun et al. 2019, "Sequence-to-sequence speech recognition with
//! time-depth separable convolutions"), over valid convolutions.

use super::parameter::{ParameterList, Weights};
use crate::config::TdsStage;
use crate::graph::{Graph, Value};

/// Rows at the start of a window that have no output: the sum of (kernel - 1) x stride so far.
pub(super) fn left_context(stages: &[TdsStage]) -> usize {
    let (mut context, mut stride) = (0, 1);
    for stage in stages {
        context += (stage.in_conv_kernel - 1) * stride;
        stride *= stage.in_conv_stride;
        context += stage.num_blocks * (stage.kernel_width - 1) * stride;
    }
    context
}

/// Features of the last stage.
pub(super) fn features(stages: &[TdsStage]) -> usize {
    stages.last().map_or(0, |stage| stage.channels * stage.feature_width)
}

/// Rows of features that `rows` rows of EMG give; `None` if there are too few.
pub(super) fn output_rows(stages: &[TdsStage], rows: usize) -> Option<usize> {
    let mut rows = rows;
    for stage in stages {
        rows = rows.checked_sub(stage.in_conv_kernel)? / stage.in_conv_stride + 1;
        rows = rows.checked_sub(stage.num_blocks * (stage.kernel_width - 1)).filter(|rows| *rows > 0)?;
    }
    Some(rows)
}

pub(super) fn parameters(list: &mut ParameterList, stages: &[TdsStage], channels: usize) {
    let mut inputs = channels;
    for (s, stage) in stages.iter().enumerate() {
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
}

/// EMG [batch, rows, channels] to features [batch, output_rows, features].
pub(super) fn forward(graph: &mut Graph, weights: &Weights, stages: &[TdsStage], emg: Value) -> Value {
    let mut x = emg;
    for (s, stage) in stages.iter().enumerate() {
        let name = format!("encoder.{s}");
        let channels_first = graph.transpose(x, &[0, 2, 1]);
        let (weight, bias) = affine(weights, &format!("{name}.conv"));
        let y = graph.conv(channels_first, weight, Some(bias), &[stage.in_conv_stride]);
        let y = graph.transpose(y, &[0, 2, 1]);
        let y = graph.relu(y);
        x = layer_norm(graph, weights, &format!("{name}.norm"), y);
        for b in 0..stage.num_blocks {
            x = block(graph, weights, &format!("{name}.blocks.{b}"), stage, x);
        }
    }
    x
}

fn block(graph: &mut Graph, weights: &Weights, name: &str, stage: &TdsStage, x: Value) -> Value {
    let [batch, rows, features] = graph.shape(x)[..] else { unreachable!("features are [batch, rows, features]") };
    let out_rows = rows - (stage.kernel_width - 1);
    let image = graph.reshape(x, &[batch, rows, stage.channels, stage.feature_width]);
    let image = graph.transpose(image, &[0, 2, 3, 1]);
    let (weight, bias) = affine(weights, &format!("{name}.conv"));
    let y = graph.conv(image, weight, Some(bias), &[1, 1]);
    let y = graph.transpose(y, &[0, 3, 1, 2]);
    let y = graph.reshape(y, &[batch, out_rows, features]);
    let y = graph.relu(y);
    let skip = graph.slice(x, 1, rows - out_rows, rows);
    let sum = graph.add(skip, y);
    let x = layer_norm(graph, weights, &format!("{name}.norm1"), sum);
    let (weight, bias) = affine(weights, &format!("{name}.fc1"));
    let y = graph.linear(x, weight, Some(bias));
    let y = graph.relu(y);
    let (weight, bias) = affine(weights, &format!("{name}.fc2"));
    let y = graph.linear(y, weight, Some(bias));
    let sum = graph.add(x, y);
    layer_norm(graph, weights, &format!("{name}.norm2"), sum)
}

pub(super) fn affine(weights: &Weights, name: &str) -> (Value, Value) {
    (weights.get(&format!("{name}.weight")), weights.get(&format!("{name}.bias")))
}

pub(super) fn layer_norm(graph: &mut Graph, weights: &Weights, name: &str, x: Value) -> Value {
    let (scale, bias) = affine(weights, name);
    graph.layer_norm(x, scale, bias)
}
