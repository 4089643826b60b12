//! Learning rates.

use crate::config::{Schedule, SchedulePer, TrainingConfig};

const PLATEAU_FACTOR: f64 = 0.5;

/// OneCycleLR's shape in PyTorch: share of the rise, and the rate before it and at the end.
const ONE_CYCLE_RISE: f64 = 0.3;
const ONE_CYCLE_START: f64 = 1.0 / 25.0;
const ONE_CYCLE_END: f64 = ONE_CYCLE_START * 1e-4;

/// Learning rate at optimizer step `step` (from 0) of `epoch` (from 0), of which each has `steps_per_epoch`.
/// `reductions`: how often a plateau was met.
///
/// The unit is an epoch, or a step with `schedule_per: step`; everything that the configuration counts in epochs is
/// then as many steps as they have. Unit u of the warm-up runs at lr x (u + 1) / its units; the schedule counts from
/// its end. Cosine has the period num_epochs and the minimum 0. One-cycle (Smith and Topin 2019) has a warm-up of its
/// own and spans num_epochs.
pub(super) fn learning_rate(
    config: &TrainingConfig,
    epoch: usize,
    step: u64,
    steps_per_epoch: u64,
    reductions: u32,
) -> f64 {
    let (unit, units) = match config.schedule_per {
        SchedulePer::Epoch => (epoch as f64, 1.0),
        SchedulePer::Step => (epoch as f64 * steps_per_epoch as f64 + step as f64, steps_per_epoch as f64),
    };
    let total = config.num_epochs as f64 * units;
    if config.scheduler == Schedule::OneCycle {
        return config.learning_rate * one_cycle(unit, total);
    }
    let warmup = config.warmup_epochs as f64 * units;
    if unit < warmup {
        return config.learning_rate * (unit + 1.0) / warmup;
    }
    let after = unit - warmup;
    let factor = match config.scheduler {
        Schedule::None | Schedule::OneCycle => 1.0,
        Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * after / total).cos()),
        Schedule::Step => config.gamma.powf((after / (config.step_size as f64 * units)).floor()),
        Schedule::Plateau => PLATEAU_FACTOR.powf(f64::from(reductions)),
    };
    config.learning_rate * factor
}

/// Up along half a cosine, then down along another.
fn one_cycle(unit: f64, total: f64) -> f64 {
    let top = ONE_CYCLE_RISE * total - 1.0;
    let between = |from: f64, to: f64, share: f64| {
        to + (from - to) / 2.0 * (1.0 + (std::f64::consts::PI * share.clamp(0.0, 1.0)).cos())
    };
    if unit <= top {
        between(ONE_CYCLE_START, 1.0, unit / top.max(f64::MIN_POSITIVE))
    } else {
        between(1.0, ONE_CYCLE_END, (unit - top) / (total - 1.0 - top).max(1.0))
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
        epochs.iter().map(|epoch| (learning_rate(&config, *epoch, 0, 1, 1) * 1e9).round() / 1e9).collect()
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
    fn steps_are_the_unit_where_the_configuration_says_so() {
        let config = TrainingConfig {
            learning_rate: 1.0,
            num_epochs: 10,
            warmup_epochs: 1,
            schedule_per: SchedulePer::Step,
            ..Default::default()
        };
        let rate = |epoch, step| (learning_rate(&config, epoch, step, 4, 0) * 1e9).round() / 1e9;
        assert_eq!([rate(0, 0), rate(0, 1), rate(0, 3), rate(1, 0)], [0.25, 0.5, 1.0, 1.0]);
        assert_eq!(rate(6, 0), 0.5);
    }

    const ONE_CYCLE: [(usize, f64); 8] = [
        (0, 0.040000000000000036),
        (1, 0.1316718427000253),
        (3, 0.6683281572999747),
        (5, 1.0),
        (6, 0.9874640062350873),
        (10, 0.7169430017913008),
        (18, 0.012539993764912554),
        (19, 4e-06),
    ];

    /// torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=20), PyTorch 2.15.
    #[test]
    fn one_cycle_is_pytorchs() {
        let config =
            TrainingConfig { learning_rate: 1.0, num_epochs: 20, scheduler: Schedule::OneCycle, ..Default::default() };
        for (epoch, expected) in ONE_CYCLE {
            let rate = learning_rate(&config, epoch, 0, 7, 0);
            assert!((rate - expected).abs() < 1e-12, "epoch {epoch}: {rate}, PyTorch {expected}");
        }
    }
}
