//! Writing graphs as ONNX protobuf (opset 18, IR version 8; ONNX specification, onnx.proto).

use std::collections::{BTreeSet, HashMap, HashSet};

use prost::Message;

use super::attributes::Attribute;
use super::core::{Graph, Node, Value};
use super::dim::Dim;
use super::proto::attribute_proto::AttributeType;
use super::proto::tensor_shape_proto::{Dimension, dimension};
use super::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use super::tensor::{Constant, TensorType};

pub(super) const OPSET: i64 = 18;
pub(super) const IR_VERSION: i64 = 8;
/// Name of the dynamic dimension.
const BATCH: &str = "batch";

/// What a model says of itself beside its graph.
#[derive(Debug, Clone, Default)]
pub struct ModelInfo {
    /// Name and value pairs.
    pub metadata: Vec<(String, String)>,
}

/// A default for an input, which makes it optional.
#[derive(Debug, Clone)]
pub struct InputDefault {
    pub input: Value,
    pub value: Constant,
}

/// The graph as the bytes of an ONNX file. Unused constants and outputs are left out.
///
/// # Panics
/// The graph has no outputs.
pub fn to_onnx(graph: &Graph, defaults: &[InputDefault], info: &ModelInfo) -> Vec<u8> {
    assert!(!graph.outputs.is_empty(), "a graph without outputs computes nothing");
    let writer = Writer::new(graph);
    let defaults = defaults.iter().map(|default| tensor(&writer.names[&default.input], &default.value));
    let proto = GraphProto {
        name: Some("emg".into()),
        node: graph.nodes.iter().map(|node| writer.node(node)).collect(),
        initializer: writer.constants().chain(defaults).collect(),
        input: graph.inputs.iter().map(|(name, value)| value_info(name, graph.ty(*value))).collect(),
        output: graph.outputs.iter().map(|(name, value)| value_info(name, graph.ty(*value))).collect(),
        ..Default::default()
    };
    let entry =
        |(key, value): &(String, String)| StringStringEntryProto { key: Some(key.clone()), value: Some(value.clone()) };
    let model = ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: Some(env!("CARGO_PKG_NAME").into()),
        producer_version: Some(env!("CARGO_PKG_VERSION").into()),
        opset_import: writer.opsets(),
        graph: Some(proto),
        metadata_props: info.metadata.iter().map(entry).collect(),
        ..Default::default()
    };
    model.encode_to_vec()
}

struct Writer<'a> {
    graph: &'a Graph,
    /// Names of inputs, outputs and all other values that something uses.
    names: HashMap<Value, String>,
    used: HashSet<Value>,
}

impl<'a> Writer<'a> {
    fn new(graph: &'a Graph) -> Self {
        let inputs = graph.nodes.iter().flat_map(|node| node.inputs.iter().flatten().copied());
        let outputs = graph.outputs.iter().map(|(_, value)| *value);
        let used: HashSet<_> = inputs.chain(outputs).collect();
        let mut names: HashMap<_, _> = used.iter().map(|value| (*value, format!("v{}", value.0))).collect();
        let named = graph.outputs.iter().chain(&graph.inputs);
        let ports: HashSet<_> = named.clone().map(|(name, _)| name.as_str()).collect();
        let constants = graph.names.iter().filter(|(_, name)| !ports.contains(name.as_str()));
        names.extend(constants.map(|(value, name)| (*value, name.clone())));
        names.extend(named.map(|(name, value)| (*value, name.clone())));
        Self { graph, names, used }
    }

    fn opsets(&self) -> Vec<OperatorSetIdProto> {
        let mut domains = BTreeSet::from([""]);
        domains.extend(self.graph.nodes.iter().map(|node| node.operator.domain));
        let domains = domains.into_iter().map(|domain| (domain, if domain.is_empty() { OPSET } else { 1 }));
        domains
            .map(|(name, version)| OperatorSetIdProto { domain: Some(name.into()), version: Some(version) })
            .collect()
    }

    fn constants(&self) -> impl Iterator<Item = TensorProto> {
        let mut used: Vec<_> = self.used.iter().copied().collect();
        used.sort();
        used.into_iter().filter_map(|value| {
            let constant = self.graph.as_constant(value)?;
            Some(tensor(&self.names[&value], &dynamic(constant)))
        })
    }

    fn node(&self, node: &Node) -> NodeProto {
        let name = |value: &Value| self.names.get(value).cloned().unwrap_or_default();
        let mut output: Vec<_> = node
            .outputs
            .iter()
            .map(|value| if self.used.contains(value) { name(value) } else { String::new() })
            .collect();
        // Some outputs must be there although nobody uses them.
        if matches!(node.operator.name, "Split" | "TopK") || node.operator.is_foreign {
            for (i, output) in output.iter_mut().enumerate().filter(|(_, output)| output.is_empty()) {
                *output = format!("unused{}_{i}", node.outputs[0].0);
            }
        }
        while output.last().is_some_and(String::is_empty) {
            output.pop();
        }
        NodeProto {
            name: node.outputs.first().map(|value| format!("n{}", value.0)),
            op_type: Some(node.operator.name.into()),
            domain: Some(node.operator.domain.into()),
            input: node.inputs.iter().map(|input| input.as_ref().map(name).unwrap_or_default()).collect(),
            output,
            attribute: node.attributes.iter().map(|(name, value)| attribute(name, value)).collect(),
            ..Default::default()
        }
    }
}

/// A shape constant with -1 where it depends on a batch that is not known yet.
fn dynamic(constant: &Constant) -> Constant {
    match constant {
        Constant::I64(shape, values) => {
            let is_batch = |value: i64| usize::try_from(value).is_ok_and(|size| Dim::of(size).is_batch());
            let free = |value: &i64| if is_batch(*value) { -1 } else { *value };
            Constant::I64(shape.clone(), values.iter().map(free).collect())
        }
        other => other.clone(),
    }
}

pub(super) fn tensor(name: &str, constant: &Constant) -> TensorProto {
    let ty = constant.tensor_type();
    TensorProto {
        name: Some(name.into()),
        dims: ty.shape.iter().map(|dim| *dim as i64).collect(),
        data_type: Some(ty.dtype.data_type() as i32),
        raw_data: Some(constant.bytes().into()),
        ..Default::default()
    }
}

pub(super) fn attribute(name: &str, value: &Attribute) -> AttributeProto {
    let mut proto = AttributeProto { name: Some(name.into()), ..Default::default() };
    let kind = match value {
        Attribute::Int(value) => {
            proto.i = Some(*value);
            AttributeType::Int
        }
        Attribute::Ints(values) => {
            proto.ints = values.clone();
            AttributeType::Ints
        }
        Attribute::Float(value) => {
            proto.f = Some(*value);
            AttributeType::Float
        }
        Attribute::Floats(values) => {
            proto.floats = values.clone();
            AttributeType::Floats
        }
        Attribute::Text(text) => {
            proto.s = Some(text.as_bytes().to_vec());
            AttributeType::String
        }
        Attribute::Texts(texts) => {
            proto.strings = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
            AttributeType::Strings
        }
        Attribute::Tensor(constant) => {
            proto.t = Some(tensor("", constant));
            AttributeType::Tensor
        }
    };
    proto.r#type = Some(kind as i32);
    proto
}

fn value_info(name: &str, ty: &TensorType) -> ValueInfoProto {
    let dim = |dim: &usize| {
        let value = match Dim::of(*dim) {
            Dim::Batch(_) => dimension::Value::DimParam(BATCH.into()),
            Dim::Fixed(size) => dimension::Value::DimValue(size as i64),
        };
        Dimension { value: Some(value), ..Default::default() }
    };
    let tensor = type_proto::Tensor {
        elem_type: Some(ty.dtype.data_type() as i32),
        shape: Some(TensorShapeProto { dim: ty.shape.iter().map(dim).collect() }),
    };
    let proto = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: Some(name.into()), r#type: Some(proto), ..Default::default() }
}
