//! Every configuration key, its type and its default. The keys and defaults of the reference system are kept,
//! so its YAML files load unchanged.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::layout::LayoutChoice;

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
    /// Rows per training window.
    pub window_size: usize,
    /// Rows between the starts of neighbouring training windows.
    pub stride: usize,
    /// Rows added before and after each training window; outside the recording EMG is 0 and masked.
    pub padding: [usize; 2],
    /// Keep windows inside valid runs instead of masking failed rows.
    pub skip_ik_failures: bool,
    /// Shares of train, val and test where metadata.csv does not name splits.
    pub split_ratio: [f64; 3],
    /// Shorthand: EMG and angles both by recording. `normalize_emg` and `normalize_angles` win.
    pub normalize: bool,
    /// z-score of the EMG: by each recording's statistics, the training split's, or none (default: as `normalize` says).
    pub normalize_emg: Option<Normalize>,
    /// z-score of the angles, likewise (default: as `normalize` says).
    pub normalize_angles: Option<Normalize>,
    /// Shuffle training windows: true, false, or `block`: 64 MiB blocks, then windows within 16 blocks, for storage that
    /// reads slowly out of order.
    pub shuffle: Shuffle,
    /// Rows per recording from which statistics are taken (`statistics: sampled`).
    pub max_samples_for_normalize: usize,
    /// `sampled`: at most `max_samples_for_normalize` evenly spaced rows; `exact`: every row.
    pub statistics: Statistics,
    /// Bytes of HDF5's chunk cache, for filters that only the HDF5 library decodes.
    pub chunk_cache_size: usize,
    /// Seed of the random split.
    pub seed: u64,
    /// What stays together in one split.
    pub split_by: SplitBy,
    /// What an unusable recording does to the build.
    pub on_bad_recording: OnBad,
    /// Layout of the recordings: a name, or a description (below).
    pub layout: LayoutChoice,
    /// Element type of the cached arrays; float16 for half the bytes (about three digits).
    pub dtype: Dtype,
    /// Segments are closed before they grow beyond this many bytes.
    pub segment_bytes: u64,
    /// Move training windows by a random offset of at most the stride.
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
    /// The store's folder: `option` (--store), then EMG_STORE, then `data.store`, then ./store.
    pub fn store_path(&self, option: Option<PathBuf>) -> PathBuf {
        let variable = std::env::var_os("EMG_STORE").filter(|value| !value.is_empty()).map(PathBuf::from);
        option.or(variable).or_else(|| self.store.clone()).unwrap_or_else(|| "store".into())
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

/// Architecture of the regressor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct ModelConfig {
    /// Architecture; emg2pose's and neuropose have fixed sizes, onnx is your own model (default: as `decoder_type` says).
    #[serde(rename = "type")]
    pub kind: Option<ModelType>,
    /// EMG channels the model takes.
    pub input_size: usize,
    /// Joint angles the model gives.
    pub output_size: usize,
    /// Dropout probability: in the decoder, between LSTM layers, or behind neuropose's convolutions.
    pub dropout: f64,
    /// Stages of the time-depth-separable encoder.
    pub tds_stages: Vec<TdsStage>,
    /// Decoder of the TDS models; `mlp` makes them tds_mlp.
    pub decoder_type: DecoderType,
    /// Units per decoder layer.
    pub decoder_hidden_size: usize,
    /// Decoder layers.
    pub decoder_num_layers: usize,
    /// Feed the previous pose to the decoder beside the features.
    pub decoder_state_condition: bool,
    /// Decoder steps per second.
    pub rollout_freq: f64,
    /// Sampling rate of the recordings in Hz; others are refused.
    pub original_sampling_rate: f64,
    /// The decoder gives changes of pose, not poses.
    pub predict_velocity: bool,
    /// Pose before the first step: zero (in the model's own angles) or the recording's.
    pub initial_pose: InitialPose,
    /// Units per layer of the plain `lstm`.
    pub hidden_size: usize,
    /// Layers of the plain `lstm`.
    pub num_layers: usize,
    /// Whether the plain `lstm` reads both ways.
    pub bidirectional: bool,
    /// Your own ONNX model, of `type: onnx`; `fit --model FILE` sets both (see models.md).
    pub onnx: Option<PathBuf>,
    /// Initializers of your own model that are not trained: names with `*` and `?`; `fit --freeze` adds to them.
    pub freeze: Vec<String>,
    /// Rows at the start of each window for which your own model gives no angles.
    pub left_context: usize,
    /// EMG as your own model takes it: channels_first [batch, channels, rows], channels_last, or auto (by its sizes).
    pub emg_layout: AxisLayout,
    /// Angles as your own model gives them: channels_first [batch, joints, rows], channels_last, or auto.
    pub angles_layout: AxisLayout,
    /// Of the reference system; ignored with a warning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder_features: Option<serde_json::Value>,
    /// Of the reference system; ignored with a warning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decoder_hidden: Option<serde_json::Value>,
    /// Of the reference system; ignored with a warning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decoder_layers: Option<serde_json::Value>,
}

impl Default for ModelConfig {
    fn default() -> Self {
        let stage = |feature_width, kernel_width| TdsStage {
            in_conv_kernel: 5,
            in_conv_stride: 2,
            num_blocks: 2,
            channels: 8,
            feature_width,
            kernel_width,
        };
        Self {
            kind: None,
            input_size: 16,
            output_size: 20,
            dropout: 0.1,
            tds_stages: vec![stage(4, 21), stage(8, 11)],
            decoder_type: DecoderType::SequentialLstm,
            decoder_hidden_size: 128,
            decoder_num_layers: 2,
            decoder_state_condition: true,
            rollout_freq: 50.0,
            original_sampling_rate: 2000.0,
            predict_velocity: false,
            initial_pose: InitialPose::Zero,
            hidden_size: 128,
            num_layers: 2,
            bidirectional: true,
            onnx: None,
            freeze: Vec::new(),
            left_context: 0,
            emg_layout: AxisLayout::Auto,
            angles_layout: AxisLayout::Auto,
            encoder_features: None,
            decoder_hidden: None,
            decoder_layers: None,
        }
    }
}

impl ModelConfig {
    /// The architecture: `type` where set, else the one `decoder_type` implies.
    pub fn architecture(&self) -> ModelType {
        self.kind.unwrap_or(match self.decoder_type {
            DecoderType::SequentialLstm => ModelType::TdsLstm,
            DecoderType::Mlp => ModelType::TdsMlp,
        })
    }
}

/// One stage of the TDS encoder: a strided convolution and `num_blocks` blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct TdsStage {
    /// Taps of the stage's strided convolution.
    pub in_conv_kernel: usize,
    /// Its stride.
    pub in_conv_stride: usize,
    /// TDS blocks behind it.
    pub num_blocks: usize,
    /// Channels of a block's convolution; features = channels x feature_width.
    pub channels: usize,
    /// Features per channel of a block.
    pub feature_width: usize,
    /// Taps of a block's convolution over time.
    pub kernel_width: usize,
}

impl Default for TdsStage {
    fn default() -> Self {
        Self { in_conv_kernel: 5, in_conv_stride: 2, num_blocks: 2, channels: 8, feature_width: 4, kernel_width: 21 }
    }
}

/// How the model is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct TrainingConfig {
    /// Epochs to train; also the period of the cosine schedule.
    pub num_epochs: usize,
    /// Windows per step.
    pub batch_size: usize,
    /// Largest learning rate.
    pub learning_rate: f64,
    /// Decoupled for adamw, L2 for adam and sgd.
    pub weight_decay: f64,
    /// Optimizer; sgd has momentum 0.9.
    pub optimizer: Optimizer,
    /// Learning rate after the warm-up: cosine goes to 0, plateau halves it after 5 epochs without improvement, onecycle is
    /// PyTorch's, with its own warm-up.
    pub scheduler: Schedule,
    /// Epochs between decays of `scheduler: step`.
    pub step_size: usize,
    /// Factor of `scheduler: step`.
    pub gamma: f64,
    /// Epochs of linear warm-up before the schedule starts.
    pub warmup_epochs: usize,
    /// Loss over valid rows.
    pub loss_type: LossType,
    /// `mse+mae` = mse + mae_weight x mae.
    pub mae_weight: f64,
    /// Largest norm of the whole gradient; 0 switches clipping off.
    pub gradient_clip_norm: f64,
    /// Batches whose gradients make one step, as one large batch would.
    pub gradient_accumulation_steps: usize,
    /// Stop when `monitor_metric` no longer improves.
    pub early_stopping: bool,
    /// Epochs without improvement before training stops.
    pub patience: usize,
    /// Smallest change that counts as an improvement.
    pub min_delta: f64,
    /// Metric watched by early stopping and `scheduler: plateau`, one of those of `logging.monitor`.
    pub monitor_metric: String,
    /// End with the best epoch's weights.
    pub restore_best_weights: bool,
    /// Where to compute; auto is CUDA where library and driver have it.
    pub device: Device,
    /// Loader threads, which fill one batch after the other together; 0 loads on the training thread.
    pub num_workers: usize,
    /// Batches go to a CUDA device through page-locked memory, while the step before them computes; false: through ordinary
    /// memory, and training waits for them.
    pub pin_memory: bool,
    /// On CUDA, this project's own kernels, compiled when training starts, where it has some; false: standard operators only.
    pub cuda_kernels: bool,
    /// Keep loader threads between epochs.
    pub persistent_workers: bool,
    /// Batches gathered ahead of the step (at least 1 with workers).
    pub prefetch_factor: usize,
    /// Accumulate metrics while evaluating instead of keeping every prediction.
    pub compute_metrics_online: bool,
    /// Seed of weights, order, jitter, rotation and dropout.
    pub seed: u64,
    /// Arithmetic. bf16 and fp16 compute products in half precision, with float32 weights, and fp16 scales the loss; the CPU
    /// computes tf32 as fp32 and only rounds for the halves, so they are slower there.
    pub precision: Precision,
    /// Where the rows of the training split lie. host: in the page cache, and batches of them are copied to the device.
    /// device: with the step, copied there once, so that a step is sent only where its windows begin; on CUDA at most
    /// 2^31 / joint_angles_channels rows. auto: device on CUDA where they take at most a quarter of the free memory and the
    /// step has room beside them, else host.
    pub data_residency: Residency,
    /// Most bytes of the device's memory that training, and validation beside it, may each take on CUDA (default: all there
    /// is).
    pub device_memory_limit: Option<usize>,
    /// Batches between releases of memory that ONNX Runtime holds but does not use (0: never). Not on CUDA, where a step
    /// is a captured graph.
    pub empty_cache_every: usize,
    /// Decay of a moving average of the weights, which is then evaluated and exported, e.g. 0.999 (0: none).
    pub ema: f64,
    /// Largest gradient element; larger ones are cut to it before `gradient_clip_norm` counts (default: off).
    pub clip_value: Option<f64>,
    /// Parameters without weight decay: names with `*` and `?`, e.g. ["*.bias", "*norm*"].
    pub no_decay: Vec<String>,
    /// Weight of each joint in the loss (default: all 1).
    pub joint_weights: Option<Vec<f64>>,
    /// What a loss or gradient that is not finite does: stops, or skips the batch; both name the recordings.
    pub on_nan: OnNan,
    /// How often the learning rate changes.
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
            monitor_metric: "val_loss".into(),
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

/// What a run writes and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct LoggingConfig {
    /// Folder of checkpoints (default: `RUN/checkpoints`).
    pub checkpoint_dir: Option<PathBuf>,
    /// Folder of metrics.jsonl, metrics.csv, environment.json and TensorBoard's events (default: `RUN`).
    pub log_dir: Option<PathBuf>,
    /// Epochs between numbered checkpoints (0: none).
    pub save_every: usize,
    /// Steps between progress lines.
    pub log_every: usize,
    /// Write no numbered checkpoints, only `best` and `last`.
    pub save_best_only: bool,
    /// Metric that decides which epoch is best: val_loss, val_mae, val_rmse, train_loss or train_mae.
    pub monitor: String,
    /// Whether a smaller or a larger `monitor` is better.
    pub mode: Mode,
    /// Batches between checkpoints within an epoch (0: none); `fit --resume` loses no more than these.
    pub save_every_steps: usize,
    /// Numbered checkpoints kept.
    pub keep_last: usize,
}

impl Default for LoggingConfig {
    fn default() -> Self {
        Self {
            checkpoint_dir: None,
            log_dir: None,
            save_every: 5,
            log_every: 10,
            save_best_only: true,
            monitor: "val_loss".into(),
            mode: Mode::Min,
            save_every_steps: 0,
            keep_last: 3,
        }
    }
}

/// Declares an enum of YAML words with the word of each variant.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        pub enum $name { $($(#[$of])* #[serde(rename = $word)] $variant),+ }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }
    };
}

words!(
    /// Whose statistics a z-score uses.
    Normalize { Recording = "recording", Train = "train", None = "none" }
);
words!(
    /// Rows that statistics are taken from.
    Statistics { Sampled = "sampled", Exact = "exact" }
);
words!(
    /// Unit that a random split keeps together.
    SplitBy { Recording = "recording", Session = "session", User = "user" }
);
words!(
    /// What an unusable recording does.
    OnBad { Error = "error", Skip = "skip" }
);
words!(
    /// Element type of cached arrays, and of exported models.
    #[derive(Default)]
    Dtype { #[default] Float32 = "float32", Float16 = "float16" }
);
impl Dtype {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::Float32 => 4,
            Self::Float16 => 2,
        }
    }
}

words!(
    /// How angles of a lower rate are brought to the EMG's.
    #[derive(Default)]
    Interpolation { #[default] Linear = "linear", Hold = "hold" }
);
words!(
    /// Unit of recorded angles.
    #[derive(Default)]
    AngleUnit { #[default] Rad = "rad", Deg = "deg" }
);
words!(
    /// Which rows have no usable angles, beside those that are not finite.
    #[derive(Default)]
    InvalidRows { #[default] Zeros = "zeros", None = "none" }
);
words!(
    /// Architectures.
    ModelType {
        TdsLstm = "tds_lstm",
        TdsMlp = "tds_mlp",
        Lstm = "lstm",
        TrackingVemg2pose = "tracking_vemg2pose",
        RegressionVemg2pose = "regression_vemg2pose",
        TrackingEmg2pose = "tracking_emg2pose",
        RegressionEmg2pose = "regression_emg2pose",
        Neuropose = "neuropose",
        /// A user's own model.
        Onnx = "onnx",
    }
);
words!(
    /// Which axis of a user's model has channels or joints.
    AxisLayout { Auto = "auto", ChannelsFirst = "channels_first", ChannelsLast = "channels_last" }
);
words!(
    /// Decoder of the TDS models.
    DecoderType { SequentialLstm = "sequential_lstm", Mlp = "mlp" }
);
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
    /// Where a split's rows live during training.
    Residency { Auto = "auto", Host = "host", Device = "device" }
);
words!(
    /// What a non-finite loss does.
    OnNan { Stop = "stop", Skip = "skip" }
);
words!(
    /// How often the learning rate changes.
    SchedulePer { Epoch = "epoch", Step = "step" }
);
words!(
    /// Direction of a monitored metric.
    Mode { Min = "min", Max = "max" }
);

/// Words that YAML spells as truth values, in a schema.
fn words_and_truth(schema: &mut schemars::Schema) {
    let words = if schema.as_value().to_string().contains("block") {
        serde_json::json!([true, false, "block"])
    } else {
        serde_json::json!(["zero", true, false])
    };
    *schema = schemars::json_schema!({ "enum": words });
}

/// Pose before the decoder's first step. YAML: `zero` (or false) and `true`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(transform = words_and_truth, rename_all = "lowercase")]
pub enum InitialPose {
    Zero,
    True,
}

/// Order of training windows. YAML: true, false or `block`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(transform = words_and_truth, rename_all = "lowercase")]
pub enum Shuffle {
    Off,
    Full,
    Block,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum BoolOrWord {
    Bool(bool),
    Word(String),
}

impl<'de> Deserialize<'de> for InitialPose {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match BoolOrWord::deserialize(deserializer)? {
            BoolOrWord::Bool(true) => Ok(Self::True),
            BoolOrWord::Bool(false) => Ok(Self::Zero),
            BoolOrWord::Word(word) if word == "zero" => Ok(Self::Zero),
            BoolOrWord::Word(word) if word == "true" => Ok(Self::True),
            BoolOrWord::Word(word) => {
                Err(serde::de::Error::custom(format!("initial_pose: expected zero or true, found `{word}`")))
            }
        }
    }
}

impl Serialize for InitialPose {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Zero => serializer.serialize_str("zero"),
            Self::True => serializer.serialize_bool(true),
        }
    }
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
