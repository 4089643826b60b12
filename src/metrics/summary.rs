//! From sums to the figures that are reported.

use serde::Serialize;

/// Highest derivative whose smoothness is reported: jerk.
pub(super) const DERIVATIVES: usize = 3;

/// Sums over valid rows, per joint.
#[derive(Debug, Clone)]
pub(super) struct JointSums {
    pub(super) rows: u64,
    /// Rows in which each joint was measured.
    pub(super) counts: Vec<u64>,
    pub(super) absolute: Vec<f64>,
    pub(super) squared: Vec<f64>,
}

impl JointSums {
    pub(super) fn new(joints: usize) -> Self {
        Self { rows: 0, counts: vec![0; joints], absolute: vec![0.0; joints], squared: vec![0.0; joints] }
    }
}

/// Errors over valid rows. Means are over rows x joints, without joints that were not measured; those that never were have
/// NaN.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metrics {
    /// Valid rows.
    pub rows: u64,
    /// Radians^2.
    pub mse: f64,
    /// Radians.
    pub rmse: f64,
    pub mae: f64,
    pub rmse_deg: f64,
    pub mae_deg: f64,
    /// 1 - sum SSE / sum SST, each joint about its own mean.
    pub r2: f64,
    pub r2_per_joint: Vec<f64>,
    pub mae_deg_per_joint: Vec<f64>,
    /// By finger and by group of joints, for the 20 angles of emg2pose.
    pub mae_deg_per_finger: Option<Vec<(&'static str, f64)>>,
    pub mae_deg_per_group: Option<Vec<(&'static str, f64)>>,
    pub smoothness: Smoothness,
}

/// Mean |n-th derivative| of the predicted angles over stretches without failed rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Smoothness {
    /// Radians per second.
    pub velocity: f64,
    /// Radians per second^2.
    pub acceleration: f64,
    /// Radians per second^3.
    pub jerk: f64,
}

impl Smoothness {
    /// As emg2pose's code has it: every derivative multiplied by the rate once.
    pub fn as_emg2pose(&self, rate: f64) -> Self {
        Self { velocity: self.velocity, acceleration: self.acceleration / rate, jerk: self.jerk / (rate * rate) }
    }
}

/// Mean and sample standard deviation of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    pub mean: f64,
    /// `None` for a single value.
    pub std: Option<f64>,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let n = values.clone().count() as f64;
        let mean = values.clone().sum::<f64>() / n;
        let squares: f64 = values.map(|value| (value - mean).powi(2)).sum();
        Self { mean, std: (n > 1.0).then(|| (squares / (n - 1.0)).sqrt()) }
    }
}

/// How metrics differ between users: each user's own, then mean and standard deviation over users, as emg2pose's paper
/// reports errors (Salter and others 2024).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OverUsers {
    pub users: usize,
    pub mae_deg: Spread,
    pub rmse_deg: Spread,
    pub r2: Spread,
    pub velocity: Spread,
    pub acceleration: Spread,
    pub jerk: Spread,
}

impl OverUsers {
    /// `None` without users.
    pub fn of(users: &[Metrics]) -> Option<Self> {
        let over = |figure: fn(&Metrics) -> f64| Spread::of(users.iter().map(figure));
        (!users.is_empty()).then(|| Self {
            users: users.len(),
            mae_deg: over(|m| m.mae_deg),
            rmse_deg: over(|m| m.rmse_deg),
            r2: over(|m| m.r2),
            velocity: over(|m| m.smoothness.velocity),
            acceleration: over(|m| m.smoothness.acceleration),
            jerk: over(|m| m.smoothness.jerk),
        })
    }
}

const FINGERS: [&str; 5] = ["thumb", "index", "middle", "ring", "pinky"];
const GROUPS: [(&str, &[usize]); 3] =
    [("proximal", &[0, 1, 4, 5, 8, 9, 12, 13, 16, 17]), ("mid", &[2, 6, 10, 14, 18]), ("distal", &[3, 7, 11, 15, 19])];

/// `sst`: sum of squared deviations of each joint's targets from their mean.
pub(super) fn summarize(sums: &JointSums, sst: &[f64], differences: &[(f64, u64); DERIVATIVES], rate: f64) -> Metrics {
    let joints = sums.absolute.len();
    let elements = sums.counts.iter().sum::<u64>() as f64;
    let mean = |values: &[f64]| values.iter().sum::<f64>() / elements;
    let (mse, mae) = (mean(&sums.squared), mean(&sums.absolute));
    let of_joint = |(sum, count): (&f64, &u64)| (sum / *count as f64).to_degrees();
    let per_joint: Vec<_> = sums.absolute.iter().zip(&sums.counts).map(of_joint).collect();
    let over = |joints: &[usize]| {
        let measured = || joints.iter().map(|joint| per_joint[*joint]).filter(|error| error.is_finite());
        measured().sum::<f64>() / measured().count() as f64
    };
    let hand = joints == 20;
    let derivative = |n: usize| {
        let (sum, count) = differences[n];
        if count == 0 { 0.0 } else { sum / count as f64 * rate.powi(n as i32 + 1) }
    };
    Metrics {
        rows: sums.rows,
        mse,
        rmse: mse.sqrt(),
        mae,
        rmse_deg: mse.sqrt().to_degrees(),
        mae_deg: mae.to_degrees(),
        r2: 1.0 - sums.squared.iter().sum::<f64>() / sst.iter().sum::<f64>(),
        r2_per_joint: sums.squared.iter().zip(sst).map(|(sse, sst)| 1.0 - sse / sst).collect(),
        mae_deg_per_finger: hand.then(|| {
            let finger = |i: usize| over(&[4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3]);
            FINGERS.iter().enumerate().map(|(i, name)| (*name, finger(i))).collect()
        }),
        mae_deg_per_group: hand.then(|| GROUPS.iter().map(|(name, joints)| (*name, over(joints))).collect()),
        mae_deg_per_joint: per_joint,
        smoothness: Smoothness { velocity: derivative(0), acceleration: derivative(1), jerk: derivative(2) },
    }
}
