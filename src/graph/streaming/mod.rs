//! A graph over a window of rows as one over chunks that follow each other: convolutions over time keep the rows that the
//! next chunk still needs, everything else is done row by row.
//!
//! A value of the stream stands for the whole recording, not for a window: what a convolution pads before its first row is
//! there once, before the recording's first row.

mod rules;
mod walk;

use std::collections::HashMap;

use super::core::{Graph, Value};
use super::error::GraphError;
use super::tensor::{DType, TensorType};
use walk::Walk;

/// A graph that can be run chunk by chunk.
#[derive(Debug, Clone)]
pub struct Streamable {
    /// Its first input is the EMG [1, rows, channels], further ones are the same for all rows; its output is [1, rows',
    /// columns].
    window: Graph,
    chunk: usize,
    /// Shapes of what is kept for the next chunk.
    kept: Vec<Vec<usize>>,
    /// The row of a recording with which the output's first row can be computed.
    first: i64,
}

impl Streamable {
    /// Of a window whose first input is the EMG [1, rows, channels].
    ///
    /// # Errors
    /// A node looks at the whole window, or has numbers for each of its rows; the output depends on rows behind the window.
    pub fn new(window: Graph, chunk: usize) -> Result<Self, GraphError> {
        let mut scratch = Graph::new();
        let mut ty = window.ty(window.inputs()[0].1).clone();
        ty.shape[1] = chunk;
        let rows = scratch.input("emg", ty);
        let time = scratch.input("time", TensorType::new(DType::I64, [chunk]));
        let others = &window.inputs()[1..];
        let others: HashMap<_, _> =
            others.iter().map(|(name, value)| (name.clone(), scratch.input(name, window.ty(*value).clone()))).collect();
        let mut kept = Vec::new();
        let mut keep = |graph: &mut Graph, ty: TensorType| {
            kept.push(ty.shape.clone());
            graph.input("kept", ty)
        };
        let (output, _) = Walk::new(&window, &mut scratch, time, &mut keep).run(rows, &others)?;
        if output.beyond > 0 {
            return Err(format!(
                "its last angles depend on {0} rows that are padded behind the window: pad before the rows only, or train with \
                 model.right_context: {0}",
                output.beyond
            )
            .into());
        }
        Ok(Self { window, chunk, kept, first: output.first })
    }

    /// Rows of a recording before the one with which the output's first row can be computed.
    pub fn first(&self) -> i64 {
        self.first
    }

    pub fn chunk(&self) -> usize {
        self.chunk
    }

    /// Elements of what is kept from chunk to chunk, all zero at the start: one that says nothing where nothing is kept.
    pub fn state_elements(&self) -> usize {
        self.kept.iter().map(|shape| shape.iter().product::<usize>()).sum::<usize>().max(1)
    }

    /// The output [1, chunk, columns] of the recording's rows `time` [chunk] (int64), and the next state; `others` are the
    /// window's further inputs.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn forward(
        &self,
        graph: &mut Graph,
        [rows, time, state]: [Value; 3],
        others: &HashMap<String, Value>,
    ) -> Result<(Value, Value), GraphError> {
        let sizes: Vec<usize> = self.kept.iter().map(|shape| shape.iter().product()).collect();
        let parts = if sizes.is_empty() { Vec::new() } else { graph.split(state, 0, &sizes) };
        let mut parts = parts.into_iter();
        let mut keep = |graph: &mut Graph, ty: TensorType| {
            let part = parts.next().expect("as many as when it was made");
            graph.reshape(part, &ty.shape)
        };
        let (output, kept) = Walk::new(&self.window, graph, time, &mut keep).run(rows, others)?;
        let flat: Vec<_> = kept
            .into_iter()
            .map(|x| {
                let elements = graph.ty(x).elements();
                graph.reshape(x, &[elements])
            })
            .collect();
        let state = if flat.is_empty() { state } else { graph.concat(&flat, 0) };
        Ok((output.value, state))
    }
}
