//! What a model cannot be, or cannot take.

use super::network::{LARGEST_MATRIX, MOST_CELLS};
use super::stream::{MOST_CHUNK_ROWS, MOST_CHUNK_STEPS};
use crate::config::ModelType;
use crate::graph::GraphError;

/// A pattern of parameters' names that fits none; `names`: the first of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{pattern}` matches no parameter; their names are {}, ..", names.join(", "))]
pub struct UnmatchedPattern {
    pub pattern: String,
    pub names: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error("expected a model with one input, the EMG; its inputs are {}", .0.join(", "))]
    Inputs(Vec<String>),
    #[error("input {name}: expected float32 with three axes, found {dims:?}")]
    Input { name: String, dims: Vec<Option<usize>> },
    #[error("input {name} is {dims:?}: which axis has the {channels} channels does not show; set model.emg_layout")]
    UnclearChannels { name: String, dims: Vec<Option<usize>>, channels: usize },
    #[error("input {name} is {dims:?}, expected {channels} channels")]
    OtherChannels { name: String, dims: Vec<Option<usize>>, channels: usize },
    #[error("the model has a value named {name}, which the exported one needs for an input")]
    NameTaken { name: &'static str },
    #[error("model.freeze: {0}")]
    Freeze(UnmatchedPattern),
    #[error("the model has no parameters to train: no float initializer is left")]
    NothingToTrain,
    #[error("the model has no output")]
    NoOutput,
    #[error("the model gives {found} for a batch of {batch}; expected floats [{batch}, ..]")]
    OtherBatch { found: String, batch: usize },
    #[error(
        "the model's batch is fixed at {fixed}: set training.batch_size to it, or export the model with a dynamic batch"
    )]
    FixedBatch { fixed: usize },
    #[error(
        "the model gives {given} rows for a window of {rows}; expected {rows}, {expected} (without \
         model.left_context), or fewer, which are interpolated"
    )]
    OtherRows { given: usize, rows: usize, expected: usize },
    #[error("both axes of the model's output are as long as there are joints: set model.angles_layout")]
    UnclearJoints,
    #[error("the model gives {found:?}; expected [batch, rows, {joints}] or [batch, {joints}, rows]")]
    OtherJoints { found: Vec<usize>, joints: usize },
    #[error("the model takes windows of {fixed} rows, not {rows}: set data.window_size")]
    FixedWindow { fixed: usize, rows: usize },
    #[error("a window of {rows} rows is too short for model.left_context {context}")]
    ShorterThanContext { rows: usize, context: usize },
    #[error(
        "a window of {rows} rows is too short: the encoder needs {context} rows of left context, so more than {context}"
    )]
    ShorterThanEncoder { rows: usize, context: usize },
    #[error("a window of {rows} rows is too short: neuropose pools {pooled} rows into one")]
    ShorterThanPool { rows: usize, pooled: usize },
    #[error("{channels} EMG channels are too few: neuropose pools {pooled} into one")]
    FewChannels { channels: usize, pooled: usize },
    #[error(
        "{steps} decoder steps in {layers} layers are unrolled, and more than {MOST_CELLS} are too many to load: use a \
         shorter window or a lower model.rollout_freq"
    )]
    ManyCells { steps: usize, layers: usize },
    #[error("a window of {rows} rows, {steps} steps, is too long: rows x steps must stay below {LARGEST_MATRIX}")]
    LongWindow { rows: usize, steps: usize },
    #[error("{architecture}: {source}")]
    Stream { architecture: ModelType, source: Box<Self> },
    #[error(
        "it needs the whole window at once: only tds_lstm, tds_mlp and emg2pose's networks but neuropose can be streamed"
    )]
    NeedsWholeWindow,
    #[error("a stage with {kernel} taps and a stride of {stride} cannot be streamed: it leaves out rows")]
    LeavesOutRows { kernel: usize, stride: usize },
    #[error(
        "a chunk of {chunk} rows: the network's strides ask for a multiple of {stride} rows, up to {MOST_CHUNK_ROWS}"
    )]
    Chunk { chunk: usize, stride: usize },
    #[error("a chunk of {chunk} rows takes {steps} decoder steps; at most {MOST_CHUNK_STEPS}")]
    LongChunk { chunk: usize, steps: i64 },
    #[error("a window of {rows} rows is too short to stream: its decoder has a single step, which has no spacing")]
    SingleStep { rows: usize },
}
