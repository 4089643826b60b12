//! From recorded rows to a segment's rows: EMG normalized where it is by recording, angles cast to float32.

use super::error::CacheError;
use super::keys::Key;
use super::measure::Measured;
use super::settings::SegmentSettings;
use crate::recording::{Recording, RecordingError, Rows};

/// Takes a block of EMG rows and the same rows' angles.
pub(crate) type Sink<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), CacheError> + 'a;

/// A recording that was read: short ones with their rows already encoded.
pub(crate) struct Prepared {
    pub(crate) recording: Recording,
    pub(crate) blake3: Key,
    pub(crate) measured: Measured,
    pub(crate) rows: Option<(Vec<u8>, Vec<u8>)>,
}

impl Prepared {
    pub(crate) fn new(recording: Recording, blake3: Key, measured: Measured, settings: &SegmentSettings) -> Self {
        let mut prepared = Self { recording, blake3, measured, rows: None };
        if prepared.recording.is_in_memory() {
            let (mut emg, mut angles) = (Vec::new(), Vec::new());
            let whole = prepared.encode(settings, &mut |e, a| {
                emg.extend_from_slice(e);
                angles.extend_from_slice(a);
                Ok(())
            });
            // An error is met again, and reported, when the rows are written.
            prepared.rows = whole.is_ok().then_some((emg, angles));
            if prepared.rows.is_some() {
                prepared.recording = prepared.recording.without_rows();
            }
        }
        prepared
    }

    /// Calls `f(emg, angles)` with the rows as they stand in a segment, block by block.
    pub(crate) fn encode(&self, settings: &SegmentSettings, f: &mut Sink<'_>) -> Result<(), CacheError> {
        const BLOCK_ROWS: usize = 16_384;
        let encoder = Encoder::new(&self.recording, &self.measured, settings);
        let (mut emg, mut angles) = (Vec::new(), Vec::new());
        let mut failure = None;
        self.recording
            .visit(&mut |_, rows| {
                for start in (0..rows.len()).step_by(BLOCK_ROWS) {
                    emg.clear();
                    angles.clear();
                    for i in start..(start + BLOCK_ROWS).min(rows.len()) {
                        encoder.push(rows, i, &mut emg, &mut angles);
                    }
                    if let Err(error) = f(&emg, &angles) {
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
    recording: &'a Recording,
    mean: Vec<f64>,
    divisor: Vec<f64>,
}

impl<'a> Encoder<'a> {
    fn new(recording: &'a Recording, measured: &Measured, settings: &SegmentSettings) -> Self {
        let channels = recording.emg().width;
        let (mean, divisor) = if settings.emg_by_recording {
            (measured.emg.mean.clone(), measured.emg.divisor())
        } else {
            (vec![0.0; channels], vec![1.0; channels])
        };
        Self { recording, mean, divisor }
    }

    fn push(&self, rows: Rows<'_>, i: usize, emg: &mut Vec<u8>, angles: &mut Vec<u8>) {
        let row = rows.row(i);
        self.recording.emg().for_each(row, |channel, value| {
            let scaled = (value - self.mean[channel]) / self.divisor[channel];
            emg.extend_from_slice(&(scaled as f32).to_le_bytes());
        });
        // Failed rows are kept as they are: the mask, not the value, says that they failed.
        self.recording.angles().for_each(row, |_, value| angles.extend_from_slice(&(value as f32).to_le_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::super::build::{BuildOptions, NoEvents, build};
    use super::super::settings::{CacheSettings, NORMALIZER};
    use super::super::{Manifest, Store};
    use crate::cache::Split;
    use crate::config::{Config, Normalize};
    use crate::recording::write_fixture;

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
            splitter: Box::new(|candidates| Ok(vec![Split::Train; candidates.len()])),
        };
        let root = folder.path().join("store");
        let built = build(&root, &options, &NoEvents).unwrap();
        let store = Store::open(&root).unwrap();
        let manifest = Manifest::read(&store, &built.key).unwrap();
        let hash = |file: &str| {
            let bytes = std::fs::read(store.segment_path(&manifest.segments[0].key).join(file)).unwrap();
            blake3::hash(&bytes).to_hex()[..16].to_owned()
        };
        assert_eq!(NORMALIZER, 1);
        assert_eq!([hash("emg/c/0/0"), hash("joint_angles/c/0/0")], ["5dcae34355322681", "ae08715c1d61da1e"]);
    }
}
