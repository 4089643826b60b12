//! How kernels of cuda.cu are started.

/// Threads of a block.
pub(super) const BLOCK: usize = 256;

/// How an operator's kernels are started, one after the other, all with the same arguments: the operator's arrays (null
/// for those that are not there), the scratch array if there is one, and numbers of four bytes.
pub(super) struct Launch {
    /// Names in cuda.cu, and the blocks of the grid in x and y.
    pub(super) kernels: Vec<(&'static str, [usize; 2])>,
    pub(super) numbers: Vec<u32>,
    /// Elements of an array for what one kernel leaves for the next.
    pub(super) scratch: usize,
}

impl Launch {
    /// One kernel with a thread for each of the columns of each row. Its numbers begin with the columns.
    pub(super) fn by_row(entry: &'static str, rows: usize, columns: usize, numbers: &[u32]) -> Self {
        let numbers = std::iter::once(columns as u32).chain(numbers.iter().copied()).collect();
        Self { kernels: vec![(entry, [rows, columns.div_ceil(BLOCK)])], numbers, scratch: 0 }
    }
}
