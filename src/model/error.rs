//! Errors of models: unsupported configurations, inputs and forms.

use std::fmt;

use super::limits::{LARGEST_MATRIX, MOST_CELLS, MOST_CHUNK_ROWS, MOST_CHUNK_STEPS};
use crate::config::{ModelType, Target};
use crate::graph::GraphError;

/// A pattern that matches no parameter's name; `names`: the first of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{pattern}` matches no parameter; some of their names are {}", names.join(", "))]
pub struct UnmatchedPattern {
    pub pattern: String,
    pub names: Vec<String>,
}

/// Sizes of a port's axes; `None`: any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dims(pub Vec<Option<usize>>);

impl fmt::Display for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |dim: &Option<usize>| dim.map_or("any".to_owned(), |size| size.to_string());
        write!(f, "[{}]", self.0.iter().map(size).collect::<Vec<_>>().join(", "))
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error(
        "expected a model with one input, the EMG, and perhaps others named initial_pose, or emg_mean and emg_std; found the inputs {}",
        .0.join(", ")
    )]
    Inputs(Vec<String>),
    #[error("with model.target {target}, the pose that input initial_pose takes would be the one to predict")]
    PoseIsTarget { target: Target },
    #[error("input initial_pose is {dims}; expected float32 [batch, {joints}]")]
    InitialPose { dims: Dims, joints: usize },
    #[error("input {name} is {dims}; expected float32 [batch, {channels}]: a value for each channel")]
    EmgStatistics { name: &'static str, dims: Dims, channels: usize },
    #[error("the model has an input {found}, but none named {missing}; statistics of a recording's EMG come as both")]
    OneStatistic { found: &'static str, missing: &'static str },
    #[error("input {name}: expected float32 with three axes, found {}{dims}", if *is_float { "" } else { "another element type, " })]
    Input { name: String, is_float: bool, dims: Dims },
    #[error(
        "input {name} is in half precision, and models are trained from float32 weights: export the model in float32, and set \
         training.precision: bf16 or fp16 to compute in half precision"
    )]
    HalfPrecision { name: String },
    #[error("input {name} is {dims}: it is ambiguous which axis has the {channels} channels; set model.emg_layout")]
    AmbiguousChannels { name: String, dims: Dims, channels: usize },
    #[error(
        "input {name} is {dims}, expected {channels} channels; data.emg_channels, or the model's size, does not suit the \
         recordings"
    )]
    ChannelMismatch { name: String, dims: Dims, channels: usize },
    #[error("the model has a value named {name}, which is reserved for an input of the exported model; rename it")]
    NameTaken { name: &'static str },
    #[error("model.freeze: {0}")]
    Freeze(UnmatchedPattern),
    #[error("model.train: {0}")]
    Train(UnmatchedPattern),
    #[error("model.train names {name}, a running statistic of a batch normalization, which follows the batches")]
    TrainedStatistic { name: String },
    #[error("{name} is named by model.freeze and by model.train")]
    FrozenAndTrained { name: String },
    #[error("the model has no parameters to train: no float initializer is trainable and not frozen")]
    NothingToTrain,
    #[error("the model has no output")]
    NoOutput,
    #[error("the model's output is {found} for a batch of {batch}; expected floats [{batch}, ..]")]
    BatchMismatch { found: String, batch: usize },
    #[error(
        "the model's batch size is fixed at {fixed}: set training.batch_size to it, or export the model with a dynamic batch"
    )]
    FixedBatch { fixed: usize },
    #[error("model.target is {target}, which takes one pose for a window, but the model outputs {given} rows")]
    NotOnePose { given: usize, target: Target },
    #[error(
        "with model.target {target} all windows have {trained} rows, not {rows}: set data.eval_window to data.window_size"
    )]
    OtherWindow { rows: usize, trained: usize, target: Target },
    #[error(
        "the model outputs {given} rows for a window of {rows}; expected {rows}, {expected} (without \
         model.left_context and model.right_context), or fewer, which are interpolated"
    )]
    RowMismatch { given: usize, rows: usize, expected: usize },
    #[error("both axes of the model's output match the number of joints: set model.angles_layout")]
    AmbiguousJoints,
    #[error("the model's output is {found:?}; expected [batch, rows, {joints}] or [batch, {joints}, rows]")]
    JointMismatch { found: Vec<usize>, joints: usize },
    #[error("the model only takes windows of {fixed} rows, not {rows} (data.window_size; in an export, --length)")]
    FixedWindow { fixed: usize, rows: usize },
    #[error(
        "a window of {rows} rows is too short for a context of {context} (model.left_context and model.right_context)"
    )]
    ShorterThanContext { rows: usize, context: usize },
    #[error(
        "a window of {rows} rows is too short: the encoder needs {context} rows of left context, so use more than {context}"
    )]
    ShorterThanEncoder { rows: usize, context: usize },
    #[error("a window of {rows} rows is too short: neuropose needs at least {pooled} rows")]
    ShorterThanPool { rows: usize, pooled: usize },
    #[error("{channels} EMG channels are too few: neuropose needs at least {pooled}")]
    TooFewChannels { channels: usize, pooled: usize },
    #[error(
        "{steps} decoder steps in {layers} layers are too many to load (at most {MOST_CELLS} steps x layers): use a \
         shorter window or a lower model.rollout_freq"
    )]
    TooManyCells { steps: usize, layers: usize },
    #[error("a window of {rows} rows, {steps} steps, is too long: rows x steps must stay below {LARGEST_MATRIX}")]
    WindowTooLong { rows: usize, steps: usize },
    #[error("{architecture}: {source}")]
    Stream { architecture: ModelType, source: Box<Self> },
    #[error(
        "it needs the whole window at once: only tds_lstm, tds_mlp, emg2pose's networks except neuropose, and your own networks of causal convolutions can be streamed"
    )]
    NeedsWholeWindow,
    #[error("{0}")]
    NotCausal(GraphError),
    #[error(
        "its angles are known {rows} rows before the rows that they are of (model.left_context), and a stream gives none of later \
         rows"
    )]
    KnownEarlier { rows: i64 },
    #[error("a stage with kernel size {kernel} and stride {stride} cannot be streamed: it leaves out rows")]
    LeavesOutRows { kernel: usize, stride: usize },
    #[error(
        "a chunk of {chunk} rows: expected a multiple of {stride} rows (the network's stride), up to {MOST_CHUNK_ROWS}"
    )]
    Chunk { chunk: usize, stride: usize },
    #[error("a chunk of {chunk} rows takes {steps} decoder steps; expected at most {MOST_CHUNK_STEPS}")]
    ChunkTooLong { chunk: usize, steps: i64 },
    #[error(
        "a window of {rows} rows is too short to stream: its decoder makes a single step, and streaming needs at least two"
    )]
    SingleStep { rows: usize },
}
