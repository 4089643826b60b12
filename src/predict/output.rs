//! Predicted angles, and the files that they are written to.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::error::PredictError;
use super::recording::Rows;
use crate::files::{FileError, put_in_place};
use crate::recording::{NewRecording, PREDICTED_BY, RecordingError};

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
    /// Writes the recording with its predicted angles, in the emg2pose layout.
    ///
    /// # Errors
    /// The file cannot be written; an older one is then intact.
    pub fn save_hdf5(&self, path: &Path, sample_rate: f64) -> Result<(), PredictError> {
        let Rows { time, emg, texts, .. } = &self.recording;
        let (channels, joints) = (emg.len() / time.len(), self.angles.len() / time.len());
        let mut texts = texts.clone();
        texts.push((PREDICTED_BY, format!("emg-train {}", env!("CARGO_PKG_VERSION"))));
        let ends = [("start", time.first()), ("end", time.last())];
        let ends = ends.into_iter().filter_map(|(name, time)| Some((name, *time?)));
        let new = NewRecording {
            emg_channels: channels,
            joint_angles: joints,
            gzip_chunk: None,
            texts,
            numbers: std::iter::once(("sample_rate", sample_rate)).chain(ends).collect(),
        };
        let mut bytes = Vec::with_capacity(time.len() * new.row_bytes());
        let rows = time.iter().zip(self.angles.chunks_exact(joints)).zip(emg.chunks_exact(channels));
        for ((time, angles), emg) in rows {
            bytes.extend(time.to_le_bytes());
            bytes.extend(angles.iter().chain(emg).flat_map(|value| value.to_le_bytes()));
        }
        let unwritten = |error: RecordingError| match error {
            RecordingError::Hdf5 { message, .. } => RecordingError::Write { path: path.to_owned(), message },
            other => other,
        };
        put_in_place(path, |part| Ok(new.write(part, &bytes).map_err(unwritten)?))
    }

    /// Writes times and predicted angles as CSV, with a line of names.
    ///
    /// # Errors
    /// As [`save_hdf5`](Self::save_hdf5).
    pub fn save_csv(&self, path: &Path, joints: &[String]) -> Result<(), PredictError> {
        let write = |part: &Path| -> csv::Result<()> {
            let mut table = csv::Writer::from_path(part)?;
            table.write_record(std::iter::once("time").chain(joints.iter().map(String::as_str)))?;
            for (time, angles) in self.recording.time.iter().zip(self.angles.chunks_exact(joints.len())) {
                table.write_field(time.to_string())?;
                angles.iter().try_for_each(|angle| table.write_field(angle.to_string()))?;
                table.write_record(None::<&[u8]>)?;
            }
            Ok(table.flush()?)
        };
        put_in_place(path, |part| Ok(write(part).map_err(|error| FileError::at(path)(error.into()))?))
    }
}
