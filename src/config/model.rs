//! The keys of the section `model`, with their types, defaults and accepted values. The keys and defaults of the
//! reference system are kept, so its YAML files load unchanged.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::validate::{Checked, LONGEST_WINDOW, require};
use super::words::{BoolOrWord, words, words_and_truth};

/// Architecture of the regressor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct ModelConfig {
    /// Architecture. The emg2pose networks and neuropose have fixed sizes; onnx is your own model (default: as
    /// `decoder_type` says).
    #[serde(rename = "type")]
    pub kind: Option<ModelType>,
    /// Number of EMG channels in the model's input.
    pub input_size: usize,
    /// Number of joint angles in the model's output.
    pub output_size: usize,
    /// Dropout probability: in the decoder, between LSTM layers, or after neuropose's convolutions.
    pub dropout: f64,
    /// Stages of the time-depth-separable encoder.
    pub tds_stages: Vec<TdsStage>,
    /// Decoder of the TDS models; `mlp` selects the architecture tds_mlp.
    pub decoder_type: DecoderType,
    /// Units per decoder layer.
    pub decoder_hidden_size: usize,
    /// Decoder layers.
    pub decoder_num_layers: usize,
    /// Feed the previous pose to the decoder along with the features.
    pub decoder_state_condition: bool,
    /// Decoder steps per second.
    pub rollout_freq: f64,
    /// Sampling rate of the recordings in Hz; recordings with another rate are rejected.
    pub original_sampling_rate: f64,
    /// Let the decoder predict changes of the pose instead of poses.
    pub predict_velocity: bool,
    /// Pose before the first step: zero (in the model's units) or the true pose from the recording.
    pub initial_pose: InitialPose,
    /// Units per layer of the plain `lstm`.
    pub hidden_size: usize,
    /// Layers of the plain `lstm`.
    pub num_layers: usize,
    /// Whether the plain `lstm` is bidirectional.
    pub bidirectional: bool,
    /// Path of your own ONNX model, with `type: onnx`; `fit --model FILE` sets both keys (see models.md).
    pub onnx: Option<PathBuf>,
    /// Initializers of your own model that are not trained: patterns with `*` and `?`. `fit --freeze` adds to the list.
    pub freeze: Vec<String>,
    /// Tensors of your own model that are trained although its file calls them buffers or constants: patterns with `*` and
    /// `?`. `fit --train` adds to the list.
    pub train: Vec<String>,
    /// Rows at the start of each window for which your own model has no output.
    pub left_context: usize,
    /// Rows at the end of each window for which your own model has no output.
    pub right_context: usize,
    /// What your own model predicts from a window. rows: all of its rows (fewer are interpolated; one is that of all).
    /// last, center: one pose, of the window's last row or of the one in its middle.
    pub target: Target,
    /// Batch normalizations of your own model. train: they take the statistics of the batch, and move the running ones;
    /// frozen: they take the running ones as they are; auto: as they were exported.
    pub batch_norm: NormMode,
    /// Axis order of your own model's EMG input: channels_first [batch, channels, rows], channels_last, or auto
    /// (inferred from the sizes).
    pub emg_layout: AxisLayout,
    /// Axis order of your own model's output: channels_first [batch, joints, rows], channels_last, or auto.
    pub angles_layout: AxisLayout,
    /// Accepted for compatibility with the reference system; ignored with a warning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder_features: Option<serde_json::Value>,
    /// Accepted for compatibility with the reference system; ignored with a warning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decoder_hidden: Option<serde_json::Value>,
    /// Accepted for compatibility with the reference system; ignored with a warning.
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
            train: Vec::new(),
            left_context: 0,
            right_context: 0,
            target: Target::Rows,
            batch_norm: NormMode::Auto,
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

impl ModelConfig {
    pub(super) fn validate(&self) -> Checked {
        require((0.0..1.0).contains(&self.dropout), "model.dropout", "0 <= dropout < 1", self.dropout)?;
        for (key, rate) in
            [("model.rollout_freq", self.rollout_freq), ("model.original_sampling_rate", self.original_sampling_rate)]
        {
            require(rate.is_finite() && rate > 0.0, key, "a positive rate in Hz", rate)?;
        }
        let (rate, most) = (self.rollout_freq, self.original_sampling_rate);
        require(rate <= most, "model.rollout_freq", "at most model.original_sampling_rate", rate)?;
        const UNITS: std::ops::RangeInclusive<usize> = 1..=65_536;
        const LAYERS: std::ops::RangeInclusive<usize> = 1..=1000;
        let counts = [
            ("model.decoder_hidden_size", self.decoder_hidden_size, UNITS),
            ("model.decoder_num_layers", self.decoder_num_layers, LAYERS),
            ("model.tds_stages", self.tds_stages.len(), LAYERS),
            ("model.hidden_size", self.hidden_size, UNITS),
            ("model.num_layers", self.num_layers, LAYERS),
        ];
        for (key, found, range) in counts {
            require(range.contains(&found), key, &format!("{} to {}", range.start(), range.end()), found)?;
        }
        for stage in &self.tds_stages {
            let parts =
                [stage.in_conv_kernel, stage.in_conv_stride, stage.channels, stage.feature_width, stage.kernel_width];
            let valid = parts.iter().all(|part| (1..=100_000).contains(part)) && stage.num_blocks <= 1000;
            require(
                valid,
                "model.tds_stages",
                "stages with sizes from 1 to 100000 and at most 1000 blocks",
                format!("{stage:?}"),
            )?;
        }
        let own = self.architecture() == ModelType::Onnx;
        require(
            own || self.onnx.is_none(),
            "model.onnx",
            "model.type: onnx when this key is set",
            self.architecture(),
        )?;
        let longest = LONGEST_WINDOW;
        require(self.left_context < longest, "model.left_context", "fewer rows than a window", self.left_context)?;
        require(self.right_context < longest, "model.right_context", "fewer rows than a window", self.right_context)?;
        let contexts = self.left_context + self.right_context;
        let target = self.target;
        require(
            target == Target::Rows || contexts == 0,
            "model.left_context and right_context",
            "0 with a model.target",
            contexts,
        )?;
        Ok(())
    }
}

/// One stage of the TDS encoder: a strided convolution and `num_blocks` blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct TdsStage {
    /// Kernel size of the stage's strided convolution.
    pub in_conv_kernel: usize,
    /// Stride of that convolution.
    pub in_conv_stride: usize,
    /// Number of TDS blocks after that convolution.
    pub num_blocks: usize,
    /// Channels of a block's convolution; features = channels x feature_width.
    pub channels: usize,
    /// Features per channel of a block.
    pub feature_width: usize,
    /// Kernel size of a block's convolution over time.
    pub kernel_width: usize,
}

impl Default for TdsStage {
    fn default() -> Self {
        Self { in_conv_kernel: 5, in_conv_stride: 2, num_blocks: 2, channels: 8, feature_width: 4, kernel_width: 21 }
    }
}

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
    /// Which axis of a user's model holds the channels or joints.
    AxisLayout { Auto = "auto", ChannelsFirst = "channels_first", ChannelsLast = "channels_last" }
);

words!(
    /// How a user's batch normalizations train.
    NormMode { Auto = "auto", Train = "train", Frozen = "frozen" }
);

words!(
    /// Which rows of a window a user's model predicts.
    Target { Rows = "rows", Last = "last", Center = "center" }
);

words!(
    /// Decoder of the TDS models.
    DecoderType { SequentialLstm = "sequential_lstm", Mlp = "mlp" }
);

/// Pose before the decoder's first step. YAML: `zero` (or false) and `true`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(transform = words_and_truth, rename_all = "lowercase")]
pub enum InitialPose {
    Zero,
    True,
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
