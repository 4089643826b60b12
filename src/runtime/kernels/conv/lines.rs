//! Convolutions line by line: each tap of the kernel along the last axis, by vector instructions.

use super::geometry::{Geometry, Parted};
use super::{Channels, Input, Workers};

/// to += w from.
#[multiversion::multiversion(targets = "simd")]
fn add(to: &mut [f32], from: &[f32], w: f32) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += w * from);
}

/// The sum of products.
#[multiversion::multiversion(targets = "simd")]
fn product(y: &[f32], x: &[f32]) -> f32 {
    const LANES: usize = 16;
    let (blocks, rest) = y.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for (y, x) in blocks.iter().zip(x.as_chunks::<LANES>().0) {
        for lane in 0..LANES {
            sums[lane] += y[lane] * x[lane];
        }
    }
    let tail = blocks.len() * LANES;
    sums.iter().sum::<f32>() + rest.iter().zip(&x[tail..]).map(|(y, x)| y * x).sum::<f32>()
}

/// The output, [batch, groups x each, output..].
pub(super) fn output(
    geometry: &Geometry,
    channels: Channels,
    x: Input<'_>,
    w: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
    workers: &Workers<'_>,
) -> ort::Result<()> {
    let Channels { groups, own, each } = channels;
    let input = &x.shape[2..];
    let output = geometry.output(input);
    let (lines, taps, parted) = (geometry.lines(input, &output), geometry.taps(), Parted::new(geometry, input));
    let plane: usize = output.iter().product();
    if plane == 0 {
        return Ok(());
    }
    // All of a group's outputs take the same inputs.
    let pieces = y.chunks_mut(each * plane).enumerate().collect();
    let (x, wide) = (parted.parts(x.values, workers)?, parted.len());
    workers.each(pieces, |(number, y): (usize, &mut [f32])| {
        let group = number % groups;
        let x = &x[number * own * wide..][..own * wide];
        for (channel, y) in y.chunks_mut(plane).enumerate() {
            let channel = group * each + channel;
            y.fill(bias.map_or(0.0, |bias| bias[channel]));
            for i in 0..own {
                let (x, w) = (&x[i * wide..], &w[(channel * own + i) * taps..][..taps]);
                for line in &lines {
                    add(&mut y[line.outputs.clone()], &x[line.input..], w[line.tap]);
                }
            }
        }
    })
}

/// dx, [batch, groups x own, sizes..].
pub(super) fn input_gradient(
    geometry: &Geometry,
    channels: Channels,
    sizes: &[usize],
    dy: Input<'_>,
    w: &[f32],
    dx: &mut [f32],
    workers: &Workers<'_>,
) -> ort::Result<()> {
    let Channels { groups, own, each } = channels;
    let output = &dy.shape[2..];
    let (plane, whole) = (output.iter().product::<usize>(), sizes.iter().product::<usize>());
    if whole == 0 {
        return Ok(());
    }
    let (lines, taps, parted) = (geometry.lines(sizes, output), geometry.taps(), Parted::new(geometry, sizes));
    let pieces = dx.chunks_mut(whole).enumerate().collect();
    workers.each(pieces, |(number, dx): (usize, &mut [f32])| {
        let (example, group, i) = (number / own / groups, number / own % groups, number % own);
        parted.made(dx, |dx| {
            dx.fill(0.0);
            for channel in group * each..(group + 1) * each {
                let dy = &dy.values[(example * groups * each + channel) * plane..][..plane];
                let w = &w[(channel * own + i) * taps..][..taps];
                for line in &lines {
                    add(&mut dx[line.input..], &dy[line.outputs.clone()], w[line.tap]);
                }
            }
        });
    })
}

/// dW, [groups x each, own, kernel..].
pub(super) fn weight_gradient(
    geometry: &Geometry,
    channels: Channels,
    x: Input<'_>,
    dy: Input<'_>,
    dw: &mut [f32],
    workers: &Workers<'_>,
) -> ort::Result<()> {
    let Channels { groups, own, each } = channels;
    let (input, output) = (&x.shape[2..], &dy.shape[2..]);
    let (plane, taps) = (output.iter().product::<usize>(), geometry.taps());
    let (lines, parted) = (geometry.lines(input, output), Parted::new(geometry, input));
    let (x, wide) = (parted.parts(x.values, workers)?, parted.len());
    let pieces = dw.chunks_mut(own * taps).enumerate().collect();
    workers.each(pieces, |(channel, dw): (usize, &mut [f32])| {
        for (i, dw) in dw.chunks_mut(taps).enumerate() {
            let mut sums = vec![0.0f64; taps];
            for example in 0..dy.shape[0] {
                let dy = &dy.values[(example * groups * each + channel) * plane..][..plane];
                let at = (example * groups + channel / each) * own + i;
                let x = &x[at * wide..][..wide];
                for line in &lines {
                    let dy = &dy[line.outputs.clone()];
                    sums[line.tap] += f64::from(product(dy, &x[line.input..]));
                }
            }
            dw.iter_mut().zip(sums).for_each(|(dw, sum)| *dw = sum as f32);
        }
    })
}
