//! Everything that training reports: progress on stderr, metrics.jsonl, metrics.csv, TensorBoard events,
//! environment.json.

use std::path::{Path, PathBuf};

use super::environment::EnvironmentFile;
use super::metrics::MetricsFiles;
use super::tensorboard::TensorBoard;
use super::terminal::Terminal;
use crate::train::{Event, Listener};

/// Reports a training.
#[derive(Debug)]
pub struct FitReport {
    terminal: Terminal,
    metrics: MetricsFiles,
    tensorboard: TensorBoard,
    environment: EnvironmentFile,
}

impl FitReport {
    /// `metrics`: the file that gets a line per epoch; the others lie beside it.
    pub fn new(metrics: PathBuf) -> Self {
        let folder = metrics.parent().unwrap_or(Path::new(""));
        let (tensorboard, environment) = (TensorBoard::new(folder), EnvironmentFile::new(folder));
        Self { terminal: Terminal::new(), metrics: MetricsFiles::new(metrics), tensorboard, environment }
    }
}

impl Drop for FitReport {
    fn drop(&mut self) {
        for warning in [self.metrics.finish(), self.tensorboard.finish()].into_iter().flatten() {
            self.terminal.hear(&Event::Warning(warning));
        }
    }
}

impl Listener for FitReport {
    fn event(&mut self, event: &Event<'_>) {
        self.terminal.hear(event);
        let warnings = [self.metrics.hear(event), self.tensorboard.hear(event), self.environment.hear(event)];
        for warning in warnings.into_iter().flatten() {
            self.terminal.hear(&Event::Warning(warning));
        }
    }
}
