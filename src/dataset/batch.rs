//! Assembling batches: rows of windows copied out of the mapped segments, with their masks.

use std::ops::Range;

use rayon::prelude::*;

use super::resident::Resident;
use super::shape::{BatchShape, clear_failed, valid_ranges};
use super::windows::{Window, WindowIndex};
use crate::cache::{CacheError, CacheRecording};
use crate::ports::{self, Named, Values};
use crate::random::Random;
use crate::statistics::Moments;

/// A batch of windows.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    pub shape: BatchShape,
    pub content: Content,
    /// Where [`Needs`] ask for them.
    pub angle_statistics: Option<RecordingStatistics>,
    pub emg_statistics: Option<RecordingStatistics>,
    /// Rows that count.
    pub valid_rows: usize,
    /// Where the windows lie; as many as there are real ones, the rest of the batch is masked.
    pub windows: Vec<Window>,
}

/// What a batch brings of its windows.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Their rows.
    Rows(Rows),
    /// Where they lie among resident rows.
    Places(Places),
}

/// The rows of a batch's windows.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    /// [batch, rows, channels], as cached.
    pub emg: Vec<f32>,
    /// [batch, target_rows, joints], radians.
    pub joint_angles: Vec<f32>,
    /// [batch, target_rows], 1 for rows that count, else 0.
    pub mask: Vec<f32>,
}

/// The places of a batch's windows.
#[derive(Debug, Clone, PartialEq)]
pub struct Places {
    /// [batch], each window's first row.
    pub first_rows: Vec<i64>,
    /// [batch, channels], the channel that each one is taken from, where rows are rolled.
    pub channels: Vec<i64>,
}

/// Statistics of each window's recording [batch, joints or channels].
#[derive(Debug, Clone, PartialEq)]
pub struct RecordingStatistics {
    pub mean: Vec<f32>,
    pub divisor: Vec<f32>,
}

impl RecordingStatistics {
    fn new(elements: usize) -> Self {
        Self { mean: vec![0.0; elements], divisor: vec![1.0; elements] }
    }

    /// Sets those of the window in a slot; columns are rolled to the right.
    fn set(&mut self, slot: usize, moments: &Moments, roll: isize) {
        let columns = moments.mean.len();
        let right = roll.rem_euclid(columns as isize) as usize;
        for (all, own) in [(&mut self.mean, &moments.mean), (&mut self.divisor, &moments.divisor())] {
            let out = &mut all[slot * columns..(slot + 1) * columns];
            out.iter_mut().zip(own).for_each(|(out, value)| *out = *value as f32);
            out.rotate_right(right);
        }
    }
}

/// One window's part of a batch's rows.
struct Slot<'a> {
    emg: &'a mut [f32],
    joint_angles: &'a mut [f32],
    mask: &'a mut [f32],
}

impl Rows {
    fn new(shape: BatchShape) -> Self {
        let targets = shape.batch * shape.target_rows();
        Self {
            emg: vec![0.0; shape.batch * shape.rows * shape.channels],
            joint_angles: vec![0.0; targets * shape.joints],
            mask: vec![0.0; targets],
        }
    }

    fn slots(&mut self, shape: BatchShape) -> Vec<Slot<'_>> {
        let targets = shape.target_rows();
        let emg = self.emg.chunks_exact_mut(shape.rows * shape.channels);
        let angles = self.joint_angles.chunks_exact_mut(targets * shape.joints);
        let parts = emg.zip(angles).zip(self.mask.chunks_exact_mut(targets));
        parts.map(|((emg, joint_angles), mask)| Slot { emg, joint_angles, mask }).collect()
    }
}

impl Batch {
    fn new(shape: BatchShape, needs: Needs, resident: bool) -> Self {
        let content = match resident {
            false => Content::Rows(Rows::new(shape)),
            true => Content::Places(Places {
                first_rows: vec![0; shape.batch],
                channels: vec![0; shape.batch * shape.channels],
            }),
        };
        let statistics = |needed: bool, columns: usize| needed.then(|| RecordingStatistics::new(shape.batch * columns));
        Self {
            shape,
            content,
            angle_statistics: statistics(needs.angle_statistics, shape.joints),
            emg_statistics: statistics(needs.emg_statistics, shape.channels),
            valid_rows: 0,
            windows: Vec::with_capacity(shape.batch),
        }
    }

    /// What the batch brings to the ports of a step.
    pub fn ports(&self) -> Vec<Named<'_>> {
        let mut ports: Vec<Named<'_>> = match &self.content {
            Content::Rows(Rows { emg, joint_angles, mask }) => {
                vec![
                    (ports::EMG, Values::F32(emg)),
                    (ports::JOINT_ANGLES, Values::F32(joint_angles)),
                    (ports::MASK, Values::F32(mask)),
                ]
            }
            Content::Places(Places { first_rows, channels }) => {
                vec![(ports::FIRST_ROWS, Values::I64(first_rows)), (ports::CHANNELS, Values::I64(channels))]
            }
        };
        let statistics = [
            (&self.angle_statistics, [ports::ANGLE_MEAN, ports::ANGLE_DIVISOR]),
            (&self.emg_statistics, [ports::EMG_MEAN, ports::EMG_STD]),
        ];
        for (statistics, [mean, divisor]) in statistics {
            let Some(statistics) = statistics else { continue };
            ports.extend([(mean, Values::F32(&statistics.mean)), (divisor, Values::F32(&statistics.divisor))]);
        }
        ports
    }

    /// Bytes of its float32 tensors.
    pub fn bytes(&self) -> usize {
        let elements = |values: &Values<'_>| if let Values::F32(values) = values { values.len() } else { 0 };
        self.ports().iter().map(|(_, values)| size_of::<f32>() * elements(values)).sum()
    }

    /// The windows' rows; `None` where they are resident.
    pub fn rows(&self) -> Option<&Rows> {
        match &self.content {
            Content::Rows(rows) => Some(rows),
            Content::Places(_) => None,
        }
    }

    /// Prediction, target [target_rows, joints] and mask [target_rows] of each real window that `predictions` has; nothing
    /// where rows are resident.
    pub fn windows_with<'a>(&'a self, predictions: &'a [f32]) -> impl Iterator<Item = [&'a [f32]; 3]> {
        let target_rows = self.shape.target_rows();
        let elements = target_rows * self.shape.joints;
        self.rows().into_iter().flat_map(move |rows| {
            let pairs = predictions.chunks_exact(elements).zip(rows.joint_angles.chunks_exact(elements));
            let windows = pairs.zip(rows.mask.chunks_exact(target_rows)).take(self.windows.len());
            windows.map(|((prediction, target), mask)| [prediction, target, mask])
        })
    }
}

/// What the model needs beside rows and targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// Mask windows whole whose first target row failed: the model starts from the true pose there.
    pub true_initial_pose: bool,
    /// Fill in each recording's own statistics.
    pub angle_statistics: bool,
    pub emg_statistics: bool,
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
#[derive(Debug, Clone)]
pub struct Gather {
    pub index: WindowIndex,
    pub shape: BatchShape,
    pub needs: Needs,
    /// Where the split's rows lie that steps gather windows from themselves; `None`: batches have the rows.
    pub resident: Option<Resident>,
}

impl Gather {
    /// A batch to be filled.
    pub(crate) fn batch(&self) -> Batch {
        Batch::new(self.shape, self.needs, self.resident.is_some())
    }

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

    /// Fills `batch` with `windows` (window, channel roll); what is left of the batch is masked. On all threads of the
    /// pool that it runs in, or with `parallel` unset on this one.
    ///
    /// # Errors
    /// A segment is damaged.
    pub(crate) fn fill(
        &self,
        batch: &mut Batch,
        windows: &[(Window, isize)],
        parallel: bool,
    ) -> Result<(), CacheError> {
        debug_assert_eq!(batch.shape, self.shape);
        batch.windows.clear();
        batch.windows.extend(windows.iter().map(|(window, _)| *window));
        for (slot, (window, roll)) in windows.iter().enumerate() {
            let recorded = &self.index.cache().recording(window.recording).content;
            if let Some(statistics) = &mut batch.angle_statistics {
                statistics.set(slot, &recorded.joint_angles, 0);
            }
            if let Some(statistics) = &mut batch.emg_statistics {
                statistics.set(slot, &recorded.emg, *roll);
            }
        }
        batch.valid_rows = match (&mut batch.content, &self.resident) {
            (Content::Rows(rows), _) => self.fill_rows(rows, windows, parallel)?,
            (Content::Places(places), Some(resident)) => self.fill_places(resident, places, windows),
            (Content::Places(_), None) => unreachable!("batches of places are made for resident rows"),
        };
        Ok(())
    }

    /// Gives the rows that count.
    fn fill_rows(&self, rows: &mut Rows, windows: &[(Window, isize)], parallel: bool) -> Result<usize, CacheError> {
        let mut slots = rows.slots(self.shape);
        for Slot { emg, joint_angles, mask } in slots.split_off(windows.len()) {
            emg.fill(0.0);
            joint_angles.fill(0.0);
            mask.fill(0.0);
        }
        let fill = |(slot, (window, roll)): (Slot<'_>, &(Window, isize))| self.fill_slot(slot, window, *roll);
        if parallel {
            slots.into_par_iter().zip(windows).try_for_each(fill)?;
        } else {
            slots.into_iter().zip(windows).try_for_each(fill)?;
        }
        Ok(rows.mask.iter().filter(|mask| **mask > 0.0).count())
    }

    /// Gives the rows that count.
    fn fill_places(&self, resident: &Resident, places: &mut Places, windows: &[(Window, isize)]) -> usize {
        let channels = self.shape.channels;
        places.first_rows.fill(0);
        for (i, own) in places.channels.iter_mut().enumerate() {
            let (slot, channel) = (i / channels, (i % channels) as isize);
            let roll = windows.get(slot).map_or(0, |(_, roll)| *roll);
            *own = (channel - roll).rem_euclid(channels as isize) as i64;
        }
        let mut valid_rows = 0;
        for ((window, _), first_row) in windows.iter().zip(&mut places.first_rows) {
            *first_row = resident.first_row(window) as i64;
            let starts_failed = self.needs.true_initial_pose && !self.valid(window).any(|range| range.start == 0);
            if !starts_failed {
                valid_rows += self.valid(window).map(|range| range.len()).sum::<usize>();
            }
        }
        valid_rows
    }

    /// The parts of a window's target rows that count.
    fn valid(&self, window: &Window) -> impl Iterator<Item = Range<usize>> {
        let first = window.start as i64 - self.index.shape().padding[0] as i64 + self.shape.context as i64;
        let runs = &self.index.cache().recording(window.recording).content.valid_runs;
        valid_ranges(runs, first, self.shape.target_rows())
    }

    fn fill_slot(&self, slot: Slot<'_>, window: &Window, roll: isize) -> Result<(), CacheError> {
        let BatchShape { rows, channels, joints, context, after, .. } = self.shape;
        let Slot { emg, joint_angles: angles, mask } = slot;
        let cache = self.index.cache();
        let recording = cache.recording(window.recording);
        let segment = cache.segment(recording.segment);
        // Rows of the padded window that lie in the recording: [before, until) of 0..rows.
        let first = window.start as i64 - self.index.shape().padding[0] as i64;
        let before = usize::try_from(-first).unwrap_or(0).min(rows);
        let until = (recording.content.rows as i64 - first).clamp(0, rows as i64) as usize;
        let row = |i: usize| recording.content.first_row + (first + i as i64) as u64;

        emg[..before * channels].fill(0.0);
        emg[until * channels..].fill(0.0);
        segment.copy_emg(row(before), &mut emg[before * channels..until * channels])?;
        if roll != 0 {
            let right = roll.rem_euclid(channels as isize) as usize;
            emg.chunks_exact_mut(channels).for_each(|row| row.rotate_right(right));
        }

        let [from, to] = [before, until].map(|row| row.clamp(context, rows - after));
        angles[..(from - context) * joints].fill(0.0);
        angles[(to - context) * joints..].fill(0.0);
        if from < to {
            segment.copy_joint_angles(row(from), &mut angles[(from - context) * joints..(to - context) * joints])?;
        }
        mask.fill(0.0);
        self.valid(window).for_each(|range| mask[range].fill(1.0));
        clear_failed(angles, joints, mask);
        if self.needs.true_initial_pose && mask.first() == Some(&0.0) {
            mask.fill(0.0);
        }
        Ok(())
    }

    /// Windows per 64 MiB of stored rows, for [`Shuffle::Block`](crate::config::Shuffle).
    pub(crate) fn block(&self) -> u64 {
        const BLOCK_BYTES: u64 = 64 << 20;
        let row = self.index.cache().manifest().settings.segment().bytes(1);
        (BLOCK_BYTES / row / self.index.shape().stride as u64).max(1)
    }

    /// Asks the kernel to read the rows of windows soon: one request for windows that follow each other.
    pub(crate) fn will_need(&self, windows: impl Iterator<Item = Window>) {
        let cache = self.index.cache();
        let (rows, before) = (self.shape.rows as u64, self.index.shape().padding[0] as u64);
        let ask = |recording: usize, start: u64, end: u64| {
            let CacheRecording { content, segment, .. } = cache.recording(recording);
            let end = end.min(content.rows);
            cache.segment(segment).will_need(content.first_row + start, end.saturating_sub(start));
        };
        let mut range: Option<(usize, u64, u64)> = None;
        for Window { recording, start, .. } in windows {
            let start = start.saturating_sub(before);
            range = match range {
                Some((current, first, end)) if current == recording && (first..=end).contains(&start) => {
                    Some((current, first, end.max(start + rows)))
                }
                other => {
                    other.into_iter().for_each(|(recording, first, end)| ask(recording, first, end));
                    Some((recording, start, start + rows))
                }
            };
        }
        range.into_iter().for_each(|(recording, first, end)| ask(recording, first, end));
    }
}
