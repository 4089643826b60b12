//! Shuffled orders in constant memory: keyed permutations of 0..n, not shuffled lists.

use crate::config::Shuffle;
use crate::random::{Random, mix};

const ROUNDS: usize = 8;

/// A pseudo-random bijection of 0..n: a balanced Feistel network over the next even power of two, walked until it
/// falls below n (cycle walking; Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
#[derive(Debug, Clone)]
pub struct Permutation {
    n: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The permutation of 0..`n` that belongs to these coordinates, e.g. (seed, epoch).
    pub fn new(n: u64, coordinates: &[u64]) -> Self {
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        let mut random = Random::new(coordinates);
        Self { n, half_bits: bits.div_ceil(2).max(1), keys: std::array::from_fn(|_| random.next_u64()) }
    }

    /// What stands at `position`.
    ///
    /// # Panics
    /// `position` is not below n.
    pub fn at(&self, position: u64) -> u64 {
        self.walk(position, |value| {
            let (mut left, mut right) = self.halves(value);
            for key in self.keys {
                (left, right) = (right, left ^ self.round(right, key));
            }
            left << self.half_bits | right
        })
    }

    /// Where `value` stands: `at(position_of(value)) == value`.
    ///
    /// # Panics
    /// `value` is not below n.
    pub fn position_of(&self, value: u64) -> u64 {
        self.walk(value, |position| {
            let (mut left, mut right) = self.halves(position);
            for key in self.keys.into_iter().rev() {
                (left, right) = (right ^ self.round(left, key), left);
            }
            left << self.half_bits | right
        })
    }

    /// Steps through the network's domain until it comes back to 0..n.
    fn walk(&self, from: u64, step: impl Fn(u64) -> u64) -> u64 {
        assert!(from < self.n, "{from} of {}", self.n);
        let mut value = step(from);
        while value >= self.n {
            value = step(value);
        }
        value
    }

    fn halves(&self, value: u64) -> (u64, u64) {
        (value >> self.half_bits, value & self.mask())
    }

    fn round(&self, half: u64, key: u64) -> u64 {
        mix(half ^ key) & self.mask()
    }

    fn mask(&self) -> u64 {
        (1 << self.half_bits) - 1
    }
}

/// In which order an epoch takes its windows.
#[derive(Debug, Clone)]
pub enum Order {
    Sequential,
    Shuffled(Permutation),
    Blocks(BlockOrder),
}

impl Order {
    /// The order of `windows` windows in `epoch`; `block`: windows per block of [`Shuffle::Block`].
    pub fn new(shuffle: Shuffle, windows: u64, block: u64, seed: u64, epoch: u64) -> Self {
        const STREAM: u64 = 0x006f_7264_6572;
        match shuffle {
            Shuffle::Off => Self::Sequential,
            Shuffle::Full => Self::Shuffled(Permutation::new(windows, &[seed, epoch, STREAM])),
            Shuffle::Block => Self::Blocks(BlockOrder::new(windows, block, seed, epoch)),
        }
    }

    /// The window at `position`.
    ///
    /// # Panics
    /// There are not that many.
    pub fn at(&self, position: u64) -> u64 {
        match self {
            Self::Sequential => position,
            Self::Shuffled(permutation) => permutation.at(position),
            Self::Blocks(blocks) => blocks.at(position),
        }
    }
}

/// Blocks of neighbouring windows in shuffled order, and the windows of each pool of [`Self::POOL`] blocks shuffled
/// among themselves: nearly as random as a full shuffle, and storage is read in large pieces.
#[derive(Debug, Clone)]
pub struct BlockOrder {
    windows: u64,
    /// Windows per block; the last one may have fewer.
    block: u64,
    blocks: Permutation,
    /// Place of the last block.
    last: u64,
    seed: u64,
    epoch: u64,
}

impl BlockOrder {
    /// Blocks whose windows are shuffled together.
    pub const POOL: u64 = 16;
    const BLOCK_STREAM: u64 = 0x626c_6f63_6b73;
    const POOL_STREAM: u64 = 0x706f_6f6c;

    pub(super) fn new(windows: u64, block: u64, seed: u64, epoch: u64) -> Self {
        let count = windows.div_ceil(block);
        let blocks = Permutation::new(count, &[seed, epoch, Self::BLOCK_STREAM]);
        let last = if count == 0 { 0 } else { blocks.position_of(count - 1) };
        Self { windows, block, blocks, last, seed, epoch }
    }

    /// Windows of a whole pool.
    pub fn pool(&self) -> u64 {
        self.block.saturating_mul(Self::POOL)
    }

    fn at(&self, position: u64) -> u64 {
        assert!(position < self.windows, "position {position} of {}", self.windows);
        let pool = self.containing(position, Self::POOL);
        let (begin, end) = (self.start(pool * Self::POOL), self.start((pool + 1) * Self::POOL));
        let within = Permutation::new(end - begin, &[self.seed, self.epoch, Self::POOL_STREAM, pool]);
        self.in_block_order(begin + within.at(position - begin))
    }

    /// The window at `place` if blocks are shuffled and the windows in them are not: the order to read storage in.
    ///
    /// # Panics
    /// There are not that many.
    pub fn in_block_order(&self, place: u64) -> u64 {
        assert!(place < self.windows, "place {place} of {}", self.windows);
        let slot = self.containing(place, 1);
        self.blocks.at(slot) * self.block + place - self.start(slot)
    }

    /// Windows before the block at place `slot`.
    fn start(&self, slot: u64) -> u64 {
        let missing = (self.block - self.windows % self.block) % self.block;
        let whole = slot.saturating_mul(self.block);
        if slot > self.last { (whole - missing).min(self.windows) } else { whole }
    }

    /// Number of the group of `blocks` blocks that holds window `place`: the short block moves it by one at most.
    fn containing(&self, place: u64, blocks: u64) -> u64 {
        let group = place / self.block.saturating_mul(blocks);
        if self.start((group + 1) * blocks) <= place { group + 1 } else { group }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_bijection(n: u64, at: impl Fn(u64) -> u64) -> bool {
        let mut seen = vec![false; n as usize];
        (0..n).all(|i| !std::mem::replace(&mut seen[at(i) as usize], true))
    }

    #[test]
    fn bijective_at_the_edges() {
        for n in [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 97, 255, 256, 257, 1023, 1024, 1025, 65_537] {
            assert!(is_bijection(n, |i| Permutation::new(n, &[7, 1]).at(i)), "{n}");
            for block in [1, 2, 5, 64, 1 << 40] {
                let order = Order::new(Shuffle::Block, n, block, 7, 1);
                assert!(is_bijection(n, |i| order.at(i)), "{n} in blocks of {block}");
            }
        }
    }

    /// Counts that make networks and walks of every kind: around powers of two, primes, and anything.
    fn counts() -> impl Strategy<Value = u64> {
        let around = (1u32..=40, -1i64..=1).prop_map(|(k, off)| ((1i64 << k) + off).clamp(1, 1 << 40) as u64);
        let primes = proptest::sample::select(vec![3u64, 8_191, 1_000_003, 2_147_483_647, 1_099_511_627_689]);
        prop_oneof![around, primes, 1u64..=1 << 40]
    }

    proptest! {
        #[test]
        fn bijective(n in 1..5000u64, seed: u64, block in 1..300u64) {
            let order = Order::new(Shuffle::Full, n, 1, seed, 1);
            prop_assert!(is_bijection(n, |i| order.at(i)));
            let order = Order::new(Shuffle::Block, n, block, seed, 1);
            prop_assert!(is_bijection(n, |i| order.at(i)));
        }

        /// A map from 0..n to 0..n with an inverse is a bijection, also where it cannot be listed.
        #[test]
        fn invertible_up_to_2_to_the_40(n in counts(), seed: u64, epoch in 0u64..1000, positions: [u64; 32]) {
            let permutation = Permutation::new(n, &[seed, epoch]);
            for position in positions.map(|position| position % n) {
                let value = permutation.at(position);
                prop_assert!(value < n);
                prop_assert_eq!(permutation.position_of(value), position);
                prop_assert_eq!(permutation.at(permutation.position_of(position)), position);
            }
        }

        /// Pools tile the positions, blocks the places, and each stays among its own.
        #[test]
        fn blocks_stay_in_their_pool_up_to_2_to_the_40(n in counts(), block in 1u64..1 << 20, seed: u64, position: u64) {
            let (order, position) = (BlockOrder::new(n, block, seed, 3), position % n);
            let slot = order.containing(position, 1);
            prop_assert!(order.start(slot) <= position && position < order.start(slot + 1));
            let pool = order.containing(position, BlockOrder::POOL);
            let slots = pool * BlockOrder::POOL..(pool + 1) * BlockOrder::POOL;
            prop_assert!(slots.contains(&slot));
            prop_assert!(slots.contains(&order.blocks.position_of(order.at(position) / block)));
        }
    }

    #[test]
    fn epochs_differ_and_repeat() {
        for shuffle in [Shuffle::Full, Shuffle::Block] {
            let order = |epoch| {
                let order = Order::new(shuffle, 100, 5, 42, epoch);
                (0..100).map(|i| order.at(i)).collect::<Vec<_>>()
            };
            assert_eq!(order(3), order(3));
            assert_ne!(order(3), order(4));
            let moved = order(3).iter().enumerate().filter(|(i, value)| *i as u64 != **value).count();
            assert!(moved > 80, "{moved}");
        }
        assert_eq!(Order::new(Shuffle::Off, 100, 5, 42, 3).at(17), 17);
    }
}
