//! Nodes of a file: made, read, and what they take. What a node takes inside its branches (of an `If`) it takes, too.

use std::collections::HashMap;

use super::super::proto::{AttributeProto, GraphProto, NodeProto};

/// A node named after its output.
pub(super) fn node(operator: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        name: Some(output.to_owned()),
        op_type: Some(operator.to_owned()),
        input: inputs.iter().map(|name| (*name).to_owned()).collect(),
        output: vec![output.to_owned()],
        ..Default::default()
    }
}

pub(super) fn find_attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name() == name)
}

/// An attribute that is an integer.
pub(super) fn int(node: &NodeProto, name: &str, default: i64) -> i64 {
    find_attribute(node, name).and_then(|attribute| attribute.i).unwrap_or(default)
}

/// An attribute that is a float.
pub(super) fn float(node: &NodeProto, name: &str, default: f32) -> f32 {
    find_attribute(node, name).and_then(|attribute| attribute.f).unwrap_or(default)
}

/// A node and, after it, those inside its branches.
pub(super) fn with_inner(node: &NodeProto) -> Vec<&NodeProto> {
    let branches = node.attribute.iter().filter_map(|attribute| attribute.g.as_ref());
    let inner = branches.flat_map(|branch| &branch.node).flat_map(with_inner);
    std::iter::once(node).chain(inner).collect()
}

/// Names of what a node takes.
pub(super) fn taken(node: &NodeProto) -> impl Iterator<Item = &str> {
    with_inner(node).into_iter().flat_map(|node| &node.input).map(String::as_str)
}

/// For each value the places of the graph's nodes that take it, as often as they do.
pub(super) fn takers(graph: &GraphProto) -> HashMap<&str, Vec<usize>> {
    let mut takers: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, node) in graph.node.iter().enumerate() {
        taken(node).for_each(|name| takers.entry(name).or_default().push(at));
    }
    takers
}

/// Lets nodes take other values instead: `names` says which.
pub(super) fn rename_taken(nodes: &mut [NodeProto], names: &HashMap<String, String>) {
    for node in nodes {
        for name in &mut node.input {
            if let Some(new) = names.get(name) {
                name.clone_from(new);
            }
        }
        for branch in node.attribute.iter_mut().filter_map(|attribute| attribute.g.as_mut()) {
            // Names inside hide those outside.
            let mut names = names.clone();
            branch.initializer.iter().for_each(|tensor| drop(names.remove(tensor.name())));
            branch.node.iter().flat_map(|node| &node.output).for_each(|name| drop(names.remove(name)));
            rename_taken(&mut branch.node, &names);
        }
    }
}
