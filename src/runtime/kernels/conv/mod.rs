//! Convolutions over any number of spatial axes, and their gradients.
//!
//! Where the groups have few channels, line by line; where they have more, by products of matrices.

mod geometry;
mod lines;
mod products;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

pub(super) use geometry::{Geometry, sizes_of, unravel};
use geometry::{Line, Phases};

use super::operator::{Attributes, Input, Kernel, Workers};

/// What a convolution's attributes and sizes determine.
struct Plan {
    /// Channels of the input and the output, and spatial sizes of both.
    sizes: [Vec<usize>; 2],
    groups: usize,
    /// Channels of a group's input and output.
    inputs: usize,
    outputs: usize,
    taps: usize,
    /// Elements of a channel's output.
    positions: usize,
    /// By tap, then by output.
    lines: Vec<Line>,
    /// How a channel's input is laid out for the lines.
    phases: Phases,
}

impl Plan {
    /// Of sizes [channels, spatial..] of the input and the output.
    fn new(geometry: &Geometry, sizes: [Vec<usize>; 2]) -> Self {
        let [input, output] = &sizes;
        Self {
            groups: geometry.groups,
            inputs: input[0] / geometry.groups,
            outputs: output[0] / geometry.groups,
            taps: geometry.taps(),
            positions: output[1..].iter().product(),
            lines: geometry.lines(&input[1..], &output[1..]),
            phases: Phases::new(geometry, &input[1..]),
            sizes,
        }
    }

    /// Whether products of matrices pay.
    fn has_many_channels(&self) -> bool {
        self.inputs >= 4 && self.inputs * self.outputs >= 64
    }

    /// What a tap's lines have in common with a tile of the output: outputs, counted from the tile's first, and the first
    /// one's input.
    fn lines_within(&self, tap: usize, tile: &Range<usize>) -> impl Iterator<Item = (Range<usize>, usize)> {
        let (start, end) = (tile.start, tile.end);
        let first = self.lines.partition_point(|line| (line.tap, line.outputs.end) <= (tap, start));
        let lines = self.lines[first..].iter().take_while(move |line| line.tap == tap && line.outputs.start < end);
        lines.map(move |line| {
            let outputs = line.outputs.start.max(start)..line.outputs.end.min(end);
            let input = line.input + (outputs.start - line.outputs.start);
            (outputs.start - start..outputs.end - start, input)
        })
    }
}

/// A node's attributes, with the plan of its last run: sizes seldom change.
struct Planner {
    geometry: Geometry,
    last: Mutex<Option<Arc<Plan>>>,
}

impl Planner {
    fn new(attributes: &Attributes) -> Self {
        Self { geometry: Geometry::new(attributes), last: Mutex::new(None) }
    }

    fn plan(&self, sizes: [Vec<usize>; 2]) -> Arc<Plan> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match last.as_ref().filter(|plan| plan.sizes == sizes) {
            Some(plan) => plan.clone(),
            None => last.insert(Arc::new(Plan::new(&self.geometry, sizes))).clone(),
        }
    }
}

/// The output from x, the weight and perhaps the bias.
pub(super) struct Convolution(Planner);

/// dx from dy and the weight.
pub(super) struct InputGradient {
    planner: Planner,
    sizes: Vec<usize>,
}

/// dW from x and dy.
pub(super) struct WeightGradient(Planner);

impl Convolution {
    pub(super) fn new(attributes: &Attributes) -> Self {
        Self(Planner::new(attributes))
    }
}

impl InputGradient {
    pub(super) fn new(attributes: &Attributes) -> Self {
        Self { planner: Planner::new(attributes), sizes: sizes_of(attributes, "sizes") }
    }
}

impl WeightGradient {
    pub(super) fn new(attributes: &Attributes) -> Self {
        Self(Planner::new(attributes))
    }
}

impl Kernel for Convolution {
    fn compute(&self, inputs: &[Input<'_>], outputs: &mut [&mut [f32]], workers: &Workers<'_>) -> ort::Result<()> {
        let (x, w, bias) = (inputs[0], inputs[1], inputs.get(2).map(|bias| bias.values));
        let output = self.0.geometry.output(&x.shape[2..]);
        let plan = self.0.plan([x.shape[1..].to_vec(), [&w.shape[..1], &output].concat()]);
        let by = if plan.has_many_channels() { products::output } else { lines::output };
        by(&plan, x.values, w.values, bias, outputs[0], workers)
    }
}

impl Kernel for InputGradient {
    fn compute(&self, inputs: &[Input<'_>], outputs: &mut [&mut [f32]], workers: &Workers<'_>) -> ort::Result<()> {
        let (dy, w) = (inputs[0], inputs[1]);
        let channels = w.shape[1] * self.planner.geometry.groups;
        let plan = self.planner.plan([[&[channels], &self.sizes[..]].concat(), dy.shape[1..].to_vec()]);
        let by = if plan.has_many_channels() { products::input_gradient } else { lines::input_gradient };
        by(&plan, dy.values, w.values, outputs[0], workers)
    }
}

impl Kernel for WeightGradient {
    fn compute(&self, inputs: &[Input<'_>], outputs: &mut [&mut [f32]], workers: &Workers<'_>) -> ort::Result<()> {
        let (x, dy) = (inputs[0], inputs[1]);
        let plan = self.0.plan([x, dy].map(|given| given.shape[1..].to_vec()));
        let by = if plan.has_many_channels() { products::weight_gradient } else { lines::weight_gradient };
        by(&plan, x.shape[0], [x.values, dy.values], outputs[0], workers)
    }
}

#[cfg(test)]
mod tests;
