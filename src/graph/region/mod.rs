//! Regions: many pointwise operators, broadcasts, views and reductions as one node, which a provider runs as one kernel.
//! What lies between them never goes through memory.

mod access;
mod builder;
mod layout;
mod plan;
mod program;

use std::collections::{HashMap, HashSet};

use prost::Message;

use super::attributes::{Attribute, Attributes};
use super::core::{Graph, Node, Value};
use super::operators;
use super::proto::ModelProto;
pub(crate) use access::strides as row_major;
pub(super) use layout::keep_channels_last;
use plan::{Plan, Unit};
pub use program::{Operation, Output, Program, Reduction, Step};

/// Name of the operator, and of its attribute.
pub const REGION: &str = "Region";
pub const PROGRAM: &str = "program";

/// The programs of an ONNX model's regions, each once.
pub fn region_programs(onnx: &[u8]) -> Vec<String> {
    let Ok(model) = ModelProto::decode(onnx) else { return Vec::new() };
    let nodes = model.graph.into_iter().flat_map(|graph| graph.node);
    let attributes = nodes.filter(|node| node.op_type() == REGION).flat_map(|node| node.attribute);
    let programs = attributes.filter(|attribute| attribute.name() == PROGRAM);
    let mut programs: Vec<_> = programs.map(|program| String::from_utf8_lossy(program.s()).into_owned()).collect();
    programs.sort_unstable();
    programs.dedup();
    programs
}

/// Makes regions of the graph's nodes, over spaces of at least `least` elements; `reduces`: with reductions. Nodes are
/// then no longer in the order of their values, so this comes last.
pub(super) fn grow(graph: &mut Graph, least: usize, reduces: bool) {
    let units = Plan::new(graph, least, reduces).in_order();
    let mut needed: HashSet<Value> = graph.outputs.iter().map(|(_, output)| *output).collect();
    for unit in &units {
        match unit {
            Unit::Node(i) => needed.extend(graph.nodes[*i].inputs.iter().flatten()),
            Unit::Region(builder) => needed.extend(builder.inputs()),
        }
    }
    let makers: HashMap<_, _> = graph.nodes.iter().map(|node| (node.outputs[0], node)).collect();
    let nodes = units.iter().filter_map(|unit| match unit {
        Unit::Node(i) => Some(graph.nodes[*i].clone()),
        Unit::Region(builder) => {
            let (program, inputs, outputs) = builder.finish(graph, |value| needed.contains(&value));
            (!outputs.is_empty())
                .then(|| plain(graph, &makers, &inputs, &outputs).unwrap_or_else(|| node(&program, inputs, outputs)))
        }
    });
    let nodes = nodes.collect();
    graph.nodes = nodes;
}

fn node(program: &Program, inputs: Vec<Value>, outputs: Vec<Value>) -> Node {
    let operator = operators::find(REGION).expect("in the table");
    let text = Attribute::Text(program.to_text());
    let attributes = Attributes::from_iter([(PROGRAM.into(), text)]);
    Node { operator, inputs: inputs.into_iter().map(Some).collect(), outputs, attributes, origin: None }
}

/// The one node of a region of one, unless that is a reduction.
fn plain(graph: &Graph, makers: &HashMap<Value, &Node>, inputs: &[Value], outputs: &[Value]) -> Option<Node> {
    let [output] = outputs else { return None };
    let node = *makers.get(output)?;
    let given = |input: &Value| inputs.contains(input) || graph.as_constant(*input).is_some();
    let alone = node.operator.part != Some(operators::Part::Reduction) && node.inputs.iter().flatten().all(given);
    alone.then(|| node.clone())
}
