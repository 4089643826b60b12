//! Which windows each batch of a pass has, and how it is filled.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::batch::{Augment, Batch, Gather};
use super::order::{BlockOrder, Order};
use super::windows::Window;
use crate::cache::CacheError;
use crate::config::Shuffle;

/// Which batches are wanted, in which order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pass {
    /// Endless epochs of training windows from batch `first_batch` of `first_epoch` on; the last incomplete batch
    /// of an epoch is dropped, unless it is the only one.
    Training { shuffle: Shuffle, augment: Augment, first_epoch: u64, first_batch: u64 },
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

/// The batches of a pass, by number.
pub(super) struct Job {
    pub(super) gather: Arc<Gather>,
    pub(super) pass: Pass,
    pub(super) per_epoch: u64,
    pub(super) first: u64,
    /// Batches in memory, and how many ahead rows are asked for.
    pub(super) ahead: u64,
    /// Windows per block of [`Shuffle::Block`].
    pub(super) block: u64,
}

impl Job {
    /// The epoch of batch `number`, and its positions there.
    fn positions(&self, number: u64) -> (u64, Range<u64>) {
        let size = self.gather.shape.batch as u64;
        let (epoch, step) = (number / self.per_epoch, number % self.per_epoch);
        let first_epoch = match self.pass {
            Pass::Training { first_epoch, .. } => first_epoch,
            Pass::Evaluation => 0,
        };
        (first_epoch + epoch, step * size..((step + 1) * size).min(self.gather.index.len()))
    }

    /// Windows of batch `number`: (window, roll).
    fn windows(&self, number: u64) -> Vec<(Window, isize)> {
        let (epoch, positions) = self.positions(number);
        match &self.pass {
            Pass::Evaluation => positions.map(|k| self.gather.window(k, None)).collect(),
            Pass::Training { shuffle, augment, .. } => {
                let order = Order::new(*shuffle, self.gather.index.len(), self.block, augment.seed, epoch);
                let window = |position| self.gather.window(order.at(position), Some((augment, epoch, position)));
                positions.map(window).collect()
            }
        }
    }

    pub(super) fn fill(&self, number: u64, batch: &mut Batch, parallel: bool) -> Result<(), CacheError> {
        // Where rows are resident, none is read any more.
        let upcoming = if self.gather.resident.is_some() { Vec::new() } else { self.upcoming(number) };
        let advise = |windows: &[Window]| self.gather.will_need(windows.iter().copied());
        if parallel {
            upcoming.par_chunks(8).for_each(advise);
        } else {
            advise(&upcoming);
        }
        self.gather.fill(batch, &self.windows(number), parallel)
    }

    /// Windows whose rows are asked for before batch `number` is filled.
    fn upcoming(&self, number: u64) -> Vec<Window> {
        let later = number + self.ahead;
        // At the start, everything up to there.
        let batches = if number == self.first { number..later + 1 } else { later..later + 1 };
        let endless = matches!(self.pass, Pass::Training { .. });
        let wanted = batches.filter(|number| endless || *number < self.per_epoch);
        let mut upcoming: Vec<_> = wanted.flat_map(|number| self.windows(number)).map(|(window, _)| window).collect();
        if let Pass::Training { shuffle: Shuffle::Block, augment, .. } = &self.pass {
            upcoming.extend(self.next_pool(number, augment));
        }
        upcoming
    }

    /// A batch's share of the pool after the one that batch `number` is of, block by block as they are stored. The lead
    /// grows from nothing to a whole pool by reading twice as fast as batches are filled.
    pub(super) fn next_pool(&self, number: u64, augment: &Augment) -> Vec<Window> {
        let (epoch, positions) = self.positions(number);
        let (windows, size) = (self.gather.index.len(), self.gather.shape.batch as u64);
        let orders = [epoch, epoch + 1].map(|epoch| BlockOrder::new(windows, self.block, augment.seed, epoch));
        let lead = |batches: u64| (batches * size).min(orders[0].pool()).min(windows);
        let done = number - self.first;
        let places = positions.start + lead(done)..positions.end + lead(done + 1);
        let at = |place: u64| match place.checked_sub(windows) {
            None => orders[0].in_block_order(place),
            Some(place) => orders[1].in_block_order(place),
        };
        places.filter(|place| *place < 2 * windows).map(|place| self.gather.index.get(at(place))).collect()
    }
}
