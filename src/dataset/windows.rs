//! The window index: which rows window k is, without a list of windows.

use std::sync::Arc;

use crate::cache::{Cache, Split, WindowShape};

/// Windows of one split, numbered by recording order, then by row. Memory: O(runs).
#[derive(Debug, Clone)]
pub struct WindowIndex {
    cache: Arc<Cache>,
    shape: WindowShape,
    runs: Vec<Run>,
    windows: u64,
}

/// A run of one recording that windows lie in.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// Number of its first window.
    first_window: u64,
    /// Index into the cache's recordings.
    recording: usize,
    /// First row, relative to the recording.
    start: u64,
    length: u64,
}

/// A window's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Index into the cache's recordings.
    pub recording: usize,
    /// First row without padding, relative to the recording.
    pub start: u64,
    /// Rows of the run behind the window.
    pub slack: u64,
}

impl WindowIndex {
    pub fn new(cache: Arc<Cache>, split: Split) -> Self {
        let settings = &cache.manifest().settings;
        let shape = settings.windows(split);
        let (mut runs, mut windows) = (Vec::new(), 0);
        for (recording, entry) in cache.recordings().enumerate().filter(|(_, entry)| entry.listed.split == split) {
            for (start, length) in settings.window_runs(entry.content.rows, &entry.content.valid_runs) {
                let count = shape.count(length);
                if count > 0 {
                    runs.push(Run { first_window: windows, recording, start, length });
                    windows += count;
                }
            }
        }
        runs.shrink_to_fit();
        Self { cache, shape, runs, windows }
    }

    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// Recordings that windows lie in, as indices into the cache's, in order.
    pub fn recordings(&self) -> impl Iterator<Item = usize> {
        self.runs.chunk_by(|a, b| a.recording == b.recording).map(|runs| runs[0].recording)
    }

    pub fn shape(&self) -> WindowShape {
        self.shape
    }

    pub fn len(&self) -> u64 {
        self.windows
    }

    /// Bytes that the index takes, beside the cache's own.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.runs.capacity() * size_of::<Run>()
    }

    pub fn is_empty(&self) -> bool {
        self.windows == 0
    }

    /// Window `k`.
    ///
    /// # Panics
    /// `k` is not below [`len`](Self::len).
    pub fn get(&self, k: u64) -> Window {
        assert!(k < self.windows, "window {k} of {}", self.windows);
        let run = self.runs[self.runs.partition_point(|run| run.first_window <= k) - 1];
        let offset = (k - run.first_window) * self.shape.stride as u64;
        Window {
            recording: run.recording,
            start: run.start + offset,
            slack: run.length - offset - self.shape.size as u64,
        }
    }
}
