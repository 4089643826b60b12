//! Reading a recording: each byte once where it fits into memory, else in two streaming passes.
//!
//! Data is read with `pread`, never mapped: an input that shrinks under a mapping would kill the process.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::attributes::Attributes;
use super::chunks::{self, Chunk, ChunkError, Filter};
use super::dataset::{Dataset, Storage};
use super::error::{Cause, RecordingError};
use super::place::Place;
use super::pool::{Buffer, Pool};
use super::ranges::Ranges;
use super::rows::{Field, Rows};
use super::table::{Source, Table, TableLayout, TimeField};
use super::validity::Validity;
use super::worker::Hdf5;
use crate::files::open_regular;

/// Recordings up to this size are read whole, so that what is hashed is what is measured and cached.
pub const WHOLE_BYTES: u64 = 24 << 20;
/// Decoded rows up to this size are kept between two passes.
const DECODED_BYTES: u64 = 2 * WHOLE_BYTES;
/// Bytes that stay near a core while several passes go over them.
const NEAR_BYTES: usize = 256 << 10;
/// Bytes per read of longer recordings.
pub(super) const BLOCK_BYTES: usize = 8 << 20;

/// What `stat` says of a file: enough to tell that it is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStamp {
    pub bytes: u64,
    pub modified_ns: i128,
    pub changed_ns: i128,
    pub inode: u64,
}

impl FileStamp {
    /// # Errors
    /// The file cannot be stat-ed.
    pub fn of(path: &Path) -> Result<Self, RecordingError> {
        std::fs::metadata(path).map(|stat| Self::from_stat(&stat)).map_err(|error| RecordingError::io(path, error))
    }

    fn from_stat(stat: &std::fs::Metadata) -> Self {
        let ns = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        Self {
            bytes: stat.len(),
            modified_ns: ns(stat.mtime(), stat.mtime_nsec()),
            changed_ns: ns(stat.ctime(), stat.ctime_nsec()),
            inode: stat.ino(),
        }
    }
}

enum Bytes {
    Whole(Buffer),
    File(File),
    /// Let go of.
    Released,
}

/// How recordings are read: what is expected of them, how the HDF5 library is reached, and buffers to use again.
#[derive(Debug, Clone)]
pub struct Reader {
    layout: TableLayout,
    hdf5: Hdf5,
    whole: Pool,
    decoded: Pool,
}

impl Reader {
    pub fn new(layout: TableLayout, hdf5: Hdf5) -> Self {
        Self { layout, hdf5, whole: Pool::default(), decoded: Pool::default() }
    }

    /// The same, but files of `emg-train predict` are refused.
    #[must_use]
    pub fn refusing_predictions(&self) -> Self {
        let layout = TableLayout { accept_predicted: false, ..self.layout.clone() };
        Self { layout, ..self.clone() }
    }

    /// Rows of the recording at `place`, by its header alone.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn count_rows(&self, place: &Place) -> Result<u64, RecordingError> {
        let bytes = place.bytes(FileStamp::of(&place.path)?.bytes)?;
        Ok(self.hdf5.table(place, &self.layout, bytes)?.rows)
    }

    /// Opens the recording at `place` and reads its header, and all of it where it is short.
    ///
    /// # Errors
    /// [`RecordingError`]: unreadable, of another layout, or with a header that the file's size belies.
    pub fn open(&self, place: &Place) -> Result<Recording, RecordingError> {
        let path = place.label();
        let io = |error| RecordingError::io(&path, error);
        let file = open_regular(&place.path).map_err(io)?;
        let stamp = FileStamp::from_stat(&file.metadata().map_err(io)?);
        let length = place.bytes(stamp.bytes)?;
        let table = self.hdf5.table(place, &self.layout, length).map_err(|error| match FileStamp::of(&place.path) {
            // What changed under the library is no fact about the file.
            Ok(now) if now != stamp => RecordingError::Changed { path: path.clone() },
            _ => error,
        })?;
        let bytes = if length <= WHOLE_BYTES {
            let mut whole = self.whole.take(length as usize);
            file.read_exact_at(&mut whole, place.offset()).map_err(|error| shrunk(&path, error))?;
            Bytes::Whole(whole)
        } else {
            Bytes::File(file)
        };
        let (place, reader) = (place.clone(), self.clone());
        let recording = Recording { place, path, stamp, length, bytes, table, decoded: OnceLock::new(), reader };
        recording.check_unchanged()?;
        Ok(recording)
    }
}

/// An open recording.
pub struct Recording {
    place: Place,
    /// For messages.
    path: PathBuf,
    /// Of the file, or of the archive it is in.
    stamp: FileStamp,
    length: u64,
    bytes: Bytes,
    table: Table,
    /// Rows of a short recording that had to be decoded, so that a second pass need not decode again.
    decoded: OnceLock<Buffer>,
    reader: Reader,
}

type Visitor<'a> = dyn FnMut(u64, Rows<'_>) -> Result<(), RecordingError> + 'a;

impl Recording {
    /// Lets go of the rows in memory; what the header said stays.
    #[must_use]
    pub fn release_rows(mut self) -> Self {
        self.bytes = Bytes::Released;
        self.decoded = OnceLock::new();
        self
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn stamp(&self) -> FileStamp {
        self.stamp
    }

    pub fn rows(&self) -> u64 {
        self.table.rows
    }

    pub fn attributes(&self) -> &Attributes {
        &self.table.attributes
    }

    pub fn emg(&self) -> &Field {
        &self.table.emg
    }

    /// The wanted joint angles, in radians.
    pub fn angles(&self) -> &Field {
        &self.table.angles
    }

    /// Which rows have usable angles.
    pub fn validity(&self) -> &Validity {
        &self.table.validity
    }

    /// The time stamp, where rows have one.
    pub fn time(&self) -> Option<&TimeField> {
        self.table.time.as_ref()
    }

    /// Whether another pass reads decoded rows from memory: the file is short, and so are its rows.
    pub fn is_in_memory(&self) -> bool {
        matches!(self.bytes, Bytes::Whole(_)) && self.decoded_bytes() <= DECODED_BYTES
    }

    /// Fails if the file is no longer the one that was opened.
    ///
    /// # Errors
    /// [`RecordingError::Changed`].
    pub fn check_unchanged(&self) -> Result<(), RecordingError> {
        match FileStamp::of(&self.place.path) {
            Ok(stamp) if stamp == self.stamp => Ok(()),
            Ok(_) => Err(RecordingError::Changed { path: self.path.clone() }),
            Err(error) => Err(error),
        }
    }

    /// Calls `f(first row, rows)` with every row in order and returns the BLAKE3 of the file's bytes.
    ///
    /// # Errors
    /// The file's, or `f`'s.
    pub fn visit_hashed(&self, f: &mut Visitor<'_>) -> Result<blake3::Hash, RecordingError> {
        self.unless_changed(self.hashed_rows(f))
    }

    /// The result, or that the file changed while it was read: what was then found is no fact about it.
    fn unless_changed<T>(&self, result: Result<T, RecordingError>) -> Result<T, RecordingError> {
        match result {
            Err(error) if error.cause() == Cause::System => Err(error),
            result => self.check_unchanged().and(result),
        }
    }

    fn hashed_rows(&self, f: &mut Visitor<'_>) -> Result<blake3::Hash, RecordingError> {
        let mut hasher = blake3::Hasher::new();
        match (&self.bytes, self.storage()) {
            (Bytes::Whole(bytes), Some(Storage::Contiguous { address })) => {
                let row_bytes = self.table.row_bytes;
                let start = *address as usize;
                let end = start + self.table.rows as usize * row_bytes;
                hasher.update(&bytes[..start]);
                // Hashed and measured while they are in the second-level cache.
                let rows = (NEAR_BYTES / row_bytes).max(1);
                for (i, block) in bytes[start..end].chunks(rows * row_bytes).enumerate() {
                    hasher.update(block);
                    f((i * rows) as u64, Rows::new(block, row_bytes))?;
                }
                hasher.update(&bytes[end..]);
            }
            (Bytes::Whole(bytes), _) => {
                hasher.update(bytes);
                self.rows_of(f)?;
            }
            (Bytes::File(file), Some(Storage::Contiguous { address })) => {
                let mut reader = BlockReader { path: &self.path, file, base: self.place.offset(), buffer: Vec::new() };
                let end = address + self.table.rows * self.table.row_bytes as u64;
                reader.hash_range(&mut hasher, 0, *address)?;
                self.visit_contiguous(&mut reader, *address, Some(&mut hasher), f)?;
                reader.hash_range(&mut hasher, end, self.length)?;
            }
            (Bytes::Released, _) => unreachable!("rows were let go of"),
            (Bytes::File(file), _) => {
                let mut reader = BlockReader { path: &self.path, file, base: self.place.offset(), buffer: Vec::new() };
                reader.hash_range(&mut hasher, 0, self.length)?;
                self.rows_of(f)?;
            }
        }
        Ok(hasher.finalize())
    }

    /// Calls `f(first row, rows)` with every row in order.
    ///
    /// # Errors
    /// The file's, or `f`'s.
    pub fn visit(&self, f: &mut Visitor<'_>) -> Result<(), RecordingError> {
        self.unless_changed(self.rows_of(f))
    }

    fn rows_of(&self, f: &mut Visitor<'_>) -> Result<(), RecordingError> {
        match (self.storage(), &self.bytes) {
            (Some(Storage::Contiguous { address }), Bytes::Whole(bytes)) => {
                let end = *address as usize + self.table.rows as usize * self.table.row_bytes;
                f(0, Rows::new(&bytes[*address as usize..end], self.table.row_bytes))
            }
            (Some(Storage::Contiguous { address }), Bytes::File(file)) => {
                let mut reader = BlockReader { path: &self.path, file, base: self.place.offset(), buffer: Vec::new() };
                self.visit_contiguous(&mut reader, *address, None, f)
            }
            (_, Bytes::Whole(_)) if self.is_in_memory() => {
                if self.decoded.get().is_none() {
                    let mut rows = self.reader.decoded.take(self.decoded_bytes() as usize);
                    self.decode_whole(&mut rows)?;
                    let _ = self.decoded.set(rows);
                }
                let rows = self.decoded.get().expect("set above");
                f(0, Rows::new(rows, self.table.row_bytes))
            }
            _ => self.decode(f),
        }
    }

    fn decoded_bytes(&self) -> u64 {
        self.table.rows * self.table.row_bytes as u64
    }

    /// How rows are stored, if they lie in one dataset.
    fn storage(&self) -> Option<&Storage> {
        match &self.table.source {
            Source::One(dataset) => Some(&dataset.storage),
            Source::Joined(_) => None,
        }
    }

    /// Calls `f` with decoded blocks of rows that do not lie plainly in the file.
    fn decode(&self, f: &mut Visitor<'_>) -> Result<(), RecordingError> {
        match &self.table.source {
            Source::One(Dataset { storage: Storage::Chunked { chunk_rows, filters, chunks }, .. }) => {
                self.visit_chunks(*chunk_rows, filters, chunks, f)
            }
            Source::One(dataset) => self.decode_by_library(dataset, 0..dataset.rows, f),
            Source::Joined(joined) => {
                let mut ranges = Ranges::new(self);
                joined.visit(&mut |dataset, first, out| ranges.read(dataset, first, out), f)
            }
        }
    }

    pub(super) fn decode_by_library(
        &self,
        dataset: &Dataset,
        range: Range<u64>,
        f: &mut Visitor<'_>,
    ) -> Result<(), RecordingError> {
        self.reader.hdf5.visit(&self.place, self.reader.layout.chunk_cache, dataset, range, f)
    }

    /// The file's bytes [start, start + out.len()).
    pub(super) fn read_bytes(&self, start: u64, out: &mut [u8]) -> Result<(), RecordingError> {
        match &self.bytes {
            Bytes::Whole(bytes) => out.copy_from_slice(&bytes[start as usize..start as usize + out.len()]),
            Bytes::File(file) => {
                file.read_exact_at(out, self.place.offset() + start).map_err(|error| shrunk(&self.path, error))?;
            }
            Bytes::Released => unreachable!("rows were let go of"),
        }
        Ok(())
    }

    /// Decodes all rows of a short recording to `out`.
    fn decode_whole(&self, out: &mut [u8]) -> Result<(), RecordingError> {
        let row_bytes = self.table.row_bytes;
        if let (Some(Storage::Chunked { chunk_rows, filters, chunks }), Bytes::Whole(bytes)) =
            (self.storage(), &self.bytes)
        {
            let chunk_bytes = chunk_rows * row_bytes;
            let mut decoder = chunks::Decoder::new(filters, chunk_bytes);
            let mut last = Vec::new();
            for chunk in chunks {
                let stored = &bytes[chunk.address as usize..chunk.address as usize + chunk.size];
                let out = &mut out[chunk.first_row as usize * row_bytes..];
                let failed = |error: ChunkError| RecordingError::damaged(&self.path, error);
                if out.len() >= chunk_bytes {
                    decoder.decode(stored, chunk, &mut out[..chunk_bytes]).map_err(failed)?;
                } else {
                    last.resize(chunk_bytes, 0);
                    decoder.decode(stored, chunk, &mut last).map_err(failed)?;
                    out.copy_from_slice(&last[..out.len()]);
                }
            }
            return Ok(());
        }
        self.decode(&mut |first, block| {
            let start = first as usize * row_bytes;
            out[start..start + block.bytes().len()].copy_from_slice(block.bytes());
            Ok(())
        })
    }

    fn visit_contiguous(
        &self,
        reader: &mut BlockReader<'_>,
        address: u64,
        mut hasher: Option<&mut blake3::Hasher>,
        f: &mut Visitor<'_>,
    ) -> Result<(), RecordingError> {
        let row_bytes = self.table.row_bytes as u64;
        let block_rows = (BLOCK_BYTES as u64 / row_bytes).max(1);
        let mut first = 0;
        while first < self.table.rows {
            let rows = block_rows.min(self.table.rows - first);
            let bytes = reader.read(address + first * row_bytes, (rows * row_bytes) as usize)?;
            if let Some(hasher) = hasher.as_deref_mut() {
                hasher.update(bytes);
            }
            f(first, Rows::new(bytes, self.table.row_bytes))?;
            first += rows;
        }
        Ok(())
    }

    pub(super) fn decode_chunk(
        &self,
        decoder: &mut chunks::Decoder<'_>,
        chunk: &Chunk,
        out: &mut [u8],
    ) -> Result<(), RecordingError> {
        let mut read = Vec::new();
        let stored = match &self.bytes {
            Bytes::Whole(bytes) => &bytes[chunk.address as usize..chunk.address as usize + chunk.size],
            _ => {
                read.resize(chunk.size, 0);
                self.read_bytes(chunk.address, &mut read)?;
                &read
            }
        };
        decoder.decode(stored, chunk, out).map_err(|error| RecordingError::damaged(&self.path, error))
    }

    /// Decodes chunks of long recordings on all cores; short ones are themselves spread over the cores.
    fn visit_chunks(
        &self,
        chunk_rows: usize,
        filters: &[Filter],
        chunks: &[Chunk],
        f: &mut Visitor<'_>,
    ) -> Result<(), RecordingError> {
        let chunk_bytes = chunk_rows * self.table.row_bytes;
        let decode = |chunk: &Chunk| -> Result<Vec<u8>, RecordingError> {
            let mut out = vec![0; chunk_bytes];
            self.decode_chunk(&mut chunks::Decoder::new(filters, chunk_bytes), chunk, &mut out)?;
            Ok(out)
        };
        let mut emit = |chunk: &Chunk, decoded: &[u8]| {
            let rows = chunk_rows.min((self.table.rows - chunk.first_row) as usize);
            f(chunk.first_row, Rows::new(&decoded[..rows * self.table.row_bytes], self.table.row_bytes))
        };
        for group in chunks.chunks((BLOCK_BYTES / chunk_bytes).max(1)) {
            let decoded: Vec<_> = group.par_iter().map(decode).collect::<Result<_, _>>()?;
            for (chunk, bytes) in group.iter().zip(&decoded) {
                emit(chunk, bytes)?;
            }
        }
        Ok(())
    }
}

fn shrunk(path: &Path, error: std::io::Error) -> RecordingError {
    if error.kind() == std::io::ErrorKind::UnexpectedEof {
        RecordingError::Changed { path: path.to_owned() }
    } else {
        RecordingError::io(path, error)
    }
}

/// Reads ranges of a file into one reused buffer.
struct BlockReader<'a> {
    path: &'a Path,
    file: &'a File,
    /// Where the recording begins in the file.
    base: u64,
    buffer: Vec<u8>,
}

impl BlockReader<'_> {
    fn read(&mut self, offset: u64, length: usize) -> Result<&[u8], RecordingError> {
        self.buffer.resize(length.max(self.buffer.len()), 0);
        let block = &mut self.buffer[..length];
        self.file.read_exact_at(block, self.base + offset).map_err(|error| shrunk(self.path, error))?;
        Ok(block)
    }

    fn hash_range(&mut self, hasher: &mut blake3::Hasher, start: u64, end: u64) -> Result<(), RecordingError> {
        let mut at = start;
        while at < end {
            let length = (end - at).min(BLOCK_BYTES as u64) as usize;
            hasher.update(self.read(at, length)?);
            at += length as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::{fixture_layout, write_fixture};

    #[test]
    fn what_is_found_in_a_file_that_changes_is_no_fact_about_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.hdf5");
        write_fixture(&path, 300, |row, column| (row * 100 + column) as f32);
        let open = || Reader::new(fixture_layout(), Hdf5::InProcess).open(&path.clone().into()).unwrap();
        let damaged = || RecordingError::damaged(&path, "as a decoder finds it");
        let error = open().visit(&mut |_, _| Err(damaged())).unwrap_err();
        assert!(matches!(error, RecordingError::Damaged { .. }), "{error}");
        let recording = open();
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().set_len(1 << 20).unwrap();
        for error in [
            recording.visit(&mut |_, _| Err(damaged())).unwrap_err(),
            recording.visit_hashed(&mut |_, _| Err(damaged())).map(drop).unwrap_err(),
            recording.visit(&mut |_, _| Ok(())).unwrap_err(),
        ] {
            assert!(matches!(error, RecordingError::Changed { .. }), "{error}");
        }
    }
}
