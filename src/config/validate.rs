//! Values that have the right type but make no sense.

use std::fmt::Display;

use super::load::ConfigError;
use super::schema::{Config, DataConfig, LoggingConfig, ModelConfig, ModelType, Schedule, SchedulePer, TrainingConfig};

type Checked = Result<(), ConfigError>;

fn require(holds: bool, key: &'static str, expected: &str, found: impl Display) -> Checked {
    if holds { Ok(()) } else { Err(ConfigError::Invalid { key, expected: expected.into(), found: found.to_string() }) }
}

/// Windows longer than this are a mistake: an hour and a half at 2 kHz.
const LONGEST_WINDOW: usize = 10_000_000;
const AT_LEAST_ONE: &str = "at least 1";

impl Config {
    /// Checks ranges and combinations.
    ///
    /// # Errors
    /// The first key whose value makes no sense.
    pub fn validate(&self) -> Checked {
        self.data.validate()?;
        self.model.validate()?;
        self.training.validate()?;
        self.logging.validate()?;
        let (channels, joints) = (self.data.emg_channels, self.data.joint_angles_channels);
        let same = "the same number as in data";
        require(self.model.input_size == channels, "model.input_size", same, self.model.input_size)?;
        require(self.model.output_size == joints, "model.output_size", same, self.model.output_size)?;
        let weights = self.training.joint_weights.as_ref().map_or(joints, Vec::len);
        require(weights == joints, "training.joint_weights", "one for each joint angle", weights)
    }
}

impl DataConfig {
    fn validate(&self) -> Checked {
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
        if let Err(expected) = self.resolved_layout() {
            let found = serde_json::to_string(&self.layout).expect("a layout serializes");
            return Err(ConfigError::Invalid { key: "data.layout", expected, found });
        }
        Ok(())
    }
}

impl ModelConfig {
    fn validate(&self) -> Checked {
        require((0.0..1.0).contains(&self.dropout), "model.dropout", "0 <= dropout < 1", self.dropout)?;
        for (key, rate) in
            [("model.rollout_freq", self.rollout_freq), ("model.original_sampling_rate", self.original_sampling_rate)]
        {
            require(rate.is_finite() && rate > 0.0, key, "a positive rate in Hz", rate)?;
        }
        let (rate, most) = (self.rollout_freq, self.original_sampling_rate);
        require(rate <= most, "model.rollout_freq", "at most model.original_sampling_rate", rate)?;
        let counts = [
            ("model.decoder_hidden_size", self.decoder_hidden_size),
            ("model.decoder_num_layers", self.decoder_num_layers),
            ("model.tds_stages", self.tds_stages.len()),
        ];
        for (key, found) in counts {
            require(found >= 1, key, AT_LEAST_ONE, found)?;
        }
        for stage in &self.tds_stages {
            let parts =
                [stage.in_conv_kernel, stage.in_conv_stride, stage.channels, stage.feature_width, stage.kernel_width];
            let valid = parts.iter().all(|part| (1..=100_000).contains(part)) && stage.num_blocks <= 1000;
            require(valid, "model.tds_stages", "stages whose sizes are at least 1", format!("{stage:?}"))?;
        }
        let own = self.architecture() == ModelType::Onnx;
        require(own || self.onnx.is_none(), "model.onnx", "model.type: onnx with it", self.architecture())?;
        let longest = LONGEST_WINDOW;
        require(self.left_context < longest, "model.left_context", "less than a window", self.left_context)?;
        for (key, found) in [("model.hidden_size", self.hidden_size), ("model.num_layers", self.num_layers)] {
            require(found >= 1, key, AT_LEAST_ONE, found)?;
        }
        Ok(())
    }
}

impl TrainingConfig {
    fn validate(&self) -> Checked {
        let counts = [
            ("training.num_epochs", self.num_epochs),
            ("training.batch_size", self.batch_size),
            ("training.step_size", self.step_size),
            ("training.gradient_accumulation_steps", self.gradient_accumulation_steps),
            ("training.patience", self.patience),
        ];
        for (key, found) in counts {
            require((1..=1_000_000_000).contains(&found), key, AT_LEAST_ONE, found)?;
        }
        require(self.num_workers <= 1024, "training.num_workers", "at most 1024", self.num_workers)?;
        require(self.prefetch_factor <= 1024, "training.prefetch_factor", "at most 1024", self.prefetch_factor)?;
        let amounts = [
            ("training.weight_decay", self.weight_decay),
            ("training.mae_weight", self.mae_weight),
            ("training.gradient_clip_norm", self.gradient_clip_norm),
            ("training.min_delta", self.min_delta),
        ];
        for (key, found) in amounts {
            require(found.is_finite() && found >= 0.0, key, "a number of at least 0", found)?;
        }
        for (key, found) in [("training.learning_rate", self.learning_rate), ("training.gamma", self.gamma)] {
            require(found.is_finite() && found > 0.0, key, "a number above 0", found)?;
        }
        let limit = self.device_memory_limit.unwrap_or(usize::MAX);
        require(limit >= 64 << 20, "training.device_memory_limit", "at least 67108864 (64 MiB)", limit)?;
        require((0.0..1.0).contains(&self.ema), "training.ema", "0 (off) to below 1", self.ema)?;
        let cut = self.clip_value.unwrap_or(1.0);
        require(cut.is_finite() && cut > 0.0, "training.clip_value", "a number above 0", cut)?;
        if let Some(weights) = &self.joint_weights {
            let valid = weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0);
            let some = weights.iter().any(|weight| *weight > 0.0);
            let found = format!("{weights:?}");
            require(valid && some, "training.joint_weights", "numbers of at least 0, some above", found)?;
        }
        let plateau = self.scheduler == Schedule::Plateau && self.schedule_per == SchedulePer::Step;
        require(!plateau, "training.schedule_per", "epoch with scheduler: plateau", self.schedule_per)
    }
}

impl LoggingConfig {
    fn validate(&self) -> Checked {
        require(self.log_every >= 1, "logging.log_every", AT_LEAST_ONE, self.log_every)?;
        require(self.keep_last >= 1, "logging.keep_last", AT_LEAST_ONE, self.keep_last)
    }
}
