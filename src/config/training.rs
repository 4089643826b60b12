//! The keys of the section `training`, with their types, defaults and accepted values. The keys and defaults of the
//! reference system are kept, so its YAML files load unchanged.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::validate::{AT_LEAST_ONE, Checked, require};
use super::words::words;

/// How the model is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct TrainingConfig {
    /// Epochs to train; also the period of the cosine schedule.
    pub num_epochs: usize,
    /// Windows per step.
    pub batch_size: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Weight decay: decoupled for adamw, L2 for adam and sgd.
    pub weight_decay: f64,
    /// Optimizer; sgd has momentum 0.9.
    pub optimizer: Optimizer,
    /// Learning rate schedule after the warm-up. cosine decays to 0, plateau halves the rate after 5 epochs without
    /// improvement, onecycle is PyTorch's OneCycleLR, which has its own warm-up.
    pub scheduler: Schedule,
    /// Epochs between decays with `scheduler: step`.
    pub step_size: usize,
    /// Factor of each decay with `scheduler: step`.
    pub gamma: f64,
    /// Epochs of linear warm-up before the schedule starts.
    pub warmup_epochs: usize,
    /// Loss over valid rows.
    pub loss_type: LossType,
    /// `mse+mae` = mse + mae_weight x mae.
    pub mae_weight: f64,
    /// Maximum norm of the gradient over all parameters; 0 disables clipping.
    pub gradient_clip_norm: f64,
    /// Batches whose gradients are accumulated into one optimizer step, equivalent to one larger batch.
    pub gradient_accumulation_steps: usize,
    /// Stop when `monitor_metric` no longer improves.
    pub early_stopping: bool,
    /// Epochs without improvement before training stops.
    pub patience: usize,
    /// Smallest change that counts as an improvement.
    pub min_delta: f64,
    /// Metric watched by early stopping and `scheduler: plateau`.
    pub monitor_metric: MonitoredMetric,
    /// Export the weights of the best epoch instead of the last one.
    pub restore_best_weights: bool,
    /// Device to compute on; auto uses CUDA if both the library and the driver support it.
    pub device: Device,
    /// Number of loader threads, which fill each batch together; 0 loads batches on the training thread.
    pub num_workers: usize,
    /// Copy batches to a CUDA device through page-locked memory while the previous step computes. With false, they are
    /// copied from ordinary memory, and training waits for them.
    pub pin_memory: bool,
    /// On CUDA, use this project's own kernels where they exist; they are compiled when training starts. With false,
    /// use standard operators only.
    pub cuda_kernels: bool,
    /// Keep loader threads between epochs.
    pub persistent_workers: bool,
    /// Batches loaded ahead of the training step (at least 1 with workers).
    pub prefetch_factor: usize,
    /// Accumulate metrics while evaluating instead of keeping every prediction.
    pub compute_metrics_online: bool,
    /// Seed of the initial weights, the window order, jitter, rotation and dropout.
    pub seed: u64,
    /// Arithmetic precision. bf16 and fp16 compute matrix products in half precision with float32 weights; fp16 also
    /// scales the loss. On the CPU, tf32 is computed as fp32, and bf16 and fp16 are emulated by rounding, which is
    /// slower.
    pub precision: Precision,
    /// Where the rows of the training split are kept. host: in the page cache; each batch is copied to the device.
    /// device: copied to the device once, so that each step needs only the positions of its windows; on CUDA at most
    /// 2^31 / joint_angles_channels rows. auto: device on CUDA if the rows take at most a quarter of the free memory
    /// and leave enough room for a step, else host.
    pub data_residency: Residency,
    /// Maximum device memory in bytes on CUDA, for training and for validation separately (default: no limit).
    pub device_memory_limit: Option<usize>,
    /// Batches between releases of unused memory that ONNX Runtime holds (0: never). Has no effect on CUDA, where a
    /// step is a captured CUDA graph.
    pub empty_cache_every: usize,
    /// Decay of an exponential moving average of the weights, e.g. 0.999 (0: none). If set, the average is evaluated
    /// and exported.
    pub ema: f64,
    /// Clip each gradient element to this magnitude, before `gradient_clip_norm` is applied (default: off).
    pub clip_value: Option<f64>,
    /// Parameters without weight decay: patterns with `*` and `?`, e.g. ["*.bias", "*norm*"].
    pub no_decay: Vec<String>,
    /// Weight of each joint in the loss (default: all 1).
    pub joint_weights: Option<Vec<f64>>,
    /// What to do if a loss or gradient is not finite: stop training, or skip the batch. Both report the batch's
    /// recordings.
    pub on_nan: OnNan,
    /// Whether the learning rate changes every epoch or every step.
    pub schedule_per: SchedulePer,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            num_epochs: 100,
            batch_size: 64,
            learning_rate: 5e-4,
            weight_decay: 0.01,
            optimizer: Optimizer::Adamw,
            scheduler: Schedule::Cosine,
            step_size: 20,
            gamma: 0.5,
            warmup_epochs: 5,
            loss_type: LossType::MseMae,
            mae_weight: 0.5,
            gradient_clip_norm: 1.0,
            gradient_accumulation_steps: 1,
            early_stopping: true,
            patience: 20,
            min_delta: 1e-4,
            monitor_metric: MonitoredMetric::ValLoss,
            restore_best_weights: true,
            device: Device::Auto,
            num_workers: 4,
            pin_memory: true,
            cuda_kernels: true,
            persistent_workers: true,
            prefetch_factor: 2,
            compute_metrics_online: true,
            seed: 42,
            precision: Precision::Tf32,
            data_residency: Residency::Auto,
            device_memory_limit: None,
            empty_cache_every: 50,
            ema: 0.0,
            clip_value: None,
            no_decay: Vec::new(),
            joint_weights: None,
            on_nan: OnNan::Stop,
            schedule_per: SchedulePer::Epoch,
        }
    }
}

impl TrainingConfig {
    pub(super) fn validate(&self) -> Checked {
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
            require(valid && some, "training.joint_weights", "numbers of at least 0, not all of them 0", found)?;
        }
        let plateau = self.scheduler == Schedule::Plateau && self.schedule_per == SchedulePer::Step;
        require(!plateau, "training.schedule_per", "epoch with scheduler: plateau", self.schedule_per)
    }
}

words!(
    /// Optimizers.
    Optimizer { Adamw = "adamw", Adam = "adam", Sgd = "sgd" }
);

words!(
    /// Learning rate schedules.
    Schedule { Cosine = "cosine", Step = "step", Plateau = "plateau", OneCycle = "onecycle", None = "none" }
);

words!(
    /// Losses.
    LossType { MseMae = "mse+mae", Mse = "mse", Mae = "mae" }
);

words!(
    /// Execution provider.
    Device { Auto = "auto", Cpu = "cpu", Cuda = "cuda" }
);

words!(
    /// Arithmetic of the step graph.
    Precision { Tf32 = "tf32", Fp32 = "fp32", Bf16 = "bf16", Fp16 = "fp16" }
);

words!(
    /// Where a split's rows are kept during training.
    Residency { Auto = "auto", Host = "host", Device = "device" }
);

words!(
    /// What to do if a loss is not finite.
    OnNan { Stop = "stop", Skip = "skip" }
);

words!(
    /// How often the learning rate changes.
    SchedulePer { Epoch = "epoch", Step = "step" }
);

words!(
    /// Metrics of an epoch that can be monitored.
    MonitoredMetric {
        ValLoss = "val_loss",
        ValMae = "val_mae",
        ValRmse = "val_rmse",
        TrainLoss = "train_loss",
        TrainMae = "train_mae",
    }
);

impl MonitoredMetric {
    /// Whether the metric is computed on the validation windows.
    pub fn is_of_validation(self) -> bool {
        matches!(self, Self::ValLoss | Self::ValMae | Self::ValRmse)
    }
}
