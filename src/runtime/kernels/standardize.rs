//! Rows with mean 0 and variance 1, as norms of groups and instances have them, and their gradient.

use super::layer_norm::sum;
use super::operator::{Attributes, Input, Kernel, Workers};

/// Elements per piece of work; a piece is whole rows.
const PIECE: usize = 1 << 14;
/// Elements whose sum is taken in float32: rows may be whole windows of many channels.
const RUN: usize = 1 << 12;

/// The forward pass.
pub(super) struct Standardize {
    epsilon: f32,
}

/// Its gradient.
pub(super) struct StandardizeGradient;

impl Standardize {
    pub(super) fn new(attributes: &Attributes) -> Self {
        Self { epsilon: attributes.float("epsilon", 1e-5) }
    }
}

/// The mean of f over the elements of rows of equal length.
#[inline(always)]
fn mean<const N: usize>(rows: [&[f32]; N], f: impl Fn([f32; N]) -> f32 + Copy) -> f32 {
    let (n, mut total) = (rows[0].len(), 0.0);
    for first in (0..n).step_by(RUN) {
        total += f64::from(sum(rows.map(|row| &row[first..(first + RUN).min(n)]), f));
    }
    (total / n as f64) as f32
}

#[multiversion::multiversion(targets = "simd")]
fn standardize(x: &[f32], y: &mut [f32], epsilon: f32) -> f32 {
    let centre = mean([x], |[x]| x);
    let variance = mean([x], |[x]| (x - centre) * (x - centre));
    let inverse = 1.0 / (variance + epsilon).sqrt();
    y.iter_mut().zip(x).for_each(|(y, x)| *y = (x - centre) * inverse);
    inverse
}

/// dx = (dy - mean(dy) - y mean(dy y)) / deviation.
#[multiversion::multiversion(targets = "simd")]
fn gradient(dy: &[f32], y: &[f32], inverse: f32, dx: &mut [f32]) {
    let (level, slope) = (mean([dy], |[dy]| dy), mean([dy, y], |[dy, y]| dy * y));
    dx.iter_mut().zip(dy.iter().zip(y)).for_each(|(dx, (dy, y))| *dx = (dy - level - y * slope) * inverse);
}

impl Kernel for Standardize {
    /// Input: x [.., n]. Outputs: y, and 1 / deviation of each row.
    fn compute(&self, inputs: &[Input<'_>], outputs: &mut [&mut [f32]], workers: &Workers<'_>) -> ort::Result<()> {
        let Input { shape, values: x, .. } = inputs[0];
        let [y, inverse] = outputs else { return Err(ort::Error::new("expected two outputs")) };
        let n = shape[shape.len() - 1];
        let rows = (PIECE / n).max(1);
        let pieces = y.chunks_mut(rows * n).zip(x.chunks(rows * n)).zip(inverse.chunks_mut(rows)).collect();
        workers.each(pieces, |((y, x), inverse): ((&mut [f32], &[f32]), &mut [f32])| {
            for ((y, x), inverse) in y.chunks_mut(n).zip(x.chunks(n)).zip(inverse) {
                *inverse = standardize(x, y, self.epsilon);
            }
        })
    }
}

impl Kernel for StandardizeGradient {
    /// Inputs: dy, y and 1 / deviation. Output: dx.
    fn compute(&self, inputs: &[Input<'_>], outputs: &mut [&mut [f32]], workers: &Workers<'_>) -> ort::Result<()> {
        let [dy, y, inverse] = std::array::from_fn(|i| inputs[i].values);
        let n = inputs[0].shape[inputs[0].shape.len() - 1];
        let rows = (PIECE / n).max(1);
        let pieces = outputs[0].chunks_mut(rows * n).enumerate().collect();
        workers.each(pieces, |(piece, dx): (usize, &mut [f32])| {
            for (i, dx) in dx.chunks_mut(n).enumerate() {
                let row = piece * rows + i;
                let at = row * n..(row + 1) * n;
                gradient(&dy[at.clone()], &y[at], inverse[row], dx);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows longer than a run, of numbers far from 0, against float64.
    #[test]
    fn long_rows_are_standardized_as_in_float64() {
        let n = 3 * RUN + 77;
        let x: Vec<_> = (0..2 * n).map(|i| 100.0 + (i * 7919 % 1009) as f32 / 100.0).collect();
        let dy: Vec<_> = (0..2 * n).map(|i| (i * 104_729 % 997) as f32 / 500.0 - 1.0).collect();
        let (mut y, mut inverse, mut dx) = (vec![f32::NAN; 2 * n], vec![f32::NAN; 2], vec![f32::NAN; 2 * n]);
        let shape = [1, 2, n];
        let input = |values| Input { shape: &shape, values, integers: &[] };
        let workers = Workers::alone();
        let forward = Standardize { epsilon: 1e-5 };
        forward.compute(&[input(&x)], &mut [&mut y, &mut inverse], &workers).unwrap();
        let row = Input { shape: &[1, 2, 1], values: &inverse, integers: &[] };
        StandardizeGradient.compute(&[input(&dy), input(&y), row], &mut [&mut dx], &workers).unwrap();
        for row in 0..2 {
            let of = |values: &[f32]| values[row * n..(row + 1) * n].iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
            let (x, dy) = (of(&x), of(&dy));
            let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / n as f64;
            let centre = mean(&mut x.iter().copied());
            let deviation = (mean(&mut x.iter().map(|x| (x - centre).powi(2))) + 1e-5).sqrt();
            let normal: Vec<_> = x.iter().map(|x| (x - centre) / deviation).collect();
            let level = mean(&mut dy.iter().copied());
            let slope = mean(&mut dy.iter().zip(&normal).map(|(dy, y)| dy * y));
            for i in 0..n {
                assert!((f64::from(y[row * n + i]) - normal[i]).abs() < 1e-5);
                let expected = (dy[i] - level - normal[i] * slope) / deviation;
                assert!((f64::from(dx[row * n + i]) - expected).abs() < 1e-5 / deviation);
            }
        }
    }
}
