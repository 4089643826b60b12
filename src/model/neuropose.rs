//! NeuroPose (Liu, Zhang and Gowda 2021), as emg2pose compares with it: an encoder, residual blocks and a decoder of
//! two-dimensional convolutions over time and electrodes.

use super::error::ModelError;
use super::network::{ModelInputs, Network, check_matrix};
use super::parameter::{Parameter, ParameterList};
use super::pass::Pass;
use super::resample;
use crate::config::ModelConfig;
use crate::graph::{Graph, Value};

/// Time x electrodes.
const KERNEL: [usize; 2] = [3, 2];
/// Channels of the encoder's convolutions, and the pool behind each.
const ENCODER: [(usize, [usize; 2]); 3] = [(32, [10, 2]), (128, [8, 2]), (256, [4, 4])];
/// Channels of the decoder's convolutions, and how often each element is repeated behind it.
const DECODER: [(usize, [usize; 2]); 3] = [(128, [10, 4]), (32, [8, 4]), (1, [4, 2])];
const BLOCKS: usize = 5;
const BLOCK_CONVOLUTIONS: usize = 3;

#[derive(Debug)]
pub(super) struct Neuropose {
    channels: usize,
    joints: usize,
}

impl Neuropose {
    pub(super) fn new(config: &ModelConfig) -> Self {
        Self { channels: config.input_size, joints: config.output_size }
    }

    /// Names of all convolutions, with input and output channels.
    fn convolutions() -> Vec<(String, usize, usize)> {
        let mut list = Vec::new();
        let mut inputs = 1;
        let mut push = |name: String, outputs: usize| {
            list.push((name, inputs, outputs));
            inputs = outputs;
        };
        ENCODER.iter().enumerate().for_each(|(i, (channels, _))| push(format!("encoder.{i}"), *channels));
        for block in 0..BLOCKS {
            (0..BLOCK_CONVOLUTIONS).for_each(|i| push(format!("blocks.{block}.{i}"), ENCODER[2].0));
        }
        DECODER.iter().enumerate().for_each(|(i, (channels, _))| push(format!("decoder.{i}"), *channels));
        list
    }

    /// Electrodes, and what the decoder makes of them.
    fn width(&self) -> usize {
        let pooled = ENCODER.iter().fold(self.channels, |width, (_, pool)| width / pool[1]);
        DECODER.iter().fold(pooled, |width, (_, factor)| width * factor[1])
    }
}

/// Convolution, batch normalization, ReLU and dropout.
fn convolution(graph: &mut Graph, pass: &mut Pass, name: &str, x: Value) -> Value {
    let (weight, bias) = pass.affine(&format!("{name}.conv"));
    // "same": of an odd number of zeros, the larger part comes after.
    let pads = KERNEL.map(|size| ((size - 1) / 2, size / 2));
    let y = graph.conv_padded(x, weight, bias, &pads);
    let y = pass.batch_norm(graph, &format!("{name}.norm"), y);
    let y = graph.relu(y);
    pass.drop(graph, y)
}

impl Network for Neuropose {
    fn left_context(&self) -> usize {
        0
    }

    fn check_window(&self, rows: usize) -> Result<(), ModelError> {
        let pooled: usize = ENCODER.iter().map(|(_, pool)| pool[0]).product();
        let electrodes: usize = ENCODER.iter().map(|(_, pool)| pool[1]).product();
        if rows < pooled {
            return Err(ModelError::ShorterThanPool { rows, pooled });
        }
        if self.channels < electrodes {
            return Err(ModelError::TooFewChannels { channels: self.channels, pooled: electrodes });
        }
        check_matrix(rows, rows / pooled * pooled)
    }

    fn parameters(&self) -> Vec<Parameter> {
        let mut list = ParameterList::default();
        for (name, inputs, outputs) in Self::convolutions() {
            list.affine(&format!("{name}.conv"), &[outputs, inputs, KERNEL[0], KERNEL[1]]);
            list.layer_norm(&format!("{name}.norm"), outputs);
        }
        list.affine("linear", &[self.joints, self.width()]);
        list.0
    }

    fn buffers(&self) -> Vec<Parameter> {
        let mut list = ParameterList::default();
        for (name, _, outputs) in Self::convolutions() {
            list.statistics(&format!("{name}.norm"), outputs);
        }
        list.0
    }

    fn forward(&self, graph: &mut Graph, pass: &mut Pass, inputs: &ModelInputs) -> Result<Value, ModelError> {
        let emg = inputs.emg;
        let [batch, rows, channels] = graph.shape(emg)[..] else { unreachable!("EMG is [batch, rows, channels]") };
        let mut x = graph.reshape(emg, &[batch, 1, rows, channels]);
        for (i, (_, pool)) in ENCODER.iter().enumerate() {
            let y = convolution(graph, pass, &format!("encoder.{i}"), x);
            x = graph.max_pool(y, pool);
        }
        for block in 0..BLOCKS {
            let y = (0..BLOCK_CONVOLUTIONS).fold(x, |y, i| convolution(graph, pass, &format!("blocks.{block}.{i}"), y));
            x = graph.add(x, y);
        }
        for (i, (_, factor)) in DECODER.iter().enumerate() {
            let y = convolution(graph, pass, &format!("decoder.{i}"), x);
            x = graph.repeat(y, 2, factor[0]);
            x = graph.repeat(x, 3, factor[1]);
        }
        // [batch, 1, time, width] to one row of features per step.
        let [_, _, time, width] = graph.shape(x)[..] else { unreachable!("an image") };
        let x = graph.transpose(x, &[0, 2, 1, 3]);
        let x = graph.reshape(x, &[batch, time, width]);
        let y = pass.linear(graph, "linear", x);
        Ok(resample::half_pixel(graph, pass.interpolate, y, rows))
    }
}
