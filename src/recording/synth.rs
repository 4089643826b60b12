//! Synthetic recordings whose angles can be learned from the EMG.
//!
//! A few smooth latent activations drive both sides: angles are a linear mixture of them, and each EMG channel
//! is white noise whose amplitude is another mixture (surface EMG is modelled as amplitude-modulated noise;
//! De Luca 1979, "Physiology and mathematics of myoelectric signals"). The mixtures depend on the seed alone,
//! so every recording of a folder obeys the same law and a model can generalize from some to the others.

use std::f64::consts::TAU;
use std::path::{Path, PathBuf};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use rayon::prelude::*;

use super::attributes::PREDICTED_BY;
use super::error::RecordingError;
use super::write::NewRecording;
use crate::files::{read_regular, replace_file};

/// What to synthesize.
#[derive(Debug, Clone, PartialEq)]
pub struct SynthOptions {
    pub recordings: usize,
    /// Seconds per recording.
    pub seconds: f64,
    pub users: usize,
    pub seed: u64,
    /// gzip (level 4) after shuffle, in chunks of this many rows; `None`: contiguous.
    pub gzip_chunk: Option<usize>,
    /// Share of rows whose angles are all zero, as where inverse kinematics failed.
    pub ik_failures: f64,
    pub emg_channels: usize,
    pub joint_angles: usize,
    /// Hz.
    pub sample_rate: f64,
}

impl Default for SynthOptions {
    fn default() -> Self {
        Self {
            recordings: 20,
            seconds: 20.0,
            users: 5,
            seed: 42,
            gzip_chunk: None,
            ik_failures: 0.05,
            emg_channels: 16,
            joint_angles: 20,
            sample_rate: 2000.0,
        }
    }
}

/// Latent activations behind the angles.
const LATENTS: usize = 6;
/// Sinusoids per latent.
const PARTIALS: usize = 4;
const STAGES: [&str; 3] = ["FingerPinches", "FistWave", "FreeMovement"];

/// The law that ties angles to EMG, shared by all recordings of one seed.
struct Mixture {
    /// [joints][latents], radians.
    angles: Vec<[f64; LATENTS]>,
    /// [channels][latents], standard deviations.
    amplitudes: Vec<[f64; LATENTS]>,
}

impl Mixture {
    fn new(options: &SynthOptions) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        let angles = (0..options.joint_angles)
            .map(|_| std::array::from_fn(|_| 0.6 * rng.sample::<f64, _>(StandardNormal)))
            .collect();
        // Each channel lies over one muscle and hears the others faintly.
        let amplitudes = (0..options.emg_channels)
            .map(|channel| {
                std::array::from_fn(|latent| {
                    let near = if channel % LATENTS == latent { 1.0 } else { 0.1 };
                    near * rng.random_range(0.5..1.0)
                })
            })
            .collect();
        Self { angles, amplitudes }
    }
}

/// Writes `options.recordings` recordings in the emg2pose layout and their metadata.csv to `folder`.
/// Synthetic recordings that are there are replaced. Returns the recordings' paths.
///
/// # Errors
/// The folder or a file cannot be written; a file of such a name is none of a synthetic recording.
pub fn synthesize(
    folder: &Path,
    options: &SynthOptions,
    done: &(dyn Fn(u64) + Sync),
) -> Result<Vec<PathBuf>, RecordingError> {
    std::fs::create_dir_all(folder).map_err(|error| RecordingError::io(folder, error))?;
    let mixture = Mixture::new(options);
    let paths: Vec<_> =
        (0..options.recordings).map(|i| folder.join(format!("{}.hdf5", Identity::new(options, i).name))).collect();
    let (table, metadata) = (folder.join("metadata.csv"), metadata(options));
    // Nothing is written before all that is there was looked at.
    check_replaceable(&table, is_own_table)?;
    (0..paths.len()).into_par_iter().try_for_each(|index| {
        let session = Identity::new(options, index).session;
        check_replaceable(&paths[index], |bytes| is_own_recording(bytes, &session))
    })?;
    (0..paths.len()).into_par_iter().try_for_each(|index| {
        replace_file(&paths[index], &recording(&paths[index], options, &mixture, index)?)?;
        done(1);
        Ok::<_, RecordingError>(())
    })?;
    replace_file(&table, &metadata)?;
    Ok(paths)
}

/// Fails if there is a file that is not this program's.
fn check_replaceable(path: &Path, is_own: impl Fn(&[u8]) -> bool) -> Result<(), RecordingError> {
    match read_regular(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(RecordingError::io(path, error)),
        Ok(bytes) if is_own(&bytes) => Ok(()),
        Ok(_) => Err(RecordingError::Exists { path: path.to_owned() }),
    }
}

/// Whether a metadata.csv lists synthetic recordings only.
fn is_own_table(bytes: &[u8]) -> bool {
    let mut table = csv::Reader::from_reader(bytes);
    let is_own = |row: csv::Result<csv::StringRecord>| {
        row.is_ok_and(|row| row.get(0).is_some_and(|session| session.starts_with(SESSION)))
    };
    table.headers().is_ok_and(|header| header == METADATA_HEADER.as_slice()) && table.records().all(is_own)
}

/// Whether an HDF5 file is the synthetic recording of this session.
fn is_own_recording(bytes: &[u8], session: &str) -> bool {
    let has = |text: &str| memchr::memmem::find(bytes, text.as_bytes()).is_some();
    bytes.starts_with(b"\x89HDF\r\n\x1a\n") && has(session) && !has(PREDICTED_BY)
}

/// Begins the names of synthetic sessions.
const SESSION: &str = "synth-";

struct Identity {
    name: String,
    session: String,
    user: String,
    stage: &'static str,
    split: &'static str,
}

impl Identity {
    fn new(options: &SynthOptions, index: usize) -> Self {
        let user = index % options.users.max(1);
        let session = format!("{SESSION}{index:05}");
        // 70 % train, 15 % validate, 15 % test, and every split is filled from three recordings on.
        let split = match index % 20 {
            1 | 8 | 15 => "val",
            2 | 9 | 16 => "test",
            _ => "train",
        };
        Self {
            name: format!("{session}_left"),
            session,
            user: format!("user{user:02}"),
            stage: STAGES[index % 3],
            split,
        }
    }
}

/// Columns of emg2pose's metadata.csv.
const METADATA_HEADER: [&str; 12] = [
    "session",
    "user",
    "stage",
    "start",
    "end",
    "side",
    "filename",
    "moving_hand",
    "held_out_user",
    "held_out_stage",
    "split",
    "generalization",
];

fn metadata(options: &SynthOptions) -> Vec<u8> {
    let write = || -> csv::Result<Vec<u8>> {
        let mut table = csv::Writer::from_writer(Vec::new());
        table.write_record(METADATA_HEADER)?;
        for index in 0..options.recordings {
            let Identity { name, session, user, stage, split } = Identity::new(options, index);
            let (start, end) = (index as f64 * 1000.0, index as f64 * 1000.0 + options.seconds);
            let (start, end) = (start.to_string(), end.to_string());
            let row =
                [&session, &user, stage, &start, &end, "left", &name, "left", "False", "False", split, "user_stage"];
            table.write_record(row)?;
        }
        table.into_inner().map_err(|error| csv::Error::from(error.into_error()))
    };
    write().expect("memory takes a table of equal rows")
}

fn recording(path: &Path, options: &SynthOptions, mixture: &Mixture, index: usize) -> Result<Vec<u8>, RecordingError> {
    let rows = ((options.seconds * options.sample_rate) as usize).max(1);
    new_recording(options, index).to_bytes(path, table_bytes(options, mixture, index, rows))
}

fn new_recording(options: &SynthOptions, index: usize) -> NewRecording<'static> {
    let Identity { name, session, user, stage, .. } = Identity::new(options, index);
    let (stage, side) = (stage.to_owned(), "left".to_owned());
    let start = index as f64 * 1000.0;
    NewRecording {
        emg_channels: options.emg_channels,
        joint_angles: options.joint_angles,
        gzip_chunk: options.gzip_chunk,
        has_checksums: false,
        texts: vec![("filename", name), ("session", session), ("stage", stage), ("user", user), ("side", side)],
        numbers: vec![("sample_rate", options.sample_rate), ("start", start), ("end", start + options.seconds)],
    }
}

/// Writes one contiguous recording of 16 channels and 20 angles whose values are `value(row, column)`, angles first.
#[cfg(test)]
pub(crate) fn write_fixture(path: &Path, rows: usize, value: impl Fn(usize, usize) -> f32) {
    let options = SynthOptions::default();
    let mut bytes = Vec::new();
    for row in 0..rows {
        bytes.extend((row as f64 / options.sample_rate).to_le_bytes());
        bytes.extend((0..36).flat_map(|column| value(row, column).to_le_bytes()));
    }
    new_recording(&options, 0).write(path, bytes).unwrap();
}

/// The table's rows: time (f8), angles (f4), EMG (f4), little-endian.
fn table_bytes(options: &SynthOptions, mixture: &Mixture, index: usize, rows: usize) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    rng.set_stream(index as u64 + 1);
    let latents = Latents::new(&mut rng);
    let failed = failed_rows(&mut rng, rows, options.ik_failures);
    let mut bytes = Vec::with_capacity(rows * (8 + 4 * (options.joint_angles + options.emg_channels)));
    for (row, failed) in failed.into_iter().enumerate() {
        let time = row as f64 / options.sample_rate;
        let activation = latents.at(time);
        let mix = |weights: &[f64; LATENTS], bias: f64| -> f64 {
            weights.iter().zip(activation).map(|(weight, latent)| weight * (latent - bias)).sum()
        };
        bytes.extend((index as f64 * 1000.0 + time).to_le_bytes());
        for weights in &mixture.angles {
            let angle = if failed { 0.0 } else { mix(weights, 0.5) as f32 };
            bytes.extend(angle.to_le_bytes());
        }
        for weights in &mixture.amplitudes {
            let noise: f64 = rng.sample(StandardNormal);
            let microvolts = 20.0 * (0.05 + mix(weights, 0.0)) * noise;
            bytes.extend((microvolts as f32).to_le_bytes());
        }
    }
    bytes
}

/// Smooth curves between 0 and 1.
struct Latents([[(f64, f64); PARTIALS]; LATENTS]);

impl Latents {
    fn new(rng: &mut ChaCha8Rng) -> Self {
        Self(std::array::from_fn(|_| std::array::from_fn(|_| (rng.random_range(0.1..0.9), rng.random_range(0.0..TAU)))))
    }

    fn at(&self, time: f64) -> [f64; LATENTS] {
        self.0.map(|partials| {
            let sum: f64 = partials.iter().map(|(hz, phase)| (TAU * hz * time + phase).sin()).sum();
            0.5 + 0.5 * (1.2 * sum / (PARTIALS as f64).sqrt()).tanh()
        })
    }
}

/// Marks stretches of 50 to 400 rows until `share` of all rows failed.
fn failed_rows(rng: &mut ChaCha8Rng, rows: usize, share: f64) -> Vec<bool> {
    let mut failed = vec![false; rows];
    let mut missing = (share.clamp(0.0, 1.0) * rows as f64) as usize;
    while missing > 0 {
        let length = rng.random_range(50..=400).min(missing);
        let start = rng.random_range(0..rows);
        for row in failed.iter_mut().skip(start).take(length) {
            missing -= usize::from(!*row && missing > 0);
            *row = true;
        }
    }
    failed
}

/// The layout of what [`write_fixture`] and [`synthesize`] write.
#[cfg(test)]
pub(crate) fn fixture_layout() -> super::TableLayout {
    super::TableLayout {
        layout: crate::config::DataConfig::default().resolved_layout().unwrap(),
        emg_channels: 16,
        joint_angles: 20,
        joints: None,
        angles_optional: false,
        accept_predicted: false,
        sample_rate: 2000.0,
        chunk_cache: 1 << 20,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::{Hdf5, Reader};

    fn rows_of(path: &Path) -> (Vec<u8>, usize) {
        let recording = Reader::new(fixture_layout(), Hdf5::InProcess).open(&path.to_owned().into()).unwrap();
        let (mut bytes, mut failed) = (Vec::new(), 0);
        recording
            .visit(&mut |_, rows| {
                for row in rows.iter() {
                    bytes.extend_from_slice(row);
                    failed += usize::from(recording.validity().is_failed(row));
                }
                Ok(())
            })
            .unwrap();
        (bytes, failed)
    }

    #[test]
    fn gzip_and_contiguous_hold_the_same_rows_and_the_share_of_failures_holds() {
        let folder = tempfile::tempdir().unwrap();
        let plain = SynthOptions { recordings: 2, seconds: 1.1, ik_failures: 0.2, ..Default::default() };
        let packed = SynthOptions { gzip_chunk: Some(489), ..plain.clone() };
        let a = synthesize(&folder.path().join("a"), &plain, &|_| ()).unwrap();
        let b = synthesize(&folder.path().join("b"), &packed, &|_| ()).unwrap();
        for (a, b) in a.iter().zip(&b) {
            let (plain, failed) = rows_of(a);
            assert_eq!(plain, rows_of(b).0);
            assert_eq!(plain.len(), 2200 * 152);
            assert_eq!(failed, 440);
        }
        assert_ne!(rows_of(&a[0]).0, rows_of(&a[1]).0);
    }

    #[test]
    fn every_split_is_filled_from_three_recordings_on() {
        for recordings in [3, 4, 10, 20] {
            let options = SynthOptions { recordings, ..Default::default() };
            let splits: Vec<_> = (0..recordings).map(|index| Identity::new(&options, index).split).collect();
            for split in ["train", "val", "test"] {
                assert!(splits.contains(&split), "{recordings}: {splits:?}");
            }
        }
    }
}
