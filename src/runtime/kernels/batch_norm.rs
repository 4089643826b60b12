//! Batch normalization over all axes but the channels, and its gradient (Ioffe and Szegedy 2015).

use super::layer_norm::sum;
use super::operator::{Attributes, Input, Kernel, Workers};

/// The forward pass.
pub(super) struct BatchNorm {
    epsilon: f32,
}

/// Its gradient.
pub(super) struct BatchNormGradient {
    epsilon: f32,
}

impl BatchNorm {
    pub(super) fn new(attributes: &Attributes) -> Self {
        Self { epsilon: attributes.float("epsilon", 1e-5) }
    }
}

impl BatchNormGradient {
    pub(super) fn new(attributes: &Attributes) -> Self {
        Self { epsilon: attributes.float("epsilon", 1e-5) }
    }
}

/// Sizes of x: channels, and elements of one channel of one example.
fn sizes(shape: &[usize]) -> (usize, usize) {
    (shape[1], shape[2..].iter().product())
}

/// Adds up, in order, what each example contributed to channel `c`.
fn over_examples(shares: &[[f64; 2]], channels: usize, c: usize) -> [f64; 2] {
    shares.iter().skip(c).step_by(channels).fold([0.0; 2], |sum, share| [sum[0] + share[0], sum[1] + share[1]])
}

impl Kernel for BatchNorm {
    fn compute(&self, inputs: &[Input<'_>], outputs: &mut [&mut [f32]], workers: &Workers<'_>) -> ort::Result<()> {
        let [x, scale, bias] = std::array::from_fn(|i| inputs[i].values);
        let [y, mean, variance] = outputs else { return Err(ort::Error::new("expected three outputs")) };
        let (channels, n) = sizes(inputs[0].shape);
        // Mean and sum of squared differences of each example's channel, then of all (Chan, Golub and LeVeque 1979).
        let mut shares = vec![[0.0; 2]; x.len() / n];
        let pieces = x.chunks_exact(n).zip(&mut shares).collect();
        workers.each(pieces, |(x, share): (&[f32], &mut [f64; 2])| {
            let mean = f64::from(sum([x], |[x]| x)) / n as f64;
            let centre = mean as f32;
            let squares = f64::from(sum([x], |[x]| (x - centre) * (x - centre)));
            *share = [mean, squares - n as f64 * (mean - f64::from(centre)).powi(2)];
        })?;
        let examples = (x.len() / n / channels) as f64;
        for c in 0..channels {
            let [means, squares] = over_examples(&shares, channels, c);
            let overall = means / examples;
            let own = shares.iter().skip(c).step_by(channels);
            let between: f64 = own.map(|[mean, _]| n as f64 * (mean - overall).powi(2)).sum();
            mean[c] = overall as f32;
            variance[c] = ((squares + between) / (examples * n as f64)) as f32;
        }
        let pieces = y.chunks_exact_mut(n).zip(x.chunks_exact(n)).enumerate().collect();
        workers.each(pieces, |(i, (y, x)): (usize, (&mut [f32], &[f32]))| {
            let c = i % channels;
            let (centre, offset) = (mean[c], bias[c]);
            let slope = scale[c] / (variance[c] + self.epsilon).sqrt();
            y.iter_mut().zip(x).for_each(|(y, x)| *y = (x - centre) * slope + offset);
        })
    }
}

/// One channel of one example: its gradient and input, and where the result goes.
struct Piece<'a, R: ?Sized> {
    c: usize,
    dy: &'a [f32],
    x: &'a [f32],
    into: &'a mut R,
}

impl Kernel for BatchNormGradient {
    /// dbias = sum(dy), dscale = sum(dy xhat), dx = scale / std (dy - dbias / n - xhat dscale / n).
    fn compute(&self, inputs: &[Input<'_>], outputs: &mut [&mut [f32]], workers: &Workers<'_>) -> ort::Result<()> {
        let [dy, x, scale, mean, variance] = std::array::from_fn(|i| inputs[i].values);
        let [dx, dscale, dbias] = outputs else { return Err(ort::Error::new("expected three outputs")) };
        let (channels, n) = sizes(inputs[1].shape);
        let inverse: Vec<_> = variance.iter().map(|variance| 1.0 / (variance + self.epsilon).sqrt()).collect();
        let mut shares = vec![[0.0; 2]; x.len() / n];
        let given = || dy.chunks_exact(n).zip(x.chunks_exact(n)).enumerate();
        let pieces =
            given().zip(&mut shares).map(|((i, (dy, x)), share)| Piece { c: i % channels, dy, x, into: share });
        workers.each(pieces.collect(), |Piece { c, dy, x, into: share }: Piece<'_, [f64; 2]>| {
            let (centre, inverse) = (mean[c], inverse[c]);
            let along = sum([dy, x], |[dy, x]| dy * ((x - centre) * inverse));
            *share = [f64::from(along), f64::from(sum([dy], |[dy]| dy))];
        })?;
        let count = (x.len() / channels) as f64;
        let sums: Vec<_> = (0..channels).map(|c| over_examples(&shares, channels, c)).collect();
        for (c, [along, level]) in sums.iter().enumerate() {
            (dscale[c], dbias[c]) = (*along as f32, *level as f32);
        }
        let pieces =
            given().zip(dx.chunks_exact_mut(n)).map(|((i, (dy, x)), dx)| Piece { c: i % channels, dy, x, into: dx });
        workers.each(pieces.collect(), |Piece { c, dy, x, into: dx }: Piece<'_, [f32]>| {
            let (centre, inverse) = (mean[c], inverse[c]);
            let [along, level] = sums[c].map(|sum| (sum / count) as f32);
            let factor = scale[c] * inverse;
            for ((dx, dy), x) in dx.iter_mut().zip(dy).zip(x) {
                *dx = (dy - level - (x - centre) * inverse * along) * factor;
            }
        })
    }
}
