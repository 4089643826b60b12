//! What determines a cache's content beside the recordings.

use serde::{Deserialize, Serialize};

use super::split::Split;
use crate::config::{Config, Dtype, Layout, Normalize, Statistics, chosen_names};
use crate::recording::TableLayout;

/// Format of the store. Raised when files change their meaning.
pub(crate) const FORMAT: u32 = 1;
/// Revision of the code that turns recordings into rows. Raised by hand when the same recordings would give
/// other bytes; a test pins the hash of a fixed input's segment to it. Caches of earlier revisions are read for ever.
pub const NORMALIZER: u32 = 2;

/// Fails for what this version cannot read.
pub(super) fn check_version(format: u32, normalizer: u32) -> Result<(), String> {
    if format == FORMAT && normalizer <= NORMALIZER {
        return Ok(());
    }
    Err(format!("format {format} and normalizer {normalizer} are from a newer version of emg-cache"))
}

/// Settings of a cache: those of its segments, its windows and its normalization.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheSettings {
    pub layout: Layout,
    pub emg_channels: usize,
    /// Cached joint angles.
    pub joint_angles_channels: usize,
    /// Which of the recorded joint angles they are; `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joints: Option<ChosenJoints>,
    /// Hz.
    pub sample_rate: f64,
    pub dtype: Dtype,
    pub statistics: Statistics,
    pub max_samples_for_normalize: usize,
    pub normalize_emg: Normalize,
    pub normalize_angles: Normalize,
    pub window_size: usize,
    pub stride: usize,
    pub padding: [usize; 2],
    pub skip_ik_failures: bool,
    pub eval_window: usize,
    pub eval_stride: usize,
}

/// A choice among recorded joint angles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChosenJoints {
    /// Joint angles of recordings.
    pub recorded: usize,
    /// Their columns that are cached, in this order.
    pub columns: Vec<usize>,
}

/// The part of the settings that segments depend on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentSettings {
    pub layout: Layout,
    pub emg_channels: usize,
    pub joint_angles_channels: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joints: Option<ChosenJoints>,
    /// Hz; gaps in time are counted against it.
    pub sample_rate: f64,
    pub dtype: Dtype,
    /// EMG rows are z-scored by their recording's statistics; else they are as recorded.
    pub emg_by_recording: bool,
    pub statistics: Statistics,
    pub max_samples_for_normalize: usize,
}

/// The windows of one split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowShape {
    /// Rows per window, without padding.
    pub size: usize,
    pub stride: usize,
    /// Rows before and after each window.
    pub padding: [usize; 2],
}

impl WindowShape {
    /// Windows in a run of `length` rows.
    pub fn count(&self, length: u64) -> u64 {
        length.checked_sub(self.size as u64).map_or(0, |slack| slack / self.stride as u64 + 1)
    }

    /// Rows of a window with its padding.
    pub fn rows(&self) -> usize {
        self.padding[0] + self.size + self.padding[1]
    }
}

impl CacheSettings {
    /// Settings of a valid configuration.
    ///
    /// # Panics
    /// The configuration was not validated.
    pub fn new(config: &Config) -> Self {
        let data = &config.data;
        let mut layout = data.resolved_layout().expect("a validated configuration");
        // What it calls columns of metadata.csv is not part of what recordings hold.
        layout.metadata.clear();
        let recorded = data.joint_angles_channels;
        let chosen = data.chosen_joints().expect("a validated configuration");
        let joints = chosen.map(|columns| ChosenJoints { recorded, columns });
        Self {
            layout,
            emg_channels: data.emg_channels,
            joint_angles_channels: joints.as_ref().map_or(recorded, |joints| joints.columns.len()),
            joints,
            sample_rate: config.model.original_sampling_rate,
            dtype: data.dtype,
            statistics: data.statistics,
            max_samples_for_normalize: data.max_samples_for_normalize,
            normalize_emg: data.emg_normalization(),
            normalize_angles: data.angle_normalization(),
            window_size: data.window_size,
            stride: data.stride,
            padding: data.padding,
            skip_ik_failures: data.skip_ik_failures,
            eval_window: data.eval_window.unwrap_or(data.window_size),
            eval_stride: data.eval_stride.unwrap_or(data.stride),
        }
    }

    /// The configuration key that a setting comes from.
    pub fn config_key(setting: &str) -> String {
        if setting == "sample_rate" { "model.original_sampling_rate".into() } else { format!("data.{setting}") }
    }

    pub fn segment(&self) -> SegmentSettings {
        SegmentSettings {
            layout: self.layout.clone(),
            emg_channels: self.emg_channels,
            joint_angles_channels: self.joint_angles_channels,
            joints: self.joints.clone(),
            sample_rate: self.sample_rate,
            dtype: self.dtype,
            emg_by_recording: self.normalize_emg == Normalize::Recording,
            statistics: self.statistics,
            max_samples_for_normalize: self.max_samples_for_normalize,
        }
    }

    /// Names of the cached joint angles.
    pub fn joint_names(&self) -> Vec<String> {
        match &self.joints {
            None => chosen_names(self.joint_angles_channels, None),
            Some(ChosenJoints { recorded, columns }) => chosen_names(*recorded, Some(columns)),
        }
    }

    pub fn windows(&self, split: Split) -> WindowShape {
        match split {
            Split::Train => WindowShape { size: self.window_size, stride: self.stride, padding: self.padding },
            Split::Val => WindowShape { size: self.eval_window, stride: self.eval_stride, padding: self.padding },
            Split::Test => WindowShape { size: self.eval_window, stride: self.eval_stride, padding: [0, 0] },
        }
    }

    /// Runs that windows may lie in: valid runs, or the whole recording where failed rows are masked.
    pub fn window_runs(&self, rows: u64, valid_runs: &[(u64, u64)]) -> Vec<(u64, u64)> {
        if self.skip_ik_failures { valid_runs.to_vec() } else { vec![(0, rows)] }
    }

    /// Windows that a recording gives to `split`.
    pub fn count_windows(&self, split: Split, rows: u64, valid_runs: &[(u64, u64)]) -> u64 {
        let shape = self.windows(split);
        self.window_runs(rows, valid_runs).iter().map(|(_, length)| shape.count(*length)).sum()
    }
}

impl SegmentSettings {
    /// What a recording must look like.
    pub fn table_layout(&self, chunk_cache: usize) -> TableLayout {
        TableLayout {
            layout: self.layout.clone(),
            emg_channels: self.emg_channels,
            joint_angles: self.joints.as_ref().map_or(self.joint_angles_channels, |joints| joints.recorded),
            joints: self.joints.as_ref().map(|joints| joints.columns.clone()),
            angles_optional: false,
            accept_predicted: false,
            sample_rate: self.sample_rate,
            chunk_cache,
        }
    }

    /// Bytes that `rows` rows take in a segment.
    pub fn bytes(&self, rows: u64) -> u64 {
        rows.saturating_mul((self.dtype.bytes() * (self.emg_channels + self.joint_angles_channels)) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_per_run() {
        let shape = WindowShape { size: 50, stride: 7, padding: [0, 0] };
        for (length, expected) in [(0, 0), (49, 0), (50, 1), (56, 1), (57, 2), (100, 8)] {
            assert_eq!(shape.count(length), expected, "{length}");
        }
    }
}
