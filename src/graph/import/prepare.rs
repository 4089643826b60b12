//! Prepares a model for import: no functions, every value defined once, and no weights that two layers share only
//! because their values were equal when the model was exported.

use std::collections::{HashMap, HashSet};

use super::super::attributes::Attribute;
use super::super::error::GraphError;
use super::super::onnx::attribute;
use super::super::proto::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto};
use super::exporter::{Exporter, is_detach, target};
use super::legacy::untie;
use super::nodes::{int, rename_taken};
use super::random::name_bernoullis;

/// Functions may call functions; deeper than this is a mistake in the file.
const DEEPEST: usize = 32;
/// More nodes than anybody trains; functions that call each other twice get there fast.
const MOST_NODES: usize = 200_000;

/// How errors name a node.
pub(super) fn label(node: &NodeProto) -> String {
    let name = node.name.as_ref().filter(|name| !name.is_empty()).or(node.output.first());
    name.cloned().unwrap_or_default()
}

/// Does all of it. Gives whether all batch normalizations were exported as they evaluate, by an exporter that would have
/// written otherwise.
///
/// # Errors
/// Functions that call each other too deeply or too often; a value that is defined twice.
pub(super) fn prepare(proto: &mut ModelProto, exporter: Exporter) -> Result<bool, GraphError> {
    let graph = inline(proto)?;
    check_definitions(graph)?;
    name_bernoullis(graph);
    let all_evaluate = keep_modes(graph);
    // Models of others, and our own, are for inference.
    let is_export = matches!(exporter, Exporter::Dynamo | Exporter::TorchScript);
    if all_evaluate && !is_export {
        set_modes(graph, true);
    }
    match exporter {
        Exporter::TorchScript => part_copies(&mut graph.node, &mut graph.initializer),
        Exporter::Dynamo | Exporter::Retrained | Exporter::Other => drop_second_names(graph),
    }
    Ok(all_evaluate && is_export)
}

/// Writes into each batch normalization whether it is to take the batch's own statistics in training. Where all were
/// exported as they evaluate, the file does not say: gives whether it is so.
fn keep_modes(graph: &mut GraphProto) -> bool {
    let evaluates = |node: &NodeProto| match target(node) {
        Some(target) if target.contains("batch_norm") => target.contains("no_training"),
        _ => int(node, TRAINING_MODE, 0) != 1,
    };
    let norms = |node: &&mut NodeProto| node.op_type() == "BatchNormalization";
    let mut modes = Vec::new();
    for node in graph.node.iter_mut().filter(norms) {
        let trains = !evaluates(node);
        modes.push(trains);
        set_mode(node, trains);
    }
    !modes.is_empty() && modes.iter().all(|trains| !trains)
}

/// Makes all batch normalizations train, or none.
pub(super) fn set_modes(graph: &mut GraphProto, trains: bool) {
    let norms = graph.node.iter_mut().filter(|node| node.op_type() == "BatchNormalization");
    norms.for_each(|node| set_mode(node, trains));
}

fn set_mode(node: &mut NodeProto, trains: bool) {
    node.attribute.retain(|attribute| attribute.name() != TRAINING_MODE);
    node.attribute.push(attribute(TRAINING_MODE, &Attribute::Int(i64::from(trains))));
}

const TRAINING_MODE: &str = "training_mode";

/// As earlier versions did.
///
/// # Errors
/// Functions that call each other too deeply or too often.
pub(super) fn prepare_legacy(proto: &mut ModelProto) -> Result<(), GraphError> {
    let graph = inline(proto)?;
    untie(&mut graph.node, &mut graph.initializer);
    Ok(())
}

/// The graph without functions.
fn inline(proto: &mut ModelProto) -> Result<&mut GraphProto, GraphError> {
    let functions = std::mem::take(&mut proto.functions);
    let graph = proto.graph.as_mut().expect("checked by parse");
    let nodes = std::mem::take(&mut graph.node);
    let mut inliner = Inliner { functions: &functions, nodes: Vec::new() };
    inliner.append(&nodes, &Scope::default(), 0)?;
    graph.node = inliner.nodes;
    Ok(graph)
}

/// Takes out nodes that give a tensor of the file a second name.
fn drop_second_names(graph: &mut GraphProto) {
    let tensors: HashSet<_> = graph.initializer.iter().map(|tensor| tensor.name().to_owned()).collect();
    let outputs: HashSet<_> = graph.output.iter().map(|output| output.name().to_owned()).collect();
    let mut second: HashMap<String, String> = HashMap::new();
    graph.node.retain(|node| {
        let (Some(source), Some(output)) = (node.input.first(), node.output.first()) else { return true };
        let source = second.get(source).unwrap_or(source);
        let named = node.op_type() == "Identity" && tensors.contains(source) && !outputs.contains(output);
        if !named || is_detach(node) {
            return true;
        }
        second.insert(output.clone(), source.clone());
        false
    });
    rename_taken(&mut graph.node, &second);
}

/// Fails where a name stands for two values, or a node gives none. Initializers may be the defaults of inputs.
fn check_definitions(graph: &GraphProto) -> Result<(), GraphError> {
    if let Some(node) = graph.node.iter().find(|node| node.output.iter().all(String::is_empty)) {
        return Err(format!("node {} ({}) has no outputs", label(node), node.op_type()).into());
    }
    let mut inputs = HashSet::new();
    let mut names = HashSet::new();
    let initializers = graph.initializer.iter().map(TensorProto::name);
    let outputs = graph.node.iter().flat_map(|node| &node.output).map(String::as_str);
    let twice = graph.input.iter().map(|input| input.name()).find(|name| !inputs.insert(*name));
    let twice = twice.or_else(|| initializers.clone().find(|name| !names.insert(*name)));
    names.extend(inputs);
    let twice = twice.or_else(|| outputs.filter(|name| !name.is_empty()).find(|name| !names.insert(*name)));
    twice.map_or(Ok(()), |name| Err(GraphError::DefinedTwice { name: name.to_owned() }))
}

struct Inliner<'a> {
    functions: &'a [FunctionProto],
    nodes: Vec<NodeProto>,
}

/// Names and attributes inside a function's body.
#[derive(Default)]
struct Scope {
    prefix: String,
    /// Of inputs and outputs, outside.
    names: HashMap<String, String>,
    attributes: HashMap<String, AttributeProto>,
}

impl Scope {
    fn name(&self, name: &str) -> String {
        match self.names.get(name) {
            Some(outer) => outer.clone(),
            None if name.is_empty() || self.prefix.is_empty() => name.to_owned(),
            None => format!("{}{name}", self.prefix),
        }
    }

    /// A node of the body as one of the graph's.
    fn node(&self, node: &NodeProto) -> NodeProto {
        let mut node = node.clone();
        for name in node.input.iter_mut().chain(&mut node.output) {
            *name = self.name(name);
        }
        node.name = Some(format!("{}{}", self.prefix, node.name()));
        node.attribute.retain_mut(|attribute| {
            let Some(outer) = attribute.ref_attr_name.take().filter(|name| !name.is_empty()) else { return true };
            let Some(given) = self.attributes.get(&outer) else { return false };
            *attribute = AttributeProto { name: attribute.name.clone(), ..given.clone() };
            true
        });
        node
    }
}

impl Inliner<'_> {
    fn append(&mut self, nodes: &[NodeProto], scope: &Scope, depth: usize) -> Result<(), GraphError> {
        for node in nodes {
            let node = scope.node(node);
            let function = self.functions.iter().find(|function| {
                function.name() == node.op_type()
                    && function.domain() == node.domain()
                    && function.overload() == node.overload()
            });
            let Some(function) = function else {
                if self.nodes.len() == MOST_NODES {
                    return Err(GraphError::TooManyNodes { most: MOST_NODES });
                }
                self.nodes.push(node);
                continue;
            };
            if depth == DEEPEST {
                return Err("functions call each other too deeply".into());
            }
            let inner = Self::inside(function, &node, self.nodes.len());
            self.append(&function.node, &inner, depth + 1)?;
        }
        Ok(())
    }

    /// The scope of a call; `at` makes its names its own.
    fn inside(function: &FunctionProto, call: &NodeProto, at: usize) -> Scope {
        let inputs = function.input.iter().enumerate();
        let inputs = inputs.map(|(i, name)| (name.clone(), call.input.get(i).cloned().unwrap_or_default()));
        let outputs = function.output.iter().zip(&call.output).filter(|(_, outer)| !outer.is_empty());
        let names = inputs.chain(outputs.map(|(name, outer)| (name.clone(), outer.clone()))).collect();
        let named = |attribute: &AttributeProto| (attribute.name().to_owned(), attribute.clone());
        let attributes = function.attribute_proto.iter().chain(&call.attribute).map(named).collect();
        Scope { prefix: format!("{}.{at}/", label(call)), names, attributes }
    }
}

/// Gives tensors that the TorchScript exporter merged because their values were equal their own again: each is an
/// `Identity` of the one that was kept, under its own name. (What layers share in PyTorch has one name, and no `Identity`.)
fn part_copies(nodes: &mut Vec<NodeProto>, initializers: &mut Vec<TensorProto>) {
    let mut known: HashMap<String, usize> =
        initializers.iter().enumerate().map(|(i, tensor)| (tensor.name().to_owned(), i)).collect();
    nodes.retain(|node| {
        let source = node.input.first().and_then(|name| known.get(name)).copied();
        match (node.op_type(), source, node.output.first()) {
            ("Identity", Some(source), Some(output)) => {
                let copy = TensorProto { name: Some(output.clone()), ..initializers[source].clone() };
                initializers.push(copy);
                known.insert(output.clone(), initializers.len() - 1);
                false
            }
            _ => true,
        }
    });
}
