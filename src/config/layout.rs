//! `data.layout`: where an HDF5 file stores EMG and angles, and what they mean.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::words::words;

/// Layouts with a name.
const NAMES: [&str; 2] = ["emg2pose", "generic_neuromotor_wrist"];

/// A layout's name, or its description.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum LayoutChoice {
    #[schemars(extend("enum" = NAMES))]
    Named(String),
    Described(Box<Layout>),
}

// By hand, because serde's untagged enums do not say which field is wrong.
impl<'de> Deserialize<'de> for LayoutChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Choice;
        impl<'de> Visitor<'de> for Choice {
            type Value = LayoutChoice;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a layout's name or its description")
            }

            fn visit_str<E>(self, name: &str) -> Result<LayoutChoice, E> {
                Ok(LayoutChoice::Named(name.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<LayoutChoice, A::Error> {
                Layout::deserialize(MapAccessDeserializer::new(map))
                    .map(|layout| LayoutChoice::Described(Box::new(layout)))
            }
        }
        deserializer.deserialize_any(Choice)
    }
}

/// The layout of recordings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Path of a compound dataset that has EMG and angles as fields; without it, EMG and angles are separate datasets.
    #[serde(default)]
    pub table: Option<String>,
    /// EMG: a field of the table, or the path of a dataset \[T, channels\].
    #[serde(default = "emg")]
    pub emg: String,
    /// Joint angles: a field of the table, or the path of a dataset \[T', joints\].
    #[serde(default = "joint_angles")]
    pub joint_angles: String,
    /// Time stamps: a field of the table, or the path of a dataset \[T\]. Gaps are counted by them, and a sampling rate that
    /// they contradict by more than 1 % is an error.
    #[serde(default)]
    pub time: Option<String>,
    /// Sampling rate in Hz of angles in a separate dataset. Their duration must match the EMG's to within 0.1 s plus 1
    /// % (default: the EMG's).
    #[serde(default)]
    pub joint_angle_rate: Option<f64>,
    /// How angles of another rate are resampled to the EMG's rate; hold repeats the last sample. A row that needs a
    /// failed or missing sample counts as failed.
    #[serde(default)]
    pub interpolation: Interpolation,
    /// What EMG is multiplied by, e.g. the volts of one step of an int16. Integers need it, unless the dataset has an
    /// attribute `conversion`, as NWB files do; a declared scale or offset counts instead of the file's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emg_scale: Option<f64>,
    /// What is then added to EMG (default: 0, or the dataset's attribute `offset`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emg_offset: Option<f64>,
    /// What angles are multiplied by to be of `angle_unit`; as `emg_scale`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joint_angle_scale: Option<f64>,
    /// What is then added to angles; as `emg_offset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joint_angle_offset: Option<f64>,
    /// Seconds that one unit of the time stamps lasts (default: 1; integers are taken for seconds, milliseconds,
    /// microseconds, nanoseconds or sample numbers, whichever agrees with the sampling rate).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_scale: Option<f64>,
    /// Unit of the angles in the file; caches store radians.
    #[serde(default)]
    pub angle_unit: AngleUnit,
    /// Which rows count as failed, besides those with an angle that is not finite. zeros: rows whose angles are all
    /// zero, which is how emg2pose marks failed inverse kinematics.
    #[serde(default)]
    pub invalid_rows: InvalidRows,
    /// Group or dataset with the attributes `user`, `session`, `stage`, `side` and `sample_rate`.
    #[serde(default = "root")]
    pub attributes: String,
    /// Columns of metadata.csv that have other names: this program's name to the file's, e.g. `user: subject`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

fn emg() -> String {
    "emg".into()
}

fn joint_angles() -> String {
    "joint_angles".into()
}

fn root() -> String {
    "/".into()
}

words!(
    /// How angles of another rate are resampled to the EMG's rate.
    #[derive(Default)]
    Interpolation { #[default] Linear = "linear", Hold = "hold" }
);
words!(
    /// Unit of recorded angles.
    #[derive(Default)]
    AngleUnit { #[default] Rad = "rad", Deg = "deg" }
);
words!(
    /// Which rows count as failed, besides those with an angle that is not finite.
    #[derive(Default)]
    InvalidRows { #[default] Zeros = "zeros", None = "none" }
);

/// Columns of metadata.csv that may have other names.
pub const METADATA_COLUMNS: [&str; 7] = ["filename", "session", "user", "stage", "side", "split", "generalization"];

impl Layout {
    /// The scale or offset, by its name, that is no number to scale by.
    pub(super) fn bad_scale(&self) -> Option<&'static str> {
        let scales = [
            ("emg_scale", self.emg_scale),
            ("joint_angle_scale", self.joint_angle_scale),
            ("time_scale", self.time_scale),
        ];
        let offsets = [("emg_offset", self.emg_offset), ("joint_angle_offset", self.joint_angle_offset)];
        let bad = scales.into_iter().find(|(_, scale)| scale.is_some_and(|scale| !scale.is_finite() || scale == 0.0));
        let bad =
            bad.or_else(|| offsets.into_iter().find(|(_, offset)| offset.is_some_and(|offset| !offset.is_finite())));
        bad.map(|(name, _)| name)
    }

    /// emg2pose: a group with attributes and a table.
    pub(super) fn emg2pose(group: &str, table: &str) -> Self {
        Self {
            table: Some(format!("{group}/{table}")),
            emg: emg(),
            joint_angles: joint_angles(),
            time: Some("time".into()),
            joint_angle_rate: None,
            interpolation: Interpolation::Linear,
            emg_scale: None,
            emg_offset: None,
            joint_angle_scale: None,
            joint_angle_offset: None,
            time_scale: None,
            angle_unit: AngleUnit::Rad,
            invalid_rows: InvalidRows::Zeros,
            attributes: group.into(),
            metadata: BTreeMap::new(),
        }
    }

    /// generic-neuromotor-interface, wrist recordings: a table `data` with two wrist angles at the root.
    pub(super) fn generic_neuromotor_wrist() -> Self {
        Self {
            table: Some("data".into()),
            joint_angles: "wrist_angles".into(),
            invalid_rows: InvalidRows::None,
            attributes: "data".into(),
            ..Self::emg2pose("", "")
        }
    }
}
