//! What PyTorch's exporters say about a model: which tensors are parameters and which are buffers, where gradients stop,
//! and what they lost.
//!
//! The newer exporter (`dynamo=True`) writes the program's signature, and with each node the node of the program that it
//! comes from (torch/onnx/_internal/exporter/_core.py); the older one (TorchScript) only names tensors after the state
//! dict. Both rename what they fold.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;

use super::super::error::GraphError;
use super::super::proto::tensor_proto::DataType;
use super::super::proto::{GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto};

const SIGNATURE: &str = "pkg.torch.export.ExportedProgram.graph_signature";
const KIND: &str = "pkg.torch.export.graph_signature.InputSpec.kind";
const SOURCE: &str = "pkg.torch.onnx.fx_node";
/// What onnxscript's passes leave on what they change.
const OPTIMIZED: [&str; 2] = ["pkg.onnxscript.optimizer", "pkg.onnxscript.rewriter"];
const TRACE: &str = "pkg.torch.onnx.stack_trace";
const FOLDED: &str = "pkg.onnxscript.optimizer.folded_from";
const DETACH: &str = "torch.ops.aten.detach";

/// What wrote a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Exporter {
    /// `torch.onnx.export(.., dynamo=True)`, with its metadata.
    Dynamo,
    /// `torch.onnx.export(.., dynamo=False)`.
    TorchScript,
    /// A model that this program trained.
    Retrained,
    /// Others, and what tools left without metadata.
    #[default]
    Other,
}

impl fmt::Display for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Dynamo => "dynamo",
            Self::TorchScript => "torchscript",
            Self::Retrained => "emg-train",
            Self::Other => "other",
        })
    }
}

/// Our own name for the list of a retrained model's parameters, one a line.
pub(super) const TRAINED: &str = "trained_tensors";

/// What a file says an initializer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Declared {
    Parameter,
    Buffer,
    /// A tensor that the program made itself.
    Constant,
}

/// What the exporter says about the model's tensors.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Record {
    pub(super) exporter: Exporter,
    from_pytorch: bool,
    declared: BTreeMap<String, Declared>,
    /// Parameters that nodes were made from and that are no tensors of the file, by their names in the state dict.
    lost: Vec<String>,
    /// Whether a `detach()` was taken out.
    lost_detach: bool,
    /// Whether a tool took out what the newer exporter wrote.
    lost_metadata: bool,
    /// Buffers that the program changes while it runs.
    changed: Vec<String>,
    /// A running statistic that is not in the file.
    untracked: Option<String>,
}

impl Record {
    pub(super) fn new(proto: &ModelProto) -> Self {
        let Some(graph) = &proto.graph else { return Self::default() };
        if let Some(names) = find(&proto.metadata_props, TRAINED) {
            let declared = names.lines().map(|name| (name.to_owned(), Declared::Parameter)).collect();
            return Self { exporter: Exporter::Retrained, declared, ..Self::default() };
        }
        let signature = find(&graph.metadata_props, SIGNATURE).or_else(|| find(&proto.metadata_props, SIGNATURE));
        let Some(signature) = signature else {
            let from_pytorch = proto.producer_name() == "pytorch";
            let stripped = graph.node.iter().any(|node| node.name().starts_with("node_"));
            let exporter = if from_pytorch && !stripped { Exporter::TorchScript } else { Exporter::Other };
            let lost_metadata = from_pytorch && stripped;
            return Self { exporter, from_pytorch, lost_metadata, ..Self::default() };
        };
        let inputs: Vec<_> = signature.lines().filter_map(input).collect();
        let mut declared: BTreeMap<_, _> =
            inputs.iter().map(|(_, kind, target)| ((*target).to_owned(), *kind)).collect();
        for value in &graph.value_info {
            if let Some(kind) = find(&value.metadata_props, KIND).and_then(kind) {
                declared.insert(value.name().to_owned(), kind);
            }
        }
        let sources: Vec<_> = graph.node.iter().filter_map(source).collect();
        let lost_metadata = sources.is_empty() && !graph.node.is_empty();
        let untracked = inputs.iter().find(|(_, kind, target)| {
            *kind == Declared::Buffer
                && target.ends_with("running_var")
                && !graph.initializer.iter().any(|t| t.name() == *target)
        });
        let untracked = untracked.map(|(_, _, target)| (*target).to_owned());
        let changed = signature.lines().filter_map(|line| line.split_once(": BUFFER_MUTATION target=")?.1.get(1..));
        let changed = changed.map(|name| name.trim_end_matches(['\'', '"']).to_owned()).collect();
        let words: HashSet<_> = sources.iter().flat_map(|source| arguments(source)).collect();
        let present: HashSet<_> = graph.initializer.iter().map(TensorProto::name).collect();
        // Missing without a trace are also parameters that the program does not use, and second names of others.
        let optimized = is_optimized(graph);
        let lost = inputs
            .iter()
            .filter(|(name, kind, target)| {
                let wanted = match kind {
                    Declared::Parameter => optimized || words.contains(name),
                    // Of batch normalizations that became part of convolutions.
                    Declared::Buffer => optimized && target.ends_with("running_var"),
                    Declared::Constant => false,
                };
                wanted && !present.contains(target)
            })
            .map(|(_, _, target)| (*target).to_owned());
        let mut lost: BTreeSet<_> = lost.collect();
        lost.extend(folded(graph).filter(|name| declared.get(*name) == Some(&Declared::Parameter)).map(str::to_owned));
        let lost = lost.into_iter().collect();
        let detached: BTreeSet<_> = graph.node.iter().filter(|node| is_detach(node)).filter_map(made).collect();
        let is_detached =
            |word: &&&str| word.strip_prefix("detach").is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
        let lost_detach = words.iter().filter(is_detached).any(|word| !detached.contains(word));
        Self {
            exporter: Exporter::Dynamo,
            from_pytorch: true,
            declared,
            lost,
            lost_detach,
            lost_metadata,
            changed,
            untracked,
        }
    }

    /// What the file says that initializer is; `None`: nothing.
    pub(super) fn declared(&self, name: &str) -> Option<Declared> {
        match (self.exporter, self.declared.get(name)) {
            (_, Some(declared)) => Some(*declared),
            // What the program has no name for was computed by the exporter.
            (Exporter::Dynamo | Exporter::Retrained, None) => Some(Declared::Constant),
            _ => None,
        }
    }

    /// Fails where the exporter lost what training needs.
    pub(super) fn check(&self, initializers: &[TensorProto], statistics: &HashSet<String>) -> Result<(), GraphError> {
        if self.lost_metadata {
            return Err(GraphError::LostMetadata);
        }
        let wrong = [DataType::Double, DataType::Float16, DataType::Bfloat16];
        let wide = |tensor: &&TensorProto| {
            let kind = wrong.iter().any(|kind| tensor.data_type() == *kind as i32);
            let declared = self.declared.get(tensor.name());
            kind && (declared == Some(&Declared::Parameter) || (declared.is_none() && !tensor.dims.is_empty()))
        };
        if let Some(tensor) = initializers.iter().find(wide) {
            let kind = DataType::try_from(tensor.data_type()).map_or("?", |kind| kind.as_str_name()).to_lowercase();
            return Err(GraphError::NotFloat32 { name: tensor.name().to_owned(), kind });
        }
        let mut lost = self.lost.clone();
        if self.from_pytorch && self.exporter != Exporter::Dynamo {
            let floats = initializers.iter().filter(|tensor| tensor.data_type() == DataType::Float as i32);
            let weights = floats.filter(|tensor| tensor.dims.iter().fold(1i64, |n, dim| n.saturating_mul(*dim)) > 1);
            lost.extend(weights.map(|tensor| tensor.name().to_owned()).filter(|name| is_folded(name)));
        }
        if !lost.is_empty() {
            return Err(GraphError::LostParameters(lost));
        }
        if self.lost_detach {
            return Err(GraphError::LostDetach);
        }
        if let Some(name) = &self.untracked {
            return Err(GraphError::UntrackedStatistic { name: name.clone() });
        }
        let counts = |name: &String| name.ends_with("num_batches_tracked");
        if let Some(name) = self.changed.iter().find(|name| !statistics.contains(*name) && !counts(name)) {
            return Err(GraphError::ChangingBuffer { name: name.clone() });
        }
        Ok(())
    }
}

/// Whether a node comes from code that PyTorch generated: the body of `torch.no_grad()` or `torch.autocast()`, which the
/// exporter writes alike.
pub(super) fn is_generated(node: &NodeProto) -> bool {
    find(&node.metadata_props, TRACE).is_some_and(|trace| trace.starts_with("File \"<eval_with_key>"))
}

/// Whether a node is a tensor's `detach()`.
pub(super) fn is_detach(node: &NodeProto) -> bool {
    node.op_type() == "Identity" && source(node).is_some_and(|source| source.contains(DETACH))
}

/// Names of what the exporter's optimizer computed float tensors of the file from: its note is a list `['gate', 'val_1']`.
fn folded(graph: &GraphProto) -> impl Iterator<Item = &str> {
    let floats = graph.initializer.iter().filter(|tensor| tensor.data_type() == DataType::Float as i32);
    let floats: HashSet<_> = floats.map(TensorProto::name).collect();
    let computed = graph.value_info.iter().filter(move |value| floats.contains(value.name()));
    let notes = computed.filter_map(|value| find(&value.metadata_props, FOLDED));
    notes.flat_map(|note| note.split('\'').skip(1).step_by(2))
}

/// Whether the exporter's optimizer has folded or rewritten anything.
fn is_optimized(graph: &GraphProto) -> bool {
    let nodes = graph.node.iter().flat_map(|node| &node.metadata_props);
    let mut entries = nodes.chain(graph.value_info.iter().flat_map(|value| &value.metadata_props));
    entries.any(|entry| OPTIMIZED.iter().any(|prefix| entry.key().starts_with(prefix)))
}

/// Whether exporters and optimizers give such names to tensors that they compute: `onnx::Conv_77`, `val_30`,
/// `/conv/Transpose_output_0`.
fn is_folded(name: &str) -> bool {
    let number = name.strip_prefix("val_").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
    // Optimizers call what they computed after the node that gave it.
    number || name.starts_with("onnx::") || name.starts_with('/')
}

fn find<'a>(entries: &'a [StringStringEntryProto], key: &str) -> Option<&'a str> {
    entries.iter().find(|entry| entry.key() == key).map(StringStringEntryProto::value)
}

/// The program's node that a node comes from, such as `%add : [num_users=1] = call_function[target=..](args = (%x, 1), ..)`.
fn source(node: &NodeProto) -> Option<&str> {
    find(&node.metadata_props, SOURCE)
}

/// What a node of the program calls, such as `torch.ops.aten.add.Tensor`.
pub(super) fn target(node: &NodeProto) -> Option<&str> {
    let (_, rest) = source(node)?.split_once("target=")?;
    rest.split(']').next()
}

/// What a node of the program takes, as it is written: `(%x, 1)`.
pub(super) fn arguments_of(node: &NodeProto) -> Option<&str> {
    let (_, rest) = source(node)?.split_once("](args = ")?;
    Some(rest.split(", kwargs").next().unwrap_or(rest))
}

/// The name that a node of the program has.
fn made(node: &NodeProto) -> Option<&str> {
    source(node)?.strip_prefix('%')?.split([' ', ':']).next()
}

/// Names of what a node of the program takes.
fn arguments(source: &str) -> impl Iterator<Item = &str> {
    let (_, arguments) = source.split_once("](args = ").unwrap_or_default();
    let name = |part: &'_ str| part.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(part.len());
    arguments.split('%').skip(1).map(move |part| &part[..name(part)])
}

/// A line of the signature: `p_conv_weight: PARAMETER target='conv.weight'`.
fn input(line: &str) -> Option<(&str, Declared, &str)> {
    let (name, rest) = line.trim().split_once(": ")?;
    let (word, rest) = rest.split_once(" target=")?;
    // Python quotes a name that holds a quote by the other one.
    let quote = rest.chars().next().filter(|quote| ['\'', '"'].contains(quote))?;
    Some((name, kind(word)?, rest[1..].rsplit_once(quote)?.0))
}

fn kind(word: &str) -> Option<Declared> {
    match word {
        "PARAMETER" => Some(Declared::Parameter),
        "BUFFER" => Some(Declared::Buffer),
        "CONSTANT_TENSOR" => Some(Declared::Constant),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_and_sources_are_read() {
        assert_eq!(
            input("p_conv_weight: PARAMETER target='conv.weight'"),
            Some(("p_conv_weight", Declared::Parameter, "conv.weight"))
        );
        assert_eq!(input("b_pe: BUFFER target='pe' persistent=True"), Some(("b_pe", Declared::Buffer, "pe")));
        assert_eq!([input("x: USER_INPUT"), input("# outputs"), input("")], [None; 3]);
        let source = "%linear : [num_users=1] = call_function[target=torch.ops.aten.linear.default]\
                      (args = (%detach_1, [%p_a_weight, %p_a_bias], 1), kwargs = {})";
        assert_eq!(arguments(source).collect::<Vec<_>>(), ["detach_1", "p_a_weight", "p_a_bias"]);
        assert_eq!(arguments("%x : placeholder").count(), 0);
    }

    #[test]
    fn folded_tensors_are_known_by_their_names() {
        assert!(is_folded("onnx::MatMul_79") && is_folded("val_30"));
        assert!(!is_folded("val_proj.weight") && !is_folded("valve") && !is_folded("conv.weight"));
    }
}
