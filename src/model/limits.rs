//! The largest graphs that models are built as.

/// Interpolation is a product with a matrix of as many elements; a larger one is refused.
pub(super) const LARGEST_MATRIX: usize = 1 << 26;
/// Cells of an unrolled recurrence that can be loaded in seconds.
pub(super) const MOST_CELLS: usize = 2048;
/// Longer chunks are not streams any more.
pub(super) const MOST_CHUNK_ROWS: usize = 1 << 20;
/// Decoder steps in one chunk, which are unrolled.
pub(super) const MOST_CHUNK_STEPS: i64 = 256;
