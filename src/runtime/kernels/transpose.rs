//! Transposing many matrices, or one.

use super::operator::{Attributes, Input, Kernel, Workers};
use crate::graph::as_batch_transpose;

/// Elements per piece of work.
const PIECE: usize = 1 << 14;
/// Rows that are read side by side: few enough that their cache lines stay near.
const TILE: usize = 32;

/// The order of axes.
pub(super) struct BatchTranspose {
    order: Vec<usize>,
}

impl BatchTranspose {
    pub(super) fn new(attributes: &Attributes) -> Self {
        Self { order: attributes.ints("perm", &[]).iter().map(|axis| *axis as usize).collect() }
    }
}

impl Kernel for BatchTranspose {
    /// [batch, rows, columns] to [batch, columns, rows], under whatever axes the operator names them.
    fn compute(&self, inputs: &[Input<'_>], outputs: &mut [&mut [f32]], workers: &Workers<'_>) -> ort::Result<()> {
        let Input { shape, values, .. } = inputs[0];
        let order = &self.order;
        let [_, rows, columns] =
            as_batch_transpose(shape, order).ok_or_else(|| ort::Error::new(format!("{order:?} of {shape:?}")))?;
        if values.is_empty() {
            return Ok(());
        }
        let some_columns = (PIECE / rows).clamp(1, columns);
        let matrices = values.chunks_exact(rows * columns).zip(outputs[0].chunks_exact_mut(rows * columns));
        let pieces = matrices
            .flat_map(|(from, to)| {
                let starts = (0..columns).step_by(some_columns);
                starts.zip(to.chunks_mut(some_columns * rows)).map(move |(start, to)| (from, start, to))
            })
            .collect();
        workers.each(pieces, |(from, start, to): (&[f32], usize, &mut [f32])| {
            for first in (0..rows).step_by(TILE) {
                let tile = &from[first * columns..(first + TILE).min(rows) * columns];
                for (i, to) in to.chunks_exact_mut(rows).enumerate() {
                    let column = tile[start + i..].iter().step_by(columns);
                    to[first..].iter_mut().zip(column).for_each(|(to, from)| *to = *from);
                }
            }
        })
    }
}
