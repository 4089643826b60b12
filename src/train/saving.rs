//! What training writes: checkpoints on the way, and the exported model at the end.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use super::checkpoint::{Checkpoint, parameters_key};
use super::error::TrainError;
use super::events::Event;
use super::export::{ExportOptions, check_loads, export_run};
use super::normalization::Normalization;
use super::training::Training;
use crate::config::{MonitoredMetric, Normalize};
use crate::files::replace_file;

/// How training ended.
#[derive(Debug, Clone, PartialEq)]
pub struct FitSummary {
    pub epochs: usize,
    pub monitor: MonitoredMetric,
    pub best: Option<f64>,
    pub best_checkpoint: PathBuf,
    pub last_checkpoint: PathBuf,
    /// The exported model, unless it cannot be exported.
    pub model: Option<PathBuf>,
}

impl Training<'_> {
    /// Saves a checkpoint, or warns where it cannot be written: the one before is intact, and the run folder tries again
    /// with the next.
    pub(super) fn save(&mut self, name: &str) -> Result<(), TrainError> {
        let checkpoint = self.checkpoint()?;
        if let Err(error) = self.write(name, checkpoint) {
            let message = format!("cannot save the checkpoint {name}, training continues: {error}");
            self.listener.event(&Event::Warning(message));
        }
        Ok(())
    }

    /// Saves a checkpoint without which training cannot usefully continue.
    pub(super) fn must_save(&mut self, name: &str) -> Result<(), TrainError> {
        let checkpoint = self.checkpoint()?;
        self.write(name, checkpoint)
    }

    fn write(&mut self, name: &str, checkpoint: Checkpoint) -> Result<(), TrainError> {
        let saved = self.run.save(name, checkpoint)?;
        saved.into_iter().for_each(|path| self.listener.event(&Event::Saved { path }));
        Ok(())
    }

    fn checkpoint(&self) -> Result<Checkpoint, TrainError> {
        Ok(Checkpoint {
            config: self.config.clone(),
            cache: Some(self.cache.key().clone()),
            parameters: Some(parameters_key(&self.model)),
            own_model: self.own_model.clone(),
            normalization: Normalization::new(self.cache.manifest()),
            progress: self.position.clone(),
            state: self.learner.state()?,
        })
    }

    /// Saves where training stands if it is to stop, or if that was asked for.
    pub(super) fn check_interrupt(&mut self) -> Result<(), TrainError> {
        if !self.interrupted.load(Ordering::Relaxed) {
            if self.save_now.swap(false, Ordering::Relaxed) {
                self.save("last")?;
                self.listener.event(&Event::SavedOnRequest { batch: self.position.batch });
            }
            return Ok(());
        }
        self.must_save("last")?;
        Err(TrainError::Interrupted)
    }

    /// Tries the export of a user's own model before anything is trained: warns where ONNX Runtime does not load it.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn rehearse_export(&mut self) -> Result<(), TrainError> {
        let manifest = self.cache.manifest();
        if self.model.onnx().is_none() || manifest.settings.normalize_angles == Normalize::Recording {
            return Ok(());
        }
        let exported = export_run(&self.model, &self.checkpoint()?, manifest, ExportOptions::default())?;
        if let Err(error) = check_loads(self.library, self.provider, &self.model, &exported) {
            self.listener.event(&Event::Warning(format!("no model can be exported from this run: {error}")));
        }
        Ok(())
    }

    /// Exports the model that training ends with.
    pub(super) fn finish(mut self) -> Result<FitSummary, TrainError> {
        let (best, last) = (self.run.checkpoint("best"), self.run.checkpoint("last"));
        let manifest = self.cache.manifest();
        let model = self.run.model();
        let exportable = manifest.settings.normalize_angles != Normalize::Recording;
        let saved = self.run.save_rest();
        let mut is_exported = false;
        if exportable {
            let wanted = if self.config.training.restore_best_weights { "best" } else { "last" };
            let checkpoint = match self.run.load(wanted) {
                Err(error) if error.is_damage() => {
                    let message = format!("{error}; the exported model has the last epoch's weights");
                    self.listener.event(&Event::Warning(message));
                    None
                }
                loaded => loaded?,
            };
            let checkpoint = checkpoint.map_or_else(|| self.checkpoint(), Ok)?;
            let exported = export_run(&self.model, &checkpoint, manifest, ExportOptions::default())?;
            match check_loads(self.library, self.provider, &self.model, &exported) {
                Ok(()) => {
                    replace_file(&model, &exported.onnx)?;
                    is_exported = true;
                }
                Err(error) => self.listener.event(&Event::Warning(error.to_string())),
            }
        }
        saved?;
        Ok(FitSummary {
            epochs: self.position.epoch,
            monitor: self.config.logging.monitor,
            best: self.position.monitor.best,
            best_checkpoint: best,
            last_checkpoint: last,
            model: is_exported.then_some(model),
        })
    }
}
