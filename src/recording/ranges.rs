//! Ranges of rows of datasets that are read side by side.

use std::collections::HashMap;

use super::chunks;
use super::dataset::{Dataset, Storage};
use super::error::RecordingError;
use super::read::{BLOCK_BYTES, Recording};

/// Reads ranges of rows from datasets that are read side by side.
pub(super) struct Ranges<'a> {
    recording: &'a Recording,
    /// By dataset: the first row of what was decoded last, and its bytes.
    decoded: HashMap<String, (u64, Vec<u8>)>,
}

impl<'a> Ranges<'a> {
    pub(super) fn new(recording: &'a Recording) -> Self {
        Self { recording, decoded: HashMap::new() }
    }

    /// Copies rows from `first` on to `out`.
    pub(super) fn read(&mut self, dataset: &Dataset, first: u64, out: &mut [u8]) -> Result<(), RecordingError> {
        let row_bytes = dataset.row_bytes as u64;
        if let Storage::Contiguous { address } = &dataset.storage {
            return self.recording.read_bytes(address + first * row_bytes, out);
        }
        let (mut row, mut out) = (first, out);
        while !out.is_empty() {
            let (start, bytes) = self.decoded(dataset, row)?;
            let at = ((row - start) * row_bytes) as usize;
            let now = out.len().min(bytes.len().saturating_sub(at));
            if now == 0 {
                return Err(RecordingError::Changed { path: self.recording.path().to_owned() });
            }
            let (copied, rest) = out.split_at_mut(now);
            copied.copy_from_slice(&bytes[at..at + now]);
            row += now as u64 / row_bytes;
            out = rest;
        }
        Ok(())
    }

    /// Decoded rows that include `row`, and the first of them.
    fn decoded(&mut self, dataset: &Dataset, row: u64) -> Result<(u64, &[u8]), RecordingError> {
        let row_bytes = dataset.row_bytes;
        let (start, bytes) = self.decoded.entry(dataset.name.clone()).or_default();
        if !(*start..*start + (bytes.len() / row_bytes) as u64).contains(&row) {
            let recording = self.recording;
            match &dataset.storage {
                Storage::Chunked { chunk_rows, filters, chunks } => {
                    let chunk = &chunks[(row / *chunk_rows as u64) as usize];
                    bytes.resize(chunk_rows * row_bytes, 0);
                    let mut decoder = chunks::Decoder::new(filters, bytes.len());
                    recording.decode_chunk(&mut decoder, chunk, bytes)?;
                    *start = chunk.first_row;
                    // The last chunk is stored whole.
                    bytes.truncate((dataset.rows - chunk.first_row).min(*chunk_rows as u64) as usize * row_bytes);
                }
                _ => {
                    bytes.clear();
                    // Rows are asked for in order, so what comes next is read with them.
                    let end = dataset.rows.min(row + (BLOCK_BYTES / row_bytes).max(1) as u64);
                    recording.decode_by_library(dataset, row..end, &mut |_, rows| {
                        bytes.extend_from_slice(rows.bytes());
                        Ok(())
                    })?;
                    *start = row;
                }
            }
        }
        Ok((*start, bytes))
    }
}
