//! Dimensions: known sizes, and multiples of a batch that is known only when a model runs.

/// A dimension of a value's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dim {
    Fixed(usize),
    /// So many times the batch.
    Batch(usize),
}

/// How shapes, which are lists of sizes, write one batch: a prime beyond any fixed size, so that a size depends on the
/// batch if and only if it is a multiple of this, and products and quotients of sizes keep it.
const BATCH: usize = 1_000_000_007;

impl Dim {
    /// What a size in a shape stands for.
    pub fn of(size: usize) -> Self {
        if size != 0 && size.is_multiple_of(BATCH) { Self::Batch(size / BATCH) } else { Self::Fixed(size) }
    }

    /// How it is written in a shape.
    pub fn size(self) -> usize {
        match self {
            Self::Fixed(size) => size,
            Self::Batch(times) => times * BATCH,
        }
    }

    /// Whether it is known only when the model runs.
    pub fn is_batch(self) -> bool {
        matches!(self, Self::Batch(_))
    }
}
