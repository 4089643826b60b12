//! Streaming mean and variance per column (Welford 1962; merging: Chan, Golub and LeVeque 1979).

use serde::{Deserialize, Deserializer, Serialize};

/// Where the standard deviation is below this, a column counts as constant and is not scaled.
const CONSTANT: f64 = 1e-6;
/// Added to every standard deviation before dividing, as the reference system does.
const EPSILON: f64 = 1e-8;

/// Count, mean and sum of squared deviations of each column, in float64.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moments {
    pub n: u64,
    #[serde(deserialize_with = "without_slack")]
    pub mean: Vec<f64>,
    /// Sum of squared deviations from the mean.
    #[serde(deserialize_with = "without_slack")]
    pub m2: Vec<f64>,
}

/// A list that takes no more memory than its elements: a cache may have statistics of 25,000 recordings.
pub(crate) fn without_slack<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    let mut list = Vec::deserialize(from)?;
    list.shrink_to_fit();
    Ok(list)
}

impl Moments {
    pub fn new(columns: usize) -> Self {
        Self { n: 0, mean: vec![0.0; columns], m2: vec![0.0; columns] }
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
        let (a, b) = (self.n as f64, other.n as f64);
        self.n += other.n;
        let total = self.n as f64;
        for i in 0..self.mean.len() {
            let delta = other.mean[i] - self.mean[i];
            self.mean[i] += delta * b / total;
            self.m2[i] += other.m2[i] + delta * delta * a * b / total;
        }
    }

    /// Population standard deviation of each column.
    pub fn std(&self) -> Vec<f64> {
        self.m2.iter().map(|m2| (m2 / self.n.max(1) as f64).sqrt()).collect()
    }

    /// What a z-score divides by: std + 1e-8, or 1 where the column is constant.
    pub fn divisor(&self) -> Vec<f64> {
        self.std().into_iter().map(|std| if std < CONSTANT { 1.0 } else { std + EPSILON }).collect()
    }

    /// Columns that are constant.
    pub fn constant_columns(&self) -> Vec<usize> {
        self.std().iter().enumerate().filter(|(_, std)| **std < CONSTANT).map(|(i, _)| i).collect()
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

    #[test]
    fn constant_columns_are_divided_by_one() {
        let mut moments = Moments::new(2);
        moments.push(&[3.0, 1.0]);
        moments.push(&[3.0, 3.0]);
        assert_eq!(moments.divisor(), [1.0, 1.0 + 1e-8]);
        assert_eq!(moments.constant_columns(), [0]);
    }
}
