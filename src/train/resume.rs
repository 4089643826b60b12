//! Resuming a run: which keys may change, and where training continues.

use super::checkpoint::{Checkpoint, Progress};
use super::early_stopping::Watch;
use super::error::TrainError;
use crate::cache::Cache;
use crate::config::{Config, differences};

/// Keys that a resumed run may change, besides the section `logging`.
const MAY_CHANGE: [&str; 8] = [
    "training.num_epochs",
    "training.patience",
    "training.num_workers",
    "training.prefetch_factor",
    "training.device_memory_limit",
    "training.data_residency",
    "training.pin_memory",
    "training.cuda_kernels",
];

/// Compares a run's configuration with the one it is resumed with.
///
/// # Errors
/// The first key that differs and must not.
pub fn check_resume(run: &Config, now: &Config) -> Result<(), TrainError> {
    for difference in differences(run, now, 2) {
        let key = difference.key.as_str();
        let may_change = key.starts_with("logging.") || MAY_CHANGE.contains(&key);
        // Where recordings and store lie does not matter: the cache's key says what they hold.
        let place = ["data.dataset_path", "data.store"].contains(&key);
        if !may_change && !place {
            return Err(TrainError::CannotChange(Box::new(difference)));
        }
    }
    Ok(())
}

/// Where the checkpoint stands, for a run that goes on as now configured.
pub(super) fn position_of(checkpoint: &Checkpoint, config: &Config, cache: &Cache) -> Result<Progress, TrainError> {
    if let Some(key) = checkpoint.cache.as_ref().filter(|key| *key != cache.key()) {
        return Err(TrainError::CacheMismatch { was: key.clone(), now: cache.key().clone() });
    }
    let (was, now) = (&checkpoint.config.logging, &config.logging);
    let mut progress = checkpoint.progress.clone();
    if (was.monitor, was.mode) != (now.monitor, now.mode) {
        // The best value so far was another metric's.
        progress.monitor = Watch::new();
    }
    Ok(progress)
}
