//! Prefetches batches: one thread fills buffers in order, with the help of a pool; used buffers are returned and filled
//! again.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::batch::{Batch, Gather};
use super::pass::{Job, Pass};
use crate::cache::CacheError;

/// Gives batches in order.
pub struct Loader {
    job: Arc<Job>,
    next: u64,
    total: Option<u64>,
    filler: Option<Filler>,
    spare: Vec<Batch>,
}

/// The thread that fills batches ahead.
struct Filler {
    orders: Option<Sender<Batch>>,
    results: Option<Receiver<Result<Batch, CacheError>>>,
    ordered: u64,
    thread: Option<JoinHandle<()>>,
}

impl Loader {
    /// Starts loading. `workers` threads fill one batch after the other, `prefetch` of them ahead (at least one); with no
    /// workers, batches are loaded when asked for. At most one batch more than `prefetch` is in memory.
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
        let (block, ahead) = (gather.block(), prefetch.max(1) as u64 + 1);
        Self::run(Arc::new(Job { gather, pass, per_epoch, first, ahead, block }), total, workers)
    }

    fn run(job: Arc<Job>, total: Option<u64>, workers: usize) -> Self {
        let filler = (workers > 0).then(|| Filler::start(&job, workers)).flatten();
        let mut loader = Self { next: job.first, job, total, filler, spare: Vec::new() };
        if let Some(filler) = &mut loader.filler {
            for _ in 0..total.unwrap_or(u64::MAX).min(loader.job.ahead) {
                filler.order(total, loader.job.gather.batch());
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
    /// Every batch is out and none was given back; the loader thread panicked.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, CacheError> {
        if self.total.is_some_and(|total| self.next >= total) {
            return Ok(None);
        }
        let number = self.next;
        self.next += 1;
        if let Some(filler) = &self.filler {
            assert!(filler.ordered > number, "every batch is out: give one back first");
            let results = filler.results.as_ref().expect("open while the loader lives");
            return results.recv().expect("the loader thread panicked").map(Some);
        }
        let mut batch = self.spare.pop().unwrap_or_else(|| self.job.gather.batch());
        self.job.fill(number, &mut batch, false)?;
        Ok(Some(batch))
    }

    /// Gives a batch back, to be filled again.
    pub fn recycle(&mut self, batch: Batch) {
        match &mut self.filler {
            Some(filler) => filler.order(self.total, batch),
            None => self.spare.push(batch),
        }
    }
}

impl Filler {
    /// `None` where the system has no threads left: batches are then loaded when asked for.
    fn start(job: &Arc<Job>, workers: usize) -> Option<Self> {
        let pool = ThreadPoolBuilder::new().num_threads(workers).thread_name(|i| format!("loader {i}")).build();
        let pool = pool
            .inspect_err(|error| {
                tracing::warn!("cannot start the loader threads, batches are loaded on the training thread: {error}");
            })
            .ok()?;
        let (orders, inbox) = channel();
        let (outbox, results) = channel();
        let first = job.first;
        let thread = std::thread::Builder::new().name("loader".into()).spawn({
            let job = Arc::clone(job);
            move || fill_orders(&job, &pool, &inbox, &outbox)
        });
        let thread = thread
            .inspect_err(|error| {
                tracing::warn!("cannot start the loader thread, batches are loaded on the training thread: {error}");
            })
            .ok()?;
        Some(Self { orders: Some(orders), results: Some(results), ordered: first, thread: Some(thread) })
    }

    fn order(&mut self, total: Option<u64>, batch: Batch) {
        if total.is_none_or(|total| self.ordered < total) {
            let orders = self.orders.as_ref().expect("open while the loader lives");
            // A thread that is gone is noticed when its result is missing.
            let _ = orders.send(batch);
            self.ordered += 1;
        }
    }
}

fn fill_orders(job: &Job, pool: &ThreadPool, orders: &Receiver<Batch>, results: &Sender<Result<Batch, CacheError>>) {
    for (number, mut batch) in (job.first..).zip(orders) {
        let result = pool.install(|| job.fill(number, &mut batch, true)).map(|()| batch);
        if results.send(result).is_err() {
            break;
        }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        // Without a receiver of its results the thread stops after the batch at hand.
        (self.results, self.orders) = (None, None);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::cache::{Access, Assignment, BuildOptions, Cache, CacheSettings, NoEvents, Split, build};
    use crate::config::{Config, Shuffle, SplitBy};
    use crate::dataset::order::BlockOrder;
    use crate::dataset::{Augment, BatchShape, Content, Needs, Resident, Rows, WindowIndex};
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
            assignment: Assignment { ratio: [1.0, 0.0, 0.0], by: SplitBy::Recording, seed: 0 },
        };
        let root = folder.path().join("store");
        let built = build(&root, &options, &NoEvents).unwrap();
        let cache = Arc::new(Cache::open(&root, &built.key, &Access::default()).unwrap());
        let index = WindowIndex::new(cache, Split::Train);
        let shape = BatchShape { batch: 4, rows: 65, channels: 16, joints: 20, context, after: 0 };
        (folder, Arc::new(Gather { index, shape, needs: Needs::default(), resident: None }))
    }

    /// Columns of the fixture differ by a constant: so do channels and their means, but only if both are rolled alike.
    #[test]
    fn statistics_are_rolled_as_the_channels_are() {
        let (_folder, gather) = gather(false, 0);
        let needs = Needs { emg_statistics: true, ..gather.needs };
        let gather = Arc::new(Gather { needs, ..Gather::clone(&gather) });
        let augment = Augment { jitter: true, rotation: 1, seed: 3 };
        let pass = Pass::Training { shuffle: Shuffle::Full, augment, first_epoch: 0, first_batch: 0 };
        let mut first_means = BTreeSet::new();
        for batch in all(&gather, pass, 2, 10) {
            let statistics = batch.emg_statistics.as_ref().unwrap();
            let rows = batch.rows().unwrap().emg.chunks_exact(65 * 16);
            for ((window, means), stds) in
                rows.zip(statistics.mean.chunks_exact(16)).zip(statistics.divisor.chunks_exact(16))
            {
                first_means.insert(means[0] as i64);
                assert!(stds.iter().all(|std| (std - stds[0]).abs() < 1e-3 * stds[0]));
                for row in window.chunks_exact(16).filter(|row| row[0] != 0.0) {
                    let levels: Vec<_> = row.iter().zip(means).map(|(x, mean)| x - mean).collect();
                    assert!(levels.iter().all(|level| (level - levels[0]).abs() < 0.1), "{levels:?}");
                }
            }
        }
        assert_eq!(first_means.len(), 3, "rolled by -1, 0 and 1: {first_means:?}");
    }

    fn all(gather: &Arc<Gather>, pass: Pass, workers: usize, batches: usize) -> Vec<Batch> {
        take(Loader::start(Arc::clone(gather), pass, workers, 2), batches)
    }

    fn take(mut loader: Loader, batches: usize) -> Vec<Batch> {
        let mut seen = Vec::new();
        while seen.len() < batches
            && let Some(batch) = loader.next_batch().unwrap()
        {
            seen.push(batch.clone());
            loader.recycle(batch);
        }
        seen
    }

    fn rows(batch: &Batch) -> &Rows {
        batch.rows().expect("rows are not resident")
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
                    let emg = rows(batch).emg[(slot * 65 + j) * 16];
                    assert_eq!(emg, row.map_or(0.0, |row| value(row, 20)), "window {i} row {j}");
                    if j >= context {
                        let at = slot * (65 - context) + j - context;
                        let valid = row.filter(|row| !FAILED.contains(row));
                        assert_eq!(rows(batch).mask[at], f32::from(u8::from(valid.is_some())), "window {i} row {j}");
                        assert_eq!(rows(batch).joint_angles[at * 20 + 3], valid.map_or(0.0, |row| value(row, 3)));
                    }
                }
            }
            let rest = starts.len() % 4;
            let last = batches.last().unwrap();
            assert_eq!(last.windows.len(), if rest == 0 { 4 } else { rest });
            if rest > 0 {
                assert!(rows(last).mask[rest * (65 - context)..].iter().all(|mask| *mask == 0.0));
            }
        }
    }

    /// Where rows are resident, a batch says of each window where it begins, and how many of its rows count.
    #[test]
    fn places_among_resident_rows_are_those_of_the_rows_that_batches_have() {
        for (skip, context) in [(true, 12), (false, 0), (false, 30)] {
            let (_folder, copied) = gather(skip, context);
            for true_initial_pose in [false, true] {
                let copied = Gather { needs: Needs { true_initial_pose, ..copied.needs }, ..Gather::clone(&copied) };
                let resident = Resident::new(&copied.index, copied.shape);
                let mut table = vec![f32::NAN; resident.rows() as usize * 16];
                let mut reached = 0;
                let copy = resident.copy(&copied.index, copied.shape, |block| -> Result<(), CacheError> {
                    assert_eq!(block.first, reached);
                    reached += block.valid.len() as u64;
                    let first = block.first as usize * 16;
                    table[first..first + block.emg.len()].copy_from_slice(block.emg);
                    Ok(())
                });
                copy.unwrap();
                assert_eq!(reached, resident.rows());
                let placed = Arc::new(Gather { resident: Some(resident), ..copied.clone() });
                let copied = Arc::new(copied);
                let augment = Augment { jitter: true, rotation: 1, seed: 5 };
                let pass = Pass::Training { shuffle: Shuffle::Full, augment, first_epoch: 0, first_batch: 0 };
                let take = |gather: &Arc<Gather>| take(Loader::start(Arc::clone(gather), pass, 0, 1), 12);
                for (here, there) in take(&copied).into_iter().zip(take(&placed)) {
                    assert_eq!((here.valid_rows, &here.windows), (there.valid_rows, &there.windows));
                    let Content::Places(there) = there.content else { panic!("rows are resident") };
                    for (i, emg) in rows(&here).emg.iter().enumerate() {
                        let (slot, row, channel) = (i / (65 * 16), i / 16 % 65, i % 16);
                        let source = there.channels[slot * 16 + channel] as usize;
                        let at = (there.first_rows[slot] as usize + row) * 16 + source;
                        assert_eq!(*emg, table[at], "window {slot} row {row} channel {channel}");
                    }
                }
            }
        }
    }

    #[test]
    fn training_batches_are_the_same_at_any_number_of_workers_and_from_any_start() {
        let (_folder, gather) = gather(true, 12);
        // Blocks of one window: an epoch has more than one pool of 16.
        let per_epoch = gather.index.len() / 4;
        let from = |pass: Pass, first, workers, batches| {
            let job = Job { gather: Arc::clone(&gather), pass, per_epoch, first, ahead: 3, block: 1 };
            take(Loader::run(Arc::new(job), None, workers), batches)
        };
        assert!(gather.index.len() > BlockOrder::POOL);
        for shuffle in [Shuffle::Full, Shuffle::Block, Shuffle::Off] {
            let augment = Augment { jitter: true, rotation: 1, seed: 5 };
            let pass = |first_epoch, first_batch| Pass::Training { shuffle, augment, first_epoch, first_batch };
            let expected = from(pass(0, 0), 0, 0, 20);
            for workers in [1, 3] {
                assert_eq!(from(pass(0, 0), 0, workers, 20), expected);
            }
            let per_epoch = per_epoch as usize;
            assert_eq!(from(pass(1, 2), 2, 2, 20 - per_epoch - 2), expected[per_epoch + 2..]);
            assert_eq!(from(pass(0, 5), 5, 2, 15), expected[5..]);
            // No window twice in an epoch; what is left of the last batch is dropped.
            let plain = Augment { seed: 5, ..Default::default() };
            let unmoved = Pass::Training { shuffle, augment: plain, first_epoch: 0, first_batch: 0 };
            let batches = from(unmoved, 0, 1, per_epoch);
            let windows: BTreeSet<_> = batches.iter().flat_map(|batch| &batch.windows).map(|w| w.start).collect();
            assert_eq!(windows.len() as u64, gather.index.len() / 4 * 4);
            assert_ne!(expected[0], expected[per_epoch]);
            // Jitter stays inside valid runs.
            let mut windows = expected.iter().flat_map(|batch| rows(batch).mask.chunks(53));
            assert!(windows.all(|mask| mask[..48].iter().all(|m| *m == 1.0)));
        }
    }

    /// Every row of the pool after the current one is asked for, once, before its windows are.
    #[test]
    fn whole_pools_are_asked_for_ahead() {
        let (_folder, gather) = gather(false, 0);
        let windows = gather.index.len();
        let augment = Augment { seed: 3, ..Default::default() };
        let pass = Pass::Training { shuffle: Shuffle::Block, augment, first_epoch: 0, first_batch: 0 };
        let per_epoch = pass.batches(windows, 4);
        let job = Job { gather, pass, per_epoch, first: 0, ahead: 2, block: 1 };
        let order = |epoch| BlockOrder::new(windows, 1, augment.seed, epoch);
        let pool = order(0).pool();
        assert!(pool < windows, "more than one pool");
        let mut asked: Vec<_> = (0..per_epoch).flat_map(|number| job.next_pool(number, &augment)).collect();
        // The lead is a pool from the middle of the first on; what is asked for then is the next epoch's.
        let expected: Vec<_> = (0..per_epoch * 4 + pool)
            .map(|place| match place.checked_sub(windows) {
                None => job.gather.index.get(order(0).in_block_order(place)),
                Some(place) => job.gather.index.get(order(1).in_block_order(place)),
            })
            .collect();
        assert_eq!(asked.len(), expected.len());
        assert_eq!(asked, expected);
        asked.truncate(windows as usize);
        asked.sort_by_key(|window| window.start);
        let all: Vec<_> = (0..windows).map(|k| job.gather.index.get(k)).collect();
        assert_eq!(asked, all);
    }

    #[test]
    fn a_split_smaller_than_a_batch_is_one_batch_filled_up() {
        let (_folder, gather) = gather(false, 0);
        let shape = BatchShape { batch: 64, ..gather.shape };
        let gather = Arc::try_unwrap(gather).unwrap();
        let gather = Arc::new(Gather { shape, ..gather });
        let augment = Augment { seed: 1, ..Default::default() };
        let pass = Pass::Training { shuffle: Shuffle::Off, augment, first_epoch: 0, first_batch: 0 };
        assert_eq!(pass.batches(gather.index.len(), 64), 1);
        let batches = all(&gather, pass, 1, 2);
        assert_eq!(batches[0].windows.len() as u64, gather.index.len());
        assert_eq!(batches[0], batches[1]);
        assert_eq!(pass.batches(0, 64), 0);
    }
}
