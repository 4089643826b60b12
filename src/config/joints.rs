//! Names of joint angles, and how some are chosen.

use std::fmt;

use schemars::JsonSchema;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};

/// A joint angle, by its column in recordings or its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Joint {
    Number(usize),
    Name(String),
}

impl fmt::Display for Joint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

// By hand, because serde's untagged enums do not say what was expected.
impl<'de> Deserialize<'de> for Joint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Column;
        impl Visitor<'_> for Column {
            type Value = Joint;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the number of a joint from 0 on, or its name")
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Joint, E> {
                usize::try_from(number).map(Joint::Number).map_err(E::custom)
            }

            fn visit_str<E>(self, name: &str) -> Result<Joint, E> {
                Ok(Joint::Name(name.to_owned()))
            }
        }
        deserializer.deserialize_any(Column)
    }
}

/// The 20 angles of emg2pose, in order.
const HAND: [&str; 20] = [
    "thumb_CMC_FE",
    "thumb_CMC_AA",
    "thumb_MCP_FE",
    "thumb_IP_FE",
    "index_MCP_AA",
    "index_MCP_FE",
    "index_PIP_FE",
    "index_DIP_FE",
    "middle_MCP_AA",
    "middle_MCP_FE",
    "middle_PIP_FE",
    "middle_DIP_FE",
    "ring_MCP_AA",
    "ring_MCP_FE",
    "ring_PIP_FE",
    "ring_DIP_FE",
    "pinky_MCP_AA",
    "pinky_MCP_FE",
    "pinky_PIP_FE",
    "pinky_DIP_FE",
];

/// Names of the chosen ones of `n` angles, in their order; `None`: of all.
pub fn chosen_names(n: usize, chosen: Option<&[usize]>) -> Vec<String> {
    let names = joint_names(n);
    match chosen {
        Some(columns) => columns.iter().filter_map(|column| names.get(*column).cloned()).collect(),
        None => names,
    }
}

/// Names of `n` angles, in order: emg2pose's where there are as many, else numbers.
pub(super) fn joint_names(n: usize) -> Vec<String> {
    match n {
        20 => HAND.map(str::to_owned).to_vec(),
        n => (0..n).map(|i| format!("joint{i}")).collect(),
    }
}
