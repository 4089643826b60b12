//! Decoders that roll a pose out step by step from features and the previous pose.

use super::parameter::ParameterList;
use super::pass::Pass;
use crate::graph::{Graph, Value};

const SLOPE: f32 = 0.01;

/// A decoder with its sizes.
#[derive(Debug, Clone)]
pub(super) struct Decoder {
    pub(super) features: usize,
    pub(super) joints: usize,
    pub(super) hidden: usize,
    pub(super) layers: usize,
    /// An LSTM, or else an MLP.
    pub(super) recurrent: bool,
    /// Whether a step also takes the previous pose.
    pub(super) conditioned: bool,
    /// Factor on what the last layer gives.
    pub(super) scale: f32,
    pub(super) rollout: Rollout,
}

/// What a step's output means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rollout {
    /// The pose.
    Pose,
    /// What the pose changes by.
    Velocity,
    /// Both, [pose, change]; the pose counts for so many steps, then the change.
    PoseThenVelocity(usize),
}

impl Decoder {
    /// Inputs of a step: features, then the previous pose.
    fn inputs(&self) -> usize {
        self.features + if self.conditioned { self.joints } else { 0 }
    }

    fn outputs(&self) -> usize {
        if matches!(self.rollout, Rollout::PoseThenVelocity(_)) { 2 * self.joints } else { self.joints }
    }

    pub(super) fn parameters(&self, list: &mut ParameterList) {
        for layer in 0..self.layers {
            let inputs = if layer == 0 { self.inputs() } else { self.hidden };
            if self.recurrent {
                list.lstm("decoder.lstm", &format!("l{layer}"), inputs, self.hidden);
            } else {
                list.affine(&format!("decoder.layers.{layer}.linear"), &[self.hidden, inputs]);
                list.layer_norm(&format!("decoder.layers.{layer}.norm"), self.hidden);
            }
        }
        list.affine("decoder.linear", &[self.outputs(), self.hidden]);
    }

    /// Rolls poses [batch, steps, joints] out of features [batch, steps, features].
    pub(super) fn roll_out(
        &self,
        graph: &mut Graph,
        pass: &mut Pass,
        features: Value,
        initial_pose: Option<Value>,
    ) -> Value {
        let by_step = graph.transpose(features, &[1, 0, 2]);
        let mut rollout = self.begin(graph, pass, by_step);
        let mut pose = initial_pose;
        let poses: Vec<_> = (0..graph.shape(by_step)[0])
            .map(|step| {
                let output = rollout.step(graph, pass, step, pose);
                let next = self.next_pose(graph, step, pose, output);
                pose = Some(next);
                next
            })
            .collect();
        let poses = graph.stack(&poses);
        graph.transpose(poses, &[1, 0, 2])
    }

    /// The decoder before its first step on features [steps, batch, features].
    pub(super) fn begin(&self, graph: &mut Graph, pass: &mut Pass, by_step: Value) -> Rolling<'_> {
        let [steps, batch, _] = graph.shape(by_step)[..] else { unreachable!("features are [steps, batch, n]") };
        let mut layers: Vec<_> = (0..self.layers).map(|i| Layer::new(graph, pass, self, i, batch, steps)).collect();
        // The features' part of the first layer and its bias, for all steps in one product.
        let weight = graph.slice(layers[0].weight, 1, 0, self.features);
        let shares = graph.input_projections(by_step, weight, Some(layers[0].bias));
        layers[0].input = self.conditioned.then(|| graph.slice(layers[0].weight, 1, self.features, self.inputs()));
        // Weights are scaled once; where float16 has no room for it, what they give is scaled at each step.
        let (once, scale) = if graph.has_small_range() { (1.0, self.scale) } else { (self.scale, 1.0) };
        let (weight, bias) = pass.affine("decoder.linear");
        let output = (scaled(graph, weight, once), scaled(graph, bias, once));
        Rolling { decoder: self, layers, shares, output, scale }
    }

    /// Shapes of what goes from a stream's step to the next: the pose, then hidden and cell state of each LSTM layer.
    pub(super) fn state_shapes(&self) -> Vec<Vec<usize>> {
        let cells = if self.recurrent { 2 * self.layers } else { 0 };
        std::iter::once(vec![1, self.joints]).chain(std::iter::repeat_n(vec![1, self.hidden], cells)).collect()
    }

    fn next_pose(&self, graph: &mut Graph, step: usize, pose: Option<Value>, output: Value) -> Value {
        let (moves, output) = match self.rollout {
            Rollout::Pose => (false, output),
            Rollout::Velocity => (true, output),
            Rollout::PoseThenVelocity(steps) => {
                let [position, velocity] = self.halves(graph, output);
                (step >= steps, if step >= steps { velocity } else { position })
            }
        };
        match pose {
            Some(pose) if moves => graph.add(pose, output),
            _ => output,
        }
    }

    /// As [`next_pose`](Self::next_pose), of the step with a `number` [1] that only the running graph knows.
    fn pose_at(&self, graph: &mut Graph, number: Value, pose: Value, output: Value) -> Value {
        let Rollout::PoseThenVelocity(steps) = self.rollout else {
            return self.next_pose(graph, 0, Some(pose), output);
        };
        let [position, velocity] = self.halves(graph, output);
        let moved = graph.add(pose, velocity);
        let steps = graph.i64s(&[steps as i64]);
        let stands = graph.less(number, steps);
        graph.select(stands, position, moved)
    }

    fn halves(&self, graph: &mut Graph, output: Value) -> [Value; 2] {
        [0, self.joints].map(|from| graph.slice(output, 1, from, from + self.joints))
    }
}

fn scaled(graph: &mut Graph, x: Value, by: f32) -> Value {
    if by == 1.0 {
        return x;
    }
    let by = graph.scalar_like(x, by);
    graph.mul(x, by)
}

/// What a stream's step takes from the one before.
#[derive(Debug, Clone)]
pub(super) struct StepState {
    /// [1, joints].
    pub(super) pose: Value,
    /// Hidden and cell state of each LSTM layer, [1, hidden].
    cells: Vec<(Value, Value)>,
}

impl StepState {
    /// From values in the order of [`Decoder::state_shapes`].
    pub(super) fn of(values: Vec<Value>) -> Self {
        let cells = values[1..].chunks_exact(2).map(|cell| (cell[0], cell[1])).collect();
        Self { pose: values[0], cells }
    }

    /// The values in that order.
    pub(super) fn values(&self) -> Vec<Value> {
        std::iter::once(self.pose).chain(self.cells.iter().flat_map(|(hidden, cell)| [*hidden, *cell])).collect()
    }

    /// `a` where `condition` [1] holds, else `b`.
    pub(super) fn select(graph: &mut Graph, condition: Value, a: &Self, b: &Self) -> Self {
        let pairs = a.values().into_iter().zip(b.values());
        Self::of(pairs.map(|(a, b)| graph.select(condition, a, b)).collect())
    }
}

/// A decoder on its way through its steps.
pub(super) struct Rolling<'a> {
    decoder: &'a Decoder,
    layers: Vec<Layer>,
    /// What each step's features give the first layer, with its bias.
    shares: Vec<Value>,
    /// Weight and bias of the last layer, and what is left to scale what it gives by.
    output: (Value, Value),
    scale: f32,
}

impl Rolling<'_> {
    /// What the decoder gives at `step`, from the pose before it.
    fn step(&mut self, graph: &mut Graph, pass: &Pass, step: usize, pose: Option<Value>) -> Value {
        let mut x = pose.filter(|_| self.decoder.conditioned);
        let mut share = Some(self.shares[step]);
        for layer in &mut self.layers {
            x = Some(layer.step(graph, pass, step, share.take(), x));
        }
        let x = x.expect("at least one layer");
        let x = if self.decoder.recurrent { graph.leaky_relu(x, SLOPE) } else { x };
        let y = graph.linear(x, self.output.0, Some(self.output.1));
        scaled(graph, y, self.scale)
    }

    /// The state after `step`, which is the stream's step `number` [1], from the state before it.
    pub(super) fn step_at(
        &mut self,
        graph: &mut Graph,
        pass: &Pass,
        step: usize,
        number: Value,
        before: &StepState,
    ) -> StepState {
        for (layer, cell) in self.layers.iter_mut().zip(&before.cells) {
            layer.state = Some(*cell);
        }
        let output = self.step(graph, pass, step, Some(before.pose));
        let pose = self.decoder.pose_at(graph, number, before.pose, output);
        StepState { pose, cells: self.layers.iter().filter_map(|layer| layer.state).collect() }
    }
}

/// One layer in use. Rows of an LSTM's weights are in the order of [`Weights::lstm`](super::Weights::lstm).
struct Layer {
    name: String,
    weight: Value,
    bias: Value,
    /// Weights of what the layer takes at each step: the previous pose (first layer), or the layer below.
    input: Option<Value>,
    /// LSTM: [4 hidden, hidden].
    recurrent: Option<Value>,
    /// Hidden and cell state; none before the first step, where both are zero.
    state: Option<(Value, Value)>,
    /// Masks on what goes up, one per step.
    masks: Vec<Value>,
}

impl Layer {
    fn new(graph: &mut Graph, pass: &mut Pass, decoder: &Decoder, layer: usize, batch: usize, steps: usize) -> Self {
        let last = layer + 1 == decoder.layers;
        let masks = match &mut pass.dropout {
            Some(dropout) if !(decoder.recurrent && last) => dropout.masks(graph, steps, batch, decoder.hidden),
            _ => Vec::new(),
        };
        let name = format!("decoder.layers.{layer}");
        let (weight, bias, recurrent) = if decoder.recurrent {
            let [weight, recurrent, bias] = pass.weights.lstm(graph, "decoder.lstm", &format!("l{layer}"));
            (weight, bias, Some(recurrent))
        } else {
            let (weight, bias) = pass.affine(&format!("{name}.linear"));
            (weight, bias, None)
        };
        let input = (layer > 0).then_some(weight);
        Self { name, weight, bias, input, recurrent, state: None, masks }
    }

    /// One step; `share` is what the layer's input gave already with the bias, if anything.
    fn step(&mut self, graph: &mut Graph, pass: &Pass, step: usize, share: Option<Value>, x: Option<Value>) -> Value {
        let mut sum = share.unwrap_or(self.bias);
        if let (Some(x), Some(weight)) = (x, self.input) {
            sum = graph.gemm(x, weight, Some(sum), false, true);
        }
        let y = match self.recurrent {
            Some(recurrent) => {
                let next = graph.lstm_step(sum, recurrent, self.state);
                self.state = Some(next);
                next.0
            }
            None => {
                let normal = pass.layer_norm(graph, &format!("{}.norm", self.name), sum);
                graph.leaky_relu(normal, SLOPE)
            }
        };
        match self.masks.get(step) {
            Some(mask) => graph.mul(y, *mask),
            None => y,
        }
    }
}
