//! Streaming forms of models: a chunk of EMG and a state to angles and the next state.

use super::causal_stream::CausalStream;
use super::error::ModelError;
use super::limits::MOST_CHUNK_ROWS;
use super::network::ModelInputs;
use super::pass::Pass;
use super::tds_stream::TdsStream;
use crate::graph::{Graph, Value};

/// A model as a stream.
#[derive(Debug, Clone)]
pub struct Stream(Form);

#[derive(Debug, Clone)]
enum Form {
    Tds(TdsStream),
    Causal(Box<CausalStream>),
}

/// What a chunk gives.
#[derive(Debug, Clone, Copy)]
pub struct Streamed {
    /// Angles [1, chunk, joints] in the model's units, [`Stream::lag`] rows behind the chunk.
    pub angles: Value,
    /// Whether each row has a prediction, i.e. lies behind the stream's left context: [1, chunk, 1].
    pub is_predicted: Value,
    /// The state for the next chunk: [state elements], and [`Stream::POSITIONS`] integers.
    pub state: Value,
    pub position: Value,
}

impl From<TdsStream> for Stream {
    fn from(stream: TdsStream) -> Self {
        Self(Form::Tds(stream))
    }
}

impl From<CausalStream> for Stream {
    fn from(stream: CausalStream) -> Self {
        Self(Form::Causal(Box::new(stream)))
    }
}

impl Stream {
    /// Integers of the state: chunks and rows so far, and steps made.
    pub const POSITIONS: usize = 3;

    /// Rows of a chunk.
    pub fn chunk(&self) -> usize {
        match &self.0 {
            Form::Tds(stream) => stream.chunk(),
            Form::Causal(stream) => stream.chunk(),
        }
    }

    /// Rows that angles lag behind the EMG.
    pub fn lag(&self) -> usize {
        match &self.0 {
            Form::Tds(stream) => stream.lag(),
            Form::Causal(stream) => stream.lag(),
        }
    }

    /// Elements of the state; all zero before the first chunk.
    pub fn state_elements(&self) -> usize {
        match &self.0 {
            Form::Tds(stream) => stream.state_elements(),
            Form::Causal(stream) => stream.state_elements(),
        }
    }

    /// One chunk. Its EMG is [1, chunk, channels]; `count` [1]: how many of its rows there are, fewer than all only at the
    /// stream's end, and 0 to get the rows that lag behind; `state` [state elements] and `position`
    /// [[`POSITIONS`](Self::POSITIONS)].
    ///
    /// # Errors
    /// A user's model has operators that cannot be streamed.
    pub fn forward(
        &self,
        graph: &mut Graph,
        pass: &mut Pass,
        inputs: &ModelInputs,
        count: Value,
        state: [Value; 2],
    ) -> Result<Streamed, ModelError> {
        match &self.0 {
            Form::Tds(stream) => Ok(stream.forward(graph, pass, inputs, count, state)),
            Form::Causal(stream) => stream.forward(graph, pass, inputs, count, state),
        }
    }
}

/// Rows of some 20 ms, a multiple of a network's stride.
pub(super) fn default_chunk(stride: usize, rate: f64) -> usize {
    stride * (0.02 * rate / stride as f64).round().clamp(1.0, 1e4) as usize
}

/// Fails for a chunk that is no multiple of the stride, or too long.
pub(super) fn check_chunk(chunk: usize, stride: usize) -> Result<(), ModelError> {
    if chunk == 0 || chunk > MOST_CHUNK_ROWS || !chunk.is_multiple_of(stride) {
        return Err(ModelError::Chunk { chunk, stride });
    }
    Ok(())
}
