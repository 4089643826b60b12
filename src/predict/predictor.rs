//! A model that predicts recordings, window after window.

use std::path::{Path, PathBuf};

use super::error::PredictError;
use super::output::{Predicted, Prediction};
use super::recording::Rows;
use super::signature::Signature;
use crate::config::DataConfig;
use crate::digest::{ModelState, check_model};
use crate::files::{FileError, read_regular};
use crate::metrics::Accumulator;
use crate::ports::INITIAL_POSE;
use crate::recording::{Hdf5, Place, Reader, TableLayout};
use crate::runtime::{Library, Provider, Session, Tensor};
use crate::units::{Affine, EMG_STATISTICS};

/// An exported model, ready to predict.
#[derive(Debug)]
pub struct Predictor {
    path: PathBuf,
    session: Session,
    signature: Signature,
}

/// Bytes of HDF5's chunk cache.
const CHUNK_CACHE: usize = 64 << 20;
/// Names and tensors.
pub(super) type Inputs = Vec<(String, Tensor)>;
/// Windows at once.
const BATCH: usize = 16;

impl Predictor {
    /// Loads a model that `export` wrote.
    ///
    /// # Errors
    /// The file cannot be read or loaded, or is another kind of model.
    pub fn load(library: &Library, provider: Provider, path: &Path) -> Result<Self, PredictError> {
        let onnx = read_regular(path).map_err(FileError::at(path))?;
        if check_model(&onnx) == ModelState::Damaged {
            return Err(PredictError::Damaged { path: path.to_owned() });
        }
        Self::new(library, provider, path, &onnx)
    }

    /// A model that messages call `path`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(super) fn new(library: &Library, provider: Provider, path: &Path, onnx: &[u8]) -> Result<Self, PredictError> {
        let session = Session::new(library, provider, onnx)
            .map_err(|source| PredictError::Load { path: path.to_owned(), source })?;
        let signature =
            Signature::read(&session).map_err(|source| PredictError::Signature { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), session, signature })
    }

    /// Rows of a window.
    pub(super) fn window(&self) -> usize {
        self.signature.window
    }

    /// Names of the joint angles.
    pub fn joints(&self) -> &[String] {
        &self.signature.joints
    }

    /// Hz.
    pub fn sample_rate(&self) -> f64 {
        self.signature.recordings.sample_rate
    }

    /// A reader of recordings as the model's were.
    pub fn reader(&self, hdf5: Hdf5) -> Reader {
        let settings = &self.signature.recordings;
        let layout = settings.table_layout(CHUNK_CACHE);
        let layout = TableLayout { angles_optional: !self.signature.takes_pose, accept_predicted: true, ..layout };
        Reader::new(layout, hdf5)
    }

    /// A reader of the files that predictions are written to.
    pub fn reader_of_predictions(&self, hdf5: Hdf5) -> Reader {
        let settings = &self.signature.recordings;
        let layout = DataConfig::default().resolved_layout().expect("a built-in layout is valid");
        let layout = TableLayout {
            layout,
            joint_angles: self.signature.joints.len(),
            joints: None,
            angles_optional: true,
            accept_predicted: true,
            ..settings.table_layout(CHUNK_CACHE)
        };
        Reader::new(layout, hdf5)
    }

    /// Fails where a recording cannot be predicted for its length, from its header alone; gives its windows.
    ///
    /// # Errors
    /// The recording's; fewer rows than a window.
    pub fn check(&self, reader: &Reader, place: &Place) -> Result<u64, PredictError> {
        let rows = reader.count_rows(place)?;
        if rows < self.signature.window as u64 {
            return Err(PredictError::Short { path: place.label(), rows, window: self.signature.window });
        }
        Ok(self.signature.starts(rows as usize).len() as u64)
    }

    /// Predicts a recording's angles. `advanced` is called with the number of windows of each batch.
    ///
    /// # Errors
    /// The recording's or the library's; too few rows; no pose to start from.
    pub fn predict(
        &mut self,
        reader: &Reader,
        place: &Place,
        advanced: &mut dyn FnMut(u64),
    ) -> Result<Prediction, PredictError> {
        self.check(reader, place)?;
        let recording = Rows::read(&reader.open(place)?, &self.signature.recordings)?;
        let (rows, joints) = (recording.time.len(), self.signature.joints.len());
        let mut angles = vec![0.0; rows * joints];
        let starts = self.signature.starts(rows);
        let mut pose = match self.signature.takes_pose {
            true => Some(self.first_pose(&recording).ok_or_else(|| PredictError::NoPose { path: place.label() })?),
            false => None,
        };
        let started_from_row = pose.as_ref().map(|(row, _)| *row).filter(|row| *row != self.signature.left_context);
        let mut done = self.signature.left_context;
        for starts in starts.chunks(self.batch()) {
            let begin = pose.as_mut().map(|(_, pose)| {
                if done > self.signature.left_context {
                    // The row before the window's first, or where the last window overlaps, that row itself.
                    let row = (starts[0] + self.signature.left_context).min(done - 1);
                    pose.copy_from_slice(&angles[row * joints..(row + 1) * joints]);
                }
                &pose[..]
            });
            let windows = self.run(&recording, starts, begin)?;
            let of_window = self.signature.predicted() * joints;
            for (start, window) in starts.iter().zip(windows.chunks_exact(of_window)) {
                let end = start + self.signature.window - self.signature.right_context;
                angles[done * joints..end * joints].copy_from_slice(&window[of_window - (end - done) * joints..]);
                done = end;
            }
            advanced(starts.len() as u64);
        }
        if let Some(at) = angles.iter().position(|angle| !angle.is_finite()) {
            return Err(PredictError::NotFinite { path: place.label(), row: at / joints });
        }
        let about = Predicted {
            recording: place.label(),
            rows,
            predicted_rows: rows - self.signature.left_context - self.signature.right_context,
            mae_deg: self.error(&recording, &angles),
            started_from_row,
        };
        Ok(Prediction { recording, angles, about })
    }

    /// The angles of a window alone [rows, joints], with zeros where it has none.
    pub(super) fn predict_window(&mut self, inputs: &Inputs) -> Result<Vec<f32>, PredictError> {
        let predicted = self.run_inputs(inputs, 1)?;
        let joints = self.signature.joints.len();
        let mut angles = vec![0.0; self.signature.window * joints];
        let first = self.signature.left_context * joints;
        angles[first..first + predicted.len()].copy_from_slice(&predicted);
        Ok(angles)
    }

    /// What the model takes of a window alone, a tracking model the pose of the valid row that is nearest to its first angles;
    /// `None` where it finds none.
    pub(super) fn window_inputs(&self, window: &Rows) -> Option<Inputs> {
        if !self.signature.takes_pose {
            return Some(self.inputs(window, &[0], None));
        }
        self.first_pose(window).map(|(_, pose)| self.inputs(window, &[0], Some(&pose)))
    }

    /// Angles that a window has.
    pub(super) fn window_angles(&self) -> usize {
        self.signature.predicted() * self.signature.joints.len()
    }

    /// Windows that run at once: one where each needs the pose that the one before ends with.
    fn batch(&self) -> usize {
        if self.signature.takes_pose { 1 } else { self.signature.fixed_batch().unwrap_or(BATCH) }
    }

    /// The row with a true pose that is nearest to the first predicted one, and that pose.
    fn first_pose(&self, recording: &Rows) -> Option<(usize, Vec<f32>)> {
        let (first, joints) = (self.signature.left_context, self.signature.joints.len());
        let valid = (0..recording.valid.len()).filter(|row| recording.valid[*row] > 0.0);
        let row = valid.min_by_key(|row| row.abs_diff(first));
        let row = row?;
        let pose = &recording.angles[row * joints..(row + 1) * joints];
        // A joint that was not measured starts from 0, as in training.
        Some((row, pose.iter().map(|angle| if angle.is_nan() { 0.0 } else { *angle }).collect()))
    }

    /// The windows' predictions, end to end.
    fn run(&mut self, recording: &Rows, starts: &[usize], pose: Option<&[f32]>) -> Result<Vec<f32>, PredictError> {
        let inputs = self.inputs(recording, starts, pose);
        self.run_inputs(&inputs, starts.len())
    }

    /// What the model takes, by name.
    fn inputs(&self, recording: &Rows, starts: &[usize], pose: Option<&[f32]>) -> Inputs {
        let channels = self.signature.recordings.emg_channels;
        // A model with a fixed batch gets one that is full.
        let batch = self.signature.fixed_batch().unwrap_or(starts.len());
        let mut emg = Vec::with_capacity(batch * self.signature.window * channels);
        for start in starts.iter().chain(std::iter::repeat(&starts[0])).take(batch) {
            let window = &recording.emg[start * channels..(start + self.signature.window) * channels];
            if self.signature.emg_first {
                emg.extend((0..channels).flat_map(|channel| window.iter().skip(channel).step_by(channels)));
            } else {
                emg.extend_from_slice(window);
            }
        }
        let sizes = if self.signature.emg_first {
            [channels, self.signature.window]
        } else {
            [self.signature.window, channels]
        };
        let emg = Tensor::new([batch, sizes[0], sizes[1]], emg);
        let mut inputs = vec![(self.signature.emg.name.clone(), emg)];
        if self.signature.takes_statistics {
            let Affine { mean, divisor } = &recording.statistics;
            for (name, values) in EMG_STATISTICS.into_iter().zip([mean, divisor]) {
                let times = self.signature.statistics_rows.unwrap_or(batch);
                inputs.push((name.to_owned(), Tensor::new([times, channels], values.repeat(times))));
            }
        }
        if let Some(pose) = pose {
            inputs.push((INITIAL_POSE.to_owned(), Tensor::new([1, self.signature.joints.len()], pose.to_vec())));
        }
        inputs
    }

    /// The predictions of so many windows.
    fn run_inputs(&mut self, inputs: &Inputs, windows: usize) -> Result<Vec<f32>, PredictError> {
        let batch = inputs[0].1.shape[0];
        let inputs: Vec<_> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let failed = |source| PredictError::Load { path: self.path.clone(), source };
        let output = self.session.run(&inputs).map_err(failed)?.swap_remove(0);
        let mut predicted = self.rows_of(&output, batch)?;
        predicted.truncate(windows * self.signature.predicted() * self.signature.joints.len());
        Ok(predicted)
    }

    /// A model's output as rows [batch, target rows, joints]: joints last, and interpolated where it gives fewer rows.
    fn rows_of(&self, output: &Tensor, batch: usize) -> Result<Vec<f32>, PredictError> {
        let (joints, rows) = (self.signature.joints.len(), self.signature.predicted());
        let own = output.values.len() / (batch * joints);
        if output.values.len() != batch * joints * own || own == 0 || (own != rows && !self.signature.is_own) {
            let (path, found) = (self.path.clone(), output.shape.clone());
            return Err(PredictError::Output { path, rows, joints, windows: batch, found });
        }
        let by_joint = self.signature.angles_first && output.shape.len() == 3;
        let value = |window: usize, row: usize, joint: usize| {
            let within = if by_joint { joint * own + row } else { row * joints + joint };
            output.values[window * own * joints + within]
        };
        if own == rows && !by_joint {
            return Ok(output.values.clone());
        }
        let mut all = Vec::with_capacity(batch * rows * joints);
        for window in 0..batch {
            for row in 0..rows {
                let at = ((row as f64 + 0.5) * own as f64 / rows as f64 - 0.5).clamp(0.0, (own - 1) as f64);
                let (low, share) = (at as usize, (at - at.floor()) as f32);
                let high = (low + 1).min(own - 1);
                all.extend((0..joints).map(|joint| {
                    let (from, to) = (value(window, low, joint), value(window, high, joint));
                    from + (to - from) * share
                }));
            }
        }
        Ok(all)
    }

    fn error(&self, recording: &Rows, angles: &[f32]) -> Option<f64> {
        if recording.angles.is_empty() {
            return None;
        }
        self.errors(recording, angles).mae_deg()
    }

    /// How far angles [rows, joints] are from the recording's.
    pub(super) fn errors(&self, recording: &Rows, angles: &[f32]) -> Accumulator {
        let (joints, from) = (self.signature.joints.len(), self.signature.left_context);
        let until = recording.valid.len() - self.signature.right_context;
        let [predicted, truth] = [angles, &recording.angles].map(|angles| &angles[from * joints..until * joints]);
        let valid = &recording.valid[from..until];
        Accumulator::of(joints, self.signature.recordings.sample_rate, predicted, truth, valid)
    }
}
