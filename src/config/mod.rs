//! Configuration: the YAML schema with its defaults, the built-in presets, merging and validation.

mod load;
mod schema;
mod validate;

pub use load::{ConfigError, Loaded, PRESETS, load};
pub use schema::{
    Config, DataConfig, DecoderType, Device, Dtype, InitialPose, LoggingConfig, LossType, Mode, ModelConfig, ModelType,
    Normalize, OnBad, OnNan, Optimizer, Precision, Residency, Schedule, SchedulePer, Shuffle, SplitBy, Statistics,
    TdsStage, TrainingConfig,
};
