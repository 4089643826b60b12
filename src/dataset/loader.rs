//! Batches ahead of the step: loader threads fill buffers that come back to be filled again.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::batch::{Augment, Batch, Gather};
use super::order::Permutation;
use crate::cache::CacheError;

/// Which batches are wanted, in which order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pass {
    /// Endless epochs of training windows from batch `first_batch` of `first_epoch` on; the last incomplete batch
    /// of an epoch is dropped, unless it is the only one.
    Training { shuffle: bool, augment: Augment, first_epoch: u64, first_batch: u64 },
    /// Every window once, in order; the last batch is filled up with masked windows.
    Evaluation,
}

impl Pass {
    /// Batches in one epoch, or in the whole evaluation.
    pub fn batches(&self, windows: u64, batch: usize) -> u64 {
        match self {
            Self::Training { .. } if windows >= batch as u64 => windows / batch as u64,
            _ => windows.div_ceil(batch as u64),
        }
    }
}

/// Gives batches in order.
pub struct Loader {
    job: Arc<Job>,
    next: u64,
    total: Option<u64>,
    workers: Option<Workers>,
    spare: Vec<Batch>,
}

struct Job {
    gather: Arc<Gather>,
    pass: Pass,
    per_epoch: u64,
    /// How many batches ahead rows are asked for.
    ahead: u64,
}

struct Workers {
    results: Receiver<(u64, Result<Batch, CacheError>)>,
    /// Batches that came before their turn.
    waiting: BTreeMap<u64, Result<Batch, CacheError>>,
    orders: Option<Sender<(u64, Batch)>>,
    ordered: u64,
    threads: Vec<JoinHandle<()>>,
}

impl Loader {
    /// Starts loading. `workers` threads keep at least `prefetch` batches ahead, one each; with no workers, batches
    /// are loaded when asked for.
    pub fn start(gather: Arc<Gather>, pass: Pass, workers: usize, prefetch: usize) -> Self {
        let windows = gather.index.len();
        let per_epoch = pass.batches(windows, gather.shape.batch);
        let total = match pass {
            Pass::Training { .. } if per_epoch > 0 => None,
            _ => Some(per_epoch),
        };
        let first = match pass {
            Pass::Training { first_batch, .. } => first_batch,
            Pass::Evaluation => 0,
        };
        let ahead = (workers.max(1) + prefetch) as u64;
        let job = Arc::new(Job { gather, pass, per_epoch, ahead });
        let workers_wanted = workers.max(1);
        let workers = (workers > 0).then(|| Workers::start(&job, workers, first));
        let mut loader = Self { job, next: first, total, workers, spare: Vec::new() };
        if let Some(workers) = &mut loader.workers {
            let buffers = total.unwrap_or(u64::MAX).min((prefetch.max(workers_wanted) + 1) as u64);
            for _ in 0..buffers {
                workers.order(total, loader.job.new_batch());
            }
        }
        loader
    }

    /// Batches in one epoch, or in the whole evaluation.
    pub fn batches_per_epoch(&self) -> u64 {
        self.job.per_epoch
    }

    /// The next batch; `None` after the last of an evaluation.
    ///
    /// # Errors
    /// A segment is damaged.
    ///
    /// # Panics
    /// A loader thread panicked.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, CacheError> {
        if self.total.is_some_and(|total| self.next >= total) {
            return Ok(None);
        }
        let number = self.next;
        self.next += 1;
        match &mut self.workers {
            Some(workers) => workers.take(number).map(Some),
            None => {
                let mut batch = self.spare.pop().unwrap_or_else(|| self.job.new_batch());
                self.job.fill(number, &mut batch)?;
                Ok(Some(batch))
            }
        }
    }

    /// Gives a batch back, to be filled again.
    pub fn recycle(&mut self, batch: Batch) {
        match &mut self.workers {
            Some(workers) => workers.order(self.total, batch),
            None => self.spare.push(batch),
        }
    }
}

impl Workers {
    fn start(job: &Arc<Job>, count: usize, first: u64) -> Self {
        let (orders, inbox) = channel::<(u64, Batch)>();
        // Never full: there are no more batches than buffers.
        let (outbox, results): (SyncSender<_>, _) = sync_channel(4096);
        let inbox = Arc::new(Mutex::new(inbox));
        let threads = (0..count)
            .map(|_| {
                let (job, inbox, outbox) = (Arc::clone(job), Arc::clone(&inbox), outbox.clone());
                std::thread::spawn(move || {
                    loop {
                        let order = inbox.lock().expect("no loader panics while waiting").recv();
                        let Ok((number, mut batch)) = order else { break };
                        let result = job.fill(number, &mut batch).map(|()| batch);
                        if outbox.send((number, result)).is_err() {
                            break;
                        }
                    }
                })
            })
            .collect();
        Self { results, waiting: BTreeMap::new(), orders: Some(orders), ordered: first, threads }
    }

    fn order(&mut self, total: Option<u64>, batch: Batch) {
        if total.is_none_or(|total| self.ordered < total) {
            let orders = self.orders.as_ref().expect("open while the loader lives");
            // A thread that is gone is noticed when its result is missing.
            let _ = orders.send((self.ordered, batch));
            self.ordered += 1;
        }
    }

    fn take(&mut self, number: u64) -> Result<Batch, CacheError> {
        loop {
            if let Some(result) = self.waiting.remove(&number) {
                return result;
            }
            let (done, result) = self.results.recv().expect("a loader thread panicked");
            self.waiting.insert(done, result);
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.orders = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Job {
    fn new_batch(&self) -> Batch {
        Batch::new(self.gather.shape, self.gather.targets)
    }

    /// Windows of batch `number`: (window, roll).
    fn windows(&self, number: u64) -> Vec<(super::index::Window, isize)> {
        let size = self.gather.shape.batch as u64;
        let windows = self.gather.index.len();
        let (epoch, step) = (number / self.per_epoch, number % self.per_epoch);
        let positions = step * size..((step + 1) * size).min(windows);
        match &self.pass {
            Pass::Evaluation => positions.map(|k| self.gather.window(k, None)).collect(),
            Pass::Training { shuffle, augment, first_epoch, .. } => {
                let epoch = first_epoch + epoch;
                let order = shuffle.then(|| Permutation::new(windows, augment.seed, epoch));
                positions
                    .map(|position| {
                        let k = order.as_ref().map_or(position, |order| order.at(position));
                        self.gather.window(k, Some((augment, epoch, position)))
                    })
                    .collect()
            }
        }
    }

    fn fill(&self, number: u64, batch: &mut Batch) -> Result<(), CacheError> {
        let later = number + self.ahead;
        if matches!(self.pass, Pass::Training { .. }) || later < self.per_epoch {
            self.windows(later).iter().for_each(|(window, _)| self.gather.will_need(window));
        }
        self.gather.fill(batch, self.windows(number).into_iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Access, BuildOptions, Cache, CacheSettings, NoEvents, Split, build};
    use crate::config::Config;
    use crate::dataset::{BatchShape, Targets, WindowIndex};
    use crate::recording::{Hdf5, write_fixture};

    const ROWS: usize = 700;
    const FAILED: std::ops::Range<usize> = 300..360;

    fn value(row: usize, column: usize) -> f32 {
        if FAILED.contains(&row) && column < 20 { 0.0 } else { (row * 100 + column + 1) as f32 }
    }

    /// Windows of 50 rows, stride 20, padding 10 and 5, of one recording.
    fn gather(skip: bool, context: usize) -> (tempfile::TempDir, Arc<Gather>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.hdf5");
        write_fixture(&path, ROWS, value);
        let mut config = Config::default();
        (config.data.window_size, config.data.stride, config.data.padding) = (50, 20, [10, 5]);
        config.data.skip_ik_failures = skip;
        let options = BuildOptions {
            settings: CacheSettings::new(&config),
            inputs: vec![path],
            segment_bytes: 1 << 30,
            skip_bad: false,
            chunk_cache: 1 << 20,
            hdf5: Hdf5::InProcess,
            metadata_columns: Default::default(),
            splitter: Box::new(|candidates| Ok(vec![Split::Train; candidates.len()])),
        };
        let root = folder.path().join("store");
        let built = build(&root, &options, &NoEvents).unwrap();
        let cache = Arc::new(Cache::open(&root, &built.key, &Access::default()).unwrap());
        let index = WindowIndex::new(cache, Split::Train);
        let shape = BatchShape { batch: 4, rows: 65, channels: 16, joints: 20, context };
        (folder, Arc::new(Gather { index, shape, targets: Targets::default() }))
    }

    fn all(gather: &Arc<Gather>, pass: Pass, workers: usize, batches: usize) -> Vec<Batch> {
        let mut loader = Loader::start(Arc::clone(gather), pass, workers, 2);
        let mut seen = Vec::new();
        while seen.len() < batches
            && let Some(batch) = loader.next_batch().unwrap()
        {
            seen.push(batch.clone());
            loader.recycle(batch);
        }
        seen
    }

    #[test]
    fn batches_hold_what_the_recording_holds() {
        for (skip, context) in [(false, 0), (false, 12), (true, 12), (true, 0)] {
            let (_folder, gather) = gather(skip, context);
            let runs = if skip { vec![(0, 300), (360, 340)] } else { vec![(0, ROWS)] };
            let starts: Vec<usize> = runs.iter().flat_map(|(s, n)| (*s..=s + n - 50).step_by(20)).collect();
            assert_eq!(gather.index.len(), starts.len() as u64);
            let batches = all(&gather, Pass::Evaluation, 2, usize::MAX);
            assert_eq!(batches.len(), starts.len().div_ceil(4));
            for (i, start) in starts.iter().enumerate() {
                let (batch, slot) = (&batches[i / 4], i % 4);
                for j in 0..65 {
                    let row = (start + j).checked_sub(10).filter(|row| *row < ROWS);
                    let emg = batch.emg[(slot * 65 + j) * 16];
                    assert_eq!(emg, row.map_or(0.0, |row| value(row, 20)), "window {i} row {j}");
                    if j >= context {
                        let at = slot * (65 - context) + j - context;
                        let valid = row.filter(|row| !FAILED.contains(row));
                        assert_eq!(batch.mask[at], f32::from(u8::from(valid.is_some())), "window {i} row {j}");
                        assert_eq!(batch.joint_angles[at * 20 + 3], valid.map_or(0.0, |row| value(row, 3)));
                    }
                }
            }
            let rest = starts.len() % 4;
            let last = batches.last().unwrap();
            assert_eq!(last.recordings.len(), if rest == 0 { 4 } else { rest });
            if rest > 0 {
                assert!(last.mask[rest * (65 - context)..].iter().all(|mask| *mask == 0.0));
            }
        }
    }

    #[test]
    fn training_batches_are_the_same_at_any_number_of_workers_and_from_any_start() {
        let (_folder, gather) = gather(true, 12);
        let augment = Augment { jitter: true, rotation: 1, seed: 5 };
        let pass = |first_epoch, first_batch| Pass::Training { shuffle: true, augment, first_epoch, first_batch };
        let expected = all(&gather, pass(0, 0), 0, 20);
        for workers in [1, 3] {
            assert_eq!(all(&gather, pass(0, 0), workers, 20), expected);
        }
        let per_epoch = pass(0, 0).batches(gather.index.len(), 4) as usize;
        assert_eq!(all(&gather, pass(1, 2), 2, 20 - per_epoch - 2), expected[per_epoch + 2..]);
        assert_ne!(expected[0], expected[per_epoch]);
        // Jitter stays inside valid runs.
        assert!(
            expected.iter().all(|batch| batch.mask.chunks(53).all(|window| window[..48].iter().all(|m| *m == 1.0)))
        );
    }

    #[test]
    fn a_split_smaller_than_a_batch_is_one_batch_filled_up() {
        let (_folder, gather) = gather(false, 0);
        let shape = BatchShape { batch: 64, ..gather.shape };
        let gather = Arc::try_unwrap(gather).unwrap();
        let gather = Arc::new(Gather { shape, ..gather });
        let augment = Augment { seed: 1, ..Default::default() };
        let pass = Pass::Training { shuffle: false, augment, first_epoch: 0, first_batch: 0 };
        assert_eq!(pass.batches(gather.index.len(), 64), 1);
        let batches = all(&gather, pass, 1, 2);
        assert_eq!(batches[0].recordings.len() as u64, gather.index.len());
        assert_eq!(batches[0], batches[1]);
        assert_eq!(pass.batches(0, 64), 0);
    }
}
