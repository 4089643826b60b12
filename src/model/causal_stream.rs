//! The streaming form of a user's own model of causal convolutions.

use std::collections::HashMap;

use super::error::ModelError;
use super::network::ModelInputs;
use super::parameter::Parameter;
use super::pass::Pass;
use super::stream::{Stream, Streamed, check_chunk};
use crate::graph::{Graph, Streamable, Value};

/// A model as a stream.
#[derive(Debug, Clone)]
pub(super) struct CausalStream {
    graph: Streamable,
    /// Names of the tensors that training changes, which are inputs of the graph.
    weights: Vec<String>,
    left_context: usize,
}

impl CausalStream {
    /// The stream of a model, whose `window` graph takes EMG and `weights` by name and gives angles behind `left_context` rows.
    pub(super) fn new(
        window: Graph,
        weights: &[Parameter],
        left_context: usize,
        chunk: usize,
    ) -> Result<Self, ModelError> {
        check_chunk(chunk, 1)?;
        let graph = Streamable::new(window, chunk).map_err(ModelError::NotCausal)?;
        let early = left_context as i64 - graph.first();
        if early > 0 {
            return Err(ModelError::KnownEarlier { rows: early });
        }
        let weights = weights.iter().map(|weight| weight.name.clone()).collect();
        Ok(Self { graph, weights, left_context })
    }

    pub(super) fn chunk(&self) -> usize {
        self.graph.chunk()
    }

    pub(super) fn lag(&self) -> usize {
        usize::try_from(self.graph.first()).unwrap_or(0).saturating_sub(self.left_context)
    }

    pub(super) fn state_elements(&self) -> usize {
        self.graph.state_elements()
    }

    pub(super) fn forward(
        &self,
        graph: &mut Graph,
        pass: &mut Pass,
        inputs: &ModelInputs,
        count: Value,
        [state, position]: [Value; 2],
    ) -> Result<Streamed, ModelError> {
        let parts = graph.split(position, 0, &[1; Stream::POSITIONS]);
        let [chunks, before, steps] = parts[..] else { unreachable!("three integers") };
        let offsets: Vec<_> = (0..self.chunk() as i64).collect();
        let offsets = graph.i64s(&offsets);
        let time = graph.add(before, offsets);
        let named = self.weights.iter().map(|name| (name.clone(), pass.weights.get(name)));
        let others: HashMap<_, _> = named.chain(inputs.beside_emg()).collect();
        let (angles, state) = self.graph.forward(graph, [inputs.emg, time, state], &others)?;

        let (one, first) = (graph.i64s(&[1]), graph.i64s(&[self.graph.first() - 1]));
        let rows = graph.add(before, count);
        let [late, there] = [graph.greater(time, first), graph.less(time, rows)];
        let is_predicted = graph.and(late, there);
        let is_predicted = graph.reshape(is_predicted, &[1, self.chunk(), 1]);
        let chunks = graph.add(chunks, one);
        let position = graph.concat(&[chunks, rows, steps], 0);
        Ok(Streamed { angles, is_predicted, state, position })
    }
}
