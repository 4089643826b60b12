//! ONNX graphs: values with static shapes, operators with shape inference and gradients, reverse-mode
//! differentiation from graph to graph, users' models in, and protobuf out.
//!
//! Graphs are built bottom up, so nodes are always in topological order, and equal nodes are made once.

mod attributes;
mod autodiff;
mod build;
mod core;
mod dim;
mod error;
mod float64;
mod fold;
mod import;
mod onnx;
mod operators;
mod precision;
mod products;
#[expect(unreachable_pub, clippy::doc_overindented_list_items, clippy::enum_variant_names, reason = "generated")]
mod proto;
mod prune;
mod recurrent;
mod region;
mod simplify;
mod streaming;
mod target;
mod tensor;

pub use self::core::{Graph, Node, Signature, Value};
pub use attributes::Attribute;
pub(crate) use attributes::Attributes;
pub use autodiff::gradients;
pub use build::Adam;
pub use dim::Dim;
pub use error::GraphError;
pub(crate) use error::listed;
pub use float64::to_float64;
pub use import::{
    ComputedWeight, Declared, Exporter, ModelPort, Observed, OnnxModel, Probe, QuantizedLayers, Quantizer, Retrained,
    WeightModel, computed_weights, known_operators,
};
pub use onnx::{InputDefault, ModelInfo, to_onnx};
#[cfg(test)]
pub(crate) use operators::pointwise;
pub use operators::{
    FUSED_DOMAIN, Operator, RecurrentCell, TrainingOperators, find as find_operator, fused_in_halves, fused_on_cuda,
};
pub(crate) use operators::{as_batch_transpose, fused_shapes};
pub use precision::{Autocast, narrow_constants};
pub use products::{TRANSPOSED, plain_products};
pub use prune::prune;
pub(crate) use region::row_major;
pub use region::{Operation, Output, PROGRAM, Program, REGION, Reduction, Step, region_programs};
pub use streaming::Streamable;
pub use target::{Kernels, select_kernels};
pub use tensor::{Constant, DType, TensorType};
