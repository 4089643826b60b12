//! Overlapping frames of a signal.

use super::operator::{Attributes, Input, Kernel, Workers};

/// Elements per piece of work; a piece is whole frames.
const PIECE: usize = 1 << 15;

/// How frames lie.
pub(super) struct Frames {
    advance: usize,
    length: usize,
    count: usize,
}

impl Frames {
    pub(super) fn new(attributes: &Attributes) -> Self {
        let [advance, length, count] = ["advance", "length", "count"].map(|name| attributes.int(name, 1) as usize);
        Self { advance, length, count }
    }
}

impl Kernel for Frames {
    /// Frame i of x [n, rows, width] is rows [i advance, i advance + length), with zeros beyond the last row.
    fn compute(&self, inputs: &[Input<'_>], outputs: &mut [&mut [f32]], workers: &Workers<'_>) -> ort::Result<()> {
        let Input { shape, values, .. } = inputs[0];
        let Self { advance, length, count } = *self;
        let (signal, frame) = (shape[1] * shape[2], length * shape[2]);
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
}
