//! One pass over a recording: valid runs, statistics, gaps, and whether it can be used at all.

use super::clock::Clock;
use super::settings::SegmentSettings;
use crate::config::{Dtype, Statistics};
use crate::recording::{Field, Recording, RecordingError, Rows, RunsBuilder, ValidRun, Validity};
use crate::statistics::Moments;

/// What one pass finds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Measured {
    pub(crate) rows: u64,
    pub(crate) valid_runs: Vec<ValidRun>,
    /// Over the sampled rows, of the values as recorded.
    pub(crate) emg: Moments,
    /// Over the sampled valid rows (all valid rows if none was sampled), radians.
    pub(crate) joint_angles: Moments,
    /// Joints without a finite angle in any row that is not marked as failed, while others have some.
    pub(crate) unmeasured_joints: Vec<usize>,
    /// Steps of `time` longer than one and a half sampling periods.
    pub(crate) time_gaps: u64,
    /// Seconds of one unit of the time stamps.
    pub(crate) time_unit: f64,
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
/// The recording's; EMG that is not finite; time stamps of another rate.
pub(crate) fn measure(
    recording: &Recording,
    settings: &SegmentSettings,
) -> Result<(blake3::Hash, Measured), RecordingError> {
    let mut measurer = Measurer::new(recording, settings);
    let hash = recording.visit_hashed(&mut |first, rows| measurer.block(first, rows))?;
    let Measurer { mut angles, emg, clock, largest_emg, .. } = measurer;
    if settings.dtype == Dtype::Float16 && !fits_float16(f32::from_bits(largest_emg), &emg, settings) {
        return Err(RecordingError::TooLarge { path: recording.path().to_owned() });
    }
    if settings.dtype == Dtype::Float16 && !settings.emg_by_recording && is_lost_in_float16(&emg) {
        return Err(RecordingError::TooSmall { path: recording.path().to_owned() });
    }
    let (time_gaps, time_unit) = clock.map_or(Ok((0, 1.0)), |clock| clock.finish(recording.path()))?;
    let (half, unmeasured_joints) = (angles.half, angles.unmeasured());
    if !unmeasured_joints.is_empty() {
        let validity = recording.validity().without(&unmeasured_joints);
        angles = AnglePass::over(recording, validity, half, Samples::new(recording.rows(), settings))?;
    }
    if angles.moments.n == 0 && angles.runs.any() {
        angles = AnglePass::over(recording, angles.validity, half, Samples::every(recording.rows()))?;
    }
    if angles.largest > half::f16::MAX.to_f64() {
        return Err(RecordingError::TooLarge { path: recording.path().to_owned() });
    }
    let joint_angles = angles.moments.without(&unmeasured_joints);
    if !emg.is_finite() || !joint_angles.is_finite() {
        let message = "values are too large to compute their variance".into();
        return Err(RecordingError::Damaged { path: recording.path().to_owned(), message });
    }
    let (rows, valid_runs) = (recording.rows(), angles.runs.finish());
    Ok((hash, Measured { rows, valid_runs, emg, joint_angles, unmeasured_joints, time_gaps, time_unit }))
}

/// Whether EMG of at most this magnitude is sure to be finite as it is cached.
fn fits_float16(largest: f32, emg: &Moments, settings: &SegmentSettings) -> bool {
    let (largest, limit) = (f64::from(largest), f64::from(half::f16::MAX));
    if !settings.emg_by_recording {
        return largest <= limit;
    }
    emg.mean.iter().zip(emg.divisor()).all(|(mean, divisor)| (largest + mean.abs()) / divisor <= limit)
}

/// Whether all channels vary by so little that float16 has few digits of them, if any.
fn is_lost_in_float16(emg: &Moments) -> bool {
    let largest = emg.std().into_iter().fold(0.0, f64::max);
    largest > 0.0 && largest < 16.0 * half::f16::MIN_POSITIVE.to_f64()
}

/// What a pass learns of the angles.
struct AnglePass<'a> {
    field: &'a Field,
    validity: Validity,
    samples: Samples,
    /// Whether angles are cached as float16.
    half: bool,
    runs: RunsBuilder,
    moments: Moments,
    values: Vec<f64>,
    /// The largest angle of valid rows.
    largest: f64,
    /// For each joint whether no row had a finite angle of it so far, until one row has all of them.
    missing: Option<Vec<bool>>,
}

impl<'a> AnglePass<'a> {
    fn new(recording: &'a Recording, validity: Validity, half: bool, samples: Samples) -> Self {
        let field = recording.angles();
        let joints = field.width();
        let (moments, values, missing) = (Moments::new(joints), vec![0.0; joints], Some(vec![true; joints]));
        Self { field, validity, half, samples, runs: RunsBuilder::default(), moments, values, largest: 0.0, missing }
    }

    /// A pass over the angles alone.
    fn over(
        recording: &'a Recording,
        validity: Validity,
        half: bool,
        samples: Samples,
    ) -> Result<Self, RecordingError> {
        let mut pass = Self::new(recording, validity, half, samples);
        recording.visit(&mut |first, rows| {
            pass.block(first, rows, |_| ());
            Ok(())
        })?;
        Ok(pass)
    }

    /// Takes in rows, and calls `sampled` with each of those that statistics are taken from.
    fn block(&mut self, first: u64, rows: Rows<'_>, mut sampled: impl FnMut(&[u8])) {
        let half = self.half;
        let Self { field, validity, samples, runs, moments, values, largest, missing, .. } = self;
        validity.for_each(rows, |i, failed| {
            runs.push(!failed);
            let row = rows.row(i);
            if !failed {
                *missing = None;
                if half {
                    let finite = |value: f64| if value.is_finite() { value.abs() } else { 0.0 };
                    field.for_each(row, |_, value| *largest = largest.max(finite(value)));
                }
            } else if let Some(missing) = missing
                && !validity.is_marked(row)
            {
                field.for_each(row, |joint, value| missing[joint] &= !(value as f32).is_finite());
            }
            if samples.takes(first + i as u64) {
                sampled(row);
                if !failed {
                    // What is not finite in a valid row is of an unmeasured joint, and counts for nothing.
                    field.for_each(row, |joint, value| values[joint] = if value.is_finite() { value } else { 0.0 });
                    moments.push(values);
                }
            }
        });
    }

    fn unmeasured(&self) -> Vec<usize> {
        let missing = self.missing.as_deref().unwrap_or_default();
        if missing.iter().all(|missing| *missing) {
            return Vec::new();
        }
        missing.iter().enumerate().filter(|(_, missing)| **missing).map(|(joint, _)| joint).collect()
    }
}

struct Measurer<'a> {
    recording: &'a Recording,
    angles: AnglePass<'a>,
    emg: Moments,
    /// Bits of the largest EMG magnitude.
    largest_emg: u32,
    clock: Option<Clock>,
    emg_values: Vec<f64>,
}

impl<'a> Measurer<'a> {
    fn new(recording: &'a Recording, settings: &SegmentSettings) -> Self {
        let channels = recording.emg().width();
        let samples = Samples::new(recording.rows(), settings);
        Self {
            recording,
            angles: AnglePass::new(recording, recording.validity().clone(), settings.dtype == Dtype::Float16, samples),
            emg: Moments::new(channels),
            largest_emg: 0,
            clock: recording.time().map(|time| Clock::new(time, settings.sample_rate)),
            emg_values: vec![0.0; channels],
        }
    }

    fn block(&mut self, first: u64, rows: Rows<'_>) -> Result<(), RecordingError> {
        let (emg, mut infinite) = (self.recording.emg(), None);
        rows.for_each_magnitude(emg, |i, magnitude| {
            self.largest_emg = self.largest_emg.max(magnitude);
            if magnitude >= f32::INFINITY.to_bits() {
                infinite.get_or_insert(i);
            }
        });
        if let Some(i) = infinite {
            return Err(RecordingError::NonFinite { path: self.recording.path().to_owned(), row: first + i as u64 });
        }
        let (moments, values) = (&mut self.emg, &mut self.emg_values);
        self.angles.block(first, rows, |row| {
            emg.for_each(row, |channel, value| values[channel] = value);
            moments.push(values);
        });
        if let (Some(clock), Some(time)) = (&mut self.clock, self.recording.time()) {
            rows.iter().for_each(|row| time.field.for_each(row, |_, now| clock.tick(now)));
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

    fn every(rows: u64) -> Self {
        Self { every: true, rows, count: rows, next: (0, 0) }
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
