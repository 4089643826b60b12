//! Units of EMG and joint angles: as they are, or as z-scores.

use crate::statistics::Moments;

/// Inputs of exported models with a recording's own EMG statistics [1, channels]: mean and divisor.
pub const EMG_STATISTICS: [&str; 2] = ["emg_mean", "emg_std"];

/// A z-score per column: (x - mean) / divisor.
#[derive(Debug, Clone, PartialEq)]
pub struct Affine {
    pub mean: Vec<f32>,
    pub divisor: Vec<f32>,
}

impl Affine {
    pub fn new(moments: &Moments) -> Self {
        let to_f32 = |values: &[f64]| values.iter().map(|value| *value as f32).collect();
        Self { mean: to_f32(&moments.mean), divisor: to_f32(&moments.divisor()) }
    }
}

/// What a model's EMG or angles are measured in.
#[derive(Debug, Clone, PartialEq)]
pub enum Units {
    /// EMG as recorded; angles in radians.
    Raw,
    /// z-scores by statistics that are part of the model.
    Fixed(Affine),
    /// z-scores by the statistics of each recording. The EMG of a cache has been normalized already.
    PerRecording,
}
