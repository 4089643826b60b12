//! From recorded rows to a segment's rows: EMG normalized where it is by recording, angles cast to float32.

use std::path::Path;

use half::f16;

use super::error::CacheError;
use super::key::Key;
use super::measure::Measured;
use super::settings::SegmentSettings;
use crate::config::Dtype;
use crate::recording::{Buffer, Field, Pool, Recording, RecordingError, Rows};

/// Takes a block of EMG rows and the same rows' angles.
pub(crate) type Sink<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), CacheError> + 'a;

/// A recording that was read: short ones with their rows already encoded.
pub(crate) struct Prepared {
    pub(crate) recording: Recording,
    pub(crate) blake3: Key,
    pub(crate) measured: Measured,
    pub(crate) rows: Option<(Buffer, Buffer)>,
}

/// Buffers for encoded rows.
#[derive(Debug, Default)]
pub(crate) struct EncodedPools {
    emg: Pool,
    angles: Pool,
}

impl Prepared {
    pub(crate) fn new(
        recording: Recording,
        blake3: Key,
        measured: Measured,
        settings: &SegmentSettings,
        pools: &EncodedPools,
    ) -> Self {
        let mut prepared = Self { recording, blake3, measured, rows: None };
        if prepared.recording.is_in_memory() {
            let encoder = Encoder::new(&prepared.recording, &prepared.measured, settings);
            let rows = prepared.measured.rows as usize;
            let (emg_bytes, angle_bytes) = encoder.row_bytes();
            let (mut emg, mut angles) = (pools.emg.take(rows * emg_bytes), pools.angles.take(rows * angle_bytes));
            let whole = prepared.recording.visit(&mut |first, rows| {
                let (first, end) = (first as usize, first as usize + rows.len());
                let emg = &mut emg[first * emg_bytes..end * emg_bytes];
                encoder.encode(rows, emg, &mut angles[first * angle_bytes..end * angle_bytes])
            });
            // An error is met again, and reported, when the rows are written.
            if whole.is_ok() {
                prepared.rows = Some((emg, angles));
                prepared.recording = prepared.recording.release_rows();
            }
        }
        prepared
    }

    /// Calls `f(emg, angles)` with the rows as they stand in a segment, block by block.
    pub(crate) fn encode(&self, settings: &SegmentSettings, f: &mut Sink<'_>) -> Result<(), CacheError> {
        const BLOCK_ROWS: usize = 16_384;
        let encoder = Encoder::new(&self.recording, &self.measured, settings);
        let (emg_bytes, angle_bytes) = encoder.row_bytes();
        let (mut emg, mut angles) = (vec![0; BLOCK_ROWS * emg_bytes], vec![0; BLOCK_ROWS * angle_bytes]);
        let mut failure = None;
        self.recording
            .visit(&mut |_, rows| {
                for start in (0..rows.len()).step_by(BLOCK_ROWS) {
                    let block = rows.part(start, (start + BLOCK_ROWS).min(rows.len()));
                    let (emg, angles) = (&mut emg[..block.len() * emg_bytes], &mut angles[..block.len() * angle_bytes]);
                    encoder.encode(block, emg, angles)?;
                    if let Err(error) = f(emg, angles) {
                        let path = self.recording.path().to_owned();
                        failure = Some(error);
                        return Err(RecordingError::Changed { path });
                    }
                }
                Ok(())
            })
            .map_err(|error| failure.take().unwrap_or_else(|| error.into()))
    }
}

/// Turns rows of a recording into rows of a segment.
struct Encoder<'a> {
    path: &'a Path,
    emg: Field,
    angles: Field,
    /// Mean and divisor of each channel, where EMG is normalized by recording.
    scale: Option<(Vec<f64>, Vec<f64>)>,
    dtype: Dtype,
    /// Joints that were not measured.
    unmeasured: &'a [usize],
}

impl<'a> Encoder<'a> {
    fn new(recording: &'a Recording, measured: &'a Measured, settings: &SegmentSettings) -> Self {
        let scale = settings.emg_by_recording.then(|| (measured.emg.mean.clone(), measured.emg.divisor()));
        let (path, emg, angles) = (recording.path(), recording.emg().clone(), recording.angles().clone());
        Self { path, emg, angles, scale, dtype: settings.dtype, unmeasured: &measured.unmeasured_joints }
    }

    /// Bytes of an encoded row's EMG and angles.
    fn row_bytes(&self) -> (usize, usize) {
        (self.dtype.bytes() * self.emg.width(), self.dtype.bytes() * self.angles.width())
    }

    fn encode(&self, rows: Rows<'_>, emg: &mut [u8], angles: &mut [u8]) -> Result<(), RecordingError> {
        if self.dtype == Dtype::Float32 {
            self.encode_f32(rows, emg, angles);
            return Ok(());
        }
        /// Converted at once: what stays in the second-level cache.
        const BLOCK_ROWS: usize = 1024;
        let (emg_bytes, angle_bytes) = self.row_bytes();
        let (mut wide_emg, mut wide_angles) =
            (vec![0; 2 * BLOCK_ROWS * emg_bytes], vec![0; 2 * BLOCK_ROWS * angle_bytes]);
        for start in (0..rows.len()).step_by(BLOCK_ROWS) {
            let block = rows.part(start, (start + BLOCK_ROWS).min(rows.len()));
            let end = start + block.len();
            let (wide_emg, wide_angles) =
                (&mut wide_emg[..2 * block.len() * emg_bytes], &mut wide_angles[..2 * block.len() * angle_bytes]);
            self.encode_f32(block, wide_emg, wide_angles);
            let whole = halve(wide_emg, &mut emg[start * emg_bytes..end * emg_bytes]);
            // Angles that count were found to fit when they were measured.
            halve(wide_angles, &mut angles[start * angle_bytes..end * angle_bytes]);
            if !whole {
                return Err(RecordingError::TooLarge { path: self.path.to_owned() });
            }
        }
        Ok(())
    }

    fn encode_f32(&self, rows: Rows<'_>, emg: &mut [u8], angles: &mut [u8]) {
        match &self.scale {
            Some((mean, divisor)) => rows.scaled(&self.emg, mean, divisor, emg),
            None => rows.cast(&self.emg, emg),
        }
        // Failed rows are kept as they are: the mask, not the value, says that they failed.
        rows.cast(&self.angles, angles);
        // What was not measured is NaN, and no infinity, wherever rows are read.
        for joint in self.unmeasured {
            let values = angles.as_chunks_mut::<4>().0.iter_mut().skip(*joint).step_by(self.angles.width());
            values.for_each(|value| *value = f32::NAN.to_le_bytes());
        }
    }
}

/// Rounds float32 to float16; false if a number became infinite.
fn halve(wide: &[u8], out: &mut [u8]) -> bool {
    let mut whole = true;
    for (wide, out) in wide.as_chunks::<4>().0.iter().zip(out.as_chunks_mut::<2>().0) {
        let value = f32::from_le_bytes(*wide);
        let half = f16::from_f32(value);
        whole &= half.is_finite() || !value.is_finite();
        *out = half.to_le_bytes();
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::super::build::build;
    use super::super::events::NoEvents;
    use super::super::options::BuildOptions;
    use super::super::settings::{CacheSettings, NORMALIZER};
    use super::super::{Manifest, Store};
    use crate::cache::Assignment;
    use crate::config::SplitBy;
    use crate::config::{Config, Normalize};
    use crate::recording::{Hdf5, write_fixture};

    /// Segments of one NORMALIZER must be the same everywhere and for ever. If this test fails because rows are
    /// computed differently, raise NORMALIZER and pin the new hash.
    #[test]
    fn the_bytes_of_a_fixed_input_are_pinned_to_the_normalizers_revision() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fixed.hdf5");
        // Numbers that every machine computes alike.
        let value = |row: usize, column: usize| ((row * 37 + column * 101) % 997) as f32 / 31.0 - 16.0;
        write_fixture(&path, 3000, |row, column| if row % 500 < 20 && column < 20 { 0.0 } else { value(row, column) });
        let mut config = Config::default();
        config.data.normalize_emg = Some(Normalize::Recording);
        config.data.max_samples_for_normalize = 1000;
        let options = BuildOptions {
            settings: CacheSettings::new(&config),
            inputs: vec![path],
            segment_bytes: 1 << 30,
            skip_bad: false,
            chunk_cache: 1 << 20,
            hdf5: Hdf5::InProcess,
            metadata_columns: Default::default(),
            assignment: Assignment { ratio: [1.0, 0.0, 0.0], by: SplitBy::Recording, seed: 0 },
        };
        let root = folder.path().join("store");
        let built = build(&root, &options, &NoEvents).unwrap();
        let store = Store::open(&root).unwrap();
        let manifest = Manifest::read(&store, &built.key).unwrap();
        let hash = |file: &str| {
            let bytes = std::fs::read(store.segment_path(&manifest.segments[0].key).join(file)).unwrap();
            blake3::hash(&bytes).to_hex()[..16].to_owned()
        };
        assert_eq!(NORMALIZER, 2);
        assert_eq!([hash("emg/c/0/0"), hash("joint_angles/c/0/0")], ["ebe477e44d702b58", "ae08715c1d61da1e"]);
    }
}
