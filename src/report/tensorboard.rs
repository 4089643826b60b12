//! TensorBoard event files (tensorflow/core/util/event.proto, framework/summary.proto; records as in
//! tsl/lib/io/record_writer.h: length, masked CRC-32C of it, bytes, masked CRC-32C of them).

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use super::image;
use crate::files::sync_and_close;
use crate::metrics::Histogram;
use crate::train::{EpochRecord, Event, Examples};

const PREFIX: &str = "events.out.tfevents.";

/// Writes what a run reports to `events.out.tfevents...` in a folder.
#[derive(Debug)]
pub(super) struct TensorBoard {
    folder: PathBuf,
    first_epoch: usize,
    /// Opened with the first epoch; `None` also once it cannot be written.
    file: Option<File>,
    failed: bool,
}

impl TensorBoard {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), first_epoch: 1, file: None, failed: false }
    }

    /// Hears an event; gives a warning where the file cannot be written.
    pub(super) fn hear(&mut self, event: &Event<'_>) -> Option<String> {
        match event {
            Event::Started { first_epoch, .. } => {
                self.first_epoch = *first_epoch;
                None
            }
            Event::Epoch(record) => self.epoch(record),
            Event::Examples { epoch, examples } => self.examples(*epoch, examples),
            _ => None,
        }
    }

    /// Ends the file; gives a warning if its last bytes may not be on disk.
    pub(super) fn finish(&mut self) -> Option<String> {
        let error = sync_and_close(self.file.take()?).err()?;
        Some(format!("{}: {error}; the last TensorBoard events may be missing", self.folder.display()))
    }

    fn open(&self) -> std::io::Result<File> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let (time, pid) = (self.time_in_name(), std::process::id());
        let mut file = File::create_new(self.folder.join(format!("{PREFIX}{time:010}.{host}.{pid}.0")))?;
        let version = What::FileVersion("brain.Event:2".into());
        file.write_all(&record(&Entry { wall_time: self::now(), step: 0, what: Some(version) }))?;
        // Readers forget what a run that was stopped later than its checkpoint said of these epochs.
        let start = What::SessionLog(SessionLog { status: SessionLog::START });
        file.write_all(&record(&Entry { wall_time: self::now(), step: self.first_epoch as i64, what: Some(start) }))?;
        Ok(file)
    }

    /// Readers take files in the order of their names: a later one must not come before an earlier one, whose clock may
    /// have been ahead.
    fn time_in_name(&self) -> u64 {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let times = entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            name.strip_prefix(PREFIX)?.split('.').next()?.parse::<u64>().ok()
        });
        // More digits would sort before fewer.
        let latest = times.filter(|time| *time < 9_999_999_999).max();
        (now() as u64).max(latest.map_or(0, |time| time + 1))
    }

    fn write(&mut self, epoch: usize, values: Vec<Value>) -> Option<String> {
        if self.failed {
            return None;
        }
        let entry =
            Entry { wall_time: now(), step: epoch as i64, what: Some(What::Summary(Summary { value: values })) };
        let file = self.file.take().map_or_else(|| self.open(), Ok);
        let written = file.and_then(|mut file| file.write_all(&record(&entry)).map(|()| file));
        match written {
            Ok(file) => {
                self.file = Some(file);
                None
            }
            Err(error) => {
                self.failed = true;
                Some(format!("{}: {error}; no more TensorBoard events will be written", self.folder.display()))
            }
        }
    }

    fn epoch(&mut self, record: &EpochRecord) -> Option<String> {
        let rate = record.windows as f64 / record.train_seconds;
        let measured = record.figures.0.iter().map(|figure| (figure.tag(), figure.value));
        let others = [
            ("learning_rate", record.learning_rate),
            ("speed/windows_per_second", rate),
            ("speed/share_of_time_waiting_for_batches", record.wait_seconds / record.train_seconds),
            ("skipped/batches", record.skipped_batches as f64),
            ("skipped/steps", record.skipped_steps as f64),
        ];
        let figures = measured.chain(others.map(|(tag, value)| (tag.to_owned(), Some(value))));
        let figures = figures.filter_map(|(tag, value)| Some((tag, value.filter(|v| v.is_finite())?)));
        let values = figures.map(|(tag, value)| Value::of(&tag, Data::SimpleValue(value as f32)));
        self.write(record.epoch, values.collect())
    }

    fn examples(&mut self, epoch: usize, examples: &Examples) -> Option<String> {
        let names = &examples.joints;
        let errors = names.iter().zip(&examples.errors).filter(|(_, errors)| errors.count > 0);
        let mut values: Vec<_> = errors
            .map(|(name, errors)| Value::of(&format!("val_error_deg/{name}"), Data::Histo(errors.into())))
            .collect();
        // A long run's pictures would be larger than its checkpoints.
        let pictured = epoch <= 10 || epoch.is_multiple_of(10);
        for (i, window) in examples.windows.iter().enumerate().filter(|_| pictured) {
            if let Some(image) = image::draw(window, names, examples.rate) {
                values.push(Value::of(&format!("val_window/{}", i + 1), Data::Image(image.into())));
            }
        }
        self.write(epoch, values)
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn record(entry: &Entry) -> Vec<u8> {
    let masked = |bytes: &[u8]| crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
    let data = entry.encode_to_vec();
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), &data, &masked(&data)].concat()
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

impl SessionLog {
    const START: i32 = 1;
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(oneof = "Data", tags = "2, 4, 5")]
    data: Option<Data>,
}

impl Value {
    fn of(tag: &str, data: Data) -> Self {
        Self { tag: tag.to_owned(), data: Some(data) }
    }
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Data {
    #[prost(float, tag = "2")]
    SimpleValue(f32),
    #[prost(message, tag = "4")]
    Image(ImageProto),
    #[prost(message, tag = "5")]
    Histo(HistogramProto),
}

#[derive(Clone, PartialEq, Message)]
struct ImageProto {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    /// 3 is RGB.
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes = "vec", tag = "4")]
    encoded_image_string: Vec<u8>,
}

impl From<image::Png> for ImageProto {
    fn from(png: image::Png) -> Self {
        let [width, height] = [png.width, png.height].map(|size| size as i32);
        Self { height, width, colorspace: 3, encoded_image_string: png.bytes }
    }
}

#[derive(Clone, PartialEq, Message)]
struct HistogramProto {
    #[prost(double, tag = "1")]
    min: f64,
    #[prost(double, tag = "2")]
    max: f64,
    #[prost(double, tag = "3")]
    num: f64,
    #[prost(double, tag = "4")]
    sum: f64,
    #[prost(double, tag = "5")]
    sum_squares: f64,
    #[prost(double, repeated, tag = "6")]
    bucket_limit: Vec<f64>,
    #[prost(double, repeated, tag = "7")]
    bucket: Vec<f64>,
}

impl From<&Histogram> for HistogramProto {
    fn from(histogram: &Histogram) -> Self {
        let (bucket_limit, bucket) = histogram.bins().map(|(limit, count)| (limit, count as f64)).unzip();
        Self {
            min: histogram.smallest,
            max: histogram.largest,
            num: histogram.count as f64,
            sum: histogram.sum,
            sum_squares: histogram.sum_of_squares,
            bucket_limit,
            bucket,
        }
    }
}
