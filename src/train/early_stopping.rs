//! Watching a metric over epochs: early stopping, plateaus, the best epoch.

use serde::{Deserialize, Serialize};

use crate::config::{Mode, TrainingConfig};

/// Epochs without improvement after which the plateau schedule lowers the learning rate.
const PLATEAU_PATIENCE: usize = 5;

/// Whether training stops before its last epoch: `training.monitor_metric` did not improve for `training.patience` epochs.
pub(super) fn stops_early(config: &TrainingConfig, watch: &Watch) -> bool {
    config.early_stopping && watch.waited >= config.patience
}

/// Watches one metric for improvements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    /// Best value so far; none before the first epoch.
    pub best: Option<f64>,
    /// Epochs since the best value.
    pub waited: usize,
}

impl Watch {
    pub fn new() -> Self {
        Self { best: None, waited: 0 }
    }

    /// Takes an epoch's value; true if it improved by more than `min_delta`.
    pub fn update(&mut self, value: f64, mode: Mode, min_delta: f64) -> bool {
        // A value that is not finite is never an improvement, not even on nothing.
        let better = self.best.is_none_or(|best| match mode {
            Mode::Min => value < best - min_delta,
            Mode::Max => value > best + min_delta,
        });
        let improved = value.is_finite() && better;
        if improved {
            *self = Self { best: Some(value), waited: 0 };
        } else {
            self.waited += 1;
        }
        improved
    }

    /// Whether a plateau is met: more than its patience without improvement. Starts counting anew then.
    pub fn plateau_reached(&mut self) -> bool {
        let met = self.waited > PLATEAU_PATIENCE;
        if met {
            self.waited = 0;
        }
        met
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_changes_are_no_improvement() {
        let mut watch = Watch::new();
        assert!(!watch.update(f64::NAN, Mode::Min, 0.1));
        assert!(watch.update(1.0, Mode::Min, 0.1));
        assert!(!watch.update(0.95, Mode::Min, 0.1));
        assert!(watch.update(0.8, Mode::Min, 0.1));
        assert_eq!((watch.best, watch.waited), (Some(0.8), 0));
        assert!(!watch.update(f64::NAN, Mode::Min, 0.0));
        assert!(watch.update(0.9, Mode::Max, 0.0));
        for _ in 0..6 {
            assert!(!watch.plateau_reached());
            watch.update(0.0, Mode::Max, 0.0);
        }
        assert!(watch.plateau_reached() && !watch.plateau_reached());
    }
}
