//! From a model's nodes to those of a graph.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::super::core::{Attribute, Attributes, Graph, Value};
use super::super::operators;
use super::super::proto::attribute_proto::AttributeType;
use super::super::proto::{AttributeProto, FunctionProto, NodeProto, TensorProto};
use super::super::tensor::Constant;
use super::call::{Call, TrainingOperators};
use super::model::{OnnxModel, constant};

/// Functions may call functions; deeper than this is a mistake in the file.
const DEEPEST: usize = 32;

type Values = HashMap<String, Value>;

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
    ) -> Result<Vec<Value>, String> {
        self.check_operators()?;
        let mut values: Values = bound.clone();
        for tensor in &self.graph().initializer {
            if !values.contains_key(tensor.name()) {
                let value = graph.constant(constant(tensor)?);
                values.insert(tensor.name().to_owned(), value);
            }
        }
        let mut builder = Builder { model: self, graph, training };
        let result = builder.nodes(&self.graph().node, &mut values, &Attributes::new(), 0);
        builder.graph.set_origin(None);
        result?;
        let output = |name: &str| values.get(name).copied().ok_or_else(|| format!("nothing computes output {name}"));
        self.graph().output.iter().map(|port| output(port.name())).collect()
    }

    fn function(&self, node: &NodeProto) -> Option<&FunctionProto> {
        self.proto.functions.iter().find(|function| {
            function.name() == node.op_type()
                && function.domain() == node.domain()
                && function.overload() == node.overload()
        })
    }

    /// Fails where the model has operators that are not known.
    ///
    /// # Errors
    /// All of them, with the names of their nodes.
    pub fn check_operators(&self) -> Result<(), String> {
        let functions = self.proto.functions.iter().flat_map(|function| &function.node);
        let mut missing: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for node in self.graph().node.iter().chain(functions) {
            if !is_known(node) && self.function(node).is_none() {
                let name = match node.domain() {
                    "" | "ai.onnx" => node.op_type().to_owned(),
                    domain => format!("{domain}.{}", node.op_type()),
                };
                missing.entry(name).or_default().push(Self::label(node));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let list: Vec<_> = missing.iter().map(|(name, nodes)| format!("{name} ({})", nodes.join(", "))).collect();
        Err(format!("operators that cannot be trained: {}", list.join("; ")))
    }
}

fn is_known(node: &NodeProto) -> bool {
    let standard = matches!(node.domain(), "" | "ai.onnx");
    let table = || operators::find(node.op_type()).is_some_and(|operator| operator.domain.is_empty());
    standard && (node.op_type() == "Constant" || super::composite(node.op_type()).is_some() || table())
}

struct Builder<'a> {
    model: &'a OnnxModel,
    graph: &'a mut Graph,
    training: &'a mut dyn TrainingOperators,
}

impl Builder<'_> {
    /// `given`: attributes of the function that the nodes belong to.
    fn nodes(
        &mut self,
        nodes: &[NodeProto],
        values: &mut Values,
        given: &Attributes,
        depth: usize,
    ) -> Result<(), String> {
        for node in nodes {
            let label = OnnxModel::label(node);
            if depth == 0 {
                self.graph.set_origin(Some(Arc::from(label.as_str())));
            }
            let outputs = self
                .node(node, values, given, depth)
                .map_err(|message| format!("node {label} ({}): {message}", node.op_type()))?;
            for (name, value) in node.output.iter().zip(outputs) {
                values.insert(name.clone(), value);
            }
        }
        Ok(())
    }

    fn node(
        &mut self,
        node: &NodeProto,
        values: &Values,
        given: &Attributes,
        depth: usize,
    ) -> Result<Vec<Value>, String> {
        let attributes = attributes(node, given)?;
        if node.op_type() == "Constant" {
            return Ok(vec![self.graph.constant(constant_node(&attributes)?)]);
        }
        let find = |name: &String| match name.as_str() {
            "" => Ok(None),
            name => values.get(name).copied().map(Some).ok_or_else(|| format!("nothing computes its input {name}")),
        };
        let inputs = node.input.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        if let Some(function) = self.model.function(node) {
            return self.call_function(function, inputs, attributes, depth);
        }
        let mut call = Call {
            graph: &mut *self.graph,
            training: &mut *self.training,
            operator: node.op_type(),
            inputs,
            names: node.input.clone(),
            attributes,
            outputs: node.output.iter().filter(|name| !name.is_empty()).count(),
            opset: self.model.opset,
        };
        match super::composite(node.op_type()) {
            Some(lower) => lower(&mut call),
            None => call.unchanged(),
        }
    }

    fn call_function(
        &mut self,
        function: &FunctionProto,
        inputs: Vec<Option<Value>>,
        mut attributes: Attributes,
        depth: usize,
    ) -> Result<Vec<Value>, String> {
        if depth == DEEPEST {
            return Err("functions call each other too deeply".into());
        }
        for default in &function.attribute_proto {
            if !attributes.contains_key(default.name()) {
                attributes.insert(default.name().to_owned().into(), attribute(default)?);
            }
        }
        let given = function.input.iter().zip(inputs);
        let mut values: Values = given.filter_map(|(name, value)| Some((name.clone(), value?))).collect();
        self.nodes(&function.node, &mut values, &attributes, depth + 1)?;
        let output = |name: &String| values.get(name).copied().ok_or_else(|| format!("nothing computes output {name}"));
        function.output.iter().map(output).collect()
    }
}

fn attributes(node: &NodeProto, given: &Attributes) -> Result<Attributes, String> {
    let mut attributes = Attributes::new();
    for proto in &node.attribute {
        let name = proto.name().to_owned();
        match proto.ref_attr_name.as_deref().filter(|name| !name.is_empty()) {
            Some(outer) => {
                if let Some(value) = given.get(outer) {
                    attributes.insert(name.into(), value.clone());
                }
            }
            None => {
                attributes.insert(name.into(), attribute(proto)?);
            }
        }
    }
    Ok(attributes)
}

fn attribute(proto: &AttributeProto) -> Result<Attribute, String> {
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    Ok(match AttributeType::try_from(proto.r#type.unwrap_or_default()) {
        Ok(AttributeType::Int) => Attribute::Int(proto.i.unwrap_or_default()),
        Ok(AttributeType::Ints) => Attribute::Ints(proto.ints.clone()),
        Ok(AttributeType::Float) => Attribute::Float(proto.f.unwrap_or_default()),
        Ok(AttributeType::Floats) => Attribute::Floats(proto.floats.clone()),
        Ok(AttributeType::String) => Attribute::Text(text(&proto.s.clone().unwrap_or_default())),
        Ok(AttributeType::Strings) => Attribute::Texts(proto.strings.iter().map(text).collect()),
        Ok(AttributeType::Tensor) => Attribute::Tensor(constant(proto.t.as_ref().unwrap_or(&TensorProto::default()))?),
        other => return Err(format!("attribute {} is of kind {other:?}", proto.name())),
    })
}

fn constant_node(attributes: &Attributes) -> Result<Constant, String> {
    let (name, value) = attributes.iter().next().ok_or("a constant without value")?;
    Ok(match value {
        Attribute::Tensor(constant) => constant.clone(),
        Attribute::Float(value) => Constant::F32(Vec::new(), vec![*value]),
        Attribute::Floats(values) => Constant::F32(vec![values.len()], values.clone()),
        Attribute::Int(value) => Constant::I64(Vec::new(), vec![*value]),
        Attribute::Ints(values) => Constant::I64(vec![values.len()], values.clone()),
        Attribute::Text(_) | Attribute::Texts(_) => return Err(format!("{name}: text is not supported")),
    })
}
