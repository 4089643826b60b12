//! Metrics in constant memory.

use super::summary::{JointSums, Metrics, summarize};
use crate::cache::Moments;

/// Highest derivative whose smoothness is reported: jerk.
pub(super) const DERIVATIVES: usize = 3;

/// Accumulates one split, window by window.
#[derive(Debug, Clone)]
pub struct Accumulator {
    /// Hz.
    rate: f64,
    sums: JointSums,
    /// Of the targets, for the total sum of squares.
    targets: Moments,
    /// Sum and count of |n-th difference| of the prediction, n = 1, 2, 3.
    differences: [(f64, u64); DERIVATIVES],
}

impl Accumulator {
    pub fn new(joints: usize, rate: f64) -> Self {
        let (sums, targets) = (JointSums::new(joints), Moments::new(joints));
        Self { rate, sums, targets, differences: [(0.0, 0); DERIVATIVES] }
    }

    /// Adds a window: prediction and target [rows, joints] in radians, mask [rows].
    pub fn push(&mut self, prediction: &[f32], target: &[f32], mask: &[f32]) {
        let joints = self.sums.absolute.len();
        let mut row = vec![0.0; joints];
        for (i, _) in mask.iter().enumerate().filter(|(_, mask)| **mask > 0.0) {
            let (predicted, wanted) = (&prediction[i * joints..][..joints], &target[i * joints..][..joints]);
            for (joint, (p, t)) in predicted.iter().zip(wanted).enumerate() {
                let error = f64::from(*p) - f64::from(*t);
                self.sums.absolute[joint] += error.abs();
                self.sums.squared[joint] += error * error;
                row[joint] = f64::from(*t);
            }
            self.sums.rows += 1;
            self.targets.push(&row);
        }
        self.push_differences(prediction, mask);
    }

    /// n-th differences that touch no failed row: those with n + 1 valid rows in a row behind them.
    fn push_differences(&mut self, prediction: &[f32], mask: &[f32]) {
        let joints = self.sums.absolute.len();
        let at = |row: usize, joint: usize| f64::from(prediction[row * joints + joint]);
        let mut valid = 0;
        for (row, mask) in mask.iter().enumerate() {
            valid = if *mask > 0.0 { valid + 1 } else { 0 };
            for joint in 0..joints {
                // d1 = x0 - x1, d2 = x0 - 2 x1 + x2, d3 = x0 - 3 x1 + 3 x2 - x3, newest first.
                const COEFFICIENTS: [&[f64]; DERIVATIVES] = [&[1.0, -1.0], &[1.0, -2.0, 1.0], &[1.0, -3.0, 3.0, -1.0]];
                for (n, coefficients) in COEFFICIENTS.iter().enumerate().filter(|(n, _)| valid >= n + 2) {
                    let terms = coefficients.iter().enumerate().map(|(back, c)| c * at(row - back, joint));
                    self.differences[n].0 += terms.sum::<f64>().abs();
                    self.differences[n].1 += 1;
                }
            }
        }
    }

    /// The metrics of all that was added.
    pub fn finish(&self) -> Metrics {
        summarize(&self.sums, &self.targets.m2, &self.differences, self.rate)
    }
}
