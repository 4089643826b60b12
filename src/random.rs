//! Random numbers as pure functions of their coordinates, so that runs are reproducible with any number of workers.

/// A short stream of random numbers (SplitMix64; Steele, Lea and Flood 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The stream for these coordinates, e.g. (seed, epoch, position).
    pub fn new(coordinates: &[u64]) -> Self {
        let fold = |state: u64, coordinate: &u64| mix(state ^ mix(coordinate.wrapping_add(0x9e37_79b9_7f4a_7c15)));
        Self(coordinates.iter().fold(0, fold))
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number in 0..=`most`.
    pub fn up_to(&mut self, most: u64) -> u64 {
        let range = u128::from(most) + 1;
        ((u128::from(self.next_u64()) * range) >> 64) as u64
    }
}

/// SplitMix64's finalizer: a bijection that spreads every bit.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
