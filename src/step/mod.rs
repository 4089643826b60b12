//! Step graphs: one ONNX graph that does a whole training or evaluation step, and the graph that is exported.

mod evaluation;
mod export;
mod loss;
mod optimizer;
mod problem;
mod state;
mod training;

pub use evaluation::evaluation_step;
pub use export::{Exported, export, export_stream};
pub use optimizer::{Hyperparameters, hyperparameters};
pub use problem::{Problem, ResidentRows};
pub use state::{BUFFERS, EMA, PARAMETERS, StateVector, state_vectors};
pub use training::{gradient_graph, training_step};

use std::collections::BTreeSet;

use crate::graph::{Graph, ModelInfo, Signature, to_onnx};
use crate::runtime::StepperSpec;

/// A step graph as ONNX bytes, and what goes in and out.
#[derive(Debug, Clone)]
pub struct StepGraph {
    pub onnx: Vec<u8>,
    pub spec: StepperSpec,
    pub nodes: usize,
    /// What kernels it needs.
    pub signatures: BTreeSet<Signature>,
}

impl StepGraph {
    fn new(graph: &Graph, spec: StepperSpec) -> Self {
        let onnx = to_onnx(graph, &[], &ModelInfo::default());
        Self { onnx, spec, nodes: graph.nodes().len(), signatures: graph.signatures() }
    }
}

/// Positions of a step's results.
pub mod results {
    /// Mean loss over the batch's valid elements.
    pub const LOSS: usize = 0;
    /// Rows that counted.
    pub const VALID_ROWS: usize = 1;
    /// Sum over valid rows of |error|, per joint, radians.
    pub const ABSOLUTE: usize = 2;
    /// Sum over valid rows of error^2, per joint, radians^2.
    pub const SQUARED: usize = 3;
    /// Angles [windows, target rows, joints] in radians; evaluation steps that were asked for them only.
    pub const PREDICTION: usize = 4;
    /// 1 if the batch's gradient was finite, else 0; training steps only.
    pub const FINITE: usize = 4;
    /// 1 if the parameters changed, else 0; training steps only.
    pub const APPLIED: usize = 5;
}
