//! The plain LSTM: EMG resampled to the rollout rate, LSTM layers over the whole window, a linear layer.

use super::error::ModelError;
use super::network::{ModelInputs, Network, check_cells, check_matrix, steps};
use super::parameter::{Parameter, ParameterList};
use super::pass::Pass;
use super::resample;
use crate::config::ModelConfig;
use crate::graph::{Graph, Value};

#[derive(Debug)]
pub(super) struct PlainLstm {
    channels: usize,
    joints: usize,
    hidden: usize,
    layers: usize,
    bidirectional: bool,
    rollout_freq: f64,
    sampling_rate: f64,
}

impl PlainLstm {
    pub(super) fn new(config: &ModelConfig) -> Self {
        Self {
            channels: config.input_size,
            joints: config.output_size,
            hidden: config.hidden_size,
            layers: config.num_layers,
            bidirectional: config.bidirectional,
            rollout_freq: config.rollout_freq,
            sampling_rate: config.original_sampling_rate,
        }
    }

    fn directions(&self) -> &'static [bool] {
        if self.bidirectional { &[false, true] } else { &[false] }
    }

    fn width(&self) -> usize {
        self.hidden * self.directions().len()
    }

    fn steps(&self, rows: usize) -> usize {
        steps(rows, self.rollout_freq, self.sampling_rate)
    }
}

/// PyTorch's name of a layer's direction.
fn suffix(layer: usize, reverse: bool) -> String {
    format!("l{layer}{}", if reverse { "_reverse" } else { "" })
}

impl Network for PlainLstm {
    fn left_context(&self) -> usize {
        0
    }

    fn check_window(&self, rows: usize) -> Result<(), ModelError> {
        check_cells(self.steps(rows), self.layers * self.directions().len())?;
        check_matrix(rows, self.steps(rows))
    }

    fn parameters(&self) -> Vec<Parameter> {
        let mut list = ParameterList::default();
        for layer in 0..self.layers {
            let inputs = if layer == 0 { self.channels } else { self.width() };
            for reverse in self.directions() {
                list.lstm("lstm", &suffix(layer, *reverse), inputs, self.hidden);
            }
        }
        list.affine("linear", &[self.joints, self.width()]);
        list.0
    }

    fn forward(&self, graph: &mut Graph, pass: &mut Pass, inputs: &ModelInputs) -> Result<Value, ModelError> {
        let emg = inputs.emg;
        let [batch, rows, _] = graph.shape(emg)[..] else { unreachable!("EMG is [batch, rows, channels]") };
        let steps = self.steps(rows);
        let x = resample::align_corners(graph, pass.interpolate, emg, steps);
        let mut x = graph.transpose(x, &[1, 0, 2]);
        for layer in 0..self.layers {
            let directions: Vec<_> = self
                .directions()
                .iter()
                .map(|reverse| {
                    let [input, recurrent, bias] = pass.weights.lstm(graph, "lstm", &suffix(layer, *reverse));
                    let shares = graph.input_projections(x, input, Some(bias));
                    let (outputs, _) = graph.lstm(&shares, recurrent, None, *reverse);
                    graph.stack(&outputs)
                })
                .collect();
            x = graph.concat(&directions, 2);
            if layer + 1 < self.layers && pass.dropout.is_some() {
                let flat = graph.reshape(x, &[steps * batch, self.width()]);
                let dropped = pass.drop(graph, flat);
                x = graph.reshape(dropped, &[steps, batch, self.width()]);
            }
        }
        let y = pass.linear(graph, "linear", x);
        let y = graph.transpose(y, &[1, 0, 2]);
        Ok(resample::half_pixel(graph, pass.interpolate, y, rows))
    }
}
