//! Blocks of table rows as they lie in the file, and their fields as numbers.

use serde::{Deserialize, Serialize};

/// A run of `width` little-endian floats inside each row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Field {
    /// Bytes from the row's start.
    pub offset: usize,
    /// Floats per row.
    pub width: usize,
    /// 8-byte floats, else 4-byte.
    pub double: bool,
    /// What values are multiplied by.
    pub factor: Option<f64>,
}

impl Field {
    pub fn bytes(&self) -> usize {
        self.width * if self.double { 8 } else { 4 }
    }

    /// Whether values are stored just as they are meant, in 4 bytes.
    fn is_plain(&self) -> bool {
        !self.double && self.factor.is_none()
    }

    /// Calls `f(i, value)` for each of the field's values in `row`.
    #[inline]
    pub fn for_each(&self, row: &[u8], mut f: impl FnMut(usize, f64)) {
        match self.factor {
            None => self.for_each_stored(row, f),
            Some(factor) => self.for_each_stored(row, |i, value| f(i, value * factor)),
        }
    }

    #[inline]
    fn for_each_stored(&self, row: &[u8], mut f: impl FnMut(usize, f64)) {
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

/// Bits of the largest magnitude in each row's `width` 4-byte floats from `offset` on: magnitudes order as their
/// bits do, and what is not finite is largest.
#[multiversion::multiversion(targets = "simd")]
fn magnitudes(bytes: &[u8], row_bytes: usize, offset: usize, width: usize, out: &mut [u32]) {
    for (row, out) in bytes.chunks_exact(row_bytes).zip(out) {
        let values = row[offset..offset + 4 * width].as_chunks::<4>().0;
        *out = values.iter().fold(0, |most, value| most.max(u32::from_le_bytes(*value) & 0x7fff_ffff));
    }
}

/// out = (value - mean) / divisor as float32, for 4-byte floats.
#[multiversion::multiversion(targets = "simd")]
fn scale(bytes: &[u8], row_bytes: usize, offset: usize, mean: &[f64], divisor: &[f64], out: &mut [u8]) {
    let width = mean.len();
    for (row, out) in bytes.chunks_exact(row_bytes).zip(out.chunks_exact_mut(4 * width)) {
        let values = row[offset..offset + 4 * width].as_chunks::<4>().0;
        let settings = mean.iter().zip(divisor);
        for ((value, (mean, divisor)), out) in values.iter().zip(settings).zip(out.as_chunks_mut::<4>().0) {
            *out = (((f64::from(f32::from_le_bytes(*value)) - mean) / divisor) as f32).to_le_bytes();
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

    /// The rows, end to end.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
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

    /// Calls `f(row, largest magnitude)` with the bits of each row's largest magnitude as a float32 in `field`.
    pub fn for_each_magnitude(&self, field: &Field, mut f: impl FnMut(usize, u32)) {
        const BLOCK: usize = 256;
        let mut bits = [0; BLOCK];
        for (block, bytes) in self.bytes.chunks(BLOCK * self.row_bytes).enumerate() {
            let bits = &mut bits[..bytes.len() / self.row_bytes];
            if !field.is_plain() {
                for (row, out) in bytes.chunks_exact(self.row_bytes).zip(bits.iter_mut()) {
                    *out = 0;
                    field.for_each(row, |_, value| *out = (*out).max((value as f32).to_bits() & 0x7fff_ffff));
                }
            } else {
                magnitudes(bytes, self.row_bytes, field.offset, field.width, bits);
            }
            bits.iter().enumerate().for_each(|(i, bits)| f(block * BLOCK + i, *bits));
        }
    }

    /// Writes (value - mean) / divisor of each of the field's values as little-endian float32 to `out`.
    pub fn scaled(&self, field: &Field, mean: &[f64], divisor: &[f64], out: &mut [u8]) {
        if field.is_plain() {
            scale(self.bytes, self.row_bytes, field.offset, mean, divisor, out);
            return;
        }
        for (row, out) in self.iter().zip(out.chunks_exact_mut(4 * field.width)) {
            let out = out.as_chunks_mut::<4>().0;
            field.for_each(row, |i, value| out[i] = (((value - mean[i]) / divisor[i]) as f32).to_le_bytes());
        }
    }

    /// Writes each of the field's values as little-endian float32 to `out`.
    pub fn cast(&self, field: &Field, out: &mut [u8]) {
        for (row, out) in self.iter().zip(out.chunks_exact_mut(4 * field.width)) {
            if !field.is_plain() {
                let out = out.as_chunks_mut::<4>().0;
                field.for_each(row, |i, value| out[i] = (value as f32).to_le_bytes());
            } else {
                out.copy_from_slice(&row[field.offset..field.offset + field.bytes()]);
            }
        }
    }

    /// Rows [start, end) of this block.
    #[must_use]
    pub fn part(&self, start: usize, end: usize) -> Self {
        Self { bytes: &self.bytes[start * self.row_bytes..end * self.row_bytes], row_bytes: self.row_bytes }
    }

    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> {
        self.bytes.chunks_exact(self.row_bytes)
    }
}
