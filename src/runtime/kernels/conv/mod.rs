//! Convolutions over any number of spatial axes, and their gradients.
//!
//! Where the groups have few channels, line by line; where they have more, by products of matrices.

mod geometry;
mod lines;
mod products;

pub(super) use geometry::{Geometry, sizes_of, unravel};

use super::operator::{Attributes, Input, Kernel, Workers};

/// Channels of the input and the output of a group, of which there are this many.
#[derive(Clone, Copy)]
struct Channels {
    groups: usize,
    own: usize,
    each: usize,
}

impl Channels {
    fn new(groups: usize, from: usize, to: usize) -> Self {
        Self { groups, own: from / groups, each: to / groups }
    }

    /// Whether products of matrices pay.
    fn are_many(&self) -> bool {
        self.own >= 4 && self.own * self.each >= 64
    }
}

/// The output from x, the weight and perhaps the bias.
pub(super) struct Convolution(Geometry);

/// dx from dy and the weight.
pub(super) struct InputGradient {
    geometry: Geometry,
    sizes: Vec<usize>,
}

/// dW from x and dy.
pub(super) struct WeightGradient(Geometry);

impl Convolution {
    pub(super) fn new(attributes: &Attributes) -> Self {
        Self(Geometry::new(attributes))
    }
}

impl InputGradient {
    pub(super) fn new(attributes: &Attributes) -> Self {
        Self { geometry: Geometry::new(attributes), sizes: sizes_of(attributes, "sizes") }
    }
}

impl WeightGradient {
    pub(super) fn new(attributes: &Attributes) -> Self {
        Self(Geometry::new(attributes))
    }
}

impl Kernel for Convolution {
    fn compute(&self, inputs: &[Input<'_>], outputs: &mut [&mut [f32]], workers: &Workers<'_>) -> ort::Result<()> {
        let (x, w) = (inputs[0], inputs[1]);
        let channels = Channels::new(self.0.groups, x.shape[1], w.shape[0]);
        let by = if channels.are_many() { products::output } else { lines::output };
        by(&self.0, channels, x, w.values, inputs.get(2).map(|bias| bias.values), outputs[0], workers)
    }
}

impl Kernel for InputGradient {
    fn compute(&self, inputs: &[Input<'_>], outputs: &mut [&mut [f32]], workers: &Workers<'_>) -> ort::Result<()> {
        let (dy, w, geometry) = (inputs[0], inputs[1], &self.geometry);
        let channels = Channels::new(geometry.groups, w.shape[1] * geometry.groups, w.shape[0]);
        let by = if channels.are_many() { products::input_gradient } else { lines::input_gradient };
        by(geometry, channels, &self.sizes, dy, w.values, outputs[0], workers)
    }
}

impl Kernel for WeightGradient {
    fn compute(&self, inputs: &[Input<'_>], outputs: &mut [&mut [f32]], workers: &Workers<'_>) -> ort::Result<()> {
        let (x, dy) = (inputs[0], inputs[1]);
        let channels = Channels::new(self.0.groups, x.shape[1], dy.shape[1]);
        let by = if channels.are_many() { products::weight_gradient } else { lines::weight_gradient };
        by(&self.0, channels, x, dy, outputs[0], workers)
    }
}

#[cfg(test)]
mod tests;
