//! Every key of the section `data`, its type, its default, and what values make sense. The keys and defaults of the
//! reference system are kept, so its YAML files load unchanged.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::ConfigError;
use super::layout::{Layout, LayoutChoice, METADATA_COLUMNS};
use super::validate::{Checked, LONGEST_WINDOW, require};
use super::words::{BoolOrWord, words, words_and_truth};

/// Which recordings are read and how they are cut into normalized windows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct DataConfig {
    /// Folder (searched recursively), uncompressed tar archive or file with the HDF5 recordings.
    pub dataset_path: Option<PathBuf>,
    /// HDF5 group that holds the table and the recording's attributes (layout emg2pose).
    pub hdf5_group: String,
    /// Compound dataset with the fields `time`, `joint_angles` and `emg` (layout emg2pose).
    pub table_name: String,
    /// Number of EMG channels each recording must have.
    pub emg_channels: usize,
    /// Number of joint angles each recording must have.
    pub joint_angles_channels: usize,
    /// Rows per training window.
    pub window_size: usize,
    /// Rows between the starts of neighbouring training windows.
    pub stride: usize,
    /// Rows added before and after each training window; outside the recording EMG is 0 and masked.
    pub padding: [usize; 2],
    /// Keep windows inside valid runs instead of masking failed rows.
    pub skip_ik_failures: bool,
    /// Shares of train, val and test where metadata.csv does not name splits.
    pub split_ratio: [f64; 3],
    /// Shorthand: EMG and angles both by recording. `normalize_emg` and `normalize_angles` win.
    pub normalize: bool,
    /// z-score of the EMG: by each recording's statistics, the training split's, or none (default: as `normalize` says).
    pub normalize_emg: Option<Normalize>,
    /// z-score of the angles, likewise (default: as `normalize` says).
    pub normalize_angles: Option<Normalize>,
    /// Shuffle training windows: true, false, or `block`: 64 MiB blocks, then windows within 16 blocks, for storage that
    /// reads slowly out of order.
    pub shuffle: Shuffle,
    /// Rows per recording from which statistics are taken (`statistics: sampled`).
    pub max_samples_for_normalize: usize,
    /// `sampled`: at most `max_samples_for_normalize` evenly spaced rows; `exact`: every row.
    pub statistics: Statistics,
    /// Bytes of HDF5's chunk cache, for filters that only the HDF5 library decodes.
    pub chunk_cache_size: usize,
    /// Seed of the random split.
    pub seed: u64,
    /// What stays together in one split.
    pub split_by: SplitBy,
    /// What an unusable recording does to the build.
    pub on_bad_recording: OnBad,
    /// Layout of the recordings: a name, or a description (below).
    pub layout: LayoutChoice,
    /// Element type of the cached arrays; float16 for half the bytes (about three digits).
    pub dtype: Dtype,
    /// Segments are closed before they grow beyond this many bytes.
    pub segment_bytes: u64,
    /// Move training windows by a random offset of at most the stride.
    pub jitter: bool,
    /// Largest random rotation of the channel ring, in channels (0 or 1).
    pub rotation: usize,
    /// Rows per validation and test window (default: `window_size`).
    pub eval_window: Option<usize>,
    /// Stride of validation and test windows (default: `stride`).
    pub eval_stride: Option<usize>,
    /// Folder of the store (default: `./store`).
    pub store: Option<PathBuf>,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            dataset_path: None,
            hdf5_group: "emg2pose".into(),
            table_name: "timeseries".into(),
            emg_channels: 16,
            joint_angles_channels: 20,
            window_size: 500,
            stride: 1,
            padding: [0, 0],
            skip_ik_failures: false,
            split_ratio: [0.7, 0.15, 0.15],
            normalize: false,
            normalize_emg: None,
            normalize_angles: None,
            shuffle: Shuffle::Full,
            max_samples_for_normalize: 10_000,
            statistics: Statistics::Sampled,
            chunk_cache_size: 64 << 20,
            seed: 42,
            split_by: SplitBy::Recording,
            on_bad_recording: OnBad::Error,
            layout: LayoutChoice::Named("emg2pose".into()),
            dtype: Dtype::Float32,
            segment_bytes: 4 << 30,
            jitter: true,
            rotation: 0,
            eval_window: None,
            eval_stride: None,
            store: None,
        }
    }
}

impl DataConfig {
    /// The layout that `data.layout` names or describes.
    ///
    /// # Errors
    /// What was expected, if it is none.
    pub fn resolved_layout(&self) -> Result<Layout, ConfigError> {
        let refuse = |expected: String| {
            let found = serde_json::to_string(&self.layout).expect("a layout serializes");
            Err(ConfigError::Invalid { key: "data.layout", expected, found })
        };
        let layout = match &self.layout {
            LayoutChoice::Named(name) => match name.as_str() {
                "emg2pose" => Layout::emg2pose(&self.hdf5_group, &self.table_name),
                "generic_neuromotor_wrist" => Layout::generic_neuromotor_wrist(),
                _ => return refuse("emg2pose, generic_neuromotor_wrist, or a description of the layout".into()),
            },
            LayoutChoice::Described(layout) => layout.clone(),
        };
        if layout.joint_angle_rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
            return refuse("a positive joint_angle_rate in Hz".into());
        }
        if layout.table.is_some() && layout.joint_angle_rate.is_some() {
            return refuse("no joint_angle_rate, since rows of a table have one rate".into());
        }
        match layout.metadata.keys().find(|column| !METADATA_COLUMNS.contains(&column.as_str())) {
            Some(_) => refuse(format!("metadata columns among {}", METADATA_COLUMNS.join(", "))),
            None => Ok(layout),
        }
    }

    /// The store's folder: `option` (--store), then EMG_STORE, then `data.store`, then ./store.
    pub fn store_path(&self, option: Option<PathBuf>) -> PathBuf {
        let variable = std::env::var_os("EMG_STORE").filter(|value| !value.is_empty()).map(PathBuf::from);
        option.or(variable).or_else(|| self.store.clone()).unwrap_or_else(|| "store".into())
    }

    /// EMG normalization after resolving the `normalize` shorthand.
    pub fn emg_normalization(&self) -> Normalize {
        self.normalize_emg.unwrap_or(if self.normalize { Normalize::Recording } else { Normalize::None })
    }

    /// Angle normalization after resolving the `normalize` shorthand.
    pub fn angle_normalization(&self) -> Normalize {
        self.normalize_angles.unwrap_or(if self.normalize { Normalize::Recording } else { Normalize::None })
    }
}

impl DataConfig {
    pub(super) fn validate(&self) -> Checked {
        let sizes = [
            ("data.emg_channels", self.emg_channels, 1..=4096),
            ("data.joint_angles_channels", self.joint_angles_channels, 1..=4096),
            ("data.window_size", self.window_size, 1..=LONGEST_WINDOW),
            ("data.stride", self.stride, 1..=LONGEST_WINDOW),
            ("data.eval_window", self.eval_window.unwrap_or(1), 1..=LONGEST_WINDOW),
            ("data.eval_stride", self.eval_stride.unwrap_or(1), 1..=LONGEST_WINDOW),
            ("data.padding", self.padding[0], 0..=LONGEST_WINDOW),
            ("data.padding", self.padding[1], 0..=LONGEST_WINDOW),
            ("data.max_samples_for_normalize", self.max_samples_for_normalize, 2..=usize::MAX),
            ("data.rotation", self.rotation, 0..=1),
        ];
        for (key, found, range) in sizes {
            require(range.contains(&found), key, &format!("{} to {}", range.start(), range.end()), found)?;
        }
        let shares = self.split_ratio;
        let valid = shares.iter().all(|s| (0.0..=1.0).contains(s)) && (shares.iter().sum::<f64>() - 1.0).abs() < 1e-6;
        require(valid, "data.split_ratio", "three shares that add up to 1", format!("{shares:?}"))?;
        require(self.segment_bytes >= 1 << 20, "data.segment_bytes", "at least 1048576 (1 MiB)", self.segment_bytes)?;
        self.resolved_layout().map(|_| ())
    }
}

words!(
    /// Whose statistics a z-score uses.
    Normalize { Recording = "recording", Train = "train", None = "none" }
);

words!(
    /// Rows that statistics are taken from.
    Statistics { Sampled = "sampled", Exact = "exact" }
);

words!(
    /// Unit that a random split keeps together.
    SplitBy { Recording = "recording", Session = "session", User = "user" }
);

words!(
    /// What an unusable recording does.
    OnBad { Error = "error", Skip = "skip" }
);

words!(
    /// Element type of cached arrays, and of exported models.
    #[derive(Default)]
    Dtype { #[default] Float32 = "float32", Float16 = "float16" }
);

impl Dtype {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::Float32 => 4,
            Self::Float16 => 2,
        }
    }
}

/// Order of training windows. YAML: true, false or `block`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(transform = words_and_truth, rename_all = "lowercase")]
pub enum Shuffle {
    Off,
    Full,
    Block,
}

impl<'de> Deserialize<'de> for Shuffle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match BoolOrWord::deserialize(deserializer)? {
            BoolOrWord::Bool(true) => Ok(Self::Full),
            BoolOrWord::Bool(false) => Ok(Self::Off),
            BoolOrWord::Word(word) if word == "block" => Ok(Self::Block),
            BoolOrWord::Word(word) => {
                Err(serde::de::Error::custom(format!("shuffle: expected true, false or block, found `{word}`")))
            }
        }
    }
}

impl Serialize for Shuffle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_bool(false),
            Self::Full => serializer.serialize_bool(true),
            Self::Block => serializer.serialize_str("block"),
        }
    }
}
