//! Progress of a training on stderr: bars for epochs and batches on a terminal, lines elsewhere.

use std::io::IsTerminal;

use indicatif::{MultiProgress, ProgressBar};

use super::{bar, quantity, tensor_table};
use crate::config::MonitoredMetric;
use crate::note;
use crate::train::{EpochRecord, Event, anonymous_bytes};

/// Shows how far a training has come.
#[derive(Debug)]
pub(super) struct Terminal {
    /// On a terminal.
    bars: Option<Bars>,
    num_epochs: usize,
    steps_per_epoch: u64,
    /// Steps between lines.
    log_every: u64,
}

#[derive(Debug)]
struct Bars {
    all: MultiProgress,
    /// Counts the steps of all epochs, so that the time left is known in the first one, too.
    epochs: ProgressBar,
    batches: ProgressBar,
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::new();
        let [epochs, batches] = [
            "{prefix} {bar:24.green/dim} {left}  {wide_msg}",
            "{prefix} {bar:24.blue/dim} {pos}/{len}  {left}  {wide_msg}",
        ]
        .map(|template| all.add(ProgressBar::no_length().with_style(bar::style(template))));
        batches.set_prefix("batches ");
        Self { all, epochs, batches }
    }
}

impl Terminal {
    pub(super) fn new() -> Self {
        let bars = std::io::stderr().is_terminal().then(Bars::new);
        Self { bars, num_epochs: 0, steps_per_epoch: 0, log_every: 1 }
    }

    fn line(&self, line: &str) {
        match &self.bars {
            Some(bars) => bars.all.suspend(|| note!("{line}")),
            None => note!("{line}"),
        }
    }

    fn started(&self, first_epoch: usize) {
        if let Some(bars) = &self.bars {
            bars.epochs.set_length((self.num_epochs as u64).saturating_mul(self.steps_per_epoch));
            self.position(bars, first_epoch, 0);
            bars.epochs.reset_eta();
        }
    }

    /// Shows that so many steps of an epoch are done.
    fn position(&self, bars: &Bars, epoch: usize, step: u64) {
        bars.epochs.set_prefix(format!("epoch {epoch}/{}", self.num_epochs));
        bars.epochs.set_position((epoch as u64 - 1).saturating_mul(self.steps_per_epoch) + step);
    }

    fn step(&self, epoch: usize, step: u64, steps: u64, loss: f64, rate: f64) {
        let Some(bars) = &self.bars else {
            if step < steps && step.is_multiple_of(self.log_every) {
                note!("epoch {epoch}/{} loss {loss:.4} {rate:.0} windows/s step {step}/{steps}", self.num_epochs);
            }
            return;
        };
        bars.batches.set_length(steps);
        bars.batches.set_position(step);
        self.position(bars, epoch, step);
        if step > 1 && !step.is_multiple_of(self.log_every) {
            return;
        }
        bars.batches.set_prefix("batches ");
        let memory = anonymous_bytes().map_or(String::new(), |bytes| format!("  {}", quantity::bytes(bytes)));
        bars.batches.set_message(format!("loss {loss:.4}  {rate:.0} windows/s{memory}"));
    }

    fn epoch(&self, record: &EpochRecord) {
        let figures = record.figures.0.iter().filter_map(|figure| Some((figure, figure.value?)));
        let mut measured = String::new();
        let mut split = "";
        for (figure, value) in figures {
            if figure.split != split {
                split = figure.split;
                measured += &format!(" {split}");
            }
            measured += &match figure.unit {
                "" => format!(" {} {value:.4}", figure.quantity),
                _ => format!(" {} {value:.2}", figure.quantity.replace('_', " ")),
            };
        }
        let skipped = match record.skipped_batches {
            0 => String::new(),
            n => format!(" (skipped {n} batches without a valid row)"),
        };
        self.line(&format!(
            "epoch {}/{} lr {:.2e}{measured} {:.1}+{:.1} s{skipped}",
            record.epoch, self.num_epochs, record.learning_rate, record.train_seconds, record.val_seconds
        ));
        if let Some(bars) = &self.bars {
            self.position(bars, record.epoch, self.steps_per_epoch);
            bars.batches.reset();
        }
    }

    fn best(&self, monitor: MonitoredMetric, value: f64) {
        if let Some(bars) = &self.bars {
            bars.epochs.set_message(format!("best {monitor} {value:.4}"));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(bars) = &self.bars {
            bars.epochs.finish_and_clear();
            bars.batches.finish_and_clear();
        }
    }
}

impl Terminal {
    pub(super) fn hear(&mut self, event: &Event<'_>) {
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
                log_every,
            } => {
                self.num_epochs = *num_epochs;
                self.steps_per_epoch = *steps_per_epoch;
                self.log_every = *log_every;
                self.line(&format!(
                    "{parameters} parameters; training step of {nodes} nodes on {provider}; {train_windows} training and \
                     {val_windows} validation windows; {steps_per_epoch} steps per epoch, starting with epoch {first_epoch}"
                ));
                self.started(*first_epoch);
            }
            Event::Tensors { tensors, unreached } => {
                tensor_table(tensors, unreached).iter().for_each(|line| self.line(line));
            }
            Event::Uploaded { bytes, seconds } => {
                self.line(&format!(
                    "copied {} MiB of training rows into the training step's memory in {seconds:.1} s",
                    bytes >> 20
                ));
            }
            Event::Step { epoch, step, steps, loss, windows_per_second } => {
                self.step(*epoch, *step, *steps, *loss, *windows_per_second);
            }
            Event::Epoch(record) => self.epoch(record),
            Event::Validating { batch, batches } => {
                if let Some(bars) = &self.bars {
                    bars.batches.set_prefix("validate");
                    bars.batches.set_length(*batches);
                    bars.batches.set_position(*batch);
                }
            }
            Event::Examples { .. } => {}
            Event::Best { monitor, value } => {
                tracing::info!("best {monitor} so far: {value}");
                self.best(*monitor, *value);
            }
            Event::Saved { path } => tracing::info!("saved {}", path.display()),
            Event::SavedOnRequest { batch } => self.line(&format!("saved the checkpoint last after step {batch}")),
            Event::Stopped { epoch, patience } => {
                self.line(&format!("stopped after epoch {epoch}: no improvement for {patience} epochs"));
            }
            Event::Warning(message) => self.line(&format!("warning: {message}")),
        }
    }
}
