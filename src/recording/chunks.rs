//! Undoing HDF5's filter pipeline for the filters that recordings use. Source: HDF5 file format specification,
//! section IV.A.2.l (filter pipeline message) and H5Zfletcher32.c / H5Zshuffle.c.

/// A filter that this code undoes; others are left to the HDF5 library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filter {
    Deflate,
    /// Bytes of each element.
    Shuffle(usize),
    Fletcher32,
}

/// One stored chunk of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// Undoes `filters` on one stored chunk; the result has exactly `chunk_bytes` bytes.
///
/// # Errors
/// What is wrong with the chunk.
pub(crate) fn decode(stored: &[u8], chunk: &Chunk, filters: &[Filter], chunk_bytes: usize) -> Result<Vec<u8>, String> {
    let mut data = std::borrow::Cow::Borrowed(stored);
    for (i, filter) in filters.iter().enumerate().rev() {
        if chunk.filter_mask & (1 << i) != 0 {
            continue;
        }
        data = match filter {
            Filter::Deflate => inflate(&data, chunk_bytes)?.into(),
            Filter::Shuffle(element) => unshuffle(&data, *element).into(),
            Filter::Fletcher32 => check_fletcher32(data)?,
        };
    }
    if data.len() != chunk_bytes {
        return Err(format!("chunk at row {}: expected {chunk_bytes} bytes, found {}", chunk.first_row, data.len()));
    }
    Ok(data.into_owned())
}

fn inflate(data: &[u8], capacity: usize) -> Result<Vec<u8>, String> {
    // A fletcher32 below deflate in the pipeline would add four bytes.
    let capacity = capacity + 4;
    if capacity / MAX_EXPANSION > data.len() + 64 {
        return Err(format!("{} deflated bytes cannot hold a chunk of {capacity}", data.len()));
    }
    let mut out = vec![0; capacity];
    let length = libdeflater::Decompressor::new()
        .zlib_decompress(data, &mut out)
        .map_err(|error| format!("a chunk does not inflate: {error}"))?;
    out.truncate(length);
    Ok(out)
}

/// HDF5's shuffle stores byte 0 of all elements, then byte 1 of all, and so on; a tail shorter than an
/// element is stored as it is.
fn unshuffle(data: &[u8], element: usize) -> Vec<u8> {
    let count = if element > 1 { data.len() / element } else { 0 };
    if count <= 1 {
        return data.to_vec();
    }
    let mut out = vec![0; data.len()];
    // Elements in blocks that stay in the first-level cache while every plane passes over them.
    const BLOCK: usize = 64;
    for start in (0..count).step_by(BLOCK) {
        let end = (start + BLOCK).min(count);
        for plane in 0..element {
            let source = &data[plane * count + start..plane * count + end];
            for (i, byte) in source.iter().enumerate() {
                out[(start + i) * element + plane] = *byte;
            }
        }
    }
    out[count * element..].copy_from_slice(&data[count * element..]);
    out
}

fn check_fletcher32(data: std::borrow::Cow<'_, [u8]>) -> Result<std::borrow::Cow<'_, [u8]>, String> {
    let Some(body) = data.len().checked_sub(4) else {
        return Err("a chunk is too short for its fletcher32 checksum".into());
    };
    let stored = u32::from_le_bytes(data[body..].try_into().expect("four bytes"));
    let computed = fletcher32(&data[..body]);
    // Libraries before 1.6.3 wrote the two halves of each 16-bit sum swapped; HDF5 accepts both.
    let swapped = ((computed & 0x00ff_00ff) << 8) | ((computed >> 8) & 0x00ff_00ff);
    if stored != computed && stored != swapped {
        return Err("a chunk does not match its fletcher32 checksum".into());
    }
    Ok(match data {
        std::borrow::Cow::Borrowed(bytes) => bytes[..body].into(),
        std::borrow::Cow::Owned(mut bytes) => {
            bytes.truncate(body);
            bytes.into()
        }
    })
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
        for (element, length) in [(1, 10), (3, 10), (4, 400), (152, 152 * 131), (152, 152 * 3 + 7), (8, 8)] {
            let plain: Vec<u8> = (0..length).map(|i| (i * 7 % 251) as u8).collect();
            let count = length / element;
            let mut stored = plain.clone();
            for i in 0..count {
                for plane in 0..element {
                    stored[plane * count + i] = plain[i * element + plane];
                }
            }
            assert_eq!(unshuffle(&stored, element), plain, "element {element}, length {length}");
        }
    }

    #[test]
    fn a_chunk_that_lies_about_its_size_is_refused() {
        let chunk = Chunk { first_row: 0, address: 0, size: 10, filter_mask: 0 };
        assert!(decode(&[0; 10], &chunk, &[Filter::Deflate], 1 << 30).unwrap_err().contains("cannot hold"));
        assert!(decode(&[0; 10], &chunk, &[Filter::Deflate], 100).unwrap_err().contains("inflate"));
        assert!(decode(&[0; 10], &chunk, &[], 100).unwrap_err().contains("expected 100"));
        assert!(decode(&[0; 3], &chunk, &[Filter::Fletcher32], 100).unwrap_err().contains("too short"));
    }
}
