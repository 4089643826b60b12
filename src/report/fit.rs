//! Progress of training on stderr, and metrics.jsonl.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};

use crate::train::{EpochRecord, Event, Listener};

/// Reports a run.
#[derive(Debug)]
pub struct FitReport {
    metrics: PathBuf,
    /// Lines that could not be written yet.
    pending: Vec<u8>,
    bar: Option<ProgressBar>,
    terminal: bool,
    num_epochs: usize,
}

impl FitReport {
    /// `metrics`: the file that gets a line per epoch.
    pub fn new(metrics: PathBuf) -> Self {
        Self { metrics, pending: Vec::new(), bar: None, terminal: std::io::stderr().is_terminal(), num_epochs: 0 }
    }

    fn line(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    fn step(&mut self, epoch: usize, step: u64, steps: u64, loss: f64, rate: f64) {
        let message = format!("epoch {epoch}/{} loss {loss:.4} {rate:.0} windows/s", self.num_epochs);
        if !self.terminal {
            if step < steps {
                eprintln!("{message} step {step}/{steps}");
            }
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let style =
                ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta} left").expect("a valid template");
            ProgressBar::new(steps).with_style(style)
        });
        bar.set_length(steps);
        bar.set_position(step);
        bar.set_message(message);
    }

    fn epoch(&mut self, record: &EpochRecord) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let val = match (record.val_loss, record.val_mae_deg) {
            (Some(loss), Some(mae)) => format!(" val loss {loss:.4} mae {mae:.2} deg"),
            _ => String::new(),
        };
        let skipped = match record.skipped_batches {
            0 => String::new(),
            n => format!(" ({n} batches without a valid row skipped)"),
        };
        eprintln!(
            "epoch {}/{} lr {:.2e} train loss {:.4} mae {:.2} deg{val} {:.1}+{:.1} s{skipped}",
            record.epoch,
            self.num_epochs,
            record.learning_rate,
            record.train_loss,
            record.train_mae_deg,
            record.train_seconds,
            record.val_seconds
        );
        if let Err(error) = self.append(record) {
            eprintln!("warning: {}: {error}; tried again after the next epoch", self.metrics.display());
        }
    }

    /// Appends whole lines or nothing.
    fn append(&mut self, record: &EpochRecord) -> std::io::Result<()> {
        serde_json::to_writer(&mut self.pending, record)?;
        self.pending.push(b'\n');
        let mut file = OpenOptions::new().create(true).append(true).open(&self.metrics)?;
        let length = file.metadata()?.len();
        if let Err(error) = file.write_all(&self.pending).and_then(|()| file.sync_data()) {
            file.set_len(length)?;
            return Err(error);
        }
        self.pending.clear();
        Ok(())
    }
}

impl Listener for FitReport {
    fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::FirstBatch { milliseconds } => {
                self.line(&format!("first batch in memory {milliseconds:.0} ms after start"));
            }
            Event::Started {
                parameters,
                provider,
                train_windows,
                val_windows,
                steps_per_epoch,
                first_epoch,
                num_epochs,
                nodes,
            } => {
                self.num_epochs = *num_epochs;
                self.line(&format!(
                    "{parameters} parameters, a step of {nodes} nodes on {provider}; {train_windows} training and \
                     {val_windows} validation windows, {steps_per_epoch} steps per epoch, from epoch {first_epoch}"
                ));
            }
            Event::Step { epoch, step, steps, loss, windows_per_second } => {
                self.step(*epoch, *step, *steps, *loss, *windows_per_second);
            }
            Event::Epoch(record) => self.epoch(record),
            Event::Best { monitor, value } => tracing::info!("best {monitor} so far: {value}"),
            Event::Saved { path } => tracing::info!("saved {}", path.display()),
            Event::Stopped { epoch, patience } => {
                self.line(&format!("stopped after epoch {epoch}: no improvement for {patience} epochs"));
            }
            Event::Warning(message) => self.line(&format!("warning: {message}")),
        }
    }
}
