//! Configuration: the YAML schema with its defaults, the built-in presets, merging and validation.

mod layout;
mod load;
mod place;
mod reference;
mod schema;
mod validate;

pub use layout::{Layout, LayoutChoice, METADATA_COLUMNS};
pub use load::{ConfigError, Loaded, PRESETS, load};
pub use reference::{json_schema, markdown_table};
pub use schema::{
    AngleUnit, AxisLayout, Config, DataConfig, DecoderType, Device, Dtype, InitialPose, Interpolation, InvalidRows,
    LoggingConfig, LossType, Mode, ModelConfig, ModelType, Normalize, OnBad, OnNan, Optimizer, Precision, Residency,
    Schedule, SchedulePer, Shuffle, SplitBy, Statistics, TdsStage, TrainingConfig,
};
