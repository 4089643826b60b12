//! From a model's nodes to those of a graph.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::super::core::{Attribute, Attributes, Graph, Value};
use super::super::error::GraphError;
use super::super::operators::{self, Call, TrainingOperators};
use super::super::proto::attribute_proto::AttributeType;
use super::super::proto::{AttributeProto, NodeProto, TensorProto};
use super::super::tensor::Constant;
use super::model::OnnxModel;
use super::prepare::label;
use super::sequences::{self, Made, Sequences};
use super::tensor::constant;

type Values = HashMap<String, Value>;

/// Forward nodes of a graph beyond which ONNX Runtime would take minutes to load its training step.
const MOST_NODES: usize = 30_000;

/// Elements of a tensor of the model beyond which no machine trains it. Gradients make larger tensors of it (a
/// convolution's windows, for one), whose sizes then stay within those that a graph allows.
const MOST_ELEMENTS: usize = 1 << 40;

impl OnnxModel {
    /// Appends the model's nodes. `bound`: the values of its inputs, and of the initializers that are not to be
    /// constants. Gives the values of its outputs, in order.
    ///
    /// # Errors
    /// Operators that are not known (all of them are named), or a node whose inputs do not fit it.
    pub fn build(
        &self,
        graph: &mut Graph,
        training: &mut dyn TrainingOperators,
        bound: &HashMap<String, Value>,
    ) -> Result<Vec<Value>, GraphError> {
        self.check_operators()?;
        let mut values: Values = bound.clone();
        for tensor in &self.graph().initializer {
            if !values.contains_key(tensor.name()) {
                let value = graph.constant(constant(tensor)?);
                values.insert(tensor.name().to_owned(), value);
            }
        }
        let mut sequences = Sequences::new();
        for node in &self.graph().node {
            let label = label(node);
            graph.set_origin(Some(Arc::from(label.as_str())));
            let outputs = self.node(graph, training, node, &values, &mut sequences).map_err(|source| {
                GraphError::Node { node: format!("node {label} ({})", node.op_type()), source: Box::new(source) }
            });
            let outputs = outputs.inspect_err(|_| graph.set_origin(None))?;
            values.extend(node.output.iter().cloned().zip(outputs));
        }
        graph.set_origin(None);
        let output =
            |name: &str| values.get(name).copied().ok_or_else(|| format!("no node computes the output {name}"));
        Ok(self.graph().output.iter().map(|port| output(port.name())).collect::<Result<_, _>>()?)
    }

    fn node(
        &self,
        graph: &mut Graph,
        training: &mut dyn TrainingOperators,
        node: &NodeProto,
        values: &Values,
        sequences: &mut Sequences,
    ) -> Result<Vec<Value>, GraphError> {
        let mut attributes = Attributes::new();
        for proto in &node.attribute {
            attributes.insert(proto.name().to_owned().into(), attribute(proto)?);
        }
        if node.op_type() == "Constant" {
            return Ok(vec![graph.constant(constant_node(&attributes)?)]);
        }
        let find = |name: &String| match name.as_str() {
            name if name.is_empty() || sequences.contains_key(name) => Ok(None),
            name => values.get(name).copied().map(Some).ok_or_else(|| format!("no node computes its input {name}")),
        };
        let inputs = node.input.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        let mut call = Call {
            graph,
            training,
            operator: node.op_type(),
            inputs,
            names: node.input.clone(),
            attributes,
            outputs: node.output.iter().filter(|name| !name.is_empty()).count(),
            opset: self.opset,
        };
        if sequences::OPERATORS.contains(&node.op_type()) {
            return Ok(match sequences::apply(&mut call, sequences)? {
                Made::Tensor(value) => vec![value],
                Made::Sequence(parts) => {
                    sequences.insert(node.output.first().cloned().unwrap_or_default(), parts);
                    Vec::new()
                }
            });
        }
        let outputs = match operators::import(node.op_type()) {
            Some(import) => import(&mut call)?,
            None => call.unchanged()?,
        };
        if call.graph.nodes().len() > MOST_NODES {
            return Err(GraphError::StepTooLarge { most: MOST_NODES });
        }
        if let Some(large) = outputs.iter().find(|y| call.graph.ty(**y).elements() > MOST_ELEMENTS) {
            return Err(format!("its output {} is too large", call.graph.ty(*large)).into());
        }
        // Nothing is learned from a tensor without elements, and few operators know what to do with one.
        let empty = outputs.iter().find(|y| call.graph.dtype(**y).is_float() && call.graph.ty(**y).elements() == 0);
        match empty {
            Some(empty) => Err(format!("its output {} has no elements", call.graph.ty(*empty)).into()),
            None => Ok(outputs),
        }
    }

    /// Fails where the model has operators that are not known.
    ///
    /// # Errors
    /// All of them, with the names of their nodes.
    pub fn check_operators(&self) -> Result<(), GraphError> {
        let mut missing: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for node in &self.graph().node {
            if !is_known(node) {
                let name = match node.domain() {
                    "" | "ai.onnx" => node.op_type().to_owned(),
                    domain => format!("{domain}.{}", node.op_type()),
                };
                missing.entry(name).or_default().push(label(node));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let list = missing.iter().map(|(name, nodes)| format!("{name} ({})", nodes.join(", "))).collect();
        Err(GraphError::UnknownOperators(list))
    }
}

fn is_known(node: &NodeProto) -> bool {
    let standard = matches!(node.domain(), "" | "ai.onnx");
    let table = || operators::find(node.op_type()).is_some_and(|operator| operator.domain.is_empty());
    let sequence = || sequences::OPERATORS.contains(&node.op_type());
    standard && (node.op_type() == "Constant" || sequence() || operators::import(node.op_type()).is_some() || table())
}

fn attribute(proto: &AttributeProto) -> Result<Attribute, GraphError> {
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    Ok(match AttributeType::try_from(proto.r#type.unwrap_or_default()) {
        Ok(AttributeType::Int) => Attribute::Int(proto.i.unwrap_or_default()),
        Ok(AttributeType::Ints) => Attribute::Ints(proto.ints.clone()),
        Ok(AttributeType::Float) => Attribute::Float(proto.f.unwrap_or_default()),
        Ok(AttributeType::Floats) => Attribute::Floats(proto.floats.clone()),
        Ok(AttributeType::String) => Attribute::Text(text(&proto.s.clone().unwrap_or_default())),
        Ok(AttributeType::Strings) => Attribute::Texts(proto.strings.iter().map(text).collect()),
        Ok(AttributeType::Tensor) => Attribute::Tensor(constant(proto.t.as_ref().unwrap_or(&TensorProto::default()))?),
        Ok(other) => return Err(format!("attribute {} has the unsupported type {other:?}", proto.name()).into()),
        Err(_) => return Err(format!("attribute {} has an unknown type", proto.name()).into()),
    })
}

fn constant_node(attributes: &Attributes) -> Result<Constant, GraphError> {
    let (name, value) = attributes.iter().next().ok_or("the constant has no value")?;
    Ok(match value {
        Attribute::Tensor(constant) => constant.clone(),
        Attribute::Float(value) => Constant::F32(Vec::new(), vec![*value]),
        Attribute::Floats(values) => Constant::F32(vec![values.len()], values.clone()),
        Attribute::Int(value) => Constant::I64(Vec::new(), vec![*value]),
        Attribute::Ints(values) => Constant::I64(vec![values.len()], values.clone()),
        Attribute::Text(_) | Attribute::Texts(_) => return Err(format!("{name}: text is not supported").into()),
    })
}
