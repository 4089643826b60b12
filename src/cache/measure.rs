//! One pass over a recording: valid runs, statistics, gaps, and whether it can be used at all.

use serde::{Deserialize, Serialize};

use super::settings::SegmentSettings;
use crate::config::{Dtype, Statistics};
use crate::recording::{Recording, RecordingError, Rows, RunsBuilder, ValidRun};
use crate::statistics::Moments;

/// What one pass finds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) rows: u64,
    pub(crate) valid_runs: Vec<ValidRun>,
    /// Over the sampled rows, of the values as recorded.
    pub(crate) emg: Moments,
    /// Over the sampled valid rows (all valid rows if none was sampled), radians.
    pub(crate) joint_angles: Moments,
    /// Steps of `time` longer than one and a half sampling periods.
    pub(crate) time_gaps: u64,
}

impl Measured {
    /// The longest stretch that a window may lie in: a valid run, or all rows.
    pub(crate) fn longest(&self, skip_failures: bool) -> u64 {
        if skip_failures { self.valid_runs.iter().map(|run| run.1).max().unwrap_or(0) } else { self.rows }
    }
}

/// Reads the whole recording; also returns the BLAKE3 of its bytes.
///
/// # Errors
/// The recording's; EMG that is not finite.
pub(crate) fn measure(
    recording: &Recording,
    settings: &SegmentSettings,
) -> Result<(blake3::Hash, Measured), RecordingError> {
    let mut measurer = Measurer::new(recording, settings);
    let hash = recording.visit_hashed(&mut |first, rows| measurer.block(first, rows))?;
    let Measurer { runs, emg, mut joint_angles, time_gaps, largest_emg, .. } = measurer;
    if settings.dtype == Dtype::Float16 && !fits_float16(f32::from_bits(largest_emg), &emg, settings) {
        return Err(RecordingError::TooLarge { path: recording.path().to_owned() });
    }
    let valid_runs = runs.finish();
    if joint_angles.n == 0 && !valid_runs.is_empty() {
        joint_angles = all_valid(recording)?;
    }
    if !emg.is_finite() || !joint_angles.is_finite() {
        let message = "values are too large to compute their variance".into();
        return Err(RecordingError::Damaged { path: recording.path().to_owned(), message });
    }
    Ok((hash, Measured { rows: recording.rows(), valid_runs, emg, joint_angles, time_gaps }))
}

/// Whether EMG of at most this magnitude is sure to be finite as it is cached.
fn fits_float16(largest: f32, emg: &Moments, settings: &SegmentSettings) -> bool {
    let (largest, limit) = (f64::from(largest), f64::from(half::f16::MAX));
    if !settings.emg_by_recording {
        return largest <= limit;
    }
    emg.mean.iter().zip(emg.divisor()).all(|(mean, divisor)| (largest + mean.abs()) / divisor <= limit)
}

fn all_valid(recording: &Recording) -> Result<Moments, RecordingError> {
    let (angles, failure) = (recording.angles(), recording.failure());
    let (mut moments, mut values) = (Moments::new(angles.width), vec![0.0; angles.width]);
    recording.visit(&mut |_, rows| {
        for row in rows.iter().filter(|row| !failure.is_failed(&angles, row)) {
            angles.for_each(row, |i, value| values[i] = value);
            moments.push(&values);
        }
        Ok(())
    })?;
    Ok(moments)
}

struct Measurer<'a> {
    recording: &'a Recording,
    samples: Samples,
    longest_step: f64,
    runs: RunsBuilder,
    emg: Moments,
    joint_angles: Moments,
    /// Bits of the largest EMG magnitude.
    largest_emg: u32,
    time_gaps: u64,
    last_time: Option<f64>,
    emg_values: Vec<f64>,
    angle_values: Vec<f64>,
}

impl<'a> Measurer<'a> {
    fn new(recording: &'a Recording, settings: &SegmentSettings) -> Self {
        let (channels, joints) = (recording.emg().width, recording.angles().width);
        Self {
            recording,
            samples: Samples::new(recording.rows(), settings),
            longest_step: 1.5 / settings.sample_rate,
            runs: RunsBuilder::default(),
            emg: Moments::new(channels),
            joint_angles: Moments::new(joints),
            largest_emg: 0,
            time_gaps: 0,
            last_time: None,
            emg_values: vec![0.0; channels],
            angle_values: vec![0.0; joints],
        }
    }

    fn block(&mut self, first: u64, rows: Rows<'_>) -> Result<(), RecordingError> {
        let (emg, angles, time) = (self.recording.emg(), self.recording.angles(), self.recording.time());
        let mut infinite = None;
        rows.for_each_magnitude(&emg, |i, magnitude| {
            self.largest_emg = self.largest_emg.max(magnitude);
            if magnitude >= f32::INFINITY.to_bits() {
                infinite.get_or_insert(i);
            }
        });
        if let Some(i) = infinite {
            return Err(RecordingError::NonFinite { path: self.recording.path().to_owned(), row: first + i as u64 });
        }
        self.recording.failure().for_each(&angles, rows, |i, failed| {
            self.runs.push(!failed);
            if self.samples.takes(first + i as u64) {
                let row = rows.row(i);
                emg.for_each(row, |channel, value| self.emg_values[channel] = value);
                self.emg.push(&self.emg_values);
                if !failed {
                    angles.for_each(row, |joint, value| self.angle_values[joint] = value);
                    self.joint_angles.push(&self.angle_values);
                }
            }
        });
        if let Some(time) = time {
            for row in rows.iter() {
                time.for_each(row, |_, now| {
                    self.time_gaps += u64::from(self.last_time.is_some_and(|last| now - last > self.longest_step));
                    self.last_time = Some(now);
                });
            }
        }
        Ok(())
    }
}

/// Which rows statistics are taken from: all, or floor(linspace(0, rows - 1, n)) as numpy computes it.
struct Samples {
    every: bool,
    rows: u64,
    count: u64,
    /// Index of the next sample and its row.
    next: (u64, u64),
}

impl Samples {
    fn new(rows: u64, settings: &SegmentSettings) -> Self {
        let count = settings.max_samples_for_normalize as u64;
        Self { every: settings.statistics == Statistics::Exact || rows <= count, rows, count, next: (0, 0) }
    }

    /// Whether `row` is sampled; rows must be asked for in order.
    fn takes(&mut self, row: u64) -> bool {
        if self.every {
            return true;
        }
        let (index, sampled) = self.next;
        if index == self.count || row != sampled {
            return false;
        }
        let index = index + 1;
        let last = (self.rows - 1) as f64;
        let step = last / (self.count - 1) as f64;
        let position = if index + 1 == self.count { last } else { index as f64 * step };
        self.next = (index, position as u64);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Statistics};

    fn settings(max: usize) -> SegmentSettings {
        let mut config = Config::default();
        config.data.max_samples_for_normalize = max;
        config.data.statistics = Statistics::Sampled;
        super::super::settings::CacheSettings::new(&config).segment()
    }

    #[test]
    fn samples_are_spread_evenly_and_include_both_ends() {
        let mut samples = Samples::new(11, &settings(5));
        let taken: Vec<_> = (0..11).filter(|row| samples.takes(*row)).collect();
        // numpy.floor(numpy.linspace(0, 10, 5))
        assert_eq!(taken, [0, 2, 5, 7, 10]);
        let mut samples = Samples::new(120_001, &settings(10_000));
        let taken: Vec<_> = (0..120_001).filter(|row| samples.takes(*row)).collect();
        assert_eq!((taken.len(), taken[0], taken[9_999]), (10_000, 0, 120_000));
        let mut samples = Samples::new(5, &settings(5));
        assert!((0..5).all(|row| samples.takes(row)));
    }
}
