//! A user's ONNX model (opset 13 to 22) as part of a graph: parsed, its shapes bound, constants folded, functions
//! inlined, and composite operators written as those that have gradients (`graph::operators` says how).

mod build;
mod exporter;
mod foreign;
mod legacy;
mod model;
mod nodes;
mod portable;
mod prepare;
mod program;
mod quantize;
mod random;
mod rewrite;
mod sequences;
mod tensor;

pub use exporter::{Declared, Exporter};
pub use foreign::Probe;
pub use model::{ModelPort, OnnxModel};
pub use quantize::{ComputedWeight, Observed, QuantizedLayers, Quantizer, WeightModel, computed_weights};
pub use rewrite::Retrained;

/// Names of all operators that a user's model may have, beside `Constant`.
pub fn known_operators() -> impl Iterator<Item = &'static str> {
    super::operators::known().chain(sequences::OPERATORS)
}
