//! Assembling batches: rows of windows copied out of the mapped segments, with their masks.

use super::index::{Window, WindowIndex};
use super::random::Random;
use crate::cache::CacheError;

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
}

impl BatchShape {
    /// Rows per window that have a target.
    pub fn target_rows(&self) -> usize {
        self.rows - self.context
    }
}

/// A batch: EMG [batch, rows, channels] as cached, angles [batch, target_rows, joints] in radians,
/// mask [batch, target_rows] of 0 and 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    pub shape: BatchShape,
    pub emg: Vec<f32>,
    pub joint_angles: Vec<f32>,
    pub mask: Vec<f32>,
    /// [batch, joints], of each window's recording, where [`Targets::recording_statistics`] asks for them.
    pub angle_mean: Vec<f32>,
    pub angle_divisor: Vec<f32>,
    /// Index of each window's recording; as many as there are real windows, the rest of the batch is masked.
    pub recordings: Vec<usize>,
}

impl Batch {
    pub fn new(shape: BatchShape, targets: Targets) -> Self {
        let statistics = if targets.recording_statistics { shape.batch * shape.joints } else { 0 };
        Self {
            shape,
            emg: vec![0.0; shape.batch * shape.rows * shape.channels],
            joint_angles: vec![0.0; shape.batch * shape.target_rows() * shape.joints],
            mask: vec![0.0; shape.batch * shape.target_rows()],
            angle_mean: vec![0.0; statistics],
            angle_divisor: vec![1.0; statistics],
            recordings: Vec::with_capacity(shape.batch),
        }
    }

    /// Rows that count.
    pub fn valid_rows(&self) -> usize {
        self.mask.iter().filter(|mask| **mask > 0.0).count()
    }
}

/// What the model needs of the targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Targets {
    /// Mask windows whole whose first target row failed: the model starts from the true pose there.
    pub true_initial_pose: bool,
    /// Fill in each recording's own angle statistics.
    pub recording_statistics: bool,
}

/// Random changes to training windows; none for evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Augment {
    pub jitter: bool,
    /// Channels are rolled by -rotation ..= rotation.
    pub rotation: usize,
    pub seed: u64,
}

/// Copies windows of one split into batches.
#[derive(Debug)]
pub struct Gather {
    pub index: WindowIndex,
    pub shape: BatchShape,
    pub targets: Targets,
}

impl Gather {
    pub(crate) fn window(&self, k: u64, augment: Option<(&Augment, u64, u64)>) -> (Window, isize) {
        let mut window = self.index.get(k);
        let Some((augment, epoch, position)) = augment else { return (window, 0) };
        let mut random = Random::new(&[augment.seed, epoch, position]);
        if augment.jitter {
            let shift = random.up_to(window.slack.min(self.index.shape().stride as u64));
            window.start += shift;
            window.slack -= shift;
        }
        let roll = random.up_to(2 * augment.rotation as u64) as isize - augment.rotation as isize;
        (window, roll)
    }

    /// Fills `batch` with `windows` (window, channel roll); what is left of the batch is masked.
    ///
    /// # Errors
    /// A segment is damaged.
    pub(crate) fn fill(
        &self,
        batch: &mut Batch,
        windows: impl ExactSizeIterator<Item = (Window, isize)>,
    ) -> Result<(), CacheError> {
        debug_assert_eq!(batch.shape, self.shape);
        batch.recordings.clear();
        batch.mask.fill(0.0);
        for (slot, (window, roll)) in windows.enumerate() {
            batch.recordings.push(window.recording);
            self.fill_slot(batch, slot, &window, roll)?;
        }
        let filled = batch.recordings.len();
        batch.emg[filled * self.shape.rows * self.shape.channels..].fill(0.0);
        batch.joint_angles[filled * self.shape.target_rows() * self.shape.joints..].fill(0.0);
        Ok(())
    }

    fn fill_slot(&self, batch: &mut Batch, slot: usize, window: &Window, roll: isize) -> Result<(), CacheError> {
        let BatchShape { rows, channels, joints, context, .. } = self.shape;
        let cache = self.index.cache();
        let recording = cache.recording(window.recording);
        let segment = cache.segment(recording.segment);
        // Rows of the padded window that lie in the recording: [before, until) of 0..rows.
        let first = window.start as i64 - self.index.shape().padding[0] as i64;
        let before = usize::try_from(-first).unwrap_or(0).min(rows);
        let until = (recording.content.rows as i64 - first).clamp(0, rows as i64) as usize;
        let row = |i: usize| recording.content.first_row + (first + i as i64) as u64;

        let emg = slice(&mut batch.emg, slot, rows * channels);
        emg[..before * channels].fill(0.0);
        emg[until * channels..].fill(0.0);
        segment.copy_emg(row(before), &mut emg[before * channels..until * channels])?;
        if roll != 0 {
            emg.chunks_exact_mut(channels)
                .for_each(|row| row.rotate_right(roll.rem_euclid(channels as isize) as usize));
        }

        let targets = self.shape.target_rows();
        let angles = slice(&mut batch.joint_angles, slot, targets * joints);
        let (from, to) = (before.max(context), until.max(context));
        angles[..(from - context) * joints].fill(0.0);
        angles[(to - context) * joints..].fill(0.0);
        if from < to {
            segment.copy_joint_angles(row(from), &mut angles[(from - context) * joints..(to - context) * joints])?;
        }
        let mask = slice(&mut batch.mask, slot, targets);
        for &(start, length) in overlapping(&recording.content.valid_runs, first, rows) {
            let (start, end) = (start as i64 - first, (start + length) as i64 - first);
            let clip = |at: i64| at.clamp(context as i64, rows as i64) as usize - context;
            mask[clip(start)..clip(end)].fill(1.0);
        }
        // Failed rows may hold values that are not finite, and 0 x NaN is NaN.
        for (row, _) in angles.chunks_exact_mut(joints).zip(mask.iter()).filter(|(_, mask)| **mask == 0.0) {
            row.fill(0.0);
        }
        if self.targets.true_initial_pose && mask.first() == Some(&0.0) {
            mask.fill(0.0);
        }
        if self.targets.recording_statistics {
            let statistics = &recording.content.joint_angles;
            let to_f32 = |values: &[f64], out: &mut [f32]| out.iter_mut().zip(values).for_each(|(o, v)| *o = *v as f32);
            to_f32(&statistics.mean, slice(&mut batch.angle_mean, slot, joints));
            to_f32(&statistics.divisor(), slice(&mut batch.angle_divisor, slot, joints));
        }
        Ok(())
    }

    /// Asks the kernel to read a window's rows soon.
    pub(crate) fn will_need(&self, window: &Window) {
        let recording = self.index.cache().recording(window.recording);
        let rows = self.shape.rows.min((recording.content.rows - window.start) as usize);
        self.index.cache().segment(recording.segment).will_need(recording.content.first_row + window.start, rows);
    }
}

fn slice(values: &mut [f32], slot: usize, length: usize) -> &mut [f32] {
    &mut values[slot * length..(slot + 1) * length]
}

/// The valid runs that touch rows [first, first + rows).
fn overlapping(runs: &[(u64, u64)], first: i64, rows: usize) -> &[(u64, u64)] {
    let last = first + rows as i64;
    let from = runs.partition_point(|(start, length)| ((start + length) as i64) <= first);
    let to = runs.partition_point(|(start, _)| (*start as i64) < last);
    &runs[from..to.max(from)]
}
