//! The context of a forward pass: weights, dropout, training or evaluation.

use super::dropout::Dropout;
use super::parameter::Weights;
use super::resample::Interpolate;
use crate::graph::{Graph, Kernels, RecurrentCell, TrainingOperators, Value};

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
    /// What the graph is meant for.
    pub kernels: Kernels,
    /// New values of the buffers, by name.
    updates: Vec<(String, Value)>,
}

impl Pass {
    pub fn training(weights: Weights, dropout: Option<Dropout>, kernels: Kernels) -> Self {
        Self { weights, dropout, training: true, interpolate: Interpolate::Product, kernels, updates: Vec::new() }
    }

    pub fn evaluation(weights: Weights, kernels: Kernels) -> Self {
        Self {
            weights,
            dropout: None,
            training: false,
            interpolate: Interpolate::Product,
            kernels,
            updates: Vec::new(),
        }
    }

    /// As [`evaluation`](Self::evaluation), for a file that others run.
    pub fn export(weights: Weights) -> Self {
        Self { interpolate: Interpolate::Gather, ..Self::evaluation(weights, Kernels::Standard) }
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
        const MOMENTUM: f32 = 0.9;
        const EPSILON: f32 = 1e-5;
        let (scale, bias) = self.affine(name);
        let names = ["running_mean", "running_var"].map(|own| format!("{name}.{own}"));
        let statistics = names.each_ref().map(|own| (own.as_str(), self.weights.get(own)));
        TrainingOperators::batch_norm(self, graph, x, [scale, bias], statistics, EPSILON, MOMENTUM)
    }

    /// x with a share of its elements dropped, where this pass drops any.
    pub(super) fn drop(&mut self, graph: &mut Graph, x: Value) -> Value {
        let share = self.dropout.as_ref().map(Dropout::probability);
        share.map_or(x, |share| self.dropout(graph, x, share))
    }
}

/// A user's own model trains as the built-in ones do.
impl TrainingOperators for Pass {
    fn dropout(&mut self, graph: &mut Graph, x: Value, ratio: f64) -> Value {
        let Some(dropout) = &mut self.dropout else { return x };
        let shape = graph.shape(x).to_vec();
        let mask = dropout.mask_like(graph, ratio, &shape);
        graph.mul(x, mask)
    }

    fn running(&self, name: &str, value: Value) -> Value {
        self.updates.iter().rev().find(|(other, _)| other == name).map_or(value, |(_, updated)| *updated)
    }

    fn uniform(&mut self, graph: &mut Graph, shape: &[usize]) -> Option<Value> {
        self.dropout.as_mut().map(|dropout| dropout.uniform_like(graph, shape))
    }

    fn most_unrolled(&self, cell: RecurrentCell, hidden: usize) -> Option<usize> {
        /// Beyond these, a GPU has no room for blocks that keep all weights at once.
        const MOST_HIDDEN: usize = 512;
        match (self.kernels, cell) {
            (Kernels::Standard, _) => None,
            // There, products of all rows at once and a kernel of the cell take a quarter of the time, but seconds to load.
            (Kernels::Cuda, RecurrentCell::Lstm) if hidden > MOST_HIDDEN => Some(256),
            (Kernels::Cpu | Kernels::Cuda, _) => Some(4),
        }
    }

    fn batch_norm(
        &mut self,
        graph: &mut Graph,
        x: Value,
        affine: [Value; 2],
        statistics: [(&str, Value); 2],
        epsilon: f32,
        momentum: f32,
    ) -> Value {
        if !self.training {
            return graph.fixed_norm(x, affine, statistics.map(|(_, value)| value), epsilon);
        }
        let (y, mean, variance) = graph.batch_norm(x, affine[0], affine[1], epsilon);
        // Statistics that the model computes itself are not kept.
        let kept = statistics.into_iter().zip([mean, variance]).filter(|((name, _), _)| self.weights.has(name));
        for ((name, _), now) in kept.collect::<Vec<_>>() {
            // A module that is used twice moves them twice.
            let running = self.updated(name);
            let next = graph.moving_average(running, now, momentum);
            self.updates.push((name.to_owned(), next));
        }
        y
    }
}
