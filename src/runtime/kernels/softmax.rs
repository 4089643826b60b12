//! The gradient of softmax over the last axis.

use super::layer_norm::sum;
use super::operator::{Input, Kernel, Workers};

/// Elements per piece of work; a piece is whole rows.
const PIECE: usize = 1 << 14;

pub(super) struct SoftmaxGradient;

/// dx = y (dy - sum(dy y)) of rows of n.
#[multiversion::multiversion(targets = "simd")]
fn rows(dy: &[f32], y: &[f32], dx: &mut [f32], n: usize) {
    for ((dx, dy), y) in dx.chunks_exact_mut(n).zip(dy.chunks_exact(n)).zip(y.chunks_exact(n)) {
        let total = sum([dy, y], |[dy, y]| dy * y);
        dx.iter_mut().zip(dy.iter().zip(y)).for_each(|(dx, (dy, y))| *dx = y * (dy - total));
    }
}

impl Kernel for SoftmaxGradient {
    /// Inputs: dy and y. Output: dx.
    fn compute(&self, inputs: &[Input<'_>], outputs: &mut [&mut [f32]], workers: &Workers<'_>) -> ort::Result<()> {
        let Some(n) = inputs[1].shape.last().copied().filter(|n| *n > 0) else { return Ok(()) };
        let some = (PIECE / n).max(1) * n;
        let given = inputs[0].values.chunks(some).zip(inputs[1].values.chunks(some));
        let pieces = outputs[0].chunks_mut(some).zip(given).collect();
        workers.each(pieces, |(dx, (dy, y)): (&mut [f32], (&[f32], &[f32]))| rows(dy, y, dx, n))
    }
}
