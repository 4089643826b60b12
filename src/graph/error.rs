//! Errors of graphs, and of models imported as graphs.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// Which rule of an operator or of the file format the inputs, attributes or tensors break.
    #[error("{0}")]
    Rule(String),
    /// `node`: its operator with inputs and attributes, or its name and type in the user's model.
    #[error("{node}: {source}")]
    Node { node: String, source: Box<Self> },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: Box<Self> },
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("not an ONNX model: {reason}")]
    NotOnnx { reason: String },
    #[error("expected opset {first} to {last}, found {found}")]
    Opset { first: i64, last: i64, found: i64 },
    #[error("the model has more than {most} nodes")]
    TooManyNodes { most: usize },
    #[error("the training step would have more than {most} nodes: use fewer recurrent steps or layers")]
    StepTooLarge { most: usize },
    /// Each operator with the nodes that use it.
    #[error("operators that cannot be trained: {}", .0.join("; "))]
    UnknownOperators(Vec<String>),
    /// Operators between the loss and the values that gradients are wanted for.
    #[error("no gradient for the operators {}", .0.join(", "))]
    NoGradient(Vec<String>),
    #[error("the loss must be a scalar, not {found}")]
    NotScalar { found: String },
}

impl From<String> for GraphError {
    fn from(rule: String) -> Self {
        Self::Rule(rule)
    }
}

impl From<&str> for GraphError {
    fn from(rule: &str) -> Self {
        Self::Rule(rule.to_owned())
    }
}
