//! Writing one segment: rows stream to both shards while their blocks are hashed.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::encode::Prepared;
use super::error::CacheError;
use super::key::Key;
use super::sealed;
use super::segment::{ANGLES_FILE, BLOCK_BYTES, EMG_FILE, FileBlocks, INDEX_FILE, SegmentIndex, SegmentRecording};
use super::settings::{FORMAT, NORMALIZER, SegmentSettings};
use super::zarr::ShardShape;
use crate::files::{open_regular, sync_and_close, sync_folder, write_synced};

/// A segment in progress, in a folder under `tmp/`.
pub(crate) struct SegmentWriter {
    folder: PathBuf,
    index: SegmentIndex,
    emg: BlockWriter,
    angles: BlockWriter,
}

impl SegmentWriter {
    pub(crate) fn create(folder: PathBuf, settings: &SegmentSettings) -> Result<Self, CacheError> {
        for file in [EMG_FILE, ANGLES_FILE] {
            let parent = folder.join(file).parent().expect("a file in a folder").to_owned();
            fs::create_dir_all(&parent).map_err(CacheError::io(&parent))?;
        }
        let index = SegmentIndex {
            format: FORMAT,
            normalizer: NORMALIZER,
            settings: settings.clone(),
            rows: 0,
            recordings: Vec::new(),
            files: Vec::new(),
        };
        let (emg, angles) = (BlockWriter::create(&folder, EMG_FILE)?, BlockWriter::create(&folder, ANGLES_FILE)?);
        Ok(Self { folder, index, emg, angles })
    }

    pub(crate) fn rows(&self) -> u64 {
        self.index.rows
    }

    /// Appends a recording.
    pub(crate) fn add(&mut self, prepared: &Prepared, settings: &SegmentSettings) -> Result<(), CacheError> {
        let recording = SegmentRecording::new(prepared.blake3.clone(), self.index.rows, prepared.measured.clone());
        self.index.rows += recording.rows;
        self.index.recordings.push(recording);
        match &prepared.rows {
            Some((emg, angles)) => self.write(emg, angles),
            None => {
                prepared.encode(settings, &mut |emg, angles| self.write(emg, angles))?;
                Ok(prepared.recording.check_unchanged()?)
            }
        }
    }

    /// Appends a recording's rows as they are in the segment in `folder`, whose settings are the same.
    pub(crate) fn copy(
        &mut self,
        folder: &Path,
        index: &SegmentIndex,
        recording: &SegmentRecording,
    ) -> Result<(), CacheError> {
        const ROWS: u64 = 1 << 14;
        let first_row = self.index.rows;
        self.index.rows += recording.rows;
        self.index.recordings.push(SegmentRecording { first_row, ..recording.clone() });
        let open = |name: &str| -> Result<(PathBuf, File), CacheError> {
            let path = folder.join(name);
            let file = open_regular(&path).map_err(CacheError::io(&path))?;
            Ok((path, file))
        };
        let (emg, angles) = (open(EMG_FILE)?, open(ANGLES_FILE)?);
        let end = recording.first_row + recording.rows;
        for first in (recording.first_row..end).step_by(ROWS as usize) {
            let rows = ROWS.min(end - first);
            let read = |(path, file): &(PathBuf, File), row_bytes: u64| {
                let mut bytes = vec![0; (rows * row_bytes) as usize];
                let done = file.read_exact_at(&mut bytes, first * row_bytes).map_err(CacheError::io(path));
                done.map(|()| bytes)
            };
            let rows = (read(&emg, index.emg_shape().row_bytes())?, read(&angles, index.angles_shape().row_bytes())?);
            self.write(&rows.0, &rows.1)?;
        }
        Ok(())
    }

    /// Appends rows of both arrays.
    fn write(&mut self, emg: &[u8], angles: &[u8]) -> Result<(), CacheError> {
        let (emg, angles) = rayon::join(|| self.emg.write(emg), || self.angles.write(angles));
        emg.and(angles)
    }

    /// Completes the files and syncs them. Returns the index, its BLAKE3 and the folder, ready to publish.
    pub(crate) fn finish(mut self) -> Result<(SegmentIndex, Key, PathBuf), CacheError> {
        let (emg, angles) = (self.index.emg_shape(), self.index.angles_shape());
        self.index.files = vec![self.emg.finish(emg)?, self.angles.finish(angles)?];
        for (path, bytes) in self.index.metadata_files() {
            write_synced(&self.folder.join(path), &bytes)?;
            let blocks = vec![blake3::hash(&bytes).into()];
            self.index.files.push(FileBlocks { path: path.into(), bytes: bytes.len() as u64, blocks });
        }
        let bytes = sealed::seal(&self.index);
        write_synced(&self.folder.join(INDEX_FILE), &bytes)?;
        for folder in ["emg/c/0", "emg/c", "emg", "joint_angles/c/0", "joint_angles/c", "joint_angles", ""] {
            sync_folder(&self.folder.join(folder))?;
        }
        Ok((self.index, blake3::hash(&bytes).into(), self.folder))
    }
}

/// A file written front to back, with the BLAKE3 of each block.
struct BlockWriter {
    name: &'static str,
    path: PathBuf,
    file: File,
    hasher: blake3::Hasher,
    bytes: u64,
    blocks: Vec<Key>,
}

impl BlockWriter {
    fn create(folder: &Path, name: &'static str) -> Result<Self, CacheError> {
        let path = folder.join(name);
        let file = File::create_new(&path).map_err(CacheError::io(&path))?;
        Ok(Self { name, path, file, hasher: blake3::Hasher::new(), bytes: 0, blocks: Vec::new() })
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), CacheError> {
        self.file.write_all(bytes).map_err(CacheError::io(&self.path))?;
        while !bytes.is_empty() {
            let room = BLOCK_BYTES - self.bytes % BLOCK_BYTES;
            let (now, later) = bytes.split_at(bytes.len().min(room as usize));
            self.hasher.update(now);
            self.bytes += now.len() as u64;
            if self.bytes.is_multiple_of(BLOCK_BYTES) {
                self.close_block();
                self.start_writeback();
            }
            bytes = later;
        }
        Ok(())
    }

    /// Lets the kernel begin to write the last block to disk, so that the sync at the end has little left to wait for.
    fn start_writeback(&self) {
        let start = (self.bytes - BLOCK_BYTES) as i64;
        // SAFETY: a plain system call on a file descriptor that is open; it touches no memory of ours. Where it fails,
        // the sync at the end does all the work.
        unsafe {
            libc::sync_file_range(self.file.as_raw_fd(), start, BLOCK_BYTES as i64, libc::SYNC_FILE_RANGE_WRITE);
        }
    }

    fn close_block(&mut self) {
        self.blocks.push(self.hasher.finalize().into());
        self.hasher.reset();
    }

    fn finish(mut self, shape: ShardShape) -> Result<FileBlocks, CacheError> {
        let zeros = vec![0; 1 << 16];
        let mut padding = shape.padding_bytes() as usize;
        while padding > 0 {
            let now = padding.min(zeros.len());
            self.write(&zeros[..now])?;
            padding -= now;
        }
        self.write(&shape.index())?;
        if !self.bytes.is_multiple_of(BLOCK_BYTES) {
            self.close_block();
        }
        assert_eq!(self.bytes, shape.file_bytes(), "every row was written");
        sync_and_close(self.file).map_err(CacheError::io(&self.path))?;
        Ok(FileBlocks { path: self.name.into(), bytes: self.bytes, blocks: self.blocks })
    }
}
