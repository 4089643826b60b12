//! How kernels of cuda.cu are started.

/// Threads of a block.
pub(super) const BLOCK: usize = 256;

/// What a device has room for at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) processors: usize,
    /// Bytes of shared memory that a block may have.
    pub(super) shared: usize,
}

/// How an operator's kernels are started, one after the other, all with the same arguments: the operator's arrays (null
/// for those that are not there), the scratch array if there is one, and numbers of four bytes.
pub(super) struct Launch {
    /// Names in cuda.cu, and the blocks of the grid in x and y.
    pub(super) kernels: Vec<(&'static str, [usize; 2])>,
    pub(super) numbers: Vec<u32>,
    /// Elements of an array for what one kernel leaves for the next.
    pub(super) scratch: usize,
    /// Bytes of shared memory of the last kernel, whose blocks wait for each other; `None`: they do not.
    pub(super) together: Option<usize>,
}

impl Launch {
    /// One kernel with a thread for each of the columns of each row. Its numbers begin with the columns.
    pub(super) fn by_row(entry: &'static str, rows: usize, columns: usize, numbers: &[u32]) -> Self {
        let numbers = std::iter::once(columns as u32).chain(numbers.iter().copied()).collect();
        Self { kernels: vec![(entry, [rows, columns.div_ceil(BLOCK)])], numbers, scratch: 0, together: None }
    }
}
