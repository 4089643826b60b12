//! Layer normalization over the last axis, and its gradient (Ba, Kiros and Hinton 2016).

use super::operator::{Attributes, Input, Kernel, Workers};

/// Elements per piece of work; a piece is whole rows.
const PIECE: usize = 1 << 14;
/// Sums go to this many accumulators at once, which the compiler keeps in vector registers.
const LANES: usize = 16;

/// The forward pass.
pub(super) struct LayerNorm {
    epsilon: f32,
}

/// Its gradient.
pub(super) struct LayerNormGradient;

impl LayerNorm {
    pub(super) fn new(attributes: &Attributes) -> Self {
        Self { epsilon: attributes.float("epsilon", 1e-5) }
    }
}

fn rows_per_piece(n: usize) -> usize {
    (PIECE / n).max(1)
}

impl Kernel for LayerNorm {
    fn compute(&self, inputs: &[Input<'_>], outputs: &mut [&mut [f32]], workers: &Workers<'_>) -> ort::Result<()> {
        let (x, scale, bias) = (inputs[0].values, inputs[1].values, inputs[2].values);
        let [y, mean, inverse_std] = outputs else { return Err(ort::Error::new("expected three outputs")) };
        let n = scale.len();
        let rows = rows_per_piece(n);
        let statistics = mean.chunks_mut(rows).zip(inverse_std.chunks_mut(rows));
        let pieces = y
            .chunks_mut(rows * n)
            .zip(x.chunks(rows * n))
            .zip(statistics)
            .map(|((y, x), (mean, inverse_std))| Rows { y, x, mean, inverse_std })
            .collect();
        workers.each(pieces, |rows: Rows<'_>| rows.run(scale, bias, self.epsilon))
    }
}

/// Some rows of the forward pass.
struct Rows<'a> {
    y: &'a mut [f32],
    x: &'a [f32],
    mean: &'a mut [f32],
    inverse_std: &'a mut [f32],
}

impl Rows<'_> {
    fn run(self, scale: &[f32], bias: &[f32], epsilon: f32) {
        let n = scale.len();
        let statistics = self.mean.iter_mut().zip(self.inverse_std);
        for ((y, x), (mean, inverse_std)) in self.y.chunks_exact_mut(n).zip(self.x.chunks_exact(n)).zip(statistics) {
            *mean = sum([x], |[x]| x) / n as f32;
            let (centre, variance) = (*mean, sum([x], |[x]| (x - *mean) * (x - *mean)) / n as f32);
            *inverse_std = 1.0 / (variance + epsilon).sqrt();
            for (((y, x), scale), bias) in y.iter_mut().zip(x).zip(scale).zip(bias) {
                *y = (x - centre) * *inverse_std * scale + bias;
            }
        }
    }
}

/// The sum of f over the columns of some rows of equal length.
#[inline(always)]
pub(super) fn sum<const N: usize>(rows: [&[f32]; N], f: impl Fn([f32; N]) -> f32) -> f32 {
    let blocks = rows.map(|row| row.as_chunks::<LANES>().0);
    let mut lanes = [0.0; LANES];
    for i in 0..blocks[0].len() {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += f(blocks.map(|blocks| blocks[i][lane]));
        }
    }
    let rest = rows[0].len() / LANES * LANES..rows[0].len();
    lanes.iter().sum::<f32>() + rest.map(|i| f(rows.map(|row| row[i]))).sum::<f32>()
}

impl Kernel for LayerNormGradient {
    /// With xhat = (x - mean) / std and u = scale dy: dx = (u - mean(u) - xhat mean(u xhat)) / std, dscale = sum(dy xhat)
    /// and dbias = sum(dy), in one pass.
    fn compute(&self, inputs: &[Input<'_>], outputs: &mut [&mut [f32]], workers: &Workers<'_>) -> ort::Result<()> {
        let [dy, x, scale, mean, inverse_std] = std::array::from_fn(|i| inputs[i].values);
        let [dx, dscale, dbias] = outputs else { return Err(ort::Error::new("expected three outputs")) };
        let n = scale.len();
        let rows = rows_per_piece(n);
        let mut shares = vec![0.0; 2 * n * mean.len().div_ceil(rows)];
        let statistics = mean.chunks(rows).zip(inverse_std.chunks(rows));
        let pieces = dx
            .chunks_mut(rows * n)
            .zip(shares.chunks_exact_mut(2 * n))
            .zip(dy.chunks(rows * n).zip(x.chunks(rows * n)))
            .zip(statistics)
            .map(|(((dx, shares), (dy, x)), (mean, inverse_std))| Piece { dx, shares, dy, x, mean, inverse_std })
            .collect();
        workers.each(pieces, |piece: Piece<'_>| piece.run(scale))?;
        for (i, sum) in dscale.iter_mut().chain(dbias.iter_mut()).enumerate() {
            *sum = shares.iter().skip(i).step_by(2 * n).map(|share| f64::from(*share)).sum::<f64>() as f32;
        }
        Ok(())
    }
}

/// Some rows of the gradient.
struct Piece<'a> {
    dx: &'a mut [f32],
    /// These rows' part of dscale, then of dbias.
    shares: &'a mut [f32],
    dy: &'a [f32],
    x: &'a [f32],
    mean: &'a [f32],
    inverse_std: &'a [f32],
}

impl Piece<'_> {
    fn run(self, scale: &[f32]) {
        let n = scale.len();
        let (dscale, dbias) = self.shares.split_at_mut(n);
        let statistics = self.mean.iter().zip(self.inverse_std);
        let given = self.dy.chunks_exact(n).zip(self.x.chunks_exact(n)).zip(statistics);
        for (dx, ((dy, x), (mean, inverse_std))) in self.dx.chunks_exact_mut(n).zip(given) {
            let slope = dy.iter().zip(x).zip(dscale.iter_mut().zip(dbias.iter_mut()));
            for ((dy, x), (dscale, dbias)) in slope {
                *dscale += dy * ((x - mean) * inverse_std);
                *dbias += dy;
            }
            let total = sum([scale, dy, x], |[scale, dy, _]| scale * dy) / n as f32;
            let along = sum([scale, dy, x], |[scale, dy, x]| scale * dy * ((x - mean) * inverse_std)) / n as f32;
            for (((dx, dy), x), scale) in dx.iter_mut().zip(dy).zip(x).zip(scale) {
                *dx = (scale * dy - total - (x - mean) * inverse_std * along) * inverse_std;
            }
        }
    }
}
