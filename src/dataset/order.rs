//! A shuffled order in constant memory: a keyed permutation of 0..n, not a shuffled list.

use super::random::{Random, mix};

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
    pub fn new(n: u64, seed: u64, epoch: u64) -> Self {
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        let mut random = Random::new(&[seed, epoch, 0x006f_7264_6572]);
        Self { n, half_bits: bits.div_ceil(2).max(1), keys: std::array::from_fn(|_| random.next_u64()) }
    }

    /// What stands at `position`.
    ///
    /// # Panics
    /// `position` is not below n.
    pub fn at(&self, position: u64) -> u64 {
        assert!(position < self.n, "position {position} of {}", self.n);
        let mut value = position;
        loop {
            value = self.encrypt(value);
            if value < self.n {
                return value;
            }
        }
    }

    fn encrypt(&self, value: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_bijection(n: u64, seed: u64) -> bool {
        let permutation = Permutation::new(n, seed, 1);
        let mut seen = vec![false; n as usize];
        (0..n).all(|i| !std::mem::replace(&mut seen[permutation.at(i) as usize], true))
    }

    #[test]
    fn bijective_at_the_edges() {
        for n in [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 97, 255, 256, 257, 1023, 1024, 1025, 65_537] {
            assert!(is_bijection(n, 7), "{n}");
        }
    }

    proptest! {
        #[test]
        fn bijective(n in 1..5000u64, seed: u64) {
            prop_assert!(is_bijection(n, seed));
        }

        #[test]
        fn in_range_for_huge_counts(n in 1u64..1 << 40, seed: u64, position: u64) {
            prop_assert!(Permutation::new(n, seed, 0).at(position % n) < n);
        }
    }

    #[test]
    fn epochs_differ_and_repeat() {
        let order = |epoch| (0..100).map(|i| Permutation::new(100, 42, epoch).at(i)).collect::<Vec<_>>();
        assert_eq!(order(3), order(3));
        assert_ne!(order(3), order(4));
        let moved = order(3).iter().enumerate().filter(|(i, value)| *i as u64 != **value).count();
        assert!(moved > 80, "{moved}");
    }
}
