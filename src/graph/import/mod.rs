//! A user's ONNX model (opset 13 to 22) as part of a graph: parsed, its shapes bound, constants folded, functions
//! inlined, and composite operators written as those that have gradients.

mod activation;
mod build;
mod call;
mod convolution;
mod model;
mod normalization;
mod prepare;
mod product;
mod recurrent;
mod reduction;
mod reshaping;
mod rewrite;
mod sampling;
mod sequences;

pub use call::TrainingOperators;
pub use model::{OnnxModel, Port};
pub use rewrite::Retrained;

use call::Lower;

/// Composite operators, by family. What is not here is applied as it is.
static TABLE: &[&[(&str, Lower)]] = &[
    activation::OPERATORS,
    convolution::OPERATORS,
    normalization::OPERATORS,
    product::OPERATORS,
    recurrent::OPERATORS,
    reduction::OPERATORS,
    reshaping::OPERATORS,
    sampling::OPERATORS,
];

fn composite(name: &str) -> Option<Lower> {
    TABLE.iter().copied().flatten().find(|(other, _)| *other == name).map(|(_, lower)| *lower)
}

/// Names of all operators that a user's model may have, beside `Constant`.
pub fn known_operators() -> impl Iterator<Item = &'static str> {
    let composites = TABLE.iter().copied().flatten().map(|(name, _)| *name);
    composites.chain(sequences::OPERATORS).chain(super::operators::standard().filter(|name| composite(name).is_none()))
}
