//! The same metrics from everything at once: what `training.compute_metrics_online: false` uses, and what the
//! accumulator must agree with. Deliberately plain: separate passes, no shared arithmetic but the summary.

use super::summary::DERIVATIVES;
use super::summary::{JointSums, Metrics, summarize};

/// One window's rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// [rows, joints], radians.
    pub prediction: Vec<f32>,
    pub target: Vec<f32>,
    /// [rows]
    pub mask: Vec<f32>,
}

/// The metrics over all these windows.
pub fn gathered(windows: &[&Window], joints: usize, rate: f64) -> Metrics {
    let valid: Vec<(&[f32], &[f32])> = windows
        .iter()
        .flat_map(|w| {
            let rows = w.prediction.chunks_exact(joints).zip(w.target.chunks_exact(joints)).zip(&w.mask);
            rows.filter(|(_, mask)| **mask > 0.0).map(|(row, _)| row)
        })
        .collect();
    let mut sums = JointSums::new(joints);
    sums.rows = valid.len() as u64;
    let mut sst = vec![0.0; joints];
    for joint in 0..joints {
        let measured = || valid.iter().filter(|(_, t)| !t[joint].is_nan());
        let errors = measured().map(|(p, t)| f64::from(p[joint]) - f64::from(t[joint]));
        sums.counts[joint] = measured().count() as u64;
        sums.absolute[joint] = errors.clone().map(f64::abs).sum();
        sums.squared[joint] = errors.map(|error| error * error).sum();
        let mean = measured().map(|(_, t)| f64::from(t[joint])).sum::<f64>() / sums.counts[joint] as f64;
        sst[joint] = measured().map(|(_, t)| (f64::from(t[joint]) - mean).powi(2)).sum();
    }
    summarize(&sums, &sst, &differences(windows, joints), rate)
}

/// Repeated differencing of each stretch of valid rows.
fn differences(windows: &[&Window], joints: usize) -> [(f64, u64); DERIVATIVES] {
    let mut result = [(0.0, 0); DERIVATIVES];
    for window in windows {
        let rows: Vec<_> = window.prediction.chunks_exact(joints).zip(&window.mask).collect();
        for stretch in rows.split(|(_, mask)| **mask == 0.0) {
            for joint in 0..joints {
                let mut series: Vec<_> = stretch.iter().map(|(row, _)| f64::from(row[joint])).collect();
                for (sum, count) in &mut result {
                    series = series.windows(2).map(|pair| pair[1] - pair[0]).collect();
                    *sum += series.iter().map(|d| d.abs()).sum::<f64>();
                    *count += series.len() as u64;
                }
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::super::Accumulator;
    use super::*;
    use crate::random::Random;

    #[test]
    fn online_and_offline_agree() {
        let mut random = Random::new(&[3]);
        let mut noise = |n: usize| -> Vec<f32> { (0..n).map(|_| random.up_to(1000) as f32 / 500.0).collect() };
        let (mut online, mut windows) = (Accumulator::new(20, 2000.0), Vec::new());
        for _ in 0..7 {
            let mask: Vec<_> = noise(50).iter().map(|x| f32::from(u8::from(*x < 1.6))).collect();
            let window = Window { prediction: noise(50 * 20), target: noise(50 * 20), mask };
            online.merge(&Accumulator::of(20, 2000.0, &window.prediction, &window.target, &window.mask));
            windows.push(window);
        }
        let windows: Vec<_> = windows.iter().collect();
        let (a, b) = (online.finish(), gathered(&windows, 20, 2000.0));
        let (a, b) = (serde_json::to_value(a).unwrap(), serde_json::to_value(b).unwrap());
        compare(&a, &b, "");
    }

    fn compare(a: &serde_json::Value, b: &serde_json::Value, path: &str) {
        use serde_json::Value::{Array, Object};
        match (a, b) {
            (Object(a), Object(b)) => a.iter().for_each(|(k, v)| compare(v, &b[k], &format!("{path}.{k}"))),
            (Array(a), Array(b)) => a.iter().zip(b).for_each(|(x, y)| compare(x, y, path)),
            _ => match (a.as_f64(), b.as_f64()) {
                (Some(x), Some(y)) => assert!((x - y).abs() <= 1e-9 * x.abs().max(1.0), "{path}: {x} {y}"),
                _ => assert_eq!(a, b, "{path}"),
            },
        }
    }

    #[test]
    fn figures_of_a_known_case() {
        // Errors 1, failed, 1, 3; predictions 2, 9, 4, 8.
        let online = Accumulator::of(1, 10.0, &[2.0, 9.0, 4.0, 8.0], &[1.0, 0.0, 3.0, 5.0], &[1.0, 0.0, 1.0, 1.0]);
        let metrics = online.finish();
        assert_eq!(metrics.rows, 3);
        assert!((metrics.mae - 5.0 / 3.0).abs() < 1e-12 && (metrics.mse - 11.0 / 3.0).abs() < 1e-12);
        assert!((metrics.r2 - (1.0 - 11.0 / 8.0)).abs() < 1e-12);
        assert!((metrics.smoothness.velocity - 40.0).abs() < 1e-12);
        assert_eq!(metrics.smoothness.acceleration, 0.0);
    }
}
