//! How absolute errors are distributed, in constant memory.

/// Upper limits of the bins, degrees; the last one has none above it.
const LIMITS: [f64; 30] = [
    0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 14.0, 16.0, 20.0, 25.0,
    30.0, 35.0, 40.0, 50.0, 60.0, 75.0, 90.0, 120.0, 180.0,
];

/// Counts of absolute errors, degrees.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    counts: [u64; LIMITS.len() + 1],
    pub count: u64,
    pub sum: f64,
    pub sum_of_squares: f64,
    pub largest: f64,
    pub smallest: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        let counts = [0; LIMITS.len() + 1];
        Self { counts, count: 0, sum: 0.0, sum_of_squares: 0.0, largest: 0.0, smallest: f64::INFINITY }
    }
}

impl Histogram {
    /// Adds an absolute error in degrees.
    pub fn push(&mut self, error: f64) {
        self.counts[LIMITS.partition_point(|limit| *limit < error)] += 1;
        self.count += 1;
        self.sum += error;
        self.sum_of_squares += error * error;
        self.largest = self.largest.max(error);
        self.smallest = self.smallest.min(error);
    }

    /// Upper limit and count of each bin; the last limit is the largest number there is.
    pub fn bins(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        LIMITS.iter().copied().chain([f64::MAX]).zip(self.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_up_to_their_limit() {
        let mut histogram = Histogram::default();
        [0.1, 0.15, 3.5, 200.0].iter().for_each(|error| histogram.push(*error));
        let filled: Vec<_> = histogram.bins().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(0.1, 1), (0.2, 1), (4.0, 1), (f64::MAX, 1)]);
        assert_eq!((histogram.count, histogram.smallest, histogram.largest), (4, 0.1, 200.0));
    }
}
