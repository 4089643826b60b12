//! Metrics in constant memory.

use multiversion::multiversion;

use super::summary::{DERIVATIVES, JointSums, Metrics, summarize};
use crate::statistics::Moments;

/// Accumulates windows. Sums of windows merge, so that windows can be taken apart: [`Accumulator::of`] each, then
/// [`merge`](Self::merge) in order, which gives the same figures on any number of threads.
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

    /// A window alone: prediction and target [rows, joints] in radians, mask [rows].
    pub fn of(joints: usize, rate: f64, prediction: &[f32], target: &[f32], mask: &[f32]) -> Self {
        let mut window = Self::new(joints, rate);
        errors(&mut window.sums, prediction, target, mask);
        moments(&mut window.targets, target, mask);
        differences(&mut window.differences, joints, prediction, mask);
        window
    }

    /// Adds all that `other` has seen.
    pub fn merge(&mut self, other: &Self) {
        self.sums.rows += other.sums.rows;
        let add = |to: &mut [f64], from: &[f64]| to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        self.sums.counts.iter_mut().zip(&other.sums.counts).for_each(|(to, from)| *to += from);
        add(&mut self.sums.absolute, &other.sums.absolute);
        add(&mut self.sums.squared, &other.sums.squared);
        self.targets.merge(&other.targets);
        for ((sum, count), (more, times)) in self.differences.iter_mut().zip(&other.differences) {
            (*sum, *count) = (*sum + more, *count + times);
        }
    }

    /// Mean absolute error in degrees; `None` without valid rows.
    pub fn mae_deg(&self) -> Option<f64> {
        let metrics = self.finish();
        (metrics.rows > 0).then_some(metrics.mae_deg)
    }

    /// The metrics of all that was added.
    pub fn finish(&self) -> Metrics {
        summarize(&self.sums, &self.targets.m2, &self.differences, self.rate)
    }
}

#[multiversion(targets = "simd")]
fn errors(sums: &mut JointSums, prediction: &[f32], target: &[f32], mask: &[f32]) {
    let joints = sums.absolute.len();
    let rows = prediction.chunks_exact(joints).zip(target.chunks_exact(joints)).zip(mask);
    for ((predicted, wanted), _) in rows.filter(|(_, mask)| **mask > 0.0) {
        sums.rows += 1;
        let totals = sums.absolute.iter_mut().zip(&mut sums.squared).zip(&mut sums.counts);
        for (((absolute, squared), count), (p, t)) in totals.zip(predicted.iter().zip(wanted)) {
            let measured = !t.is_nan();
            *count += u64::from(measured);
            let error = if measured { f64::from(*p) - f64::from(*t) } else { 0.0 };
            *absolute += error.abs();
            *squared += error * error;
        }
    }
}

/// Of the joints that the window's recording measured.
fn moments(moments: &mut Moments, target: &[f32], mask: &[f32]) {
    valid_moments(moments, target, mask);
    let missing: Vec<_> = (0..moments.mean.len()).filter(|joint| moments.mean[*joint].is_nan()).collect();
    if !missing.is_empty() {
        *moments = std::mem::replace(moments, Moments::new(0)).without(&missing);
    }
}

#[multiversion(targets = "simd")]
/// Mean, then squares about it.
#[multiversion(targets = "simd")]
fn valid_moments(moments: &mut Moments, target: &[f32], mask: &[f32]) {
    let joints = moments.mean.len();
    let valid = || target.chunks_exact(joints).zip(mask).filter(|(_, mask)| **mask > 0.0).map(|(row, _)| row);
    for row in valid() {
        moments.n += 1;
        moments.mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    let share = 1.0 / moments.n.max(1) as f64;
    moments.mean.iter_mut().for_each(|sum| *sum *= share);
    for row in valid() {
        for ((m2, mean), value) in moments.m2.iter_mut().zip(&moments.mean).zip(row) {
            let deviation = f64::from(*value) - mean;
            *m2 += deviation * deviation;
        }
    }
}

/// n-th differences that touch no failed row: those with n + 1 valid rows in a row behind them.
#[multiversion(targets = "simd")]
fn differences(totals: &mut [(f64, u64); DERIVATIVES], joints: usize, prediction: &[f32], mask: &[f32]) {
    // The last row and its differences of each order but the highest, and the sums, by joint.
    let mut last = vec![0.0; DERIVATIVES * joints];
    let mut sums = vec![0.0; DERIVATIVES * joints];
    let mut new = vec![0.0; joints];
    let mut valid = 0;
    for (row, mask) in prediction.chunks_exact(joints).zip(mask) {
        valid = if *mask > 0.0 { valid + 1 } else { 0 };
        if valid == 0 {
            continue;
        }
        new.iter_mut().zip(row).for_each(|(new, value)| *new = f64::from(*value));
        let orders = last.chunks_exact_mut(joints).zip(sums.chunks_exact_mut(joints)).zip(totals.iter_mut());
        for (n, ((last, sums), (_, count))) in orders.enumerate() {
            // Orders that have as many rows behind them count.
            let counts = valid >= n + 2;
            let factor = f64::from(u8::from(counts));
            *count += if counts { joints as u64 } else { 0 };
            for ((new, last), sum) in new.iter_mut().zip(last).zip(sums) {
                let difference = *new - *last;
                *last = *new;
                *sum += factor * difference.abs();
                *new = difference;
            }
        }
    }
    for ((total, _), sums) in totals.iter_mut().zip(sums.chunks_exact(joints)) {
        *total += sums.iter().sum::<f64>();
    }
}
