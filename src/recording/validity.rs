//! Which rows have valid angles.
//!
//! emg2pose marks a failure of inverse kinematics by nothing but angles that are all zero; its loader tests
//! `numpy.isclose(angles, 0)`, whose absolute tolerance is 1e-8.

use serde::{Deserialize, Serialize};

use super::rows::{Field, Rows};
use crate::config::InvalidRows;

const TOLERANCE: f64 = 1e-8;

/// A maximal stretch of valid rows: (first row, rows), relative to the recording.
pub type ValidRun = (u64, u64);

/// What makes a row's angles unusable, beside that any is not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure(pub InvalidRows);

impl Failure {
    /// Whether `row`'s angles are unusable.
    #[inline]
    pub fn is_failed(self, angles: &Field, row: &[u8]) -> bool {
        let (mut all_zero, mut finite) = (self.0 == InvalidRows::Zeros, true);
        angles.for_each(row, |_, angle| {
            all_zero &= angle.abs() <= TOLERANCE;
            // As cached: an 8-byte angle may be too large for a 4-byte one.
            finite &= (angle as f32).is_finite();
        });
        all_zero || !finite
    }

    /// [`is_failed`](Self::is_failed) for each row, from the largest magnitude of its angles. A magnitude that float32
    /// rounds to more than the tolerance, or less, need not be so in float64, so such a row is looked at again.
    pub fn for_each(self, angles: &Field, rows: Rows<'_>, mut f: impl FnMut(usize, bool)) {
        let near = TOLERANCE as f32;
        let (below, above) = (near.next_down().to_bits(), near.next_up().to_bits());
        rows.for_each_magnitude(angles, |i, magnitude| {
            let failed = if (below..=above).contains(&magnitude) {
                self.is_failed(angles, rows.row(i))
            } else {
                (magnitude < below && self.0 == InvalidRows::Zeros) || magnitude >= f32::INFINITY.to_bits()
            };
            f(i, failed);
        });
    }
}

/// Collects valid runs row by row.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct RunsBuilder {
    runs: Vec<ValidRun>,
    row: u64,
}

impl RunsBuilder {
    pub fn push(&mut self, valid: bool) {
        if valid {
            match self.runs.last_mut() {
                Some((start, length)) if *start + *length == self.row => *length += 1,
                _ => self.runs.push((self.row, 1)),
            }
        }
        self.row += 1;
    }

    pub fn finish(self) -> Vec<ValidRun> {
        self.runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZEROS: Failure = Failure(InvalidRows::Zeros);

    fn field(offset: usize, width: usize, double: bool) -> Field {
        Field { offset, width, double, factor: None }
    }

    fn failed(angles: &[f32]) -> bool {
        let row: Vec<u8> = angles.iter().flat_map(|a| a.to_le_bytes()).collect();
        ZEROS.is_failed(&field(0, angles.len(), false), &row)
    }

    #[test]
    fn failed_means_all_zero_or_any_not_finite() {
        assert!(failed(&[0.0, 0.0, -0.0]));
        assert!(failed(&[1e-8, -1e-8, 0.0]));
        assert!(!failed(&[2e-8, 0.0, 0.0]));
        assert!(failed(&[1.0, f32::NAN, 1.0]));
        assert!(failed(&[1.0, 1.0, f32::INFINITY]));
        assert!(!failed(&[0.0, 0.0, 1.0]));
    }

    #[test]
    fn blocks_of_rows_fail_as_rows_do() {
        let near = 1e-8f64 as f32;
        let mut values = vec![0.0, near, near.next_up(), near.next_down(), -near, 1e-9, f32::NAN, f32::INFINITY, 3.0];
        values.extend((0..600).map(|i| if i % 7 < 3 { 0.0 } else { i as f32 }));
        let row = |value: f32| [value.to_le_bytes(), (value / 2.0).to_le_bytes()].concat();
        let bytes: Vec<_> = values.iter().flat_map(|value| row(*value)).collect();
        for (field, failure) in [
            (field(0, 2, false), ZEROS),
            (field(4, 1, false), ZEROS),
            (field(0, 2, false), Failure(InvalidRows::None)),
            (Field { factor: Some(0.5), ..field(0, 2, false) }, ZEROS),
        ] {
            let rows = Rows::new(&bytes, 8);
            let mut seen = Vec::new();
            failure.for_each(&field, rows, |i, failed| seen.push((i, failed)));
            assert_eq!(
                seen,
                (0..values.len()).map(|i| (i, failure.is_failed(&field, rows.row(i)))).collect::<Vec<_>>()
            );
        }
        let doubles: Vec<_> =
            [1e-8f64, 1.000_000_01e-8, 0.999_999_99e-8, 1e300, 0.0, f64::NAN].map(f64::to_le_bytes).concat();
        let (field, rows) = (field(0, 1, true), Rows::new(&doubles, 8));
        ZEROS.for_each(&field, rows, |i, failed| assert_eq!(failed, ZEROS.is_failed(&field, rows.row(i)), "{i}"));
    }

    #[test]
    fn runs_are_maximal() {
        let mut runs = RunsBuilder::default();
        for valid in [true, true, false, true, false, false, true, true, true] {
            runs.push(valid);
        }
        assert_eq!(runs.finish(), [(0, 2), (3, 1), (6, 3)]);
    }
}
