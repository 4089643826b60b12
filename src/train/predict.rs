//! Angles over whole recordings, by an exported model.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::error::TrainError;
use crate::cache::{SegmentSettings, measure, put_in_place};
use crate::config::{AxisLayout, Dtype};
use crate::metrics::Accumulator;
use crate::recording::{Hdf5, NewRecording, Place, Reader, Recording, TableLayout};
use crate::runtime::{Library, Port, Provider, Session, Tensor};

/// An exported model, ready to predict.
#[derive(Debug)]
pub struct Predictor {
    session: Session,
    window: usize,
    left_context: usize,
    joints: Vec<String>,
    /// What recordings look like, and how their statistics are taken.
    recordings: SegmentSettings,
    emg: Port,
    emg_first: bool,
    angles_first: bool,
    takes_statistics: bool,
    takes_pose: bool,
}

/// Angles over a recording.
#[derive(Debug, Clone)]
pub struct Prediction {
    recording: Rows,
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

/// A recording's rows as numbers.
#[derive(Debug, Clone)]
struct Rows {
    /// Seconds.
    time: Vec<f64>,
    /// [rows, channels], as recorded.
    emg: Vec<f32>,
    /// [rows, joints], radians; empty for a recording without.
    angles: Vec<f32>,
    /// 1 for rows whose angles can be believed, else 0.
    valid: Vec<f32>,
    /// Mean and divisor of each channel.
    statistics: [Vec<f32>; 2],
    texts: Vec<(&'static str, String)>,
}

/// Windows at once.
const BATCH: usize = 16;
/// Largest batch that a model may be fixed to.
const MOST_FIXED: usize = 1024;

impl Predictor {
    /// Loads a model that `export` wrote.
    ///
    /// # Errors
    /// The file cannot be read or loaded, or is another kind of model.
    pub fn load(library: &Library, provider: Provider, path: &Path) -> Result<Self, TrainError> {
        let refuse = |message: String| TrainError::Model { path: path.to_owned(), message };
        let onnx = std::fs::read(path).map_err(TrainError::io(path))?;
        let session = Session::new(library, provider, &onnx).map_err(|error| refuse(error.to_string()))?;
        let metadata = |name: &str| session.metadata(name);
        if metadata("form").as_deref() == Some("stream") {
            return Err(refuse(
                "a model's streaming form; predict takes one of whole windows (export without --streaming)".into(),
            ));
        }
        let needed = |name: &str| {
            metadata(name).ok_or_else(|| {
                refuse(format!("expected a model that `emg-train export` wrote, found none of its metadata `{name}`"))
            })
        };
        let number = |name: &str| -> Result<usize, TrainError> {
            let text = needed(name)?;
            text.parse().map_err(|_| refuse(format!("its metadata `{name}` is not a number: {text}")))
        };
        let (window, left_context) = (number("window")?, number("left_context")?);
        let recordings = needed("recordings")?;
        let mut recordings: SegmentSettings = serde_json::from_str(&recordings)
            .map_err(|error| refuse(format!("its metadata `recordings` is not understood: {error}")))?;
        recordings.dtype = Dtype::Float32;
        let joints: Vec<_> = needed("joints")?.split(',').map(str::to_owned).collect();
        let first = |name| metadata(name).as_deref() == Some(AxisLayout::ChannelsFirst.to_string().as_str());
        let inputs = session.inputs();
        let emg = inputs.iter().find(|port| !["emg_mean", "emg_std", "initial_pose"].contains(&port.name.as_str()));
        let emg = emg.cloned().ok_or_else(|| refuse("it has no input for EMG".into()))?;
        let takes = |name: &str| inputs.iter().any(|port| port.name == name);
        let (takes_statistics, takes_pose) = (takes("emg_mean"), takes("initial_pose"));
        let (emg_first, angles_first) = (first("emg_layout"), first("angles_layout"));
        if emg.shape.first().copied().flatten().is_some_and(|batch| batch == 0 || batch > MOST_FIXED) {
            return Err(refuse(format!("its batch is fixed to {:?}; at most {MOST_FIXED}", emg.shape[0])));
        }
        if window <= left_context || joints.len() != recordings.joint_angles_channels {
            return Err(refuse("its metadata contradicts itself".into()));
        }
        Ok(Self {
            session,
            window,
            left_context,
            joints,
            recordings,
            emg,
            emg_first,
            angles_first,
            takes_statistics,
            takes_pose,
        })
    }

    /// Names of the joint angles.
    pub fn joints(&self) -> &[String] {
        &self.joints
    }

    /// Hz.
    pub fn sample_rate(&self) -> f64 {
        self.recordings.sample_rate
    }

    /// A reader of recordings as the model's were.
    pub fn reader(&self, hdf5: Hdf5) -> Reader {
        const CHUNK_CACHE: usize = 64 << 20;
        let settings = &self.recordings;
        let layout = TableLayout {
            layout: settings.layout.clone(),
            emg_channels: settings.emg_channels,
            joint_angles: settings.joint_angles_channels,
            angles_may_miss: !self.takes_pose,
            sample_rate: settings.sample_rate,
            chunk_cache: CHUNK_CACHE,
        };
        Reader::new(layout, hdf5)
    }

    /// Fails where a recording cannot be predicted for its length, from its header alone; gives its windows.
    ///
    /// # Errors
    /// The recording's; fewer rows than a window.
    pub fn check(&self, reader: &Reader, place: &Place) -> Result<u64, TrainError> {
        let rows = reader.count_rows(place)?;
        if rows < self.window as u64 {
            return Err(TrainError::Short { path: place.label(), rows, window: self.window });
        }
        Ok(self.starts(rows as usize).len() as u64)
    }

    /// First rows of the windows over `rows` rows: each begins where its left context overlaps the one before, the last ends
    /// at the last row.
    fn starts(&self, rows: usize) -> Vec<usize> {
        let last = rows - self.window;
        (0..last).step_by(self.window - self.left_context).chain([last]).collect()
    }

    /// Predicts a recording's angles. `advanced` hears of every batch how many windows it had.
    ///
    /// # Errors
    /// The recording's or the library's; too few rows; no pose to start from.
    pub fn predict(
        &mut self,
        reader: &Reader,
        place: &Place,
        advanced: &mut dyn FnMut(u64),
    ) -> Result<Prediction, TrainError> {
        self.check(reader, place)?;
        let recording = Rows::read(&reader.open(place)?, &self.recordings)?;
        let (rows, joints) = (recording.time.len(), self.joints.len());
        let mut angles = vec![0.0; rows * joints];
        let starts = self.starts(rows);
        let mut pose = self.takes_pose.then(|| self.first_pose(&recording, place)).transpose()?;
        let started_from_row = pose.as_ref().map(|(row, _)| *row).filter(|row| *row != self.left_context);
        let mut done = self.left_context;
        for starts in starts.chunks(self.batch()) {
            let begin = pose.as_mut().map(|(_, pose)| {
                if done > self.left_context {
                    // The row before the window's first, or where the last window overlaps, that row itself.
                    let row = (starts[0] + self.left_context).min(done - 1);
                    pose.copy_from_slice(&angles[row * joints..(row + 1) * joints]);
                }
                &pose[..]
            });
            let windows = self.run(&recording, starts, begin)?;
            let of_window = (self.window - self.left_context) * joints;
            for (start, window) in starts.iter().zip(windows.chunks_exact(of_window)) {
                let end = start + self.window;
                angles[done * joints..end * joints].copy_from_slice(&window[of_window - (end - done) * joints..]);
                done = end;
            }
            advanced(starts.len() as u64);
        }
        let about = Predicted {
            recording: place.label(),
            rows,
            predicted_rows: rows - self.left_context,
            mae_deg: self.error(&recording, &angles),
            started_from_row,
        };
        Ok(Prediction { recording, angles, about })
    }

    /// Windows that run at once: one where each needs the pose that the one before ends with.
    fn batch(&self) -> usize {
        let fixed = self.emg.shape.first().and_then(|batch| *batch);
        if self.takes_pose { 1 } else { fixed.unwrap_or(BATCH) }
    }

    /// The first predicted row with a true pose, or the last one before them, and that pose.
    fn first_pose(&self, recording: &Rows, place: &Place) -> Result<(usize, Vec<f32>), TrainError> {
        let valid = |row: &usize| recording.valid[*row] > 0.0;
        let row = (self.left_context..recording.valid.len()).find(valid);
        let row = row.or_else(|| (0..self.left_context).rev().find(valid));
        let row = row.ok_or_else(|| TrainError::NoPose { path: place.label() })?;
        let joints = self.joints.len();
        Ok((row, recording.angles[row * joints..(row + 1) * joints].to_vec()))
    }

    /// The windows' predictions, end to end.
    fn run(&mut self, recording: &Rows, starts: &[usize], pose: Option<&[f32]>) -> Result<Vec<f32>, TrainError> {
        let channels = self.recordings.emg_channels;
        // A model with a fixed batch gets one that is full.
        let batch = self.emg.shape.first().copied().flatten().unwrap_or(starts.len()).max(starts.len());
        let mut emg = Vec::with_capacity(batch * self.window * channels);
        for start in starts.iter().chain(std::iter::repeat(&starts[0])).take(batch) {
            let window = &recording.emg[start * channels..(start + self.window) * channels];
            if self.emg_first {
                emg.extend((0..channels).flat_map(|channel| window.iter().skip(channel).step_by(channels)));
            } else {
                emg.extend_from_slice(window);
            }
        }
        let sizes = if self.emg_first { [channels, self.window] } else { [self.window, channels] };
        let emg = Tensor::new([batch, sizes[0], sizes[1]], emg);
        let mut inputs = vec![(self.emg.name.clone(), emg)];
        if self.takes_statistics {
            let [mean, divisor] = &recording.statistics;
            for (name, values) in [("emg_mean", mean), ("emg_std", divisor)] {
                inputs.push((name.to_owned(), Tensor::new([1, channels], values.clone())));
            }
        }
        if let Some(pose) = pose {
            inputs.push(("initial_pose".to_owned(), Tensor::new([1, self.joints.len()], pose.to_vec())));
        }
        let inputs: Vec<_> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let output = self.session.run(&inputs)?.swap_remove(0);
        let mut windows = self.rows_of(&output, batch)?;
        windows.truncate(starts.len() * (self.window - self.left_context) * self.joints.len());
        Ok(windows)
    }

    /// A model's output as rows [batch, target rows, joints]: joints last, and interpolated where it gives fewer rows.
    fn rows_of(&self, output: &Tensor, batch: usize) -> Result<Vec<f32>, TrainError> {
        let (joints, rows) = (self.joints.len(), self.window - self.left_context);
        let own = output.values.len() / (batch * joints);
        if output.values.len() != batch * joints * own || own == 0 {
            let message = format!("a model of {joints} joints gave {:?} for {batch} windows", output.shape);
            return Err(TrainError::Usage(message));
        }
        let by_joint = self.angles_first && output.shape.len() == 3;
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
        let (joints, from) = (self.joints.len(), self.left_context);
        if recording.angles.is_empty() {
            return None;
        }
        let (predicted, truth) = (&angles[from * joints..], &recording.angles[from * joints..]);
        let sums = Accumulator::of(joints, self.recordings.sample_rate, predicted, truth, &recording.valid[from..]);
        Some(sums.finish()).filter(|metrics| metrics.rows > 0).map(|metrics| metrics.mae_deg)
    }
}

impl Rows {
    fn read(recording: &Recording, settings: &SegmentSettings) -> Result<Self, TrainError> {
        let (emg, angles, time) = (recording.emg(), recording.angles(), recording.time());
        let rows = recording.rows() as usize;
        let (_, measured) = measure(recording, settings)?;
        let to_f32 = |values: &[f64]| values.iter().map(|value| *value as f32).collect();
        let attributes = recording.attributes();
        let texts = [
            ("session", &attributes.session),
            ("user", &attributes.user),
            ("stage", &attributes.stage),
            ("side", &attributes.side),
        ];
        let name = recording.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let texts = texts.into_iter().filter_map(|(key, text)| Some((key, text.clone()?)));
        let mut all = Self {
            time: Vec::with_capacity(rows),
            emg: Vec::with_capacity(rows * emg.width),
            angles: Vec::with_capacity(rows * angles.width),
            valid: vec![0.0; rows],
            statistics: [to_f32(&measured.emg.mean), to_f32(&measured.emg.divisor())],
            texts: std::iter::once(("filename", name)).chain(texts).collect(),
        };
        recording.visit(&mut |first, block| {
            for (i, row) in block.iter().enumerate() {
                emg.for_each(row, |_, value| all.emg.push(value as f32));
                angles.for_each(row, |_, value| all.angles.push(value as f32));
                match time {
                    Some(time) => time.for_each(row, |_, value| all.time.push(value)),
                    None => all.time.push((first + i as u64) as f64 / settings.sample_rate),
                }
            }
            Ok(())
        })?;
        if angles.width > 0 {
            for (start, length) in measured.valid_runs {
                all.valid[start as usize..(start + length) as usize].fill(1.0);
            }
        }
        Ok(all)
    }
}

impl Prediction {
    /// Writes the recording with its predicted angles, in the emg2pose layout.
    ///
    /// # Errors
    /// The file cannot be written; an older one is then intact.
    pub fn save_hdf5(&self, path: &Path, sample_rate: f64) -> Result<(), TrainError> {
        let Rows { time, emg, texts, .. } = &self.recording;
        let (channels, joints) = (emg.len() / time.len(), self.angles.len() / time.len());
        let mut texts = texts.clone();
        texts.push(("predicted_by", format!("emg-train {}", env!("CARGO_PKG_VERSION"))));
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
        put_in_place(path, |part| Ok(new.write(part, &bytes)?))
    }

    /// Writes times and predicted angles as CSV, with a line of names.
    ///
    /// # Errors
    /// As [`save_hdf5`](Self::save_hdf5).
    pub fn save_csv(&self, path: &Path, joints: &[String]) -> Result<(), TrainError> {
        let write = |part: &Path| -> std::io::Result<()> {
            let mut file = BufWriter::new(File::create(part)?);
            writeln!(file, "time,{}", joints.join(","))?;
            for (time, angles) in self.recording.time.iter().zip(self.angles.chunks_exact(joints.len())) {
                write!(file, "{time}")?;
                angles.iter().try_for_each(|angle| write!(file, ",{angle}"))?;
                writeln!(file)?;
            }
            file.flush()
        };
        put_in_place(path, |part| write(part).map_err(TrainError::io(path)))
    }
}
