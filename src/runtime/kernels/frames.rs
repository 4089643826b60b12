//! Overlapping frames of a signal.

use super::operator::{Input, Settings, Workers};

/// Elements per piece of work; a piece is whole frames.
const PIECE: usize = 1 << 15;

pub(super) fn shapes(inputs: &[Vec<usize>], settings: &Settings) -> Result<Vec<Vec<usize>>, String> {
    let [n, _, width] = inputs[0][..] else { return Err(format!("{:?} is not [n, rows, width]", inputs[0])) };
    let [advance, length, count] = settings.framing;
    if advance == 0 || length == 0 {
        return Err("frames need an advance and a length".into());
    }
    Ok(vec![vec![n * count, length * width]])
}

/// Frame i of x [n, rows, width] is rows [i advance, i advance + length), with zeros beyond the last row.
pub(super) fn frames(
    inputs: &[Input<'_>],
    settings: &Settings,
    outputs: &mut [&mut [f32]],
    workers: &Workers<'_>,
) -> Result<(), String> {
    let Input { shape, values, .. } = inputs[0];
    let ([advance, length, count], signal, frame) =
        (settings.framing, shape[1] * shape[2], settings.framing[1] * shape[2]);
    if outputs[0].is_empty() || signal == 0 {
        outputs[0].fill(0.0);
        return Ok(());
    }
    let some = (PIECE / frame).max(1);
    let pieces = outputs[0].chunks_mut(some * frame).enumerate().collect();
    workers.each(pieces, |(piece, out): (usize, &mut [f32])| {
        for (i, out) in out.chunks_exact_mut(frame).enumerate() {
            let (of, at) = ((piece * some + i) / count, (piece * some + i) % count);
            let signal = &values[of * signal..(of + 1) * signal];
            let start = (at * advance * shape[2]).min(signal.len());
            let there = length.min((signal.len() - start) / shape[2]) * shape[2];
            out[..there].copy_from_slice(&signal[start..start + there]);
            out[there..].fill(0.0);
        }
    })
}
