//! Step graphs: one ONNX graph that does a whole training or evaluation step, and the graph that is exported.

mod error;
mod evaluation;
mod export;
mod loss;
mod metadata;
mod optimizer;
mod problem;
mod state;
mod training;

pub use error::StepError;
pub use evaluation::evaluation_step;
pub use export::{Exported, export, export_stream};
pub use metadata::{ExportedForm, MetadataError, ModelMetadata};
pub use optimizer::{HYPERPARAMETERS, Hyperparameters};
pub use problem::{Problem, ResidentRows};
pub use state::{BUFFERS, EMA, PARAMETERS, StateVector, state_vectors};
pub use training::{RANDOM, gradient_graph, loss_graph, training_step};

use std::collections::BTreeSet;

use crate::graph::{Graph, ModelInfo, Signature, to_onnx};
use crate::ports::StepPorts;

/// A step graph as ONNX bytes, and what goes in and out.
#[derive(Debug, Clone)]
pub struct StepGraph {
    pub onnx: Vec<u8>,
    pub ports: StepPorts,
    pub nodes: usize,
    /// Names of parameters that the loss does not depend on: training leaves them as they are.
    pub unreached: Vec<String>,
    /// What kernels it needs.
    pub signatures: BTreeSet<Signature>,
}

impl StepGraph {
    fn new(graph: &Graph, ports: StepPorts) -> Self {
        let onnx = to_onnx(graph, &[], &ModelInfo::default());
        let (nodes, unreached) = (graph.nodes().len(), Vec::new());
        Self { onnx, ports, nodes, unreached, signatures: graph.signatures() }
    }
}

/// Names of a step's results.
pub mod results {
    /// Mean loss over the batch's valid elements.
    pub const LOSS: &str = "loss";
    /// Rows that counted.
    pub const VALID_ROWS: &str = "valid_rows";
    /// Sum over valid rows of |error|, per joint, radians.
    pub const ABSOLUTE: &str = "absolute";
    /// Sum over valid rows of error^2, per joint, radians^2.
    pub const SQUARED: &str = "squared";
    /// Angles [windows, target rows, joints]: in radians, of evaluation steps that were asked for them; in the model's
    /// units, of [`gradient_graph`](super::gradient_graph).
    pub const PREDICTION: &str = "prediction";
    /// 1 if the sum of squares of the batch's gradient is finite in float32, else 0; training steps only.
    pub const FINITE: &str = "finite";
    /// 1 if the parameters changed, else 0; training steps only.
    pub const APPLIED: &str = "applied";
}
