//! Decoders that roll a pose out step by step from features and the previous pose.

use super::dropout::Dropout;
use super::encoder::{affine, layer_norm};
use super::parameter::{ParameterList, Weights};
use crate::config::ModelConfig;
use crate::graph::{Graph, Value};

const SLOPE: f32 = 0.01;

/// Inputs of a decoder step: features, then the previous pose where the decoder is conditioned on it.
fn inputs(config: &ModelConfig, features: usize) -> usize {
    features + if config.decoder_state_condition { config.output_size } else { 0 }
}

pub(super) fn lstm_parameters(list: &mut ParameterList, config: &ModelConfig, features: usize) {
    let hidden = config.decoder_hidden_size;
    for layer in 0..config.decoder_num_layers {
        let inputs = if layer == 0 { inputs(config, features) } else { hidden };
        list.lstm("decoder.lstm", layer, inputs, hidden);
    }
    list.affine("decoder.linear", &[config.output_size, hidden]);
}

pub(super) fn mlp_parameters(list: &mut ParameterList, config: &ModelConfig, features: usize) {
    let hidden = config.decoder_hidden_size;
    for layer in 0..config.decoder_num_layers {
        let inputs = if layer == 0 { inputs(config, features) } else { hidden };
        list.affine(&format!("decoder.layers.{layer}.linear"), &[hidden, inputs]);
        list.layer_norm(&format!("decoder.layers.{layer}.norm"), hidden);
    }
    list.affine("decoder.linear", &[config.output_size, hidden]);
}

/// What turns features and the previous pose into the next.
trait Step {
    /// The input layer's bias.
    fn bias(&self) -> Value;

    /// One step: (step, this step's share of the input layer, previous pose) to its output.
    /// `None` stands for a pose of zeros.
    fn step(&mut self, graph: &mut Graph, step: usize, features: Value, pose: Option<Value>) -> Value;
}

/// Rolls poses [batch, steps, joints] out of features [batch, steps, features].
pub(super) fn roll_out(
    graph: &mut Graph,
    weights: &Weights,
    config: &ModelConfig,
    features: Value,
    initial_pose: Option<Value>,
    dropout: Option<&mut Dropout>,
    recurrent: bool,
) -> Value {
    let [batch, steps, size] = graph.shape(features)[..] else { unreachable!("features are [batch, steps, features]") };
    let mut decoder: Box<dyn Step> = if recurrent {
        Box::new(Lstm::new(graph, weights, config, batch, steps, size, dropout))
    } else {
        Box::new(Mlp::new(graph, weights, config, batch, steps, size, dropout))
    };
    let first = if recurrent { "decoder.lstm.weight_ih_l0" } else { "decoder.layers.0.linear.weight" };
    let shares = input_shares(graph, weights.get(first), decoder.bias(), features, recurrent);
    let joints = config.output_size;
    let mut pose = initial_pose;
    let mut poses = Vec::with_capacity(steps);
    for (step, share) in shares.into_iter().enumerate() {
        let output = decoder.step(graph, step, share, pose.filter(|_| config.decoder_state_condition));
        let next = match pose {
            Some(pose) if config.predict_velocity => graph.add(pose, output),
            _ => output,
        };
        pose = Some(next);
        poses.push(next);
    }
    let poses = graph.concat(&poses, 0);
    let poses = graph.reshape(poses, &[steps, batch, joints]);
    graph.transpose(poses, &[1, 0, 2])
}

/// The features' part of the first layer and its bias, for all steps in one product; one [batch, out] per step.
fn input_shares(graph: &mut Graph, weight: Value, bias: Value, features: Value, gates: bool) -> Vec<Value> {
    let [batch, steps, size] = graph.shape(features)[..] else { unreachable!("features are [batch, steps, features]") };
    let weight = if gates { gate_order(graph, weight) } else { weight };
    let weight = graph.slice(weight, 1, 0, size);
    let by_step = graph.transpose(features, &[1, 0, 2]);
    let rows = graph.reshape(by_step, &[steps * batch, size]);
    let shares = graph.gemm(rows, weight, Some(bias), false, true);
    let out = graph.shape(shares)[1];
    let shares = graph.reshape(shares, &[steps, batch, out]);
    let parts = graph.split(shares, 0, &vec![1; steps]);
    parts.into_iter().map(|part| graph.reshape(part, &[batch, out])).collect()
}

/// PyTorch's gates i, f, g, o as i, f, o, g: the three sigmoids become one.
fn gate_order(graph: &mut Graph, x: Value) -> Value {
    let hidden = graph.shape(x)[0] / 4;
    let parts = graph.split(x, 0, &[hidden; 4]);
    graph.concat(&[parts[0], parts[1], parts[3], parts[2]], 0)
}

struct LstmLayer {
    /// [4 hidden, hidden], rows i, f, o, g.
    recurrent: Value,
    /// Weights of what the layer takes at each step: the previous pose (first layer), or the layer below.
    input: Option<Value>,
    bias: Value,
    /// Hidden and cell state; none before the first step, where both are zero.
    state: Option<(Value, Value)>,
    /// Masks on what goes up to the next layer, one per step.
    masks: Vec<Value>,
}

struct Lstm {
    layers: Vec<LstmLayer>,
    output: (Value, Value),
}

impl Lstm {
    fn new(
        graph: &mut Graph,
        weights: &Weights,
        config: &ModelConfig,
        batch: usize,
        steps: usize,
        features: usize,
        mut dropout: Option<&mut Dropout>,
    ) -> Self {
        let hidden = config.decoder_hidden_size;
        let layers = (0..config.decoder_num_layers)
            .map(|layer| {
                let mut get = |name: &str| {
                    let value = weights.get(&format!("decoder.lstm.{name}_l{layer}"));
                    gate_order(graph, value)
                };
                let (input, recurrent) = (get("weight_ih"), get("weight_hh"));
                let (bias_ih, bias_hh) = (get("bias_ih"), get("bias_hh"));
                let bias = graph.add(bias_ih, bias_hh);
                let width = graph.shape(input)[1];
                let input = match layer {
                    0 if width == features => None,
                    0 => Some(graph.slice(input, 1, features, width)),
                    _ => Some(input),
                };
                let above = layer + 1 < config.decoder_num_layers;
                let masks = match &mut dropout {
                    Some(dropout) if above => dropout.masks(graph, steps, batch, hidden),
                    _ => Vec::new(),
                };
                LstmLayer { recurrent, input, bias, state: None, masks }
            })
            .collect();
        Self { layers, output: affine(weights, "decoder.linear") }
    }
}

impl LstmLayer {
    /// One step; `gates` is what the layer's input gave already with the bias, if anything.
    fn step(&mut self, graph: &mut Graph, gates: Option<Value>, input: Option<Value>) -> Value {
        let mut sum = gates.unwrap_or(self.bias);
        if let (Some(input), Some(weight)) = (input, self.input) {
            sum = graph.gemm(input, weight, Some(sum), false, true);
        }
        if let Some((hidden, _)) = self.state {
            sum = graph.gemm(hidden, self.recurrent, Some(sum), false, true);
        }
        let hidden = graph.shape(sum)[1] / 4;
        let parts = graph.split(sum, 1, &[3 * hidden, hidden]);
        let (sigmoids, candidate) = (graph.sigmoid(parts[0]), graph.tanh(parts[1]));
        let gates = graph.split(sigmoids, 1, &[hidden; 3]);
        let mut cell = graph.mul(gates[0], candidate);
        if let Some((_, before)) = self.state {
            let kept = graph.mul(gates[1], before);
            cell = graph.add(kept, cell);
        }
        let squashed = graph.tanh(cell);
        let output = graph.mul(gates[2], squashed);
        self.state = Some((output, cell));
        output
    }
}

impl Step for Lstm {
    fn bias(&self) -> Value {
        self.layers[0].bias
    }

    fn step(&mut self, graph: &mut Graph, step: usize, features: Value, pose: Option<Value>) -> Value {
        let mut x = pose;
        let mut gates = Some(features);
        for layer in &mut self.layers {
            let output = layer.step(graph, gates.take(), x);
            x = Some(match layer.masks.get(step) {
                Some(mask) => graph.mul(output, *mask),
                None => output,
            });
        }
        let x = graph.leaky_relu(x.expect("at least one layer"), SLOPE);
        graph.linear(x, self.output.0, Some(self.output.1))
    }
}

struct MlpLayer {
    name: String,
    /// As in [`LstmLayer`].
    input: Option<Value>,
    bias: Value,
    masks: Vec<Value>,
}

struct Mlp<'w> {
    weights: &'w Weights,
    layers: Vec<MlpLayer>,
    output: (Value, Value),
}

impl<'w> Mlp<'w> {
    fn new(
        graph: &mut Graph,
        weights: &'w Weights,
        config: &ModelConfig,
        batch: usize,
        steps: usize,
        features: usize,
        mut dropout: Option<&mut Dropout>,
    ) -> Self {
        let layers = (0..config.decoder_num_layers)
            .map(|layer| {
                let name = format!("decoder.layers.{layer}");
                let (weight, bias) = affine(weights, &format!("{name}.linear"));
                let width = graph.shape(weight)[1];
                let input = match layer {
                    0 if width == features => None,
                    0 => Some(graph.slice(weight, 1, features, width)),
                    _ => Some(weight),
                };
                let masks = match &mut dropout {
                    Some(dropout) => dropout.masks(graph, steps, batch, config.decoder_hidden_size),
                    None => Vec::new(),
                };
                MlpLayer { name, input, bias, masks }
            })
            .collect();
        Self { weights, layers, output: affine(weights, "decoder.linear") }
    }
}

impl Step for Mlp<'_> {
    fn bias(&self) -> Value {
        self.layers[0].bias
    }

    fn step(&mut self, graph: &mut Graph, step: usize, features: Value, pose: Option<Value>) -> Value {
        let mut x = pose;
        let mut share = Some(features);
        for layer in &self.layers {
            let mut y = share.take().unwrap_or(layer.bias);
            if let (Some(x), Some(weight)) = (x, layer.input) {
                y = graph.gemm(x, weight, Some(y), false, true);
            }
            let y = layer_norm(graph, self.weights, &format!("{}.norm", layer.name), y);
            let y = graph.leaky_relu(y, SLOPE);
            x = Some(match layer.masks.get(step) {
                Some(mask) => graph.mul(y, *mask),
                None => y,
            });
        }
        graph.linear(x.expect("at least one layer"), self.output.0, Some(self.output.1))
    }
}
