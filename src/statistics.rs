//! Streaming mean and variance per column (Welford 1962; merging: Chan, Golub and LeVeque 1979).

use serde::{Deserialize, Deserializer, Serialize};

/// A column whose standard deviation is at most this share of the largest one's counts as constant and is not scaled: EMG
/// may be in volts or in microvolts.
const CONSTANT: f64 = 1e-7;

/// Count, mean and sum of squared deviations of each column, in float64.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moments {
    /// Rows.
    pub n: u64,
    #[serde(deserialize_with = "without_slack")]
    pub mean: Vec<f64>,
    /// Sum of squared deviations from the mean.
    #[serde(deserialize_with = "without_slack")]
    pub m2: Vec<f64>,
    /// Rows of each column, where some columns were not measured in all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    counts: Option<Vec<u64>>,
    /// False for what was written before revision 2 of the normalizer, which had fixed thresholds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    relative: bool,
}

/// How moments were used before revision 2: a column counted as constant below an absolute threshold, and a constant was
/// added to every divisor.
mod revision_1 {
    pub(super) const CONSTANT: f64 = 1e-6;
    pub(super) const EPSILON: f64 = 1e-8;
}

/// A list that takes no more memory than its elements: a cache may have statistics of 25,000 recordings.
pub(crate) fn without_slack<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    let mut list = Vec::deserialize(from)?;
    list.shrink_to_fit();
    Ok(list)
}

impl Moments {
    pub fn new(columns: usize) -> Self {
        Self { n: 0, mean: vec![0.0; columns], m2: vec![0.0; columns], counts: None, relative: true }
    }

    /// Rows that have a value in column `i`.
    pub fn count(&self, i: usize) -> u64 {
        self.counts.as_ref().map_or(self.n, |counts| counts[i])
    }

    /// Whether all lists have one element for each of `columns`.
    pub(crate) fn has_columns(&self, columns: usize) -> bool {
        let counts = self.counts.as_ref().map_or(columns, Vec::len);
        [self.mean.len(), self.m2.len(), counts].iter().all(|length| *length == columns)
    }

    /// Forgets what was pushed for `columns`, which have no values.
    #[must_use]
    pub fn without(mut self, columns: &[usize]) -> Self {
        let mut counts = vec![self.n; self.mean.len()];
        for i in columns {
            (counts[*i], self.mean[*i], self.m2[*i]) = (0, 0.0, 0.0);
        }
        self.counts = Some(counts).filter(|_| !columns.is_empty());
        self
    }

    /// Adds one row of values.
    pub fn push(&mut self, row: &[f64]) {
        debug_assert_eq!(row.len(), self.mean.len());
        self.n += 1;
        let share = 1.0 / self.n as f64;
        for ((mean, m2), value) in self.mean.iter_mut().zip(&mut self.m2).zip(row) {
            let delta = value - *mean;
            *mean += delta * share;
            *m2 += delta * (value - *mean);
        }
    }

    /// Merges the statistics of `other` into these.
    pub fn merge(&mut self, other: &Self) {
        if other.n == 0 {
            return;
        }
        let columns = 0..self.mean.len();
        for i in columns.clone() {
            let (a, b) = (self.count(i) as f64, other.count(i) as f64);
            if b > 0.0 {
                let (total, delta) = (a + b, other.mean[i] - self.mean[i]);
                self.mean[i] += delta * b / total;
                self.m2[i] += other.m2[i] + delta * delta * a * b / total;
            }
        }
        if self.counts.is_some() || other.counts.is_some() {
            self.counts = Some(columns.map(|i| self.count(i) + other.count(i)).collect());
        }
        self.n += other.n;
        self.relative &= other.relative;
    }

    /// Population standard deviation of each column.
    pub fn std(&self) -> Vec<f64> {
        self.m2.iter().enumerate().map(|(i, m2)| (m2 / self.count(i).max(1) as f64).sqrt()).collect()
    }

    /// What a z-score divides by: the standard deviation, or 1 where the column is constant.
    pub fn divisor(&self) -> Vec<f64> {
        let (std, limit) = (self.std(), self.constant_limit());
        let epsilon = if self.relative { 0.0 } else { revision_1::EPSILON };
        std.into_iter().map(|std| if std <= limit { 1.0 } else { std + epsilon }).collect()
    }

    /// Columns that are constant.
    pub fn constant_columns(&self) -> Vec<usize> {
        let limit = self.constant_limit();
        self.std().iter().enumerate().filter(|(_, std)| **std <= limit).map(|(i, _)| i).collect()
    }

    /// The largest standard deviation of a constant column.
    fn constant_limit(&self) -> f64 {
        let largest = self.std().into_iter().fold(0.0, f64::max);
        if self.relative { CONSTANT * largest } else { revision_1::CONSTANT.next_down() }
    }

    pub fn is_finite(&self) -> bool {
        self.mean.iter().chain(&self.m2).all(|value| value.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn merging_equals_two_passes(values in prop::collection::vec(-1e3..1e3f64, 2..200), cut in 0..200usize) {
            let cut = cut.min(values.len());
            let (mut a, mut b) = (Moments::new(1), Moments::new(1));
            values[..cut].iter().for_each(|v| a.push(&[*v]));
            values[cut..].iter().for_each(|v| b.push(&[*v]));
            a.merge(&b);
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let std = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
            prop_assert!((a.mean[0] - mean).abs() < 1e-9);
            prop_assert!((a.std()[0] - std).abs() < 1e-9);
        }
    }

    fn of(rows: &[&[f64]]) -> Moments {
        let mut moments = Moments::new(rows[0].len());
        rows.iter().for_each(|row| moments.push(row));
        moments
    }

    #[test]
    fn constant_columns_are_divided_by_one_whatever_the_unit() {
        for unit in [1.0, 1e-6, 1e6] {
            let moments = of(&[&[3.0 * unit, unit, 0.0], &[3.0 * unit, 3.0 * unit, 1e-4 * unit]]);
            assert_eq!(moments.divisor(), [1.0, unit, 0.5 * (1e-4 * unit)]);
            assert_eq!(moments.constant_columns(), [0]);
        }
        assert_eq!(of(&[&[2.0], &[2.0]]).divisor(), [1.0]);
    }

    #[test]
    fn what_revision_1_wrote_is_used_as_it_did() {
        let written = r#"{"n":2,"mean":[3.0,2.0,0.0],"m2":[0.0,2.0,1e-13]}"#;
        let moments: Moments = serde_json::from_str(written).unwrap();
        assert_eq!(moments.divisor(), [1.0, 1.0 + 1e-8, 1.0]);
        assert_eq!(moments.constant_columns(), [0, 2]);
        assert_eq!(serde_json::to_string(&moments).unwrap(), written);
    }

    #[test]
    fn columns_that_some_rows_lack_have_the_moments_of_the_others() {
        let (all, lacking) = (of(&[&[1.0, 10.0], &[3.0, 30.0]]), of(&[&[5.0, 0.0], &[9.0, 0.0]]).without(&[1]));
        let mut merged = lacking;
        merged.merge(&all);
        assert_eq!((merged.n, merged.count(0), merged.count(1)), (4, 4, 2));
        assert_eq!((merged.mean[1], merged.std()[1]), (20.0, 10.0));
        assert_eq!(merged.mean[0], 4.5);
        assert!(merged.has_columns(2) && !merged.has_columns(1));
    }
}
