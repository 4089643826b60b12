//! A segment's rows on disk: mapped, or read where a mapping is not to be trusted.

use std::fs::File;
use std::io::{ErrorKind, IoSliceMut};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use half::f16;
use half::slice::HalfFloatSliceExt;
use memmap2::{Advice, Mmap};

use super::error::CacheError;
use super::key::Key;
use super::zarr::ShardShape;
use crate::config::Dtype;
use crate::files::open_regular;

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
    Map(Mmap, Residency),
    File(File),
}

/// What tells which rows of a mapping are in memory.
#[derive(Debug)]
enum Residency {
    /// The mapping.
    Mapping,
    /// Only its file.
    File(File),
    /// Nothing, because descriptors are few.
    Unknown,
}

impl Residency {
    fn of(file: File) -> Self {
        const MOST: usize = 256;
        static KEPT: AtomicUsize = AtomicUsize::new(0);
        if tells_residency(&file) {
            Self::Mapping
        } else if KEPT.fetch_add(1, Relaxed) < MOST {
            Self::File(file)
        } else {
            Self::Unknown
        }
    }
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
        let file = open_regular(&path).map_err(CacheError::io(&path))?;
        let bytes = file.metadata().map_err(CacheError::io(&path))?.len();
        if bytes != shape.file_bytes() {
            return Err(CacheError::damaged(&path, format!("expected {} bytes, found {bytes}", shape.file_bytes())));
        }
        let source = match io {
            // SAFETY: published segments are never modified or truncated (the store's contract), and the length
            // was checked above; a store that breaks the contract is what `Io::Read` is for.
            Io::Mmap => match unsafe { Mmap::map(&file) } {
                Ok(map) => Source::Map(map, Residency::of(file)),
                // Some file systems (FUSE with direct I/O, 9p, vboxsf) cannot map files.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Source::File(file),
                Err(error) => return Err(CacheError::io(&path)(error)),
            },
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

    /// First byte and number of bytes, on disk, of rows from `first` on that are `bytes` as float32.
    pub(super) fn range(&self, first: u64, bytes: u64) -> (u64, u64) {
        (first * self.shape.row_bytes(), bytes / size_of::<f32>() as u64 * self.shape.element_bytes())
    }

    /// The BLAKE3 of bytes [start, start + length) of the file.
    pub(super) fn hash(&self, start: u64, length: u64) -> Result<Key, CacheError> {
        if let Source::Map(map, _) = &self.source {
            return Ok(blake3::hash(&map[start as usize..(start + length) as usize]).into());
        }
        let mut bytes = vec![0; length as usize];
        self.copy_bytes(start, &mut bytes)?;
        Ok(blake3::hash(&bytes).into())
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
        let file = match &self.source {
            Source::Map(map, Residency::Mapping) => {
                return is_resident(&map[(row * self.shape.row_bytes()) as usize..]);
            }
            Source::Map(_, Residency::Unknown) => return false,
            Source::Map(_, Residency::File(file)) | Source::File(file) => file,
        };
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

/// Whether the kernel tells this process what of the file's mapping is in memory: to its owner, and to who may write to it.
fn tells_residency(file: &File) -> bool {
    let user = rustix::process::geteuid();
    let owner = file.metadata().is_ok_and(|stat| stat.uid() == user.as_raw());
    owner || user.is_root()
}

/// Whether the first byte is in memory.
fn is_resident(bytes: &[u8]) -> bool {
    let page = rustix::param::page_size();
    let start = bytes.as_ptr() as usize / page * page;
    let mut resident = 0;
    // SAFETY: the page that holds the first byte is mapped, and it has one byte of answer.
    let status = unsafe { libc::mincore(start as *mut libc::c_void, 1, &raw mut resident) };
    status == 0 && resident & 1 == 1
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
