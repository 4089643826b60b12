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
    /// Starts loading. `workers` threads keep `prefetch` batches ahead (each at least 1); with no workers, batches
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
        let workers = (workers > 0).then(|| Workers::start(&job, workers, first));
        let mut loader = Self { job, next: first, total, workers, spare: Vec::new() };
        if let Some(workers) = &mut loader.workers {
            let buffers = total.unwrap_or(u64::MAX).min((prefetch.max(1) + 1) as u64);
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
