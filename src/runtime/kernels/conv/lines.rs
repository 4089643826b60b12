//! Convolutions line by line: each tap of the kernel along the last axis, by vector instructions.

use super::{Plan, Workers};
use crate::runtime::kernels::layer_norm::sum;

/// to += w from.
#[multiversion::multiversion(targets = "simd")]
fn add(to: &mut [f32], from: &[f32], w: f32) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += w * from);
}

/// The sum of products.
#[multiversion::multiversion(targets = "simd")]
fn product(y: &[f32], x: &[f32]) -> f32 {
    sum([y, x], |[y, x]| y * x)
}

/// y, [batch, groups x outputs, positions].
pub(super) fn output(
    plan: &Plan,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
    workers: &Workers<'_>,
) -> ort::Result<()> {
    let Plan { groups, inputs, outputs, taps, positions, .. } = *plan;
    if positions == 0 {
        return Ok(());
    }
    let (x, wide) = (plan.phases.split(x, workers)?, plan.phases.len());
    // All of a group's outputs take the same inputs.
    let pieces = y.chunks_mut(outputs * positions).enumerate().collect();
    workers.each(pieces, |(number, y): (usize, &mut [f32])| {
        let group = number % groups;
        let x = &x[number * inputs * wide..][..inputs * wide];
        for (channel, y) in y.chunks_mut(positions).enumerate() {
            let channel = group * outputs + channel;
            y.fill(bias.map_or(0.0, |bias| bias[channel]));
            for i in 0..inputs {
                let (x, w) = (&x[i * wide..], &w[(channel * inputs + i) * taps..][..taps]);
                for line in &plan.lines {
                    add(&mut y[line.outputs.clone()], &x[line.input..], w[line.tap]);
                }
            }
        }
    })
}

/// dx, [batch, groups x inputs, sizes..].
pub(super) fn input_gradient(
    plan: &Plan,
    dy: &[f32],
    w: &[f32],
    dx: &mut [f32],
    workers: &Workers<'_>,
) -> ort::Result<()> {
    let Plan { groups, inputs, outputs, taps, positions, .. } = *plan;
    if plan.phases.whole() == 0 {
        return Ok(());
    }
    let pieces = dx.chunks_mut(plan.phases.whole()).enumerate().collect();
    workers.each(pieces, |(number, dx): (usize, &mut [f32])| {
        let (example, group, i) = (number / inputs / groups, number / inputs % groups, number % inputs);
        plan.phases.join(dx, |dx| {
            dx.fill(0.0);
            for channel in group * outputs..(group + 1) * outputs {
                let dy = &dy[(example * groups * outputs + channel) * positions..][..positions];
                let w = &w[(channel * inputs + i) * taps..][..taps];
                for line in &plan.lines {
                    add(&mut dx[line.input..], &dy[line.outputs.clone()], w[line.tap]);
                }
            }
        });
    })
}

/// dW, [groups x outputs, inputs, kernel..], from x and dy.
pub(super) fn weight_gradient(
    plan: &Plan,
    batch: usize,
    [x, dy]: [&[f32]; 2],
    dw: &mut [f32],
    workers: &Workers<'_>,
) -> ort::Result<()> {
    let Plan { groups, inputs, outputs, taps, positions, .. } = *plan;
    let (x, wide) = (plan.phases.split(x, workers)?, plan.phases.len());
    let pieces = dw.chunks_mut(inputs * taps).enumerate().collect();
    workers.each(pieces, |(channel, dw): (usize, &mut [f32])| {
        for (i, dw) in dw.chunks_mut(taps).enumerate() {
            let mut sums = vec![0.0f64; taps];
            for example in 0..batch {
                let dy = &dy[(example * groups * outputs + channel) * positions..][..positions];
                let x = &x[((example * groups + channel / outputs) * inputs + i) * wide..][..wide];
                for line in &plan.lines {
                    let dy = &dy[line.outputs.clone()];
                    sums[line.tap] += f64::from(product(dy, &x[line.input..]));
                }
            }
            dw.iter_mut().zip(sums).for_each(|(dw, sum)| *dw = sum as f32);
        }
    })
}
