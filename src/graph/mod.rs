//! ONNX graphs: values with static shapes, operators with shape inference and gradients, reverse-mode
//! differentiation from graph to graph, and protobuf out.
//!
//! Graphs are built bottom up, so nodes are always in topological order, and equal nodes are made once.

mod autodiff;
mod build;
mod core;
mod fold;
mod import;
mod onnx;
mod operators;
mod precision;
#[expect(unreachable_pub, clippy::doc_overindented_list_items, clippy::enum_variant_names, reason = "generated")]
mod proto;
mod prune;
mod recurrent;
mod simplify;
mod target;
mod tensor;

pub use self::core::{Attribute, DYNAMIC_BATCH, Graph, Node, Signature, Value};
pub use autodiff::gradients;
pub use build::Adam;
pub use import::{OnnxModel, Port, Retrained, TrainingOperators, known_operators};
pub use onnx::{InputDefault, ModelInfo, to_onnx};
pub(crate) use operators::as_batch_transpose;
pub use operators::{FUSED_DOMAIN, Operator, find as find_operator};
pub use precision::{Autocast, narrow_constants};
pub use prune::prune;
pub use target::{FUSED_ON_CUDA, Kernels, select_kernels};
pub use tensor::{Constant, DType, TensorType};
