//! Undoing HDF5's filter pipeline for the filters that recordings use. Source: HDF5 file format specification,
//! section IV.A.2.l (filter pipeline message) and H5Zfletcher32.c / H5Zshuffle.c.

use serde::{Deserialize, Serialize};

/// A filter that this code undoes; others are left to the HDF5 library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Filter {
    Deflate,
    /// Bytes of each element.
    Shuffle(usize),
    Fletcher32,
}

/// One stored chunk of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chunk {
    pub(crate) first_row: u64,
    /// Bytes from the file's start.
    pub(crate) address: u64,
    /// Stored (filtered) bytes.
    pub(crate) size: usize,
    /// Bit i set: filter i of the pipeline was not applied.
    pub(crate) filter_mask: u32,
}

/// Deflate cannot expand more than this (1032:1, RFC 1951), so a larger claim is a damaged header.
const MAX_EXPANSION: usize = 1040;

/// Why a chunk's filters cannot be undone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChunkError {
    #[error("chunk at row {row}: expected {expected} bytes, found {found}")]
    LengthMismatch { row: u64, expected: usize, found: usize },
    #[error("{bytes} bytes are more than a chunk of {chunk}")]
    TooLong { bytes: usize, chunk: usize },
    #[error("{bytes} deflated bytes cannot hold a chunk of {chunk}")]
    TooShort { bytes: usize, chunk: usize },
    #[error("a chunk does not inflate: {0}")]
    Inflate(#[from] libdeflater::DecompressionError),
    #[error("a chunk is too short for its fletcher32 checksum")]
    NoChecksum,
    #[error("a chunk does not match its fletcher32 checksum")]
    ChecksumMismatch,
}

/// Undoes a filter pipeline, chunk after chunk, in memory that is used again.
pub(crate) struct Decoder<'a> {
    filters: &'a [Filter],
    chunk_bytes: usize,
    inflate: libdeflater::Decompressor,
    /// What the last filter gave, and room for what the next will.
    current: Vec<u8>,
    next: Vec<u8>,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(filters: &'a [Filter], chunk_bytes: usize) -> Self {
        let inflate = libdeflater::Decompressor::new();
        Self { filters, chunk_bytes, inflate, current: Vec::new(), next: Vec::new() }
    }

    /// Undoes the filters on one stored chunk, to `out` of exactly the chunk's bytes.
    ///
    /// # Errors
    /// What is wrong with the chunk.
    pub(crate) fn decode(&mut self, stored: &[u8], chunk: &Chunk, out: &mut [u8]) -> Result<(), ChunkError> {
        assert_eq!(out.len(), self.chunk_bytes);
        let applied = (0..self.filters.len()).rev().filter(|i| chunk.filter_mask & (1 << i) == 0);
        let mut applied = applied.map(|i| self.filters[i]).peekable();
        let (mut length, mut is_stored) = (stored.len(), true);
        while let Some(filter) = applied.next() {
            let data = if is_stored { &stored[..length] } else { &self.current[..length] };
            if filter == Filter::Fletcher32 {
                length = check_fletcher32(data)?;
                continue;
            }
            if applied.peek().is_none() {
                let length = undo(&mut self.inflate, filter, data, out)?;
                return check_length(chunk, length, out.len());
            }
            // A fletcher32 that was applied before adds four bytes to the chunk; what deflate made longer is shuffled so.
            self.next.resize(data.len().max(self.chunk_bytes + 4), 0);
            length = undo(&mut self.inflate, filter, data, &mut self.next)?;
            std::mem::swap(&mut self.current, &mut self.next);
            is_stored = false;
        }
        check_length(chunk, length, out.len())?;
        out.copy_from_slice(if is_stored { &stored[..length] } else { &self.current[..length] });
        Ok(())
    }
}

fn check_length(chunk: &Chunk, found: usize, expected: usize) -> Result<(), ChunkError> {
    if found == expected {
        return Ok(());
    }
    Err(ChunkError::LengthMismatch { row: chunk.first_row, expected, found })
}

/// Undoes deflate or shuffle; gives the length of the result.
fn undo(
    inflate: &mut libdeflater::Decompressor,
    filter: Filter,
    data: &[u8],
    out: &mut [u8],
) -> Result<usize, ChunkError> {
    match filter {
        Filter::Shuffle(_) if data.len() > out.len() => {
            Err(ChunkError::TooLong { bytes: data.len(), chunk: out.len() })
        }
        Filter::Shuffle(element) => {
            unshuffle(data, element, &mut out[..data.len()]);
            Ok(data.len())
        }
        Filter::Deflate if out.len() / MAX_EXPANSION > data.len() + 64 => {
            Err(ChunkError::TooShort { bytes: data.len(), chunk: out.len() })
        }
        Filter::Deflate => Ok(inflate.zlib_decompress(data, out)?),
        Filter::Fletcher32 => unreachable!("a checksum is checked, not undone"),
    }
}

/// HDF5's shuffle stores byte 0 of all elements, then byte 1 of all, and so on; a tail shorter than an
/// element is stored as it is. `out` is as long as `data`.
fn unshuffle(data: &[u8], element: usize, out: &mut [u8]) {
    let count = if element > 1 { data.len() / element } else { 0 };
    if count <= 1 {
        out.copy_from_slice(data);
        return;
    }
    unshuffle_elements(&data[..count * element], element, out);
    out[count * element..].copy_from_slice(&data[count * element..]);
}

/// Unshuffles whole elements: 16 planes of 16 elements at a time, then what is left byte by byte.
fn unshuffle_elements(data: &[u8], element: usize, out: &mut [u8]) {
    /// Elements in blocks that stay in the first-level cache while every plane passes over them.
    const BLOCK: usize = 64;
    let count = data.len() / element;
    for start in (0..count).step_by(BLOCK) {
        let end = (start + BLOCK).min(count);
        let out = &mut out[start * element..end * element];
        let plane = |plane: usize| &data[plane * count + start..plane * count + end];
        let wide = if end - start == BLOCK { element / TILE * TILE } else { 0 };
        for first in (0..wide).step_by(TILE) {
            for tile in 0..BLOCK / TILE {
                let mut rows = [[0; TILE]; TILE];
                for (i, row) in rows.iter_mut().enumerate() {
                    row.copy_from_slice(&plane(first + i)[tile * TILE..(tile + 1) * TILE]);
                }
                transpose(&mut rows);
                for (out, column) in out[tile * TILE * element..].chunks_exact_mut(element).zip(&rows) {
                    out[first..first + TILE].copy_from_slice(column);
                }
            }
        }
        for at in wide..element {
            for (out, byte) in out.chunks_exact_mut(element).zip(plane(at)) {
                out[at] = *byte;
            }
        }
    }
}

/// Rows and columns of a block that is transposed in vector registers.
const TILE: usize = 16;

#[cfg(target_arch = "x86_64")]
#[inline]
fn transpose(tile: &mut [[u8; TILE]; TILE]) {
    use std::arch::x86_64::{__m128i, _mm_unpackhi_epi8, _mm_unpacklo_epi8};
    let mut rows: [__m128i; TILE] = bytemuck::cast(*tile);
    // Each round interleaves the bytes of row i with those of row i + 8; four rounds bring each byte home.
    for _ in 0..TILE.ilog2() {
        let before = rows;
        for i in 0..TILE / 2 {
            let (a, b) = (before[i], before[i + TILE / 2]);
            // SAFETY: SSE2 is part of x86-64.
            unsafe { (rows[2 * i], rows[2 * i + 1]) = (_mm_unpacklo_epi8(a, b), _mm_unpackhi_epi8(a, b)) };
        }
    }
    *tile = bytemuck::cast(rows);
}

#[cfg(not(target_arch = "x86_64"))]
fn transpose(tile: &mut [[u8; TILE]; TILE]) {
    let rows = *tile;
    for (i, row) in tile.iter_mut().enumerate() {
        *row = std::array::from_fn(|j| rows[j][i]);
    }
}

/// The length of `data` without its checksum.
fn check_fletcher32(data: &[u8]) -> Result<usize, ChunkError> {
    let Some(body) = data.len().checked_sub(4) else {
        return Err(ChunkError::NoChecksum);
    };
    let stored = u32::from_le_bytes(data[body..].try_into().expect("four bytes"));
    let computed = fletcher32(&data[..body]);
    // Libraries before 1.6.3 wrote the two halves of each 16-bit sum swapped; HDF5 accepts both.
    let swapped = ((computed & 0x00ff_00ff) << 8) | ((computed >> 8) & 0x00ff_00ff);
    if stored != computed && stored != swapped {
        return Err(ChunkError::ChecksumMismatch);
    }
    Ok(body)
}

/// HDF5's variant: 16-bit big-endian words, sums folded to 16 bits, an odd last byte in the high half.
fn fletcher32(data: &[u8]) -> u32 {
    let (mut low, mut high) = (0u32, 0u32);
    let fold = |sum: u32| (sum & 0xffff) + (sum >> 16);
    for block in data.chunks(720) {
        for word in block.chunks(2) {
            low += u32::from(word[0]) << 8 | word.get(1).map_or(0, |b| u32::from(*b));
            high += low;
        }
        (low, high) = (fold(low), fold(high));
    }
    (low, high) = (fold(low), fold(high));
    high << 16 | low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unshuffle_is_the_inverse_of_the_definition() {
        for (element, length) in [
            (1, 10),
            (3, 10),
            (4, 400),
            (152, 152 * 131),
            (152, 152 * 128),
            (232, 232 * 200 + 3),
            (152, 152 * 3 + 7),
            (8, 8),
        ] {
            let plain: Vec<u8> = (0..length).map(|i| (i * 7 % 251) as u8).collect();
            let count = length / element;
            let mut stored = plain.clone();
            for i in 0..count {
                for plane in 0..element {
                    stored[plane * count + i] = plain[i * element + plane];
                }
            }
            let mut out = vec![0; length];
            unshuffle(&stored, element, &mut out);
            assert_eq!(out, plain, "element {element}, length {length}");
        }
    }

    /// As the library applies a filter when it writes.
    fn apply(filter: Filter, data: &[u8]) -> Vec<u8> {
        match filter {
            Filter::Fletcher32 => [data, &fletcher32(data).to_le_bytes()].concat(),
            Filter::Shuffle(element) => {
                let (count, mut out) = (data.len() / element, data.to_vec());
                for (i, byte) in data[..count * element].iter().enumerate() {
                    out[i % element * count + i / element] = *byte;
                }
                out
            }
            Filter::Deflate => {
                let mut deflate = libdeflater::Compressor::new(libdeflater::CompressionLvl::fastest());
                let mut out = vec![0; deflate.zlib_compress_bound(data.len())];
                let length = deflate.zlib_compress(data, &mut out).unwrap();
                out.truncate(length);
                out
            }
        }
    }

    #[test]
    fn filters_are_undone_in_any_order_and_number() {
        let all = [Filter::Deflate, Filter::Shuffle(8), Filter::Fletcher32];
        let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        let mut random = crate::random::Random::new(&[4]);
        let noise: Vec<u8> = (0..1000).map(|_| random.up_to(255) as u8).collect();
        for data in [noise, vec![7; 1000]] {
            for (filters, mask) in orders.iter().flat_map(|order| (0..8).map(|mask| (order.map(|i| all[i]), mask))) {
                let applied = (0..3).filter(|i| mask & (1 << i) == 0);
                let stored = applied.fold(data.clone(), |data, i| apply(filters[i], &data));
                let chunk = Chunk { first_row: 0, address: 0, size: stored.len(), filter_mask: mask };
                let mut out = vec![0; data.len()];
                Decoder::new(&filters, data.len()).decode(&stored, &chunk, &mut out).unwrap();
                assert!(out == data, "{filters:?}, mask {mask}");
            }
        }
    }

    #[test]
    fn a_chunk_that_lies_about_its_size_is_refused() {
        let chunk = Chunk { first_row: 0, address: 0, size: 10, filter_mask: 0 };
        let failure = |stored: &[u8], filters: &[Filter], bytes: usize| {
            Decoder::new(filters, bytes).decode(stored, &chunk, &mut vec![0; bytes]).unwrap_err().to_string()
        };
        assert!(failure(&[0; 10], &[Filter::Deflate], 1 << 24).contains("cannot hold"));
        assert!(failure(&[0; 10], &[Filter::Deflate], 100).contains("inflate"));
        assert!(failure(&[0; 10], &[], 100).contains("expected 100"));
        assert!(failure(&[0; 3], &[Filter::Fletcher32], 100).contains("too short"));
    }
}
