//! Measures how fast batches are loaded, on their own and compared with a plain copy of as many bytes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde::Serialize;

use super::checkpoint::Progress;
use super::error::TrainError;
use super::passes::{TrainingBatches, gather};
use crate::cache::{Cache, Split};
use crate::config::Config;
use crate::dataset::{Batch, Content};
use crate::model::Model;

/// How long batches are taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BenchmarkLength {
    /// Whole epochs from the first batch on: what cold storage gives.
    Epochs(u64),
    /// This long, in turns with as long a plain copy.
    Seconds(f64),
}

/// Speed of the data path when nothing is trained.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Throughput {
    pub windows: u64,
    pub batches: u64,
    /// Bytes of a batch's tensors.
    pub batch_bytes: usize,
    pub seconds: f64,
    pub windows_per_second: f64,
    pub bytes_per_second: f64,
    /// From the process's start.
    pub first_batch_ms: f64,
    /// Of the window index, once the cache is open.
    pub index_ms: f64,
    pub index_bytes: usize,
    /// How much longer the first batch of an epoch is waited for than others (medians).
    pub epoch_gap_ms: Option<f64>,
    /// Of memory copied from one batch to another, by as many threads as load.
    pub memcpy_bytes_per_second: Option<f64>,
    /// Memory of the process that is no file's.
    pub anonymous_bytes: Option<u64>,
}

/// Takes training batches as `fit` would, and gives them back at once.
///
/// # Errors
/// The cache's, or one without training windows.
pub fn throughput(
    config: &Config,
    cache: &Arc<Cache>,
    model: &Model,
    duty: BenchmarkLength,
    started: Instant,
) -> Result<Throughput, TrainError> {
    let begin = Instant::now();
    let gather = Arc::new(gather(cache, config, model, Split::Train)?);
    let (index_ms, index_bytes) = (begin.elapsed().as_secs_f64() * 1e3, gather.index.bytes());
    if gather.index.is_empty() {
        return Err(TrainError::NoTrainingWindows);
    }
    let begin = Instant::now();
    let mut taken = Taken::new(TrainingBatches::new(gather, config, &Progress::start()));
    let first = taken.next()?;
    let first_batch_ms = started.elapsed().as_secs_f64() * 1e3;
    let (batch_bytes, size) = (first.bytes(), first.windows.len());
    taken.batches.recycle(first);
    let Measured { batches, seconds, memcpy } = match duty {
        BenchmarkLength::Epochs(epochs) => {
            let batches = epochs.saturating_mul(taken.batches.per_epoch);
            while taken.number < batches {
                taken.pass()?;
            }
            Measured { batches, seconds: begin.elapsed().as_secs_f64(), memcpy: None }
        }
        BenchmarkLength::Seconds(seconds) => turns(&mut taken, config, seconds)?,
    };
    let per_second = batches as f64 / seconds;
    Ok(Throughput {
        windows: batches * size as u64,
        batches,
        batch_bytes,
        seconds,
        windows_per_second: per_second * size as f64,
        bytes_per_second: per_second * batch_bytes as f64,
        first_batch_ms,
        index_ms,
        index_bytes,
        epoch_gap_ms: taken.epoch_gap().map(|seconds| seconds * 1e3),
        memcpy_bytes_per_second: memcpy.map(|batches| batches * batch_bytes as f64),
        anonymous_bytes: anonymous_bytes(),
    })
}

struct Measured {
    batches: u64,
    seconds: f64,
    /// Batches per second that plain copying gives.
    memcpy: Option<f64>,
}

/// Batches for so many seconds, in turns with plain copies for as long.
fn turns(taken: &mut Taken, config: &Config, wanted: f64) -> Result<Measured, TrainError> {
    const SLICES: f64 = 10.0;
    let buffers = config.training.prefetch_factor.max(1) + 1;
    let pool = ThreadPoolBuilder::new().num_threads(config.training.num_workers.max(1)).build()?;
    let slice = Duration::from_secs_f64((wanted / SLICES).max(0.01));
    let (mut batches, mut seconds, mut copies) = (0, 0.0, Vec::new());
    while seconds < wanted {
        copies.push(taken.copy(&pool, buffers, slice)?);
        // What was loaded while memory was copied does not count.
        (0..buffers).try_for_each(|_| taken.pass())?;
        let (start, before) = (Instant::now(), taken.number);
        while start.elapsed() < slice {
            taken.pass()?;
        }
        seconds += start.elapsed().as_secs_f64();
        batches += taken.number - before;
    }
    Ok(Measured { batches, seconds, memcpy: median(&mut copies) })
}

/// Batches taken, and how long each was waited for.
struct Taken {
    batches: TrainingBatches,
    number: u64,
    waits: Vec<f64>,
    waits_between_epochs: Vec<f64>,
}

impl Taken {
    fn new(batches: TrainingBatches) -> Self {
        Self { batches, number: 0, waits: Vec::new(), waits_between_epochs: Vec::new() }
    }

    fn next(&mut self) -> Result<Batch, TrainError> {
        let epoch = self.number / self.batches.per_epoch;
        let starts_epoch = self.number > 0 && self.number.is_multiple_of(self.batches.per_epoch);
        let start = Instant::now();
        if starts_epoch {
            self.batches.start_epoch(epoch as usize);
        }
        let batch = self.batches.next_batch()?;
        let waited = start.elapsed().as_secs_f64();
        if starts_epoch {
            self.waits_between_epochs.push(waited);
        } else if self.waits.len() < 1 << 20 {
            self.waits.push(waited);
        }
        self.number += 1;
        Ok(batch)
    }

    fn pass(&mut self) -> Result<(), TrainError> {
        let batch = self.next()?;
        self.batches.recycle(batch);
        Ok(())
    }

    fn epoch_gap(&mut self) -> Option<f64> {
        let usual = median(&mut self.waits)?;
        median(&mut self.waits_between_epochs).map(|wait| (wait - usual).max(0.0))
    }

    /// Batches per second that plain copying gives, with every buffer taken from the loader, so that it rests.
    fn copy(&mut self, pool: &ThreadPool, buffers: usize, slice: Duration) -> Result<f64, TrainError> {
        let mut held = (0..buffers).map(|_| self.next()).collect::<Result<Vec<_>, _>>()?;
        let (start, mut copies) = (Instant::now(), 0);
        let [to, from, ..] = held.as_mut_slice() else { unreachable!("at least two buffers") };
        while start.elapsed() < slice {
            let both = |to: &mut [f32], from: &[f32]| {
                let part = from.len().div_ceil(pool.current_num_threads()).max(1);
                let parts = to.par_chunks_mut(part).zip(from.par_chunks(part));
                pool.install(|| parts.for_each(|(to, from)| to.copy_from_slice(from)));
            };
            if let (Content::Rows(to), Content::Rows(from)) = (&mut to.content, &from.content) {
                both(&mut to.emg, &from.emg);
                both(&mut to.joint_angles, &from.joint_angles);
                both(&mut to.mask, &from.mask);
            }
            copies += 1;
        }
        let rate = f64::from(copies) / start.elapsed().as_secs_f64();
        held.into_iter().for_each(|batch| self.batches.recycle(batch));
        Ok(rate)
    }
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Bytes of memory that this process holds beside mapped files: RssAnon of /proc/self/status.
pub(crate) fn anonymous_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
