//! Which rows have angles that can be believed.
//!
//! emg2pose marks a failure of inverse kinematics by nothing but angles that are all zero; its loader tests
//! `numpy.isclose(angles, 0)`, whose absolute tolerance is 1e-8.

use serde::{Deserialize, Serialize};

use super::rows::Field;

const TOLERANCE: f64 = 1e-8;

/// A maximal stretch of valid rows: (first row, rows), relative to the recording.
pub type ValidRun = (u64, u64);

/// Whether `row`'s angles are unusable: all zero within numpy's tolerance, or any not finite.
#[inline]
pub fn is_failed(angles: &Field, row: &[u8]) -> bool {
    let (mut all_zero, mut finite) = (true, true);
    angles.for_each(row, |_, angle| {
        all_zero &= angle.abs() <= TOLERANCE;
        // As cached: an 8-byte angle may be too large for a 4-byte one.
        finite &= (angle as f32).is_finite();
    });
    all_zero || !finite
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

    fn failed(angles: &[f32]) -> bool {
        let row: Vec<u8> = angles.iter().flat_map(|a| a.to_le_bytes()).collect();
        is_failed(&Field { offset: 0, width: angles.len(), double: false }, &row)
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
    fn runs_are_maximal() {
        let mut runs = RunsBuilder::default();
        for valid in [true, true, false, true, false, false, true, true, true] {
            runs.push(valid);
        }
        assert_eq!(runs.finish(), [(0, 2), (3, 1), (6, 3)]);
    }
}
