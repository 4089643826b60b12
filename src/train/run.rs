//! The run folder: config.yaml, metrics.jsonl, checkpoints/, model.onnx.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use super::checkpoint::{Checkpoint, Progress};
use super::error::TrainError;
use super::record::EpochRecord;
use crate::config::Config;
use crate::files::{has_no_locks, open_lock, read_regular, remove_leftovers, replace_file};

/// A run's folder, locked against a second `fit`.
#[derive(Debug)]
pub struct RunFolder {
    root: PathBuf,
    checkpoints: PathBuf,
    metrics: PathBuf,
    /// Checkpoints that could not be written, newest of each name: kept until they can.
    unsaved: BTreeMap<String, Checkpoint>,
    _locks: [File; 2],
    /// What is odd about the folder.
    pub(super) warnings: Vec<String>,
}

fn lock(folder: &Path, warnings: &mut Vec<String>) -> Result<File, TrainError> {
    let path = folder.join("lock");
    let lock = open_lock(&path).map_err(TrainError::io(&path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(TrainError::Locked { folder: folder.to_owned() }),
        Err(TryLockError::Error(error)) if has_no_locks(&error) => {
            let what = "this file system has no locks: make sure that no other fit uses this folder";
            warnings.push(format!("{}: {what}", folder.display()));
            Ok(lock)
        }
        Err(TryLockError::Error(error)) => Err(TrainError::io(&path)(error)),
    }
}

/// Files that a run writes beside its checkpoints.
const WRITTEN: [&str; 6] =
    ["config.yaml", "metrics.jsonl", "metrics.csv", "environment.json", "model.onnx", super::own_model::IMPORTED];

/// Where a run's checkpoints lie.
pub fn checkpoint_folder(root: &Path, config: &Config) -> PathBuf {
    config.logging.checkpoint_dir.clone().unwrap_or_else(|| root.join("checkpoints"))
}

impl RunFolder {
    /// Fails where `open` would, without making anything.
    ///
    /// # Errors
    /// The folder holds a run and is not to be resumed, or is and holds none.
    pub fn check(root: &Path, resume: bool) -> Result<(), TrainError> {
        let config = root.join("config.yaml");
        match (config.try_exists().map_err(TrainError::io(&config))?, resume) {
            (true, false) => Err(TrainError::RunExists { folder: root.to_owned() }),
            (false, true) => Err(TrainError::NoRun { folder: root.to_owned() }),
            _ => Ok(()),
        }
    }

    /// The file that gets a line per epoch.
    pub fn metrics_path(root: &Path, config: &Config) -> PathBuf {
        config.logging.log_dir.clone().unwrap_or_else(|| root.to_owned()).join("metrics.jsonl")
    }

    /// Makes the folder of a new run, or opens that of one that goes on from `resumed`, whose checkpoints it brings along if
    /// they are to lie elsewhere now. It holds a run once [`write_config`](Self::write_config) is done.
    ///
    /// # Errors
    /// As [`check`](Self::check); another `fit` uses the folder; `logging` names folders that hold another run's results.
    pub fn open(root: &Path, config: &Config, resumed: Option<&Checkpoint>) -> Result<Self, TrainError> {
        Self::check(root, resumed.is_some())?;
        let checkpoints = checkpoint_folder(root, config);
        let metrics = Self::metrics_path(root, config);
        for folder in [root, &checkpoints, metrics.parent().expect("a file in a folder")] {
            std::fs::create_dir_all(folder).map_err(TrainError::io(folder))?;
        }
        let mut warnings = Vec::new();
        let locks = [lock(root, &mut warnings)?, lock(&checkpoints, &mut warnings)?];
        for folder in [root, &checkpoints, metrics.parent().expect("a file in a folder")] {
            remove_leftovers(folder, |of| of.ends_with(".safetensors") || WRITTEN.contains(&of));
        }
        let (root, unsaved) = (root.to_owned(), BTreeMap::new());
        let mut run = Self { root, checkpoints, metrics, unsaved, _locks: locks, warnings };
        match resumed {
            Some(checkpoint) => run.bring(&checkpoint_folder(&run.root, &checkpoint.config), checkpoint)?,
            None => run.refuse_others(config)?,
        }
        Ok(run)
    }

    /// Fails if folders that a new run is to share hold results already. What a run leaves that ended before it began is
    /// none.
    fn refuse_others(&self, config: &Config) -> Result<(), TrainError> {
        let logging = &config.logging;
        let begun = |path: &Path| Checkpoint::load(path).is_ok_and(|c| c.progress == Progress::start());
        let best = self.checkpoint("best").exists();
        let last = self.checkpoint("last").exists() && !begun(&self.checkpoint("last"));
        let lines = std::fs::metadata(&self.metrics).is_ok_and(|file| file.len() > 0);
        for (key, is_shared, holds, folder) in [
            ("logging.checkpoint_dir", logging.checkpoint_dir.is_some(), best || last, self.checkpoints.as_path()),
            ("logging.log_dir", logging.log_dir.is_some(), lines, self.metrics.as_path()),
        ] {
            if is_shared && holds {
                return Err(TrainError::FolderInUse { key, folder: folder.to_owned() });
            }
        }
        Ok(())
    }

    /// Writes config.yaml: from then on the folder holds a run.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn write_config(&self, config: &Config) -> Result<(), TrainError> {
        Ok(replace_file(&self.root.join("config.yaml"), config.to_yaml().as_bytes())?)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn checkpoint(&self, name: &str) -> PathBuf {
        self.checkpoints.join(format!("{name}.safetensors"))
    }

    /// Writes the checkpoint `name`, and `best` and `last` if they could not be written before; gives the files that were.
    ///
    /// # Errors
    /// The first that cannot be written. `best` and `last` are kept in memory, and the file that would have been replaced is
    /// intact.
    pub(super) fn save(&mut self, name: &str, checkpoint: Checkpoint) -> Result<Vec<PathBuf>, TrainError> {
        if ["best", "last"].contains(&name) {
            self.unsaved.insert(name.to_owned(), checkpoint);
            return self.save_rest();
        }
        let mut saved = self.save_rest()?;
        checkpoint.save(&self.checkpoint(name))?;
        saved.push(self.checkpoint(name));
        Ok(saved)
    }

    /// Writes what could not be written before, `best` first: `last` says how good it is.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub(super) fn save_rest(&mut self) -> Result<Vec<PathBuf>, TrainError> {
        let mut saved = Vec::new();
        while let Some((name, checkpoint)) = self.unsaved.first_key_value() {
            let path = self.checkpoint(name);
            checkpoint.save(&path)?;
            saved.push(path);
            self.unsaved.pop_first();
        }
        Ok(saved)
    }

    /// Copies the checkpoints that a run resumed from `last` has in another folder than it is to use now. A damaged `best`
    /// stays behind.
    ///
    /// # Errors
    /// They cannot be read or written.
    fn bring(&mut self, from: &Path, last: &Checkpoint) -> Result<(), TrainError> {
        if from == self.checkpoints {
            return Ok(());
        }
        let best = from.join("best.safetensors");
        if best.exists() {
            match Checkpoint::load(&best) {
                Err(error) if error.is_damage() => {}
                best => drop(self.save("best", best?)?),
            }
        }
        self.save("last", last.clone()).map(drop)
    }

    /// The checkpoint `name` as it was saved last, or would have been; `None` if there never was one.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn load(&self, name: &str) -> Result<Option<Checkpoint>, TrainError> {
        if let Some(checkpoint) = self.unsaved.get(name) {
            return Ok(Some(checkpoint.clone()));
        }
        let path = self.checkpoint(name);
        if path.exists() { Checkpoint::load(&path).map(Some) } else { Ok(None) }
    }

    pub fn model(&self) -> PathBuf {
        self.root.join("model.onnx")
    }

    /// Drops lines of epochs after `epoch` from metrics.jsonl: epochs that will be trained again.
    pub(super) fn truncate_metrics(&self, epoch: usize) -> Result<(), TrainError> {
        let text = match read_regular(&self.metrics) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            read => read.map_err(TrainError::io(&self.metrics))?,
        };
        let text = String::from_utf8_lossy(&text);
        let kept = text
            .lines()
            .filter(|line| serde_json::from_str::<EpochRecord>(line).is_ok_and(|record| record.epoch <= epoch));
        let kept: String = kept.map(|line| format!("{line}\n")).collect();
        Ok(replace_file(&self.metrics, kept.as_bytes())?)
    }

    /// Removes numbered checkpoints but the newest `keep`.
    pub(super) fn keep_newest(&self, keep: usize) -> Result<(), TrainError> {
        let entries = std::fs::read_dir(&self.checkpoints).map_err(TrainError::io(&self.checkpoints))?;
        let is_numbered = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let number = name.strip_prefix("epoch_").and_then(|rest| rest.strip_suffix(".safetensors"));
            number.is_some_and(|digits| digits.len() >= 5 && digits.bytes().all(|byte| byte.is_ascii_digit()))
        };
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(is_numbered).collect();
        paths.sort();
        for old in paths.iter().rev().skip(keep) {
            std::fs::remove_file(old).map_err(TrainError::io(old))?;
        }
        Ok(())
    }
}
