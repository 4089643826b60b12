//! A segment's rows on disk: mapped, or read where a mapping is not to be trusted.

use std::fs::File;
use std::io::{ErrorKind, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use half::f16;
use half::slice::HalfFloatSliceExt;
use memmap2::{Advice, Mmap};

use super::error::CacheError;
use super::zarr::ShardShape;
use crate::config::Dtype;

/// How rows are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Io {
    /// Memory-mapped: fastest. The process is killed if the file shrinks or its storage goes away.
    #[default]
    Mmap,
    /// With `pread`: a failure is an error.
    Read,
}

#[derive(Debug)]
enum Source {
    /// With its file, which tells what of it is in memory.
    Map(Mmap, File),
    File(File),
}

/// One array of a segment.
#[derive(Debug)]
pub(super) struct StoredRows {
    path: PathBuf,
    source: Source,
    shape: ShardShape,
}

impl StoredRows {
    /// Opens the shard at `path`, which must be as long as its shape says.
    pub(super) fn open(path: PathBuf, shape: ShardShape, io: Io) -> Result<Self, CacheError> {
        let file = File::open(&path).map_err(CacheError::io(&path))?;
        let bytes = file.metadata().map_err(CacheError::io(&path))?.len();
        if bytes != shape.file_bytes() {
            return Err(CacheError::damaged(&path, format!("expected {} bytes, found {bytes}", shape.file_bytes())));
        }
        let source = match io {
            // SAFETY: published segments are never modified or truncated (the store's contract), and the length
            // was checked above; a store that breaks the contract is what `Io::Read` is for.
            Io::Mmap => Source::Map(unsafe { Mmap::map(&file) }.map_err(CacheError::io(&path))?, file),
            Io::Read => Source::File(file),
        };
        Ok(Self { path, source, shape })
    }

    /// Copies rows from `first` on to `out`, as float32.
    ///
    /// # Panics
    /// Rows beyond the shard's.
    pub(super) fn copy(&self, first: u64, out: &mut [f32]) -> Result<(), CacheError> {
        let start = first * self.shape.row_bytes();
        let bytes = out.len() * self.shape.element_bytes() as usize;
        assert!(start + bytes as u64 <= self.shape.data_bytes(), "rows beyond the segment's");
        match (self.shape.dtype(), &self.source) {
            (Dtype::Float32, Source::Map(map, _)) => {
                copy_past_caches(&map[start as usize..start as usize + bytes], bytemuck::cast_slice_mut(out));
                Ok(())
            }
            (Dtype::Float32, Source::File(_)) => self.copy_bytes(start, bytemuck::cast_slice_mut(out)),
            (Dtype::Float16, _) => {
                /// Converted at once: what stays in the first-level cache.
                const BLOCK: usize = 4096;
                let mut halves = [f16::ZERO; BLOCK];
                for (i, out) in out.chunks_mut(BLOCK).enumerate() {
                    let halves = &mut halves[..out.len()];
                    self.copy_bytes(start + (i * 2 * BLOCK) as u64, bytemuck::cast_slice_mut(halves))?;
                    halves.convert_to_f32_slice(out);
                }
                Ok(())
            }
        }
    }

    fn copy_bytes(&self, start: u64, out: &mut [u8]) -> Result<(), CacheError> {
        match &self.source {
            Source::Map(map, _) => {
                out.copy_from_slice(&map[start as usize..start as usize + out.len()]);
                Ok(())
            }
            Source::File(file) => file.read_exact_at(out, start).map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => CacheError::damaged(&self.path, "is shorter than when it was opened"),
                _ => CacheError::io(&self.path)(error),
            }),
        }
    }

    /// Whether this row is in the page cache already.
    pub(super) fn is_cached(&self, row: u64) -> bool {
        let (Source::Map(_, file) | Source::File(file)) = &self.source;
        let mut byte = [0];
        let into = &mut [IoSliceMut::new(&mut byte)];
        let at = row * self.shape.row_bytes();
        rustix::io::preadv2(file, into, at, rustix::io::ReadWriteFlags::NOWAIT).is_ok_and(|bytes| bytes == 1)
    }

    /// Asks the kernel to read rows [first, first + rows) soon. Advice: where it fails, reading still works.
    pub(super) fn will_need(&self, first: u64, rows: u64) {
        // Of one request the kernel reads no more than the storage's largest transfer or its readahead, whichever is more.
        const PIECE: u64 = 128 << 10;
        let (start, end) = (first * self.shape.row_bytes(), (first + rows) * self.shape.row_bytes());
        for from in (start..end).step_by(PIECE as usize) {
            let bytes = PIECE.min(end - from);
            match &self.source {
                Source::Map(map, _) => {
                    let _ = map.advise_range(Advice::WillNeed, from as usize, bytes as usize);
                }
                Source::File(file) => {
                    let advice = rustix::fs::Advice::WillNeed;
                    let _ = rustix::fs::fadvise(file, from, std::num::NonZero::new(bytes), advice);
                }
            }
        }
    }

    /// Fails if the shard index is not the one that these rows have.
    pub(super) fn check_index(&self) -> Result<(), CacheError> {
        let expected = self.shape.index();
        let mut found = vec![0; expected.len()];
        self.copy_bytes(self.shape.data_bytes(), &mut found)?;
        if found == expected { Ok(()) } else { Err(damaged_index(&self.path)) }
    }
}

/// Copies past the processor's caches where it can (AVX): large batches do not fit there, and reading the target into
/// them, as stores do, is a third of the memory traffic. (A small batch is read from memory again: 0.3 ms for 5 MB.)
fn copy_past_caches(from: &[u8], to: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx") {
        // SAFETY: the processor has AVX.
        return unsafe { stream(from, to) };
    }
    to.copy_from_slice(from);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
fn stream(from: &[u8], to: &mut [u8]) {
    use std::arch::x86_64::{__m256i, _mm_sfence, _mm256_loadu_si256, _mm256_stream_si256};
    const LINE: usize = 64;
    assert_eq!(from.len(), to.len());
    let head = to.as_ptr().align_offset(LINE).min(to.len());
    let (from_head, from) = from.split_at(head);
    let (to_head, to) = to.split_at_mut(head);
    to_head.copy_from_slice(from_head);
    let (from_lines, from_tail) = from.as_chunks::<LINE>();
    let (to_lines, to_tail) = to.as_chunks_mut::<LINE>();
    to_tail.copy_from_slice(from_tail);
    for (from, to) in from_lines.iter().zip(to_lines) {
        let (from, to) = (from.as_ptr().cast::<__m256i>(), to.as_mut_ptr().cast::<__m256i>());
        // SAFETY: both have the bytes of two vectors, and `to` is aligned to as much.
        unsafe {
            _mm256_stream_si256(to, _mm256_loadu_si256(from));
            _mm256_stream_si256(to.add(1), _mm256_loadu_si256(from.add(1)));
        }
    }
    // Before all that this thread does next, such as handing the memory on.
    _mm_sfence();
}

fn damaged_index(path: &Path) -> CacheError {
    CacheError::damaged(path, "the shard index is damaged; run `emg-cache verify`")
}
