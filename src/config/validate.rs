//! Checks for values that have the right type but are out of range or contradict each other.

use std::fmt::Display;

use super::Config;
use super::error::ConfigError;

pub(super) type Checked = Result<(), ConfigError>;

pub(super) fn require(holds: bool, key: &'static str, expected: &str, found: impl Display) -> Checked {
    if holds { Ok(()) } else { Err(ConfigError::Invalid { key, expected: expected.into(), found: found.to_string() }) }
}

/// Windows longer than this are a mistake: an hour and a half at 2 kHz.
pub(super) const LONGEST_WINDOW: usize = 10_000_000;
pub(super) const AT_LEAST_ONE: &str = "at least 1";

impl Config {
    /// Checks ranges and combinations.
    ///
    /// # Errors
    /// The first key whose value is invalid.
    pub fn validate(&self) -> Checked {
        self.data.validate()?;
        self.model.validate()?;
        self.training.validate()?;
        self.logging.validate()?;
        let (channels, joints) = (self.data.emg_channels, self.data.joint_count());
        let same = "the same number as in data";
        require(self.model.input_size == channels, "model.input_size", same, self.model.input_size)?;
        require(self.model.output_size == joints, "model.output_size", same, self.model.output_size)?;
        let weights = self.training.joint_weights.as_ref().map_or(joints, Vec::len);
        require(weights == joints, "training.joint_weights", "one for each joint angle", weights)
    }
}
