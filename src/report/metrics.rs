//! metrics.jsonl, a line per epoch, and the same as metrics.csv.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::files::{read_regular, replace_file};
use crate::train::{EpochRecord, Event};

/// Writes a run's epochs to files.
#[derive(Debug)]
pub(super) struct MetricsFiles {
    lines: PathBuf,
    /// Lines that could not be written yet.
    pending: Vec<u8>,
}

/// The epochs of a metrics.jsonl; a last line that was cut short does not count.
///
/// # Errors
/// The file cannot be read, or holds a line that is no epoch.
pub fn read_epochs(path: &Path) -> std::io::Result<Vec<EpochRecord>> {
    let text = String::from_utf8(read_regular(path)?).map_err(std::io::Error::other)?;
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let parse = |(i, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| std::io::Error::other(format!("line {}: {error}", i + 1)))
    };
    text[..whole].lines().enumerate().map(parse).collect()
}

impl MetricsFiles {
    pub(super) fn new(lines: PathBuf) -> Self {
        Self { lines, pending: Vec::new() }
    }

    /// Appends whole lines or nothing.
    fn append(&mut self, record: &EpochRecord) -> std::io::Result<()> {
        serde_json::to_writer(&mut self.pending, record)?;
        self.pending.push(b'\n');
        self.write_pending()
    }

    /// Writes lines that could not be written before, once more; gives a warning if they still cannot.
    pub(super) fn finish(&mut self) -> Option<String> {
        let written = if self.pending.is_empty() { Ok(()) } else { self.write_pending() };
        // An earlier run may have ended before it could write the table.
        let tabulated = || if self.lines.exists() { self.tabulate() } else { Ok(()) };
        let written = written.map_err(Into::into).and_then(|()| tabulated());
        written.err().map(|error| format!("epochs are missing in {}: {error}", self.lines.display()))
    }

    fn write_pending(&mut self) -> std::io::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(&self.lines)?;
        let length = file.metadata()?.len();
        if let Err(error) = file.write_all(&self.pending).and_then(|()| file.sync_data()) {
            file.set_len(length)?;
            return Err(error);
        }
        self.pending.clear();
        Ok(())
    }

    /// Writes the table anew, from the lines.
    fn tabulate(&self) -> Result<(), Box<dyn std::error::Error>> {
        let mut table = csv::Writer::from_writer(Vec::new());
        for (i, record) in read_epochs(&self.lines)?.iter().enumerate() {
            let Value::Object(columns) = serde_json::to_value(record)? else { continue };
            if i == 0 {
                table.write_record(columns.keys())?;
            }
            let text = |value: &Value| if value.is_null() { String::new() } else { value.to_string() };
            table.write_record(columns.values().map(text))?;
        }
        Ok(replace_file(&self.lines.with_extension("csv"), &table.into_inner()?)?)
    }

    /// Hears an event; gives a warning where a file cannot be written.
    pub(super) fn hear(&mut self, event: &Event<'_>) -> Option<String> {
        let Event::Epoch(record) = event else { return None };
        match self.append(record) {
            Err(error) => Some(format!("cannot write {}, will try again later: {error}", self.lines.display())),
            Ok(()) => self.tabulate().err().map(|error| format!("cannot write metrics.csv: {error}")),
        }
    }
}
