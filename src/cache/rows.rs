//! A segment's rows on disk: mapped, or read where a mapping is not to be trusted.

use std::fs::File;
use std::io::ErrorKind;
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
    /// Through a mapping: fastest. The process dies if the file shrinks or its storage goes away.
    #[default]
    Mmap,
    /// By `pread`: what goes wrong is an error.
    Read,
}

#[derive(Debug)]
enum Source {
    Map(Mmap),
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
            Io::Mmap => Source::Map(unsafe { Mmap::map(&file) }.map_err(CacheError::io(&path))?),
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
        match self.shape.dtype() {
            Dtype::Float32 => self.copy_bytes(start, bytemuck::cast_slice_mut(out)),
            Dtype::Float16 => {
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
            Source::Map(map) => {
                out.copy_from_slice(&map[start as usize..start as usize + out.len()]);
                Ok(())
            }
            Source::File(file) => file.read_exact_at(out, start).map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => CacheError::damaged(&self.path, "is shorter than when it was opened"),
                _ => CacheError::io(&self.path)(error),
            }),
        }
    }

    /// Asks the kernel to read rows [first, first + rows) soon. Advice: where it fails, reading still works.
    pub(super) fn will_need(&self, first: u64, rows: u64) {
        let (start, bytes) = (first * self.shape.row_bytes(), rows * self.shape.row_bytes());
        match &self.source {
            Source::Map(map) => {
                let _ = map.advise_range(Advice::WillNeed, start as usize, bytes as usize);
            }
            Source::File(file) => {
                let advice = rustix::fs::Advice::WillNeed;
                let _ = rustix::fs::fadvise(file, start, std::num::NonZero::new(bytes), advice);
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

fn damaged_index(path: &Path) -> CacheError {
    CacheError::damaged(path, "the shard index is damaged; run `emg-cache verify`")
}
