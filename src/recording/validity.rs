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

/// Which rows have usable angles: all wanted ones are finite, and they are not marked as failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Validity {
    rule: InvalidRows,
    /// All angles that are recorded: failed rows are told by all of them.
    poses: Field,
    /// The same as they are stored: an offset does not hide a zero.
    stored: Field,
    /// Columns of `poses` that must be finite; `None`: all.
    needed: Option<Vec<usize>>,
}

impl Validity {
    /// `poses`: all recorded angles; `angles`: those that are wanted of them.
    pub fn new(rule: InvalidRows, poses: Field, angles: &Field) -> Self {
        let stored = Field { scale: None, ..poses.clone() };
        Self { rule, poses, stored, needed: angles.columns.as_deref().map(<[usize]>::to_vec) }
    }

    /// All recorded angles.
    pub fn poses(&self) -> &Field {
        &self.poses
    }

    /// The same as they are stored.
    pub fn stored(&self) -> &Field {
        &self.stored
    }

    /// The same, where the wanted angles `without` are not measured and need not be finite.
    #[must_use]
    pub fn without(&self, without: &[usize]) -> Self {
        let all = (0..self.poses.stored).collect();
        let wanted: Vec<_> = self.needed.clone().unwrap_or(all);
        let needed = wanted.iter().enumerate().filter(|(i, _)| !without.contains(i)).map(|(_, column)| *column);
        Self { needed: Some(needed.collect()), ..self.clone() }
    }

    /// Whether `row` is marked as failed: its angles are all zero, where that is the rule. Joints that were not measured say
    /// nothing.
    #[inline]
    pub fn is_marked(&self, row: &[u8]) -> bool {
        let (mut zeros, mut others) = (false, false);
        self.stored.for_each(row, |_, angle| {
            let zero = angle.abs() <= TOLERANCE;
            zeros |= zero;
            others |= !zero && angle.is_finite();
        });
        self.rule == InvalidRows::Zeros && zeros && !others
    }

    /// Whether `row`'s angles are unusable.
    #[inline]
    pub fn is_failed(&self, row: &[u8]) -> bool {
        let mut finite = true;
        self.poses.for_each(row, |i, angle| {
            // As cached: an 8-byte angle may be too large for a 4-byte one.
            finite &= (angle as f32).is_finite() || self.needed.as_ref().is_some_and(|needed| !needed.contains(&i));
        });
        !finite || self.is_marked(row)
    }

    /// [`is_failed`](Self::is_failed) for each row, from the largest magnitude of its angles. A magnitude that float32
    /// rounds to more than the tolerance, or less, need not be so in float64, so such a row is looked at again.
    pub fn for_each(&self, rows: Rows<'_>, mut f: impl FnMut(usize, bool)) {
        if self.needed.is_some() || self.poses.scale.is_some() {
            rows.iter().enumerate().for_each(|(i, row)| f(i, self.is_failed(row)));
            return;
        }
        let near = TOLERANCE as f32;
        let (below, above) = (near.next_down().to_bits(), near.next_up().to_bits());
        rows.for_each_magnitude(&self.poses, |i, magnitude| {
            let failed = if (below..=above).contains(&magnitude) {
                self.is_failed(rows.row(i))
            } else {
                (magnitude < below && self.rule == InvalidRows::Zeros) || magnitude >= f32::INFINITY.to_bits()
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

    /// Whether any row was valid.
    pub fn any(&self) -> bool {
        !self.runs.is_empty()
    }

    pub fn finish(self) -> Vec<ValidRun> {
        self.runs
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::{Number, Scale};
    use super::*;

    fn field(offset: usize, width: usize, number: Number) -> Field {
        Field::plain(offset, width, number)
    }

    fn rule(rule: InvalidRows, field: &Field) -> Validity {
        Validity::new(rule, Field { columns: None, ..field.clone() }, field)
    }

    fn failed(angles: &[f32]) -> bool {
        let row: Vec<u8> = angles.iter().flat_map(|a| a.to_le_bytes()).collect();
        rule(InvalidRows::Zeros, &field(0, angles.len(), Number::F32)).is_failed(&row)
    }

    #[test]
    fn what_is_not_wanted_need_not_be_finite_but_tells_of_failures() {
        let row = |values: [f32; 3]| values.map(f32::to_le_bytes).concat();
        let wanted = Field { columns: Some([2, 0].into()), ..field(0, 3, Number::F32) };
        let wanted = rule(InvalidRows::Zeros, &wanted);
        assert!(!wanted.is_failed(&row([1.0, f32::NAN, 1.0])));
        assert!(!wanted.is_failed(&row([0.0, 1.0, 0.0])));
        assert!(wanted.is_failed(&row([0.0, 0.0, 0.0])));
        assert!(wanted.is_failed(&row([0.0, f32::NAN, 0.0])));
        assert!(wanted.is_failed(&row([f32::NAN, 1.0, 1.0])));
        // The second of the wanted angles, which is the first recorded, is not measured.
        assert!(!wanted.without(&[1]).is_failed(&row([f32::NAN, 1.0, 1.0])));
        assert!(wanted.without(&[1]).is_failed(&row([1.0, 1.0, f32::NAN])));
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
        let half = Some(Scale { factor: 0.5, shift: 0.0 });
        for (field, invalid) in [
            (field(0, 2, Number::F32), InvalidRows::Zeros),
            (field(4, 1, Number::F32), InvalidRows::Zeros),
            (field(0, 2, Number::F32), InvalidRows::None),
            (Field { scale: half, ..field(0, 2, Number::F32) }, InvalidRows::Zeros),
        ] {
            let (rows, validity) = (Rows::new(&bytes, 8), rule(invalid, &field));
            let mut seen = Vec::new();
            validity.for_each(rows, |i, failed| seen.push((i, failed)));
            let expected = (0..values.len()).map(|i| (i, validity.is_failed(rows.row(i))));
            assert_eq!(seen, expected.collect::<Vec<_>>());
        }
        let doubles: Vec<_> =
            [1e-8f64, 1.000_000_01e-8, 0.999_999_99e-8, 1e300, 0.0, f64::NAN].map(f64::to_le_bytes).concat();
        let (validity, rows) = (rule(InvalidRows::Zeros, &field(0, 1, Number::F64)), Rows::new(&doubles, 8));
        validity.for_each(rows, |i, failed| assert_eq!(failed, validity.is_failed(rows.row(i)), "{i}"));
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
