//! Blocks of table rows as they lie in the file, and their fields as numbers.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// How a number is stored; little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Number {
    F16,
    F32,
    F64,
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
}

impl Number {
    pub fn bytes(self) -> usize {
        match self {
            Self::I8 | Self::U8 => 1,
            Self::F16 | Self::I16 | Self::U16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }

    pub fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::F32 | Self::F64)
    }
}

/// What stored numbers mean: number * factor + shift.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    pub factor: f64,
    pub shift: f64,
}

impl Scale {
    /// What `then` makes of what this gives.
    #[must_use]
    pub fn then(self, then: Self) -> Self {
        Self { factor: self.factor * then.factor, shift: self.shift * then.factor + then.shift }
    }

    pub fn is_finite(&self) -> bool {
        self.factor.is_finite() && self.shift.is_finite()
    }
}

/// A run of numbers inside each row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Field {
    /// Bytes from the row's start.
    pub offset: usize,
    /// Numbers stored per row.
    pub stored: usize,
    pub number: Number,
    pub scale: Option<Scale>,
    /// The stored number that stands for a missing value, which is then NaN.
    pub missing: Option<f64>,
    /// Which of the stored numbers are wanted, in their order; `None`: all.
    pub columns: Option<Arc<[usize]>>,
}

impl Field {
    /// `stored` numbers, all of them wanted as they are.
    pub fn plain(offset: usize, stored: usize, number: Number) -> Self {
        Self { offset, stored, number, scale: None, missing: None, columns: None }
    }

    /// Numbers that it gives per row.
    pub fn width(&self) -> usize {
        self.columns.as_ref().map_or(self.stored, |columns| columns.len())
    }

    /// Stored bytes per row.
    pub fn bytes(&self) -> usize {
        self.stored * self.number.bytes()
    }

    /// Whether all that it says lies within rows of `row_bytes`.
    pub(super) fn is_within(&self, row_bytes: usize) -> bool {
        let bytes = self.stored.checked_mul(self.number.bytes()).and_then(|bytes| bytes.checked_add(self.offset));
        bytes.is_some_and(|end| end <= row_bytes)
            && self.columns.iter().all(|columns| columns.iter().all(|column| *column < self.stored))
            && self.scale.is_none_or(|scale| scale.is_finite())
    }

    /// Whether values are stored just as they are meant, as 4-byte floats.
    fn is_plain(&self) -> bool {
        self.number == Number::F32 && self.scale.is_none() && self.missing.is_none() && self.columns.is_none()
    }

    /// Calls `f(i, value)` for each of the field's values in `row`.
    #[inline]
    pub fn for_each(&self, row: &[u8], mut f: impl FnMut(usize, f64)) {
        match (self.scale, self.missing) {
            (None, None) => self.for_each_wanted(row, f),
            (Some(Scale { factor, shift }), None) => self.for_each_wanted(row, |i, value| f(i, value * factor + shift)),
            (scale, Some(missing)) => {
                let Scale { factor, shift } = scale.unwrap_or(Scale { factor: 1.0, shift: 0.0 });
                let meant = |value: f64| if value == missing { f64::NAN } else { value * factor + shift };
                self.for_each_wanted(row, |i, value| f(i, meant(value)));
            }
        }
    }

    #[inline]
    fn for_each_wanted(&self, row: &[u8], mut f: impl FnMut(usize, f64)) {
        let bytes = &row[self.offset..self.offset + self.bytes()];
        match &self.columns {
            None => for_each_number(self.number, bytes, f),
            Some(columns) => {
                let size = self.number.bytes();
                for (i, column) in columns.iter().enumerate() {
                    for_each_number(self.number, &bytes[column * size..(column + 1) * size], |_, value| f(i, value));
                }
            }
        }
    }
}

/// Calls `f(i, value)` for each number in `bytes`.
#[inline]
fn for_each_number(number: Number, bytes: &[u8], f: impl FnMut(usize, f64)) {
    match number {
        Number::F16 => numbers(bytes, |b| f64::from(half::f16::from_le_bytes(b)), f),
        Number::F32 => numbers(bytes, |b| f64::from(f32::from_le_bytes(b)), f),
        Number::F64 => numbers(bytes, f64::from_le_bytes, f),
        Number::I8 => numbers(bytes, |b| f64::from(i8::from_le_bytes(b)), f),
        Number::U8 => numbers(bytes, |b| f64::from(u8::from_le_bytes(b)), f),
        Number::I16 => numbers(bytes, |b| f64::from(i16::from_le_bytes(b)), f),
        Number::U16 => numbers(bytes, |b| f64::from(u16::from_le_bytes(b)), f),
        Number::I32 => numbers(bytes, |b| f64::from(i32::from_le_bytes(b)), f),
        Number::U32 => numbers(bytes, |b| f64::from(u32::from_le_bytes(b)), f),
        Number::I64 => numbers(bytes, |b| i64::from_le_bytes(b) as f64, f),
        Number::U64 => numbers(bytes, |b| u64::from_le_bytes(b) as f64, f),
    }
}

#[inline]
fn numbers<const N: usize>(bytes: &[u8], parse: impl Fn([u8; N]) -> f64, mut f: impl FnMut(usize, f64)) {
    bytes.as_chunks::<N>().0.iter().enumerate().for_each(|(i, b)| f(i, parse(*b)));
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
                magnitudes(bytes, self.row_bytes, field.offset, field.stored, bits);
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
        for (row, out) in self.iter().zip(out.chunks_exact_mut(4 * field.width())) {
            let out = out.as_chunks_mut::<4>().0;
            field.for_each(row, |i, value| out[i] = (((value - mean[i]) / divisor[i]) as f32).to_le_bytes());
        }
    }

    /// Writes each of the field's values as little-endian float32 to `out`.
    pub fn cast(&self, field: &Field, out: &mut [u8]) {
        for (row, out) in self.iter().zip(out.chunks_exact_mut(4 * field.width())) {
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
