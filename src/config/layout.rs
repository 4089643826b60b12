//! Where in an HDF5 file EMG and angles lie, and what they mean: `data.layout`.

use std::collections::BTreeMap;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::schema::{AngleUnit, DataConfig, Interpolation, InvalidRows};

/// A layout's name, or its description.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum LayoutChoice {
    Named(String),
    Described(Layout),
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
                Layout::deserialize(MapAccessDeserializer::new(map)).map(LayoutChoice::Described)
            }
        }
        deserializer.deserialize_any(Choice)
    }
}

/// The layout of recordings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Path of a compound dataset [T] that has EMG and angles as fields; without it, they are datasets of their own.
    #[serde(default)]
    pub table: Option<String>,
    /// EMG: a field of the table, or the path of a dataset [T, channels].
    #[serde(default = "emg")]
    pub emg: String,
    /// Joint angles: a field of the table, or the path of a dataset [T', joints].
    #[serde(default = "joint_angles")]
    pub joint_angles: String,
    /// Time stamps in seconds, likewise ([T]); only used to count gaps.
    #[serde(default)]
    pub time: Option<String>,
    /// Rate of the angles in Hz, where they are a dataset of their own; unset, that of the EMG.
    #[serde(default)]
    pub joint_angle_rate: Option<f64>,
    /// How angles of a lower rate are brought to the EMG's: linear, or hold (the last one).
    #[serde(default)]
    pub interpolation: Interpolation,
    #[serde(default)]
    pub angle_unit: AngleUnit,
    /// Which rows have no usable angles beside those that are not finite: zeros (all angles zero, as emg2pose marks
    /// failures of inverse kinematics), or none.
    #[serde(default)]
    pub invalid_rows: InvalidRows,
    /// Group or dataset with the attributes `user`, `session`, `stage`, `side` and `sample_rate`.
    #[serde(default = "root")]
    pub attributes: String,
    /// Names of metadata.csv's columns where they are others, e.g. `user: subject`.
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

/// Fields of a described layout.
pub(super) const FIELDS: [&str; 10] = [
    "table",
    "emg",
    "joint_angles",
    "time",
    "joint_angle_rate",
    "interpolation",
    "angle_unit",
    "invalid_rows",
    "attributes",
    "metadata",
];

/// Columns of metadata.csv that may have other names.
pub const METADATA_COLUMNS: [&str; 7] = ["filename", "session", "user", "stage", "side", "split", "generalization"];

impl Layout {
    /// emg2pose: a group with attributes and a table.
    fn emg2pose(group: &str, table: &str) -> Self {
        Self {
            table: Some(format!("{group}/{table}")),
            emg: emg(),
            joint_angles: joint_angles(),
            time: Some("time".into()),
            joint_angle_rate: None,
            interpolation: Interpolation::Linear,
            angle_unit: AngleUnit::Rad,
            invalid_rows: InvalidRows::Zeros,
            attributes: group.into(),
            metadata: BTreeMap::new(),
        }
    }

    /// generic-neuromotor-interface, wrist recordings: a table `data` with two wrist angles at the root.
    fn generic_neuromotor_wrist() -> Self {
        Self {
            table: Some("data".into()),
            joint_angles: "wrist_angles".into(),
            invalid_rows: InvalidRows::None,
            attributes: "data".into(),
            ..Self::emg2pose("", "")
        }
    }
}

impl DataConfig {
    /// The layout that `data.layout` names or describes.
    ///
    /// # Errors
    /// What was expected, if it is none.
    pub fn resolved_layout(&self) -> Result<Layout, String> {
        let layout = match &self.layout {
            LayoutChoice::Named(name) => match name.as_str() {
                "emg2pose" => Layout::emg2pose(&self.hdf5_group, &self.table_name),
                "generic_neuromotor_wrist" => Layout::generic_neuromotor_wrist(),
                _ => return Err("emg2pose, generic_neuromotor_wrist, or a description of the layout".into()),
            },
            LayoutChoice::Described(layout) => layout.clone(),
        };
        if layout.joint_angle_rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
            return Err("a positive joint_angle_rate in Hz".into());
        }
        if layout.table.is_some() && layout.joint_angle_rate.is_some() {
            return Err("no joint_angle_rate, since rows of a table have one rate".into());
        }
        match layout.metadata.keys().find(|column| !METADATA_COLUMNS.contains(&column.as_str())) {
            Some(_) => Err(format!("metadata columns among {}", METADATA_COLUMNS.join(", "))),
            None => Ok(layout),
        }
    }
}
