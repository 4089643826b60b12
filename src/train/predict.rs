//! Angles over whole recordings, by an exported model.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::error::TrainError;
use crate::cache::{SegmentSettings, measure};
use crate::config::{AxisLayout, Dtype, ModelType};
use crate::files::put_in_place;
use crate::metrics::Accumulator;
use crate::recording::{Hdf5, NewRecording, Place, Reader, Recording, RecordingError, TableLayout};
use crate::runtime::{Library, Provider, Session, Tensor, TensorInfo};
use crate::units::EMG_STATISTICS;

/// An exported model, ready to predict.
#[derive(Debug)]
pub struct Predictor {
    path: PathBuf,
    session: Session,
    about: About,
}

/// What an exported model says of itself.
#[derive(Debug)]
struct About {
    window: usize,
    left_context: usize,
    joints: Vec<String>,
    /// What recordings look like, and how their statistics are taken.
    recordings: SegmentSettings,
    /// The input for EMG, and whether channels, and joints, are the second axis rather than the last.
    emg: TensorInfo,
    emg_first: bool,
    angles_first: bool,
    /// A user's own model, whose output may have fewer rows.
    is_own: bool,
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
/// Most EMG values at once, in a model whose batch is fixed.
const MOST_VALUES: usize = 1 << 28;
const DEFAULTED: [&str; 3] = [EMG_STATISTICS[0], EMG_STATISTICS[1], "initial_pose"];

impl About {
    /// # Errors
    /// What is missing, or contradicts the model.
    fn read(session: &Session) -> Result<Self, String> {
        if session.metadata("form").as_deref() == Some("stream") {
            return Err("a model's streaming form; predict takes one of whole windows".into());
        }
        let needed = |name: &str| {
            let missing =
                || format!("expected a model that `emg-train export` wrote, found none of its metadata `{name}`");
            session.metadata(name).ok_or_else(missing)
        };
        let number = |name: &str| -> Result<usize, String> {
            let text = needed(name)?;
            text.parse().map_err(|_| format!("its metadata `{name}` is not a number: {text}"))
        };
        let mut recordings: SegmentSettings = serde_json::from_str(&needed("recordings")?)
            .map_err(|error| format!("its metadata `recordings` is not understood: {error}"))?;
        recordings.dtype = Dtype::Float32;
        let inputs = session.inputs();
        let takes = |name: &str| inputs.iter().any(|port| port.name == name);
        let first = |name| session.metadata(name).as_deref() == Some(&AxisLayout::ChannelsFirst.to_string());
        let emg = inputs.iter().find(|port| !DEFAULTED.contains(&port.name.as_str()));
        let about = Self {
            window: number("window")?,
            left_context: number("left_context")?,
            joints: needed("joints")?.split(',').map(str::to_owned).collect(),
            emg: emg.cloned().ok_or("it has no input for EMG")?,
            emg_first: first("emg_layout"),
            angles_first: first("angles_layout"),
            is_own: needed("architecture")? == ModelType::Onnx.to_string(),
            takes_statistics: takes(DEFAULTED[0]) && takes(DEFAULTED[1]),
            takes_pose: takes(DEFAULTED[2]),
            recordings,
        };
        about.check(&session.outputs()).map(|()| about)
    }

    /// Fails where the metadata is not of this model.
    fn check(&self, outputs: &[TensorInfo]) -> Result<(), String> {
        let (channels, joints) = (self.recordings.emg_channels, self.joints.len());
        if self.window <= self.left_context || joints != self.recordings.joint_angles_channels {
            let (window, context) = (self.window, self.left_context);
            return Err(format!(
                "its metadata contradicts itself: window {window}, left context {context}, {joints} joints"
            ));
        }
        let fits = |shape: &[Option<usize>], wanted: [usize; 2]| {
            shape.len() == 3 && shape[1..].iter().zip(wanted).all(|(dim, wanted)| dim.is_none_or(|dim| dim == wanted))
        };
        let taken = if self.emg_first { [channels, self.window] } else { [self.window, channels] };
        if !fits(&self.emg.shape, taken) {
            return Err(format!("its metadata says {taken:?} EMG values a window, its input is {}", shape(&self.emg)));
        }
        let given = [self.window - self.left_context, joints];
        if let Some(output) = outputs.first().filter(|output| !self.is_own && !fits(&output.shape, given)) {
            return Err(format!("its metadata says {given:?} angles a window, its output is {}", shape(output)));
        }
        let batch = self.fixed_batch().unwrap_or(1);
        if batch == 0 || (self.takes_pose && batch > 1) || batch.saturating_mul(self.window * channels) > MOST_VALUES {
            return Err(format!("its batch is fixed to {batch} windows, which predict does not take"));
        }
        Ok(())
    }

    fn fixed_batch(&self) -> Option<usize> {
        self.emg.shape.first().copied().flatten()
    }

    /// First rows of the windows over `rows` rows: each begins where its left context overlaps the one before, the last ends
    /// at the last row.
    fn starts(&self, rows: usize) -> Vec<usize> {
        let last = rows - self.window;
        (0..last).step_by(self.window - self.left_context).chain([last]).collect()
    }
}

/// A shape as people write it.
fn shape(port: &TensorInfo) -> String {
    let dims: Vec<_> = port.shape.iter().map(|dim| dim.map_or("batch".to_owned(), |dim| dim.to_string())).collect();
    format!("{} [{}]", port.name, dims.join(", "))
}

impl Predictor {
    /// Loads a model that `export` wrote.
    ///
    /// # Errors
    /// The file cannot be read or loaded, or is another kind of model.
    pub fn load(library: &Library, provider: Provider, path: &Path) -> Result<Self, TrainError> {
        let refuse = |message: String| TrainError::Model { path: path.to_owned(), message };
        let onnx = std::fs::read(path).map_err(TrainError::io(path))?;
        let session = Session::new(library, provider, &onnx).map_err(|error| refuse(error.to_string()))?;
        let about = About::read(&session).map_err(refuse)?;
        Ok(Self { path: path.to_owned(), session, about })
    }

    /// Names of the joint angles.
    pub fn joints(&self) -> &[String] {
        &self.about.joints
    }

    /// Hz.
    pub fn sample_rate(&self) -> f64 {
        self.about.recordings.sample_rate
    }

    /// A reader of recordings as the model's were.
    pub fn reader(&self, hdf5: Hdf5) -> Reader {
        const CHUNK_CACHE: usize = 64 << 20;
        let settings = &self.about.recordings;
        let layout = TableLayout {
            layout: settings.layout.clone(),
            emg_channels: settings.emg_channels,
            joint_angles: settings.joint_angles_channels,
            angles_may_miss: !self.about.takes_pose,
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
        if rows < self.about.window as u64 {
            return Err(TrainError::Short { path: place.label(), rows, window: self.about.window });
        }
        Ok(self.about.starts(rows as usize).len() as u64)
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
        let recording = Rows::read(&reader.open(place)?, &self.about.recordings)?;
        let (rows, joints) = (recording.time.len(), self.about.joints.len());
        let mut angles = vec![0.0; rows * joints];
        let starts = self.about.starts(rows);
        let mut pose = self.about.takes_pose.then(|| self.first_pose(&recording, place)).transpose()?;
        let started_from_row = pose.as_ref().map(|(row, _)| *row).filter(|row| *row != self.about.left_context);
        let mut done = self.about.left_context;
        for starts in starts.chunks(self.batch()) {
            let begin = pose.as_mut().map(|(_, pose)| {
                if done > self.about.left_context {
                    // The row before the window's first, or where the last window overlaps, that row itself.
                    let row = (starts[0] + self.about.left_context).min(done - 1);
                    pose.copy_from_slice(&angles[row * joints..(row + 1) * joints]);
                }
                &pose[..]
            });
            let windows = self.run(&recording, starts, begin)?;
            let of_window = (self.about.window - self.about.left_context) * joints;
            for (start, window) in starts.iter().zip(windows.chunks_exact(of_window)) {
                let end = start + self.about.window;
                angles[done * joints..end * joints].copy_from_slice(&window[of_window - (end - done) * joints..]);
                done = end;
            }
            advanced(starts.len() as u64);
        }
        if let Some(at) = angles.iter().position(|angle| !angle.is_finite()) {
            return Err(TrainError::NotFinitePrediction { path: place.label(), row: at / joints });
        }
        let about = Predicted {
            recording: place.label(),
            rows,
            predicted_rows: rows - self.about.left_context,
            mae_deg: self.error(&recording, &angles),
            started_from_row,
        };
        Ok(Prediction { recording, angles, about })
    }

    /// Windows that run at once: one where each needs the pose that the one before ends with.
    fn batch(&self) -> usize {
        if self.about.takes_pose { 1 } else { self.about.fixed_batch().unwrap_or(BATCH) }
    }

    /// The row with a true pose that is nearest to the first predicted one, and that pose.
    fn first_pose(&self, recording: &Rows, place: &Place) -> Result<(usize, Vec<f32>), TrainError> {
        let (first, joints) = (self.about.left_context, self.about.joints.len());
        let valid = (0..recording.valid.len()).filter(|row| recording.valid[*row] > 0.0);
        let row = valid.min_by_key(|row| row.abs_diff(first));
        let row = row.ok_or_else(|| TrainError::NoPose { path: place.label() })?;
        Ok((row, recording.angles[row * joints..(row + 1) * joints].to_vec()))
    }

    /// The windows' predictions, end to end.
    fn run(&mut self, recording: &Rows, starts: &[usize], pose: Option<&[f32]>) -> Result<Vec<f32>, TrainError> {
        let channels = self.about.recordings.emg_channels;
        // A model with a fixed batch gets one that is full.
        let batch = self.about.fixed_batch().unwrap_or(starts.len());
        let mut emg = Vec::with_capacity(batch * self.about.window * channels);
        for start in starts.iter().chain(std::iter::repeat(&starts[0])).take(batch) {
            let window = &recording.emg[start * channels..(start + self.about.window) * channels];
            if self.about.emg_first {
                emg.extend((0..channels).flat_map(|channel| window.iter().skip(channel).step_by(channels)));
            } else {
                emg.extend_from_slice(window);
            }
        }
        let sizes = if self.about.emg_first { [channels, self.about.window] } else { [self.about.window, channels] };
        let emg = Tensor::new([batch, sizes[0], sizes[1]], emg);
        let mut inputs = vec![(self.about.emg.name.clone(), emg)];
        if self.about.takes_statistics {
            let [mean, divisor] = &recording.statistics;
            for (name, values) in EMG_STATISTICS.into_iter().zip([mean, divisor]) {
                inputs.push((name.to_owned(), Tensor::new([1, channels], values.clone())));
            }
        }
        if let Some(pose) = pose {
            inputs.push(("initial_pose".to_owned(), Tensor::new([1, self.about.joints.len()], pose.to_vec())));
        }
        let inputs: Vec<_> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let failed = |message: String| TrainError::Model { path: self.path.clone(), message };
        let output = self.session.run(&inputs).map_err(|error| failed(error.to_string()))?.swap_remove(0);
        let mut windows = self.rows_of(&output, batch)?;
        windows.truncate(starts.len() * (self.about.window - self.about.left_context) * self.about.joints.len());
        Ok(windows)
    }

    /// A model's output as rows [batch, target rows, joints]: joints last, and interpolated where it gives fewer rows.
    fn rows_of(&self, output: &Tensor, batch: usize) -> Result<Vec<f32>, TrainError> {
        let (joints, rows) = (self.about.joints.len(), self.about.window - self.about.left_context);
        let own = output.values.len() / (batch * joints);
        if output.values.len() != batch * joints * own || own == 0 || (own != rows && !self.about.is_own) {
            let message = format!(
                "expected {rows} rows of {joints} angles for each of {batch} windows, found {:?}",
                output.shape
            );
            return Err(TrainError::Model { path: self.path.clone(), message });
        }
        let by_joint = self.about.angles_first && output.shape.len() == 3;
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
        let (joints, from) = (self.about.joints.len(), self.about.left_context);
        if recording.angles.is_empty() {
            return None;
        }
        let (predicted, truth) = (&angles[from * joints..], &recording.angles[from * joints..]);
        let sums =
            Accumulator::of(joints, self.about.recordings.sample_rate, predicted, truth, &recording.valid[from..]);
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
