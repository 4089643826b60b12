//! A segment: its index (segment.json), checked in full before anything is believed, and its mapped rows.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::error::CacheError;
use super::key::Key;
use super::keys::segment_key;
use super::measure::Measured;
use super::rows::{Io, StoredRows};
use super::sealed;
use super::settings::{SegmentSettings, check_version};
use super::zarr::{self, ShardShape};
use crate::statistics::{Moments, without_slack};

#[cfg(target_endian = "big")]
compile_error!("segments are little-endian and mapped as they are");

/// Bytes per hashed block of a file.
pub(crate) const BLOCK_BYTES: u64 = 16 << 20;
pub(crate) const INDEX_FILE: &str = "segment.json";
/// Positions of the shards among a segment's files.
const EMG: usize = 0;
const ANGLES: usize = 1;
pub(crate) const EMG_FILE: &str = "emg/c/0/0";
pub(crate) const ANGLES_FILE: &str = "joint_angles/c/0/0";

/// segment.json: what lies in a segment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentIndex {
    pub format: u32,
    pub normalizer: u32,
    pub settings: SegmentSettings,
    pub rows: u64,
    /// In the order of their rows, which they tile.
    #[serde(deserialize_with = "without_slack")]
    pub recordings: Vec<SegmentRecording>,
    pub(crate) files: Vec<FileBlocks>,
}

/// One recording's rows in a segment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentRecording {
    /// BLAKE3 of the recording's file.
    pub blake3: Key,
    pub first_row: u64,
    pub rows: u64,
    /// (start, length) relative to the recording.
    #[serde(deserialize_with = "without_slack")]
    pub valid_runs: Vec<(u64, u64)>,
    pub emg: Moments,
    pub joint_angles: Moments,
    pub time_gaps: u64,
    /// Joints that were not measured: not finite in any row, also where the others are valid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmeasured_joints: Vec<usize>,
}

impl SegmentRecording {
    pub(crate) fn new(blake3: Key, first_row: u64, measured: Measured) -> Self {
        let Measured { rows, valid_runs, emg, joint_angles, unmeasured_joints, time_gaps, .. } = measured;
        Self { blake3, first_row, rows, valid_runs, emg, joint_angles, time_gaps, unmeasured_joints }
    }
}

/// A file of the segment and the BLAKE3 of each of its blocks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileBlocks {
    pub(crate) path: String,
    pub(crate) bytes: u64,
    pub(crate) blocks: Vec<Key>,
}

impl SegmentIndex {
    pub fn key(&self) -> Key {
        let hashes: Vec<_> = self.recordings.iter().map(|recording| recording.blake3.clone()).collect();
        segment_key(self.normalizer, &self.settings, &hashes)
    }

    pub(crate) fn emg_shape(&self) -> ShardShape {
        ShardShape::new(self.rows, self.settings.emg_channels, self.settings.dtype)
    }

    pub(crate) fn angles_shape(&self) -> ShardShape {
        ShardShape::new(self.rows, self.settings.joint_angles_channels, self.settings.dtype)
    }

    /// The metadata files that belong to a segment of this shape.
    pub(crate) fn metadata_files(&self) -> [(&'static str, Vec<u8>); 3] {
        [
            ("zarr.json", zarr::group_metadata()),
            ("emg/zarr.json", zarr::array_metadata(self.emg_shape(), "channel")),
            ("joint_angles/zarr.json", zarr::array_metadata(self.angles_shape(), "joint")),
        ]
    }

    /// Bytes of all files beside segment.json.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Reads and checks the index of the segment at `folder`; also returns the BLAKE3 of its bytes.
    ///
    /// # Errors
    /// Unreadable, damaged, or not what the folder's name says.
    pub fn read(folder: &Path, key: &Key) -> Result<(Self, Key), CacheError> {
        let path = folder.join(INDEX_FILE);
        let mut bytes = sealed::read(&path)?;
        let hash = Key::from(blake3::hash(&bytes));
        let index = Self::parse(&path, &mut bytes)?;
        if index.key() != *key {
            return Err(CacheError::damaged(&path, format!("is the segment {}, not {key}", index.key())));
        }
        Ok((index, hash))
    }

    /// Parses and checks the bytes of an index, which change; `path` is what errors name.
    ///
    /// # Errors
    /// Damaged, of a later version, or in contradiction with itself.
    pub fn parse(path: &Path, bytes: &mut [u8]) -> Result<Self, CacheError> {
        let index: Self = sealed::unseal(bytes).map_err(|error| CacheError::damaged(path, error))?;
        index.check().map_err(|message| CacheError::damaged(path, message))?;
        Ok(index)
    }

    /// The digest detects accidental damage; this detects a forged or foreign file.
    fn check(&self) -> Result<(), String> {
        check_version(self.format, self.normalizer)?;
        let (channels, joints) = (self.settings.emg_channels, self.settings.joint_angles_channels);
        if !(1..=4096).contains(&channels) || !(1..=4096).contains(&joints) || !(1..=1 << 48).contains(&self.rows) {
            return Err(format!("{} rows of {channels} channels and {joints} joint angles are impossible", self.rows));
        }
        let mut next = 0u64;
        for (i, recording) in self.recordings.iter().enumerate() {
            if recording.first_row != next {
                return Err(format!("recording {i} starts at row {}, not {next}", recording.first_row));
            }
            recording.check(channels, joints).map_err(|message| format!("recording {i}: {message}"))?;
            next = next.checked_add(recording.rows).ok_or("too many rows")?;
        }
        if next != self.rows {
            return Err(format!("its recordings have {next} rows, not {}", self.rows));
        }
        self.check_files()
    }

    fn check_files(&self) -> Result<(), String> {
        let metadata = self.metadata_files().map(|(path, bytes)| (path, bytes.len() as u64));
        let shards = [(EMG_FILE, self.emg_shape().file_bytes()), (ANGLES_FILE, self.angles_shape().file_bytes())];
        let expected: Vec<_> = shards.into_iter().chain(metadata).collect();
        let found: Vec<_> = self.files.iter().map(|file| (file.path.as_str(), file.bytes)).collect();
        if found != expected {
            return Err(format!("expected the files {expected:?}, found {found:?}"));
        }
        match self.files.iter().find(|file| file.blocks.len() as u64 != file.bytes.div_ceil(BLOCK_BYTES)) {
            Some(file) => Err(format!("{} has {} blocks for {} bytes", file.path, file.blocks.len(), file.bytes)),
            None => Ok(()),
        }
    }

    /// Fails if a file is missing or not as long as it was written.
    ///
    /// # Errors
    /// Names the first such file.
    pub(crate) fn check_lengths(&self, folder: &Path) -> Result<(), CacheError> {
        for file in &self.files {
            let path = folder.join(&file.path);
            let bytes = std::fs::metadata(&path).map_err(CacheError::io(&path))?.len();
            if bytes != file.bytes {
                return Err(CacheError::damaged(&path, format!("expected {} bytes, found {bytes}", file.bytes)));
            }
        }
        Ok(())
    }
}

impl SegmentRecording {
    fn check(&self, channels: usize, joints: usize) -> Result<(), String> {
        if !self.emg.has_columns(channels) || !self.joint_angles.has_columns(joints) {
            return Err("the statistics have the wrong number of columns".into());
        }
        if self.emg.n > self.rows || self.joint_angles.n > self.rows {
            return Err(format!(
                "the statistics cover {} and {} rows of {}",
                self.emg.n, self.joint_angles.n, self.rows
            ));
        }
        if self.unmeasured_joints.iter().any(|joint| *joint >= joints) {
            return Err(format!("unmeasured joints {:?} of {joints}", self.unmeasured_joints));
        }
        let mut end = 0u64;
        for (start, length) in &self.valid_runs {
            let after = start.checked_add(*length).filter(|after| *after <= self.rows && *length > 0 && *start >= end);
            end = after.ok_or_else(|| format!("valid run ({start}, {length}) overlaps or leaves its rows"))?;
        }
        Ok(())
    }
}

/// An open segment: its index and its mapped rows.
#[derive(Debug)]
pub struct Segment {
    folder: PathBuf,
    index: SegmentIndex,
    emg: StoredRows,
    angles: StoredRows,
    checked: OnceLock<Result<(), String>>,
    /// For each block of both shards, whether it matches its hash, once it was compared; empty if blocks are not compared.
    compared: [Vec<OnceLock<Result<bool, String>>>; 2],
}

/// When the blocks of a segment's shards are compared with their hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// Never: what was verified when it was written or staged is believed.
    #[default]
    Off,
    /// Each when it is first read.
    FirstTouch,
    /// All of them when the segment is opened.
    Open,
}

impl Segment {
    /// Opens a segment whose index was read, with its files in `folder`: checks lengths and maps the rows. Its
    /// content is read later.
    ///
    /// # Errors
    /// A file is missing or has another length.
    pub(crate) fn open(folder: PathBuf, index: SegmentIndex, io: Io, verify: Verify) -> Result<Self, CacheError> {
        index.check_lengths(&folder)?;
        let emg = StoredRows::open(folder.join(EMG_FILE), index.emg_shape(), io)?;
        let angles = StoredRows::open(folder.join(ANGLES_FILE), index.angles_shape(), io)?;
        let blocks = |file: &FileBlocks| match verify {
            Verify::Off => Vec::new(),
            Verify::FirstTouch | Verify::Open => file.blocks.iter().map(|_| OnceLock::new()).collect(),
        };
        let compared = [blocks(&index.files[EMG]), blocks(&index.files[ANGLES])];
        let segment = Self { folder, index, emg, angles, checked: OnceLock::new(), compared };
        if verify == Verify::Open {
            for shard in [EMG, ANGLES] {
                let blocks = segment.index.files[shard].blocks.len() as u64;
                (0..blocks).into_par_iter().try_for_each(|block| segment.compare(shard, block))?;
            }
        }
        Ok(segment)
    }

    pub fn index(&self) -> &SegmentIndex {
        &self.index
    }

    /// Copies EMG rows [first, first + n) to `out` of n x channels.
    ///
    /// # Errors
    /// The shard index, checked at the first use, is damaged; with [`Io::Read`], the rows cannot be read.
    ///
    /// # Panics
    /// Rows beyond the segment's.
    pub fn copy_emg(&self, first: u64, out: &mut [f32]) -> Result<(), CacheError> {
        self.check_shard_indexes()?;
        self.compare_rows(EMG, first, size_of_val(out) as u64, &self.emg)?;
        self.emg.copy(first, out)
    }

    /// Copies joint angles likewise, in radians.
    ///
    /// # Errors
    /// As [`copy_emg`](Self::copy_emg).
    ///
    /// # Panics
    /// Rows beyond the segment's.
    pub fn copy_joint_angles(&self, first: u64, out: &mut [f32]) -> Result<(), CacheError> {
        self.check_shard_indexes()?;
        self.compare_rows(ANGLES, first, size_of_val(out) as u64, &self.angles)?;
        self.angles.copy(first, out)
    }

    /// Asks the kernel to read rows [first, first + rows) of both arrays soon, where they are not in memory already:
    /// looking costs less than advice that is not needed, which looks up every page. It looks once for some MiB, in the
    /// middle, since what lies at the ends may have been read with the neighbouring rows.
    pub fn will_need(&self, first: u64, rows: u64) {
        const ROWS_PER_LOOK: u64 = 1 << 14;
        let end = first + rows;
        let mut from = first;
        while from < end {
            let count = ROWS_PER_LOOK.min(end - from);
            if !self.emg.is_cached(from + count / 2) {
                self.emg.will_need(from, count);
                self.angles.will_need(from, count);
            }
            from += count;
        }
    }

    /// Compares the blocks that hold rows from `first` on, as many as make `bytes` of float32, if that is wanted.
    fn compare_rows(&self, shard: usize, first: u64, bytes: u64, rows: &StoredRows) -> Result<(), CacheError> {
        if self.compared[shard].is_empty() || bytes == 0 {
            return Ok(());
        }
        let (start, length) = rows.range(first, bytes);
        (start / BLOCK_BYTES..=(start + length - 1) / BLOCK_BYTES).try_for_each(|block| self.compare(shard, block))
    }

    /// Compares a block of a shard with its hash, the first time.
    fn compare(&self, shard: usize, block: u64) -> Result<(), CacheError> {
        let (file, rows) = (&self.index.files[shard], [&self.emg, &self.angles][shard]);
        let matches = self.compared[shard][block as usize].get_or_init(|| {
            let start = block * BLOCK_BYTES;
            let hash = rows.hash(start, BLOCK_BYTES.min(file.bytes - start));
            hash.map(|hash| hash == file.blocks[block as usize]).map_err(|error| error.to_string())
        });
        let message = match matches {
            Ok(true) => return Ok(()),
            Ok(false) => format!("block {block} does not match its hash; `emg-cache verify` names its recordings"),
            Err(message) => message.clone(),
        };
        Err(CacheError::damaged(&self.folder.join(&file.path), message))
    }

    fn check_shard_indexes(&self) -> Result<(), CacheError> {
        let check = || self.emg.check_index().and_then(|()| self.angles.check_index());
        let checked = self.checked.get_or_init(|| check().map_err(|error| error.to_string()));
        checked.clone().map_err(|message| CacheError::damaged(&self.folder, message))
    }
}

/// Segments by key, with the BLAKE3 of each segment.json.
pub(super) type Segments = BTreeMap<Key, (SegmentIndex, Key)>;

/// What each segment holds, sorted by key.
pub(super) fn contents_of(segments: &Segments) -> Vec<(Key, Vec<Key>)> {
    let contents = |index: &SegmentIndex| index.recordings.iter().map(|recording| recording.blake3.clone()).collect();
    segments.iter().map(|(key, (index, _))| (key.clone(), contents(index))).collect()
}

/// Where contents lie: the position of a segment among these, and what it says of the content.
pub(super) fn places_of(segments: &Segments) -> HashMap<&Key, (usize, &SegmentRecording)> {
    let indexes = segments.values().map(|(index, _)| index).enumerate();
    indexes.flat_map(|(i, index)| index.recordings.iter().map(move |content| (&content.blake3, (i, content)))).collect()
}
