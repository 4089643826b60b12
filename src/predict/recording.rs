//! A recording as a model takes it.

use super::error::PredictError;
use crate::cache::{Cache, SegmentSettings, measure};
use crate::config::Normalize;
use crate::dataset::valid_ranges;
use crate::recording::Recording;
use crate::units::Affine;

/// A recording's rows as numbers.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    /// Seconds.
    pub(super) time: Vec<f64>,
    /// [rows, channels], as recorded.
    pub(super) emg: Vec<f32>,
    /// [rows, joints], radians; empty for a recording without.
    pub(super) angles: Vec<f32>,
    /// 1 for rows whose angles can be believed, else 0.
    pub(super) valid: Vec<f32>,
    /// Of each channel.
    pub(super) statistics: Affine,
    pub(super) texts: Vec<(&'static str, String)>,
    /// BLAKE3 of the recording, in hexadecimal digits.
    pub(super) hash: String,
}

impl Rows {
    /// Rows of a cached recording, as recorded. Joints that were not measured are NaN in the cache, too.
    pub(super) fn cached(cache: &Cache, recording: usize, start: u64, rows: usize) -> Result<Self, PredictError> {
        let settings = &cache.manifest().settings;
        let (channels, joints) = (settings.emg_channels, settings.joint_angles_channels);
        let recording = cache.recording(recording);
        let segment = cache.segment(recording.segment);
        let mut window = Self {
            time: Vec::new(),
            emg: vec![0.0; rows * channels],
            angles: vec![0.0; rows * joints],
            valid: vec![0.0; rows],
            statistics: Affine::new(&recording.content.emg),
            texts: Vec::new(),
            hash: String::new(),
        };
        let first = recording.content.first_row + start;
        segment.copy_emg(first, &mut window.emg)?;
        if settings.normalize_emg == Normalize::Recording {
            let Affine { mean, divisor } = &window.statistics;
            for row in window.emg.chunks_exact_mut(channels) {
                row.iter_mut().zip(mean.iter().zip(divisor)).for_each(|(x, (mean, divisor))| *x = *x * divisor + mean);
            }
        }
        segment.copy_joint_angles(first, &mut window.angles)?;
        let runs = valid_ranges(&recording.content.valid_runs, start as i64, rows);
        runs.for_each(|range| window.valid[range].fill(1.0));
        Ok(window)
    }

    pub(super) fn read(recording: &Recording, settings: &SegmentSettings) -> Result<Self, PredictError> {
        let (emg, angles, time) = (recording.emg(), recording.angles(), recording.time());
        let rows = recording.rows() as usize;
        let (hash, measured) = measure(recording, settings)?;
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
            emg: Vec::with_capacity(rows * emg.width()),
            angles: Vec::with_capacity(rows * angles.width()),
            valid: vec![0.0; rows],
            statistics: Affine::new(&measured.emg),
            texts: std::iter::once(("filename", name)).chain(texts).collect(),
            hash: hash.to_hex().to_string(),
        };
        recording.visit(&mut |first, block| {
            for (i, row) in block.iter().enumerate() {
                emg.for_each(row, |_, value| all.emg.push(value as f32));
                angles.for_each(row, |_, value| all.angles.push(value as f32));
                match time {
                    Some(time) => time.field.for_each(row, |_, value| all.time.push(value * measured.time_unit)),
                    None => all.time.push((first + i as u64) as f64 / settings.sample_rate),
                }
            }
            Ok(())
        })?;
        for joint in &measured.unmeasured_joints {
            all.angles.iter_mut().skip(*joint).step_by(angles.width()).for_each(|angle| *angle = f32::NAN);
        }
        if angles.width() > 0 {
            for (start, length) in measured.valid_runs {
                all.valid[start as usize..(start + length) as usize].fill(1.0);
            }
        }
        Ok(all)
    }
}
