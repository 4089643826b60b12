//! Gradients of activations.

use super::operator::{Input, Settings, Workers};

/// Elements per piece of work.
const PIECE: usize = 1 << 14;

pub(super) fn shapes(inputs: &[Vec<usize>], _: &Settings) -> Result<Vec<Vec<usize>>, String> {
    if inputs[0] != inputs[1] {
        return Err(format!("shapes {:?} and {:?} differ", inputs[0], inputs[1]));
    }
    Ok(vec![inputs[0].clone()])
}

/// Inputs: dy, y. Output: dy where y > 0, else 0.
pub(super) fn relu_gradient(
    inputs: &[Input<'_>],
    _: &Settings,
    outputs: &mut [&mut [f32]],
    workers: &Workers<'_>,
) -> Result<(), String> {
    let (dy, y) = (inputs[0].values.chunks(PIECE), inputs[1].values.chunks(PIECE));
    let pieces = outputs[0].chunks_mut(PIECE).zip(dy.zip(y)).collect();
    workers.each(pieces, |(out, (dy, y)): (&mut [f32], (&[f32], &[f32]))| {
        for ((out, dy), y) in out.iter_mut().zip(dy).zip(y) {
            // A mask, because a branch would be mispredicted every other time.
            *out = f32::from_bits(dy.to_bits() & u32::from(*y > 0.0).wrapping_neg());
        }
    })
}
