//! Gradients of activations.

use super::cuda::Launch;
use super::operator::{Input, Settings, Workers};

/// Elements per piece of work.
const PIECE: usize = 1 << 14;

pub(super) fn shapes(inputs: &[Vec<usize>], _: &Settings) -> Result<Vec<Vec<usize>>, String> {
    if inputs[0] != inputs[1] {
        return Err(format!("shapes {:?} and {:?} differ", inputs[0], inputs[1]));
    }
    Ok(vec![inputs[0].clone()])
}

/// As the kernel of cuda.cu takes it.
pub(super) fn launch(shapes: &[Vec<usize>], settings: &Settings) -> Launch {
    const COLUMNS: usize = 1 << 12;
    let elements: usize = shapes[0].iter().product();
    let (rows, columns) = (elements.div_ceil(COLUMNS), elements.min(COLUMNS));
    Launch::by_row("relu_gradient", rows, columns, &[elements as u32, settings.slope.to_bits()])
}

/// Inputs: dy, y. Output: dy where y > 0, else `slope` dy.
pub(super) fn relu_gradient(
    inputs: &[Input<'_>],
    settings: &Settings,
    outputs: &mut [&mut [f32]],
    workers: &Workers<'_>,
) -> Result<(), String> {
    let slope = settings.slope;
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
