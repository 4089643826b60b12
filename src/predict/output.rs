//! Predicted angles, and the files that they are written to.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::error::PredictError;
use super::recording::Rows;
use crate::files::{followed, open_regular, put_in_place};
use crate::recording::{NewRecording, PREDICTED_BY, PREDICTED_FROM, Reader, RecordingError};

/// Angles over a recording.
#[derive(Debug, Clone)]
pub struct Prediction {
    pub(super) recording: Rows,
    /// [rows, joints], radians; zero where there is none: the first rows, which are the model's left context.
    pub angles: Vec<f32>,
    pub about: Predicted,
}

/// What was predicted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Predicted {
    #[serde(serialize_with = "crate::files::as_text")]
    pub recording: PathBuf,
    pub rows: usize,
    /// Rows with a prediction.
    pub predicted_rows: usize,
    /// Mean absolute error over predicted rows with a true pose; `None` where the recording has none.
    pub mae_deg: Option<f64>,
    /// Row of the pose that a tracking model started from, where it is not the first predicted row.
    pub started_from_row: Option<usize>,
}

impl Prediction {
    /// Fails if writing to `path` would replace something else than an earlier prediction: of the same recording, unless
    /// the path `is_named` by the user. `written` reads the files that [`save_hdf5`](Self::save_hdf5) writes.
    ///
    /// # Errors
    /// [`PredictError::Occupied`].
    pub fn check_replaces_own(&self, path: &Path, is_named: bool, written: &Reader) -> Result<(), PredictError> {
        let occupied = |by: &'static str| Err(PredictError::Occupied { path: path.to_owned(), by });
        if !path.exists() {
            return Ok(());
        }
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv")) {
            // It does not say which recording it is of.
            return if is_named && is_prediction_csv(path) { Ok(()) } else { occupied("another file") };
        }
        let place = path.to_owned().into();
        if !matches!(written.refusing_predictions().count_rows(&place), Err(RecordingError::Predicted { .. })) {
            return occupied("a file that `predict` did not write");
        }
        // A damaged prediction may be replaced.
        let Some(old) = written.open(&place).ok().filter(|_| !is_named) else { return Ok(()) };
        match &old.attributes().predicted_from {
            Some(from) if *from != self.recording.hash => occupied("the prediction of another recording"),
            None => occupied("a prediction that does not say of which recording"),
            _ => Ok(()),
        }
    }

    /// Writes the recording with its predicted angles, in the emg2pose layout.
    ///
    /// # Errors
    /// The file cannot be written; an older one is then intact.
    pub fn save_hdf5(&self, path: &Path, sample_rate: f64) -> Result<(), PredictError> {
        let Rows { time, emg, texts, .. } = &self.recording;
        let (channels, joints) = (emg.len() / time.len(), self.angles.len() / time.len());
        let mut texts = texts.clone();
        texts.push((PREDICTED_BY, format!("emg-train {}", env!("CARGO_PKG_VERSION"))));
        texts.push((PREDICTED_FROM, self.recording.hash.clone()));
        let ends = [("start", time.first()), ("end", time.last())];
        let ends = ends.into_iter().filter_map(|(name, time)| Some((name, *time?)));
        let new = NewRecording {
            emg_channels: channels,
            joint_angles: joints,
            gzip_chunk: None,
            has_checksums: true,
            texts,
            numbers: std::iter::once(("sample_rate", sample_rate)).chain(ends).collect(),
        };
        let mut bytes = Vec::with_capacity(time.len() * new.row_bytes());
        let rows = time.iter().zip(self.angles.chunks_exact(joints)).zip(emg.chunks_exact(channels));
        for ((time, angles), emg) in rows {
            bytes.extend(time.to_le_bytes());
            bytes.extend(angles.iter().chain(emg).flat_map(|value| value.to_le_bytes()));
        }
        Ok(new.write(&followed(path), bytes)?)
    }

    /// Writes times and predicted angles as CSV, with a line of names.
    ///
    /// # Errors
    /// As [`save_hdf5`](Self::save_hdf5).
    pub fn save_csv(&self, path: &Path, joints: &[String]) -> Result<(), PredictError> {
        let write = |out: &mut dyn Write| -> io::Result<()> {
            let mut table = csv::Writer::from_writer(out);
            table.write_record(std::iter::once("time").chain(joints.iter().map(String::as_str)))?;
            for (time, angles) in self.recording.time.iter().zip(self.angles.chunks_exact(joints.len())) {
                table.write_field(time.to_string())?;
                angles.iter().try_for_each(|angle| table.write_field(angle.to_string()))?;
                table.write_record(None::<&[u8]>)?;
            }
            table.flush()
        };
        Ok(put_in_place(&followed(path), write)?)
    }
}

/// Whether a CSV file begins as predictions do: with the column `time`.
fn is_prediction_csv(path: &Path) -> bool {
    let Ok(file) = open_regular(path) else { return false };
    let mut start = Vec::new();
    file.take(5).read_to_end(&mut start).is_ok() && start == b"time,"
}
