//! What a recording's time stamps say: gaps, and whether they agree with its sampling rate.

use std::path::Path;

use crate::recording::{Number, RecordingError, TimeField};

/// How far time stamps may be from the sampling rate.
const TOLERANCE: f64 = 0.01;
/// How much further a packet of rows with one time stamp may put their sum from it.
const SLACK: f64 = 0.05;
/// Time stamps that an unknown unit is told from.
const FIRST: usize = 1025;
/// Seconds of the units that integers may have, beside the sampling period.
const UNITS: [f64; 4] = [1.0, 1e-3, 1e-6, 1e-9];

/// Takes in time stamps, one after the other.
pub(super) struct Clock {
    /// Seconds between rows.
    period: f64,
    /// Seconds of one unit; `None` until enough was seen to tell.
    unit: Option<f64>,
    /// Time stamps seen before the unit was known.
    first_seen: Vec<f64>,
    /// What rounding may move a time stamp by, relative to its magnitude, and at least, in units.
    rounding: (f64, f64),
    start: Option<f64>,
    last: Option<f64>,
    largest: f64,
    steps: u64,
    gaps: u64,
    /// Seconds of the longest step, and how many are next to nothing.
    longest: f64,
    tiny: u64,
    /// Steps that are no gaps: how many, and their seconds.
    steady: (u64, f64),
}

impl Clock {
    pub(super) fn new(time: &TimeField, sample_rate: f64) -> Self {
        let relative = match time.field.number {
            Number::F16 => 1e-3,
            Number::F32 => f64::from(f32::EPSILON),
            _ => f64::EPSILON,
        };
        Self {
            period: 1.0 / sample_rate,
            unit: time.in_seconds.then_some(1.0),
            first_seen: Vec::new(),
            rounding: (relative, if time.field.number.is_float() { 0.0 } else { 1.0 }),
            start: None,
            last: None,
            largest: 0.0,
            steps: 0,
            gaps: 0,
            longest: 0.0,
            tiny: 0,
            steady: (0, 0.0),
        }
    }

    pub(super) fn tick(&mut self, now: f64) {
        if self.unit.is_some() {
            self.step(now);
            return;
        }
        self.first_seen.push(now);
        if self.first_seen.len() == FIRST {
            self.tell_unit();
        }
    }

    /// Tells the unit from the first time stamps: that in which their mean or their median step is the sampling period.
    fn tell_unit(&mut self) {
        let seen = std::mem::take(&mut self.first_seen);
        let mut steps: Vec<_> = seen.windows(2).map(|pair| pair[1] - pair[0]).collect();
        steps.sort_by(f64::total_cmp);
        let mean = steps.iter().sum::<f64>() / steps.len().max(1) as f64;
        let median = steps.get(steps.len() / 2).copied().unwrap_or(0.0);
        let near = |unit: &f64| {
            let tolerance = (TOLERANCE + unit / (self.period * steps.len() as f64)).min(0.5);
            [mean, median].iter().any(|step| (step * unit / self.period - 1.0).abs() <= tolerance)
        };
        // Seconds, so that what agrees with nothing is refused with a rate that one can read.
        self.unit = Some(UNITS.into_iter().chain([self.period]).find(near).unwrap_or(1.0));
        seen.into_iter().for_each(|now| self.step(now));
    }

    fn step(&mut self, now: f64) {
        if !now.is_finite() {
            self.last = None;
            return;
        }
        let now = now * self.unit.unwrap_or(1.0);
        self.largest = self.largest.max(now.abs());
        self.start.get_or_insert(now);
        let Some(last) = self.last.replace(now) else { return };
        let (step, coarse) = (now - last, self.coarseness(now));
        self.steps += 1;
        self.longest = self.longest.max(step);
        self.tiny += u64::from(step < 0.25 * self.period);
        // A clock that was set back makes a gap, too.
        if step > 1.5 * self.period + coarse || step < -coarse {
            self.gaps += 1;
        } else {
            self.steady = (self.steady.0 + 1, self.steady.1 + step);
        }
    }

    /// What a step to `now` may be longer by because time stamps are rounded, in seconds.
    fn coarseness(&self, now: f64) -> f64 {
        let (relative, unit) = (2.0 * self.rounding.0 * now.abs(), self.rounding.1 * self.unit.unwrap_or(1.0));
        let per_step = self.period / unit;
        // Whole units need no rounding.
        let whole = unit == 0.0 || (per_step - per_step.round()).abs() < 1e-6;
        if whole { relative } else { relative.max(unit) }
    }

    /// Gaps, and seconds of one unit.
    ///
    /// # Errors
    /// Neither all steps nor those without gaps agree with the sampling rate.
    pub(super) fn finish(mut self, path: &Path) -> Result<(u64, f64), RecordingError> {
        if self.unit.is_none() {
            self.tell_unit();
        }
        let unit = self.unit.unwrap_or(1.0);
        let span = self.last.unwrap_or(0.0) - self.start.unwrap_or(0.0);
        let rounding = (self.rounding.0 * self.largest).max(self.rounding.1 * unit);
        // Rows may come in packets of one time stamp each, of which the last counts as a whole or not at all.
        let packet = if 2 * self.tiny > self.steps { self.longest } else { 0.0 };
        let agrees = |steps: u64, seconds: f64, slack: f64| {
            let expected = steps as f64 * self.period;
            (seconds - expected).abs() <= TOLERANCE * expected + slack.min(SLACK * expected) + 2.0 * rounding
        };
        let (steady, steady_seconds) = self.steady;
        // Time stamps that are all the same were never set.
        let unset = self.gaps == 0 && span == 0.0 && steady_seconds == 0.0;
        if self.steps == 0
            || unset
            || agrees(self.steps, span, packet)
            || (2 * steady > self.steps && agrees(steady, steady_seconds, 0.0))
        {
            return Ok((self.gaps, unit));
        }
        let expected = format!("time stamps at {} Hz (model.original_sampling_rate)", 1.0 / self.period);
        Err(RecordingError::layout(path, "time", expected, format!("{:.6} Hz", self.steps as f64 / span)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::Field;

    fn clock(number: Number, stamps: impl Iterator<Item = f64>) -> Result<(u64, f64), String> {
        let time = TimeField { field: Field::plain(0, 1, number), in_seconds: number.is_float() };
        let mut clock = Clock::new(&time, 2000.0);
        stamps.for_each(|stamp| clock.tick(stamp));
        clock.finish(Path::new("r")).map_err(|error| error.to_string())
    }

    #[test]
    fn gaps_are_counted_and_other_rates_are_refused() {
        let rows = || (0..700).map(f64::from);
        assert_eq!(clock(Number::F64, rows().map(|i| 1e9 + i / 2000.0)), Ok((0, 1.0)));
        assert_eq!(clock(Number::F64, rows().map(|i| i / 2000.0 + if i > 300.0 { 9.0 } else { 0.0 })), Ok((1, 1.0)));
        // Packets of 16 rows with one time stamp each; and a clock that was never set.
        assert_eq!(clock(Number::F64, rows().map(|i| (i / 16.0).floor() * 16.0 / 2000.0)), Ok((43, 1.0)));
        assert_eq!(clock(Number::F64, rows().map(|_| 5.0)), Ok((0, 1.0)));
        // A clock that was set back, and coarse stamps late in a long recording.
        assert_eq!(clock(Number::F64, rows().map(|i| i / 2000.0 - if i > 300.0 { 9.0 } else { 0.0 })), Ok((1, 1.0)));
        assert_eq!(clock(Number::F32, rows().map(|i| f64::from((9000.0 + i / 2000.0) as f32))), Ok((0, 1.0)));
        // A gap does not hide another rate.
        assert!(clock(Number::F64, rows().map(|i| i / 2100.0 + if i > 300.0 { 0.2 } else { 0.0 })).is_err());
        for rate in [1000.0, 1950.0, 2050.0, 4000.0, 2e6] {
            let error = clock(Number::F64, rows().map(|i| i / rate)).unwrap_err();
            assert!(error.contains("2000 Hz") && error.contains(&format!("{rate:.6} Hz")), "{error}");
        }
        assert_eq!(clock(Number::F64, rows().map(|i| i / 2010.0)), Ok((0, 1.0)));
    }

    #[test]
    fn integers_have_the_unit_that_agrees_with_the_rate() {
        let start: f64 = 1_700_000_000.0;
        for (unit, rows) in [(1e-3, 5000), (1e-6, 300), (1e-9, 5000), (1.0 / 2000.0, 20)] {
            let stamps = (0..rows).map(|i| (start / unit).round() + (f64::from(i) / 2000.0 / unit + 1e-9).floor());
            let (gaps, told) = clock(Number::I64, stamps).unwrap();
            assert_eq!((gaps, told), (0, unit), "{unit}");
        }
        let error = clock(Number::I64, (0..700).map(|i| f64::from(i) * 37.0)).unwrap_err();
        assert!(error.contains("0.027027 Hz"), "{error}");
    }
}
