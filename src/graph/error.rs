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
    /// Parameters of a PyTorch model whose tensors are not in the file, or tensors that others were computed from.
    #[error(
        "the exporter's optimizations folded or merged parameters of the model into other tensors, so they would not \
         train as in PyTorch: {}; export the model again with {EXPORT_LINE}", listed(.0)
    )]
    LostParameters(Vec<String>),
    #[error(
        "the exporter's optimizations removed a detach(), so gradients would not be PyTorch's; export the model again \
         with {EXPORT_LINE}"
    )]
    LostDetach,
    #[error(
        "tensor {name} {shape:?} has a row for each of the {batch} windows of the batch that the model was exported with, \
         so windows would be treated differently; export the model with a dynamic batch, such as by {EXPORT_LINE}"
    )]
    BatchInTensor { name: String, shape: Vec<usize>, batch: usize },
    #[error(
        "{name} is the running {statistic} of a batch normalization and also used otherwise: the exporter has merged equal tensors (then export the model again with {EXPORT_LINE}), or the model uses it itself, which is not supported"
    )]
    MergedStatistic { name: String, statistic: &'static str },
    /// A node of PyTorch's newer exporter.
    #[error(
        "node {node} comes from a block under torch.no_grad() or torch.autocast(), and the exporter does not say which: \
         use detach() instead of no_grad(), and take autocast out of forward (training.precision computes in half precision)"
    )]
    NoGradOrAutocast { node: String },
    #[error(
        "a tool has taken out of the file what PyTorch's exporter wrote about its parameters and gradients; use the file as it \
         was exported by {EXPORT_LINE}"
    )]
    LostMetadata,
    #[error(
        "the model changes its buffer {name} while it trains, and only the running statistics of batch normalizations can be \
         followed: compute it outside of the model, or make it a constant"
    )]
    ChangingBuffer { name: String },
    #[error(
        "the running statistic {name} is not in the file, as that of an InstanceNorm is not, so evaluation would be another than \
         PyTorch's: use track_running_stats=False, or take out a layer that is not used"
    )]
    UntrackedStatistic { name: String },
    #[error(
        "all batch normalizations were exported in evaluation mode, and the file does not say whether they are to train: export \
         `model.train()`, or set model.batch_norm to train or frozen"
    )]
    EvaluatingNorms,
    #[error("tensor {name} is {kind}, and models are trained in float32: export `model.float()`")]
    NotFloat32 { name: String, kind: String },
    #[error("{name} is defined more than once")]
    DefinedTwice { name: String },
    #[error("the loss must be a scalar, not {found}")]
    NotScalar { found: String },
}

/// What exports a PyTorch model with all that training needs.
const EXPORT_LINE: &str = "`torch.onnx.export(model.train(), (x,), \"model.onnx\", dynamo=True, dynamic_shapes=({0: \
                           torch.export.Dim(\"batch\")},), optimize=False)`";

/// The first names of a list, and how many more there are.
pub(crate) fn listed<S: AsRef<str>>(names: &[S]) -> String {
    const SHOWN: usize = 6;
    let shown = names.iter().take(SHOWN).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
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
