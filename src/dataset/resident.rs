//! A split's rows one after the other, as they are put where steps compute once, and how windows are found among them.

use super::shape::{BatchShape, clear_failed, valid_ranges};
use super::windows::{Window, WindowIndex};
use crate::cache::CacheError;
use crate::ports;

/// Rows copied at once.
const BLOCK: u64 = 1 << 12;
/// Rows that are asked for before they are copied.
const AHEAD: u64 = 1 << 17;

/// Where each recording's rows begin among all rows of a split. A window of zeros comes first, which stands for the
/// windows that a batch lacks; recordings are apart by as many zeros as windows reach beyond them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resident {
    /// By the recordings' index in the cache; 0 for those without windows.
    firsts: Vec<u64>,
    rows: u64,
    /// Zeros behind each recording, and before the first.
    gap: u64,
    before: u64,
}

/// Some rows on their way: EMG [n, channels], angles [n, joints] in radians, and 1 for each row that counts, else 0.
#[derive(Debug, Clone, Copy)]
pub struct RowBlock<'a> {
    /// Number of the first of them.
    pub first: u64,
    pub emg: &'a [f32],
    pub joint_angles: &'a [f32],
    pub valid: &'a [f32],
}

impl RowBlock<'_> {
    /// The block's part of each table of a step: the element that it begins with, and its elements.
    pub fn tables(&self) -> [(&'static str, usize, &[f32]); 3] {
        let first = self.first as usize;
        let table = |name, values| {
            let values: &[f32] = values;
            (name, first * (values.len() / self.valid.len().max(1)), values)
        };
        [
            table(ports::ALL_EMG, self.emg),
            table(ports::ALL_JOINT_ANGLES, self.joint_angles),
            table(ports::ALL_VALID, self.valid),
        ]
    }
}

impl Resident {
    /// Of the recordings that windows of `shape` lie in.
    pub fn new(index: &WindowIndex, shape: BatchShape) -> Self {
        let padding = index.shape().padding.map(|rows| rows as u64);
        let (gap, before) = (padding[0].max(padding[1]), padding[0]);
        let mut firsts = vec![0; index.cache().recordings().count()];
        let mut rows = (shape.rows as u64).max(gap);
        for recording in index.recordings() {
            firsts[recording] = rows;
            rows += index.cache().recording(recording).content.rows + gap;
        }
        Self { firsts, rows, gap, before }
    }

    /// All rows, zeros between recordings included.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Number of a window's first row, padding included.
    pub fn first_row(&self, window: &Window) -> u64 {
        self.firsts[window.recording] + window.start - self.before
    }

    /// Gives all rows to `sink`, in order and in pieces. Angles of rows that do not count are 0.
    ///
    /// # Errors
    /// A segment is damaged; the sink's.
    pub fn copy<E: From<CacheError>>(
        &self,
        index: &WindowIndex,
        shape: BatchShape,
        mut sink: impl FnMut(RowBlock<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let BatchShape { channels, joints, .. } = shape;
        let mut emg = vec![0.0; BLOCK as usize * channels];
        let mut angles = vec![0.0; BLOCK as usize * joints];
        let mut valid = vec![0.0; BLOCK as usize];
        let mut reached = 0;
        let mut give = |first: u64, rows: u64, emg: &[f32], angles: &[f32], valid: &[f32]| {
            let n = rows as usize;
            let (emg, joint_angles, valid) = (&emg[..n * channels], &angles[..n * joints], &valid[..n]);
            sink(RowBlock { first, emg, joint_angles, valid })
        };
        for recording in index.recordings() {
            self.zeros(reached, self.firsts[recording], shape, &mut give)?;
            let (cache, first) = (index.cache(), self.firsts[recording]);
            let own = cache.recording(recording);
            let segment = cache.segment(own.segment);
            for from in (0..own.content.rows).step_by(BLOCK as usize) {
                let rows = (own.content.rows - from).min(BLOCK);
                let at = own.content.first_row + from;
                if from % AHEAD == 0 {
                    // At first twice as much: what is copied now, too.
                    let asked = if from == 0 { 0 } else { from + AHEAD };
                    let end = (from + 2 * AHEAD).min(own.content.rows);
                    segment.will_need(own.content.first_row + asked, end.saturating_sub(asked));
                }
                segment.copy_emg(at, &mut emg[..rows as usize * channels])?;
                segment.copy_joint_angles(at, &mut angles[..rows as usize * joints])?;
                valid.fill(0.0);
                let ranges = valid_ranges(&own.content.valid_runs, from as i64, rows as usize);
                ranges.for_each(|range| valid[range].fill(1.0));
                clear_failed(&mut angles, joints, &valid);
                give(first + from, rows, &emg, &angles, &valid)?;
            }
            reached = first + own.content.rows;
        }
        self.zeros(reached, self.rows, shape, &mut give)
    }

    fn zeros<E>(
        &self,
        from: u64,
        to: u64,
        shape: BatchShape,
        give: &mut impl FnMut(u64, u64, &[f32], &[f32], &[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        debug_assert!(from <= to && (to - from == self.gap || from == 0));
        let zeros = vec![0.0; (to - from).min(BLOCK) as usize * shape.channels.max(shape.joints)];
        let mut starts = (from..to).step_by(BLOCK as usize);
        starts.try_for_each(|first| give(first, (to - first).min(BLOCK), &zeros, &zeros, &zeros))
    }
}
