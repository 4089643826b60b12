//! Learning rates, and watching a metric: early stopping, plateaus, the best epoch.

use serde::{Deserialize, Serialize};

use crate::config::{Mode, Schedule, TrainingConfig};

const PLATEAU_FACTOR: f64 = 0.5;
const PLATEAU_PATIENCE: usize = 5;

/// Learning rate of `epoch` (from 0). `reductions`: how often a plateau was met.
///
/// Epoch e of the warm-up runs at lr x (e + 1) / warmup_epochs; the schedule counts from its end. Cosine has the
/// period num_epochs and the minimum 0.
pub(super) fn learning_rate(config: &TrainingConfig, epoch: usize, reductions: u32) -> f64 {
    let warmup = config.warmup_epochs;
    if epoch < warmup {
        return config.learning_rate * (epoch + 1) as f64 / warmup as f64;
    }
    let after = epoch - warmup;
    let factor = match config.scheduler {
        Schedule::None => 1.0,
        Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * after as f64 / config.num_epochs as f64).cos()),
        Schedule::Step => config.gamma.powf((after / config.step_size) as f64),
        Schedule::Plateau => PLATEAU_FACTOR.powf(f64::from(reductions)),
    };
    config.learning_rate * factor
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
    pub fn met_plateau(&mut self) -> bool {
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

    fn rates(scheduler: Schedule, warmup: usize, epochs: &[usize]) -> Vec<f64> {
        let config = TrainingConfig {
            learning_rate: 1.0,
            num_epochs: 10,
            warmup_epochs: warmup,
            scheduler,
            step_size: 2,
            gamma: 0.1,
            ..Default::default()
        };
        epochs.iter().map(|epoch| (learning_rate(&config, *epoch, 1) * 1e9).round() / 1e9).collect()
    }

    #[test]
    fn schedules_count_from_the_end_of_the_warm_up() {
        assert_eq!(rates(Schedule::None, 4, &[0, 1, 3, 4, 9]), [0.25, 0.5, 1.0, 1.0, 1.0]);
        assert_eq!(rates(Schedule::Cosine, 0, &[0, 5, 10]), [1.0, 0.5, 0.0]);
        assert_eq!(rates(Schedule::Cosine, 2, &[1, 2, 7]), [1.0, 1.0, 0.5]);
        assert_eq!(rates(Schedule::Step, 1, &[1, 2, 3, 4, 5]), [1.0, 1.0, 0.1, 0.1, 0.01]);
        assert_eq!(rates(Schedule::Plateau, 0, &[0]), [0.5]);
    }

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
            assert!(!watch.met_plateau());
            watch.update(0.0, Mode::Max, 0.0);
        }
        assert!(watch.met_plateau() && !watch.met_plateau());
    }
}
