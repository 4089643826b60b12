//! Blocks of table rows as they lie in the file, and their fields as numbers.

/// A run of `width` little-endian floats inside each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Bytes from the row's start.
    pub offset: usize,
    /// Floats per row.
    pub width: usize,
    /// 8-byte floats, else 4-byte.
    pub double: bool,
}

impl Field {
    pub fn bytes(&self) -> usize {
        self.width * if self.double { 8 } else { 4 }
    }

    /// Calls `f(i, value)` for each of the field's values in `row`.
    #[inline]
    pub fn for_each(&self, row: &[u8], mut f: impl FnMut(usize, f64)) {
        let bytes = &row[self.offset..self.offset + self.bytes()];
        if self.double {
            for (i, b) in bytes.as_chunks::<8>().0.iter().enumerate() {
                f(i, f64::from_le_bytes(*b));
            }
        } else {
            for (i, b) in bytes.as_chunks::<4>().0.iter().enumerate() {
                f(i, f64::from(f32::from_le_bytes(*b)));
            }
        }
    }
}

/// Whole rows, in order, as they lie in the file.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    bytes: &'a [u8],
    row_bytes: usize,
}

impl<'a> Rows<'a> {
    /// `bytes` must hold whole rows.
    pub fn new(bytes: &'a [u8], row_bytes: usize) -> Self {
        debug_assert_eq!(bytes.len() % row_bytes, 0);
        Self { bytes, row_bytes }
    }

    pub fn len(&self) -> usize {
        self.bytes.len() / self.row_bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes of row `i` of this block.
    #[inline]
    pub fn row(&self, i: usize) -> &'a [u8] {
        &self.bytes[i * self.row_bytes..(i + 1) * self.row_bytes]
    }

    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> {
        self.bytes.chunks_exact(self.row_bytes)
    }
}
