//! Prepares a model for import: no functions, and no weights that two layers share only
//! because their values were equal when the model was exported.

use std::collections::{HashMap, HashSet};

use super::super::error::GraphError;
use super::super::proto::tensor_proto::DataType;
use super::super::proto::{AttributeProto, FunctionProto, ModelProto, NodeProto, TensorProto};
use super::tensor::constant;

/// Functions may call functions; deeper than this is a mistake in the file.
const DEEPEST: usize = 32;
/// More nodes than anybody trains; functions that call each other twice get there fast.
const MOST_NODES: usize = 200_000;

/// How errors name a node.
pub(super) fn label(node: &NodeProto) -> String {
    let name = node.name.as_ref().filter(|name| !name.is_empty()).or(node.output.first());
    name.cloned().unwrap_or_default()
}

/// Does both.
///
/// # Errors
/// Functions that call each other too deeply or too often.
pub(super) fn prepare(proto: &mut ModelProto) -> Result<(), GraphError> {
    let functions = std::mem::take(&mut proto.functions);
    let graph = proto.graph.as_mut().expect("checked by parse");
    let nodes = std::mem::take(&mut graph.node);
    let mut inliner = Inliner { functions: &functions, nodes: Vec::new() };
    inliner.append(&nodes, &Scope::default(), 0)?;
    graph.node = inliner.nodes;
    untie(&mut graph.node, &mut graph.initializer);
    Ok(())
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

/// Gives layers weights of their own where an exporter merged equal ones: behind an `Identity`, in the four inputs of
/// batch normalizations, and where all elements are one number, as scales and biases are at first.
fn untie(nodes: &mut Vec<NodeProto>, initializers: &mut Vec<TensorProto>) {
    let mut known: HashMap<String, usize> =
        initializers.iter().enumerate().map(|(i, tensor)| (tensor.name().to_owned(), i)).collect();
    let copy = |initializers: &mut Vec<TensorProto>, from: usize, name: &str| {
        let tensor = TensorProto { name: Some(name.to_owned()), ..initializers[from].clone() };
        initializers.push(tensor);
        initializers.len() - 1
    };
    nodes.retain(|node| {
        let source = node.input.first().and_then(|name| known.get(name)).copied();
        match (node.op_type(), source, node.output.first()) {
            ("Identity", Some(source), Some(output)) => {
                let made = copy(initializers, source, output);
                known.insert(output.clone(), made);
                false
            }
            _ => true,
        }
    });
    let uniform: HashSet<_> = initializers.iter().filter(|t| is_uniform(t)).map(|t| t.name().to_owned()).collect();
    let mut seen = HashSet::new();
    for node in nodes {
        let norm = node.op_type() == "BatchNormalization";
        for (i, name) in node.input.iter_mut().enumerate() {
            let Some(source) = known.get(name.as_str()).copied() else { continue };
            let merged = norm && i > 0 || uniform.contains(name.as_str());
            if merged && !seen.insert(name.clone()) {
                let own = format!("{name}/{}", initializers.len());
                copy(initializers, source, &own);
                *name = own;
            } else {
                seen.insert(name.clone());
            }
        }
    }
}

/// Whether a float tensor of more than one element holds one number.
fn is_uniform(tensor: &TensorProto) -> bool {
    if tensor.data_type() != DataType::Float as i32 || tensor.dims.is_empty() {
        return false;
    }
    let numbers = constant(tensor).map(|constant| constant.numbers()).unwrap_or_default();
    numbers.len() > 1 && numbers.windows(2).all(|pair| pair[0] == pair[1])
}
