//! Sizes of a batch, and which of its rows count.

use std::ops::Range;

/// Sizes of a batch's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchShape {
    pub batch: usize,
    /// Rows per window, padding included.
    pub rows: usize,
    pub channels: usize,
    pub joints: usize,
    /// Rows at the window's start that have no target: the model's left context.
    pub context: usize,
    /// Rows at its end that have none: the right context.
    pub after: usize,
}

impl BatchShape {
    /// Rows per window that have a target.
    pub fn target_rows(&self) -> usize {
        self.rows - self.context - self.after
    }

    /// Bytes of a batch's EMG, angles and mask, however large.
    pub fn bytes(&self) -> u128 {
        let [batch, rows, targets] = [self.batch, self.rows, self.target_rows()].map(|n| n as u128);
        let per_window = rows * self.channels as u128 + targets * (self.joints as u128 + 1);
        batch.saturating_mul(per_window).saturating_mul(size_of::<f32>() as u128)
    }
}

/// The parts of rows [first, first + rows) that count, from the first on.
pub(crate) fn valid_ranges(runs: &[(u64, u64)], first: i64, rows: usize) -> impl Iterator<Item = Range<usize>> {
    let clip = move |at: u64| (at as i64 - first).clamp(0, rows as i64) as usize;
    overlapping(runs, first, rows).iter().map(move |&(start, length)| clip(start)..clip(start + length))
}

/// Makes angles [n, joints] zero where `mask` [n] is 0: failed rows may hold values that are not finite, and 0 x NaN is
/// NaN.
pub(super) fn clear_failed(angles: &mut [f32], joints: usize, mask: &[f32]) {
    let rows = angles.chunks_exact_mut(joints).zip(mask);
    rows.filter(|(_, mask)| **mask == 0.0).for_each(|(row, _)| row.fill(0.0));
}

/// The valid runs that touch rows [first, first + rows).
fn overlapping(runs: &[(u64, u64)], first: i64, rows: usize) -> &[(u64, u64)] {
    let last = first + rows as i64;
    let from = runs.partition_point(|(start, length)| ((start + length) as i64) <= first);
    let to = runs.partition_point(|(start, _)| (*start as i64) < last);
    &runs[from..to.max(from)]
}
