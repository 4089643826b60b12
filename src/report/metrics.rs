//! metrics.jsonl, a line per epoch, and the same as metrics.csv.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::train::{EpochRecord, Event, Listener};

/// Writes a run's epochs to files.
#[derive(Debug)]
pub(super) struct MetricsFiles {
    lines: PathBuf,
    /// Lines that could not be written yet.
    pending: Vec<u8>,
}

/// The epochs of a metrics.jsonl; lines that are none are left out.
///
/// # Errors
/// The file cannot be read.
pub fn read_epochs(path: &Path) -> std::io::Result<Vec<EpochRecord>> {
    let text = std::fs::read_to_string(path)?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

impl MetricsFiles {
    pub(super) fn new(lines: PathBuf) -> Self {
        Self { lines, pending: Vec::new() }
    }

    /// Appends whole lines or nothing.
    fn append(&mut self, record: &EpochRecord) -> std::io::Result<()> {
        serde_json::to_writer(&mut self.pending, record)?;
        self.pending.push(b'\n');
        let mut file = OpenOptions::new().create(true).append(true).open(&self.lines)?;
        let length = file.metadata()?.len();
        if let Err(error) = file.write_all(&self.pending).and_then(|()| file.sync_data()) {
            file.set_len(length)?;
            return Err(error);
        }
        self.pending.clear();
        Ok(())
    }

    /// Writes the table anew: an epoch that was trained again stands in it once.
    fn tabulate(&self) -> std::io::Result<()> {
        let path = self.lines.with_extension("csv");
        let part = path.with_extension("csv.part");
        let mut table = csv::Writer::from_path(&part)?;
        for record in read_epochs(&self.lines)? {
            table.serialize(record)?;
        }
        table.flush()?;
        std::fs::rename(part, path)
    }
}

impl Listener for MetricsFiles {
    fn event(&mut self, event: &Event<'_>) {
        let Event::Epoch(record) = event else { return };
        if let Err(error) = self.append(record) {
            eprintln!("warning: {}: {error}; tried again after the next epoch", self.lines.display());
        } else if let Err(error) = self.tabulate() {
            eprintln!("warning: {}: {error}", self.lines.with_extension("csv").display());
        }
    }
}
