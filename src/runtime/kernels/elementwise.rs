//! Gradients of activations.

use super::operator::{Attributes, Input, Kernel, Workers};

/// Elements per piece of work.
const PIECE: usize = 1 << 14;

/// The gradient of a rectifier.
pub(super) struct ReluGradient {
    /// Of the negative side.
    slope: f32,
}

impl ReluGradient {
    pub(super) fn new(attributes: &Attributes) -> Self {
        Self { slope: attributes.float("slope", 0.0) }
    }
}

impl Kernel for ReluGradient {
    /// Inputs: dy, y. Output: dy where y > 0, else `slope` dy.
    fn compute(&self, inputs: &[Input<'_>], outputs: &mut [&mut [f32]], workers: &Workers<'_>) -> ort::Result<()> {
        let slope = self.slope;
        let (dy, y) = (inputs[0].values.chunks(PIECE), inputs[1].values.chunks(PIECE));
        let pieces = outputs[0].chunks_mut(PIECE).zip(dy.zip(y)).collect();
        workers.each(pieces, |(out, (dy, y)): (&mut [f32], (&[f32], &[f32]))| {
            for ((out, dy), y) in out.iter_mut().zip(dy).zip(y) {
                // Masks, because a branch would be mispredicted every other time, and a product with 0 would keep what is
                // not finite.
                let positive = u32::from(*y > 0.0).wrapping_neg();
                let rest = if slope == 0.0 { 0 } else { (slope * dy).to_bits() & !positive };
                *out = f32::from_bits(dy.to_bits() & positive | rest);
            }
        })
    }
}
