//! Configuration: the YAML schema with its defaults (a file a section), the built-in presets, merging and validation.

mod data;
mod difference;
mod error;
mod joints;
mod keys;
mod layout;
mod load;
mod logging;
mod model;
mod place;
mod reference;
mod training;
mod typed;
mod user_path;
mod validate;
mod words;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use data::{DataConfig, Dtype, Normalize, OnBad, Shuffle, SplitBy, Statistics};
pub use difference::{Difference, differences};
pub use error::ConfigError;
pub use joints::{Joint, chosen_names};
pub use layout::{AngleUnit, Interpolation, InvalidRows, Layout, LayoutChoice, METADATA_COLUMNS};
pub use load::{Loaded, PRESETS, load, load_file, parse, preset_names};
pub use logging::{LoggingConfig, Mode};
pub use model::{AxisLayout, DecoderType, InitialPose, ModelConfig, ModelType, NormMode, Target, TdsStage};
pub use reference::{json_schema, markdown_table};
pub use training::{
    Device, LossType, MonitoredMetric, OnNan, Optimizer, Precision, Residency, Schedule, SchedulePer, TrainingConfig,
};
pub use user_path::{UserPathError, user_path};
pub use words::UnknownWord;

/// The whole configuration: one YAML file with four sections, all optional.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct Config {
    pub data: DataConfig,
    pub model: ModelConfig,
    pub training: TrainingConfig,
    pub logging: LoggingConfig,
}

impl Config {
    /// All keys as YAML, which loads as this configuration.
    pub fn to_yaml(&self) -> String {
        serde_saphyr::to_string(self).expect("a configuration serializes")
    }
}
