//! Resuming a run: which keys may change, and where training continues.

use std::path::{Path, PathBuf};

use super::checkpoint::{Checkpoint, Progress};
use super::early_stopping::Watch;
use super::error::TrainError;
use super::schedule::learning_rate;
use crate::cache::Cache;
use crate::config::{Config, Schedule, SchedulePer, TrainingConfig, differences};

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

/// Tells what a schedule over all epochs does in a run that is to have another number of them.
pub(super) fn schedule_change(was: &TrainingConfig, now: &TrainingConfig, progress: &Progress) -> Option<String> {
    let spans_all = matches!(now.scheduler, Schedule::OneCycle | Schedule::Cosine);
    if !spans_all || was.num_epochs == now.num_epochs {
        return None;
    }
    let rate = |config| learning_rate(config, progress.epoch, 0, 1, progress.reductions);
    Some(format!(
        "training.scheduler {} spans training.num_epochs, now {} instead of {}: the learning rate continues on the new curve, with \
         {:.2e} in epoch {} (the old curve: {:.2e})",
        now.scheduler,
        now.num_epochs,
        was.num_epochs,
        rate(&TrainingConfig { schedule_per: SchedulePer::Epoch, ..now.clone() }),
        progress.epoch + 1,
        rate(&TrainingConfig { schedule_per: SchedulePer::Epoch, ..was.clone() }),
    ))
}

/// What a run goes on from, and what is to be told of it.
#[derive(Debug)]
pub struct Resumed {
    pub checkpoint: Checkpoint,
    pub warnings: Vec<String>,
}

/// Reads the checkpoint that the run with these checkpoints goes on from: `last`, or where that is damaged, the newest
/// whole one.
///
/// # Errors
/// `last` cannot be read; no checkpoint is whole.
pub fn resume_from(folder: &Path) -> Result<Resumed, TrainError> {
    let path = |name: &str| folder.join(format!("{name}.safetensors"));
    let mut warnings = Vec::new();
    let mut checkpoint = match Checkpoint::load(&path("last")) {
        Err(error) if error.is_damage() => {
            let Some((newest, checkpoint)) = newest_whole(folder) else { return Err(error) };
            let (from, Progress { epoch, batch, .. }) = (newest.display(), &checkpoint.progress);
            warnings.push(format!("{error}; continuing from {from}: {epoch} epochs and {batch} steps"));
            checkpoint
        }
        result => result?,
    };
    if path("best").exists()
        && let Err(error) = Checkpoint::load(&path("best"))
        && error.is_damage()
    {
        warnings.push(format!("{error}; the best epoch from here on takes its place"));
        checkpoint.progress.monitor = Watch::new();
    }
    Ok(Resumed { checkpoint, warnings })
}

fn newest_whole(folder: &Path) -> Option<(PathBuf, Checkpoint)> {
    let paths = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let checkpoints = paths.filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    let whole = checkpoints.filter_map(|path| Checkpoint::load(&path).ok().map(|checkpoint| (path, checkpoint)));
    whole.max_by_key(|(_, checkpoint)| (checkpoint.progress.epoch, checkpoint.progress.batch))
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
