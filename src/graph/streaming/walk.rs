//! The way through a window's nodes, each in its form for chunks.

use std::collections::HashMap;

use super::super::core::{Graph, Node, Value};
use super::super::error::GraphError;
use super::super::tensor::TensorType;
use super::rules::keeps_zeros;

/// A value of the window in the stream.
#[derive(Debug, Clone, Copy)]
pub(super) enum Streamed {
    /// The same for all rows.
    Still(Value),
    Rows(Rows),
}

/// A value with a row for each of the chunk's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows {
    pub(super) value: Value,
    /// The axis of rows.
    pub(super) axis: usize,
    /// The window's first row of this value can be computed with the recording's row `first`. Before the recording, where
    /// `first` is negative, rows are zero.
    pub(super) first: i64,
    /// Rows that the window's value has beyond its last: what is padded there.
    pub(super) beyond: i64,
}

/// The way through a window's nodes.
pub(super) struct Walk<'a> {
    pub(super) window: &'a Graph,
    pub(super) graph: &'a mut Graph,
    emg: Value,
    /// Of the window.
    rows: i64,
    pub(super) chunk: usize,
    pub(super) time: Value,
    values: HashMap<Value, Streamed>,
    /// Gives what was kept of the chunk before.
    keep: &'a mut dyn FnMut(&mut Graph, TensorType) -> Value,
    kept: Vec<Value>,
}

/// A node's outputs in the stream.
pub(super) type Outputs = Result<Vec<Streamed>, GraphError>;

impl<'a> Walk<'a> {
    /// `time`: the rows of the recording that the chunk has.
    pub(super) fn new(
        window: &'a Graph,
        graph: &'a mut Graph,
        time: Value,
        keep: &'a mut dyn FnMut(&mut Graph, TensorType) -> Value,
    ) -> Self {
        let (_, emg) = window.inputs()[0];
        let (rows, chunk) = (window.shape(emg)[1] as i64, graph.shape(time)[0]);
        Self { window, graph, emg, rows, chunk, time, values: HashMap::new(), keep, kept: Vec::new() }
    }

    pub(super) fn run(
        mut self,
        rows: Value,
        others: &HashMap<String, Value>,
    ) -> Result<(Rows, Vec<Value>), GraphError> {
        for (name, value) in self.window.inputs() {
            let streamed = match others.get(name) {
                _ if *value == self.emg => Streamed::Rows(Rows { value: rows, axis: 1, first: 0, beyond: 0 }),
                Some(other) => Streamed::Still(*other),
                None => unreachable!("{name} is given"),
            };
            self.values.insert(*value, streamed);
        }
        for node in self.window.nodes() {
            let outputs = self.node(node).map_err(|source| GraphError::Node {
                node: node.origin.as_deref().unwrap_or(node.operator.name).to_owned(),
                source: Box::new(source),
            })?;
            for (value, output) in node.outputs.iter().zip(&outputs) {
                self.check_length(*value, output)?;
            }
            self.values.extend(node.outputs.iter().copied().zip(outputs));
        }
        let (_, output) = self.window.outputs()[0];
        match self.values.get(&output) {
            Some(Streamed::Rows(rows)) if rows.axis == 1 => Ok((*rows, self.kept)),
            _ => Err("its output has no row for each row of EMG".into()),
        }
    }

    /// Fails where the window's value has not as many rows as its first and last one say.
    fn check_length(&self, value: Value, output: &Streamed) -> Result<(), GraphError> {
        let Streamed::Rows(rows) = output else { return Ok(()) };
        let expected = self.rows + rows.beyond - rows.first;
        let of_window = self.window.shape(value).get(rows.axis).map(|found| *found as i64);
        let of_chunk = self.graph.shape(rows.value).get(rows.axis);
        if of_window == Some(expected) && of_chunk == Some(&self.chunk) { Ok(()) } else { Err(WHOLE_WINDOW.into()) }
    }

    /// A value of the window in the stream.
    fn streamed(&mut self, value: Value) -> Streamed {
        if let Some(streamed) = self.values.get(&value) {
            return *streamed;
        }
        let constant = self.window.as_constant(value).expect("inputs and nodes come before what takes them").clone();
        let streamed = Streamed::Still(self.graph.constant(constant));
        self.values.insert(value, streamed);
        streamed
    }

    fn node(&mut self, node: &Node) -> Outputs {
        let inputs: Vec<_> = node.inputs.iter().map(|input| input.map(|value| self.streamed(value))).collect();
        let rows: Vec<_> = inputs.iter().flatten().filter_map(Streamed::rows).collect();
        let (inputs, rows) = self.together(inputs, rows);
        let Some(first) = rows.first().copied() else {
            return self.copy_node(node, &inputs).map(|values| values.into_iter().map(Streamed::Still).collect());
        };
        if node.operator.is_foreign {
            return Err("it is not known what the operator does with rows".into());
        }
        if first.first < 0 && !keeps_zeros(node.operator.name) {
            return Err("it changes zeros that were padded before the first row".into());
        }
        self.apply(node, &inputs, &rows)
    }

    /// A node's inputs, with those that are known earlier than others delayed, so that rows of one time meet.
    fn together(&mut self, inputs: Vec<Option<Streamed>>, rows: Vec<Rows>) -> (Vec<Option<Streamed>>, Vec<Rows>) {
        let latest = rows.iter().map(|rows| rows.first).max().unwrap_or(0);
        if rows.iter().all(|rows| rows.first == latest) {
            return (inputs, rows);
        }
        let delayed = |input: Option<Streamed>| match input {
            Some(Streamed::Rows(rows)) => Some(Streamed::Rows(self.delayed(rows, latest - rows.first))),
            other => other,
        };
        let inputs: Vec<_> = inputs.into_iter().map(delayed).collect();
        let rows = inputs.iter().flatten().filter_map(Streamed::rows).collect();
        (inputs, rows)
    }

    /// Rows so many rows later.
    fn delayed(&mut self, rows: Rows, by: i64) -> Rows {
        if by == 0 {
            return rows;
        }
        let value = self.with_earlier(rows.value, rows.axis, by as usize);
        let value = self.graph.slice(value, rows.axis, 0, self.chunk);
        Rows { value, first: rows.first + by, beyond: rows.beyond + by, ..rows }
    }

    /// The chunk's rows behind the `count` rows before them, of which the last ones are kept for the next chunk.
    pub(super) fn with_earlier(&mut self, value: Value, axis: usize, count: usize) -> Value {
        let mut ty = self.graph.ty(value).clone();
        ty.shape[axis] = count;
        let kept = (self.keep)(self.graph, ty);
        let all = self.graph.concat(&[kept, value], axis);
        self.kept.push(self.graph.slice(all, axis, self.chunk, self.chunk + count));
        all
    }

    pub(super) fn shape(&self, value: Value) -> Vec<usize> {
        self.window.shape(value).to_vec()
    }

    /// The node, on these inputs.
    pub(super) fn copy_node(&mut self, node: &Node, inputs: &[Option<Streamed>]) -> Result<Vec<Value>, GraphError> {
        let inputs: Vec<_> = inputs.iter().map(|input| input.map(Streamed::value)).collect();
        if node.operator.is_foreign {
            let types = node.outputs.iter().map(|output| self.window.ty(*output).clone()).collect();
            return Ok(self.graph.foreign(node.operator, inputs, node.attributes.clone(), types));
        }
        self.graph.try_apply(node.operator.name, inputs, node.attributes.clone())
    }
}

pub(super) const WHOLE_WINDOW: &str = "it needs the whole window at once";

impl Streamed {
    pub(super) fn value(self) -> Value {
        match self {
            Self::Still(value) | Self::Rows(Rows { value, .. }) => value,
        }
    }

    pub(super) fn rows(&self) -> Option<Rows> {
        match self {
            Self::Still(_) => None,
            Self::Rows(rows) => Some(*rows),
        }
    }
}
