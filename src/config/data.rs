//! The keys of the section `data`, with their types, defaults and accepted values. The keys and defaults of the
//! reference system are kept, so its YAML files load unchanged.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::ConfigError;
use super::joints::{Joint, chosen_names, joint_names};
use super::layout::{Layout, LayoutChoice, METADATA_COLUMNS};
use super::user_path::{UserPathError, user_path};
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
    /// The joints to use, in their order: numbers from 0, or names where recordings have emg2pose's 20 angles, e.g.
    /// \[thumb_CMC_FE, 5\] (default: all). `model.output_size` is their number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joints: Option<Vec<Joint>>,
    /// Rows per training window.
    pub window_size: usize,
    /// Rows between the starts of consecutive training windows.
    pub stride: usize,
    /// Rows added before and after each training window. Rows outside the recording have EMG 0 and are masked.
    pub padding: [usize; 2],
    /// Take windows only from runs of valid rows, instead of masking failed rows.
    pub skip_ik_failures: bool,
    /// Shares of train, val and test, for recordings to which metadata.csv assigns no split.
    pub split_ratio: [f64; 3],
    /// Shorthand: normalize EMG and angles by recording. `normalize_emg` and `normalize_angles` override it.
    pub normalize: bool,
    /// z-score of the EMG: with the statistics of each recording or of the training split, or none (default: as
    /// `normalize` says).
    pub normalize_emg: Option<Normalize>,
    /// z-score of the angles, with the same choices (default: as `normalize` says).
    pub normalize_angles: Option<Normalize>,
    /// Shuffle training windows: true, false, or `block`. `block` shuffles blocks of 64 MiB, then the windows within
    /// each group of 16 blocks; use it for storage with slow random reads.
    pub shuffle: Shuffle,
    /// Maximum number of rows per recording used for statistics (`statistics: sampled`).
    pub max_samples_for_normalize: usize,
    /// `sampled`: at most `max_samples_for_normalize` evenly spaced rows; `exact`: every row.
    pub statistics: Statistics,
    /// Size of HDF5's chunk cache in bytes; used only for filters that this program does not decode itself.
    pub chunk_cache_size: usize,
    /// Seed of the random split.
    pub seed: u64,
    /// Unit that is never divided between splits.
    pub split_by: SplitBy,
    /// Whether an unusable recording fails the build or is skipped.
    pub on_bad_recording: OnBad,
    /// Layout of the recordings: a name, or a description (below).
    pub layout: LayoutChoice,
    /// Element type of the cached arrays; float16 takes half the space and keeps about three significant digits.
    pub dtype: Dtype,
    /// Start a new segment before the current one grows beyond this many bytes.
    pub segment_bytes: u64,
    /// Shift each training window by a random offset of up to one stride.
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
            joints: None,
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
    /// A description of what was expected, if `data.layout` is invalid.
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
            LayoutChoice::Described(layout) => (**layout).clone(),
        };
        if layout.joint_angle_rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
            return refuse("a positive joint_angle_rate in Hz".into());
        }
        if let Some(name) = layout.bad_scale() {
            return refuse(format!("a finite {name}, and no scale of 0"));
        }
        if layout.table.is_some() && layout.joint_angle_rate.is_some() {
            return refuse("no joint_angle_rate with a table, whose rows have a single rate".into());
        }
        match layout.metadata.keys().find(|column| !METADATA_COLUMNS.contains(&column.as_str())) {
            Some(_) => refuse(format!("only metadata columns from the list {}", METADATA_COLUMNS.join(", "))),
            None => Ok(layout),
        }
    }

    /// The store's folder: `option` (--store), then EMG_STORE, then `data.store`, then ./store.
    ///
    /// # Errors
    /// EMG_STORE is not the path of a folder.
    pub fn store_path(&self, option: Option<PathBuf>) -> Result<PathBuf, UserPathError> {
        let variable = std::env::var_os("EMG_STORE").filter(|value| !value.is_empty());
        let variable = variable.filter(|_| option.is_none()).map(|text| user_path(&text)).transpose()?;
        Ok(option.or(variable).or_else(|| self.store.clone()).unwrap_or_else(|| "store".into()))
    }

    /// Columns of the joints to use; `None`: all.
    ///
    /// # Errors
    /// A joint that recordings do not have, or one that is chosen twice.
    pub fn chosen_joints(&self) -> Result<Option<Vec<usize>>, ConfigError> {
        let Some(joints) = &self.joints else { return Ok(None) };
        let names = joint_names(self.joint_angles_channels);
        let refuse =
            |expected: String, found: String| Err(ConfigError::Invalid { key: "data.joints", expected, found });
        let mut chosen = Vec::new();
        for joint in joints {
            let column = match joint {
                Joint::Number(number) => Some(*number).filter(|number| *number < names.len()),
                Joint::Name(name) => names.iter().position(|known| known.eq_ignore_ascii_case(name)),
            };
            match column {
                Some(column) if chosen.contains(&column) => return refuse("each joint once".into(), joint.to_string()),
                Some(column) => chosen.push(column),
                None => {
                    let expected = format!("numbers from 0 to {} or names of {}", names.len() - 1, names.join(", "));
                    return refuse(expected, joint.to_string());
                }
            }
        }
        if chosen.is_empty() { refuse("at least one joint".into(), "[]".into()) } else { Ok(Some(chosen)) }
    }

    /// Number of joints to use.
    pub fn joint_count(&self) -> usize {
        self.joints.as_ref().map_or(self.joint_angles_channels, Vec::len)
    }

    /// Names of the joints to use.
    pub fn joint_names(&self) -> Vec<String> {
        chosen_names(self.joint_angles_channels, self.chosen_joints().ok().flatten().as_deref())
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
        self.chosen_joints()?;
        self.resolved_layout().map(|_| ())
    }
}

words!(
    /// Whose statistics a z-score uses.
    Normalize { Recording = "recording", Train = "train", None = "none" }
);

words!(
    /// Rows used to compute statistics.
    Statistics { Sampled = "sampled", Exact = "exact" }
);

words!(
    /// Unit that a random split keeps together.
    SplitBy { Recording = "recording", Session = "session", User = "user" }
);

words!(
    /// What the build does with an unusable recording.
    OnBad { Error = "error", Skip = "skip" }
);

words!(
    /// Element type of cached arrays, and of exported models.
    #[derive(Default)]
    Dtype { #[default] Float32 = "float32", Float16 = "float16" }
);

impl Dtype {
    /// Size of an element in bytes.
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
