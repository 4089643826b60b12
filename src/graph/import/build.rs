//! From a model's nodes to those of a graph.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::super::attributes::{Attribute, Attributes};
use super::super::core::{Graph, Value};
use super::super::error::GraphError;
use super::super::operators::{self, Call, TrainingOperators};
use super::super::proto::attribute_proto::AttributeType;
use super::super::proto::tensor_proto::DataType;
use super::super::proto::{AttributeProto, GraphProto, NodeProto, TensorProto};
use super::super::tensor::Constant;
use super::exporter::{is_detach, is_generated};
use super::foreign::{self, Probe};
use super::model::OnnxModel;
use super::nodes::{find_attribute, taken};
use super::prepare::label;
use super::program;
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
    /// constants. `probe`: who knows the shapes that operators of no table give. Gives the values of its outputs, in
    /// order.
    ///
    /// # Errors
    /// Operators that are not known and have something trained above them (all of them are named), or a node whose inputs
    /// do not fit it.
    pub fn build(
        &self,
        graph: &mut Graph,
        training: &mut dyn TrainingOperators,
        bound: &HashMap<String, Value>,
        probe: Option<&dyn Probe>,
    ) -> Result<Vec<Value>, GraphError> {
        let values = self.build_all(graph, training, bound, probe)?;
        outputs(&values, self.graph())
    }

    /// As [`build`](Self::build); gives all values by name.
    ///
    /// # Errors
    /// As `build`.
    pub fn build_all(
        &self,
        graph: &mut Graph,
        training: &mut dyn TrainingOperators,
        bound: &HashMap<String, Value>,
        probe: Option<&dyn Probe>,
    ) -> Result<HashMap<String, Value>, GraphError> {
        let mut values: Values = bound.clone();
        let trained = bound.iter().filter(|(_, value)| graph.wants_gradient(**value)).map(|(name, _)| name.clone());
        let trained = self.trained(trained.collect());
        self.check_operators(&trained, probe.is_some())?;
        self.check_regions(&trained)?;
        constants(graph, &mut values, &self.graph().initializer)?;
        let given = self.graph().input.iter().map(|input| input.name().to_owned()).collect();
        let sequences = Sequences::new();
        let mut builder = Builder { graph, training, opset: self.opset, trained, probe, given, sequences, values };
        let built = builder.nodes(&self.graph().node);
        let values = builder.values;
        graph.set_origin(None);
        built.map(|()| values)
    }

    /// Names of all values that depend on any of `names`.
    fn trained(&self, names: HashSet<String>) -> HashSet<String> {
        let mut trained = names;
        for node in self.graph().node.iter().filter(|node| !is_detach(node)) {
            if taken(node).any(|name| trained.contains(name)) {
                trained.extend(node.output.iter().cloned());
            }
        }
        trained
    }

    /// Fails where a node with something trained above it may or may not stop gradients.
    fn check_regions(&self, trained: &HashSet<String>) -> Result<(), GraphError> {
        let mut nodes = self.graph().node.iter().filter(|node| is_generated(node));
        match nodes.find(|node| node.input.iter().any(|input| trained.contains(input))) {
            Some(node) => Err(GraphError::NoGradOrAutocast { node: label(node) }),
            None => Ok(()),
        }
    }

    /// Fails where operators that are not known have something trained above them, or nobody knows what they give.
    ///
    /// # Errors
    /// All of them, with the names of their nodes.
    fn check_operators(&self, trained: &HashSet<String>, probed: bool) -> Result<(), GraphError> {
        let mut missing: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for node in self.graph().node.iter().filter(|node| !is_known(node)) {
            if !probed || node.input.iter().any(|input| trained.contains(input)) {
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

/// Adds the tensors of a file that are not bound to other values as constants.
fn constants(graph: &mut Graph, values: &mut Values, initializers: &[TensorProto]) -> Result<(), GraphError> {
    for tensor in initializers {
        if !values.contains_key(tensor.name()) {
            let value = graph.constant(constant(tensor)?);
            values.insert(tensor.name().to_owned(), value);
        }
    }
    Ok(())
}

fn outputs(values: &Values, graph: &GraphProto) -> Result<Vec<Value>, GraphError> {
    let output = |name: &str| values.get(name).copied().ok_or_else(|| format!("no node computes the output {name}"));
    Ok(graph.output.iter().map(|port| output(port.name())).collect::<Result<_, _>>()?)
}

/// Appends nodes of a model to a graph.
struct Builder<'a> {
    graph: &'a mut Graph,
    training: &'a mut dyn TrainingOperators,
    opset: i64,
    /// Names of values that depend on something trained.
    trained: HashSet<String>,
    probe: Option<&'a dyn Probe>,
    /// Names of the model's inputs.
    given: HashSet<String>,
    sequences: Sequences,
    values: Values,
}

impl Builder<'_> {
    fn nodes(&mut self, nodes: &[NodeProto]) -> Result<(), GraphError> {
        for node in nodes {
            let label = label(node);
            self.graph.set_origin(Some(Arc::from(label.as_str())));
            let outputs = self.node(node).map_err(|source| GraphError::Node {
                node: format!("node {label} ({})", node.op_type()),
                source: Box::new(source),
            })?;
            self.values.extend(node.output.iter().cloned().zip(outputs));
        }
        Ok(())
    }

    fn node(&mut self, node: &NodeProto) -> Result<Vec<Value>, GraphError> {
        if node.op_type() == "If" {
            return self.branch(node);
        }
        let mut attributes = Attributes::new();
        for proto in &node.attribute {
            attributes.insert(proto.name().to_owned().into(), attribute(proto)?);
        }
        if node.op_type() == "Constant" {
            return Ok(vec![self.graph.constant(constant_node(&attributes)?)]);
        }
        let (values, sequences) = (&self.values, &mut self.sequences);
        let find = |name: &String| match name.as_str() {
            name if name.is_empty() || sequences.contains_key(name) => Ok(None),
            name => values.get(name).copied().map(Some).ok_or_else(|| format!("no node computes its input {name}")),
        };
        let inputs = node.input.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        if is_detach(node) {
            let x = inputs.first().copied().flatten().ok_or("input 0 is missing")?;
            return Ok(vec![self.graph.stop_gradient(x)]);
        }
        let mut call = Call {
            graph: self.graph,
            training: self.training,
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
        if let Some(outputs) = program::apply(&mut call, node)? {
            return Ok(outputs);
        }
        let is_fixed = !node.input.iter().any(|input| self.trained.contains(input));
        let outputs = match (is_known(node), operators::import(node.op_type())) {
            (false, _) => foreign::apply(&mut call, node, self.probe)?,
            (true, import) => {
                let (inputs, attributes) = (call.inputs.clone(), call.attributes.clone());
                let known = match import {
                    Some(import) => import(&mut call),
                    None => call.unchanged(),
                };
                match known {
                    // A form of a known operator that has no rules here.
                    Err(error) if is_fixed && self.probe.is_some() && varies(&call, &inputs) => {
                        (call.inputs, call.attributes) = (inputs, attributes);
                        foreign::apply(&mut call, node, self.probe).map_err(|_| error)?
                    }
                    known => known?,
                }
            }
        };
        if call.graph.nodes().len() > MOST_NODES {
            return Err(GraphError::StepTooLarge { most: MOST_NODES });
        }
        if let Some(large) = outputs.iter().find(|y| call.graph.ty(**y).elements() > MOST_ELEMENTS) {
            return Err(format!("its output {} is too large", call.graph.ty(*large)).into());
        }
        // Few operators know what to do with a tensor without elements, such as what is left of `x.roll(0)`.
        let empty = outputs.iter().find(|y| call.graph.dtype(**y).is_float() && call.graph.ty(**y).elements() == 0);
        match empty.filter(|_| !MAY_BE_EMPTY.contains(&node.op_type())) {
            Some(empty) => Err(format!("its output {} has no elements", call.graph.ty(*empty)).into()),
            None => Ok(outputs),
        }
    }

    /// Fails for a branch whose insides would have to be trained or changed.
    fn check_branch(&self, graph: &GraphProto) -> Result<(), GraphError> {
        let float = |tensor: &TensorProto| {
            tensor.data_type() == DataType::Float as i32 && tensor.dims.iter().any(|dim| *dim > 1)
        };
        if graph.initializer.iter().any(float) {
            return Err("weights inside a branch are not supported".into());
        }
        let inside = |node: &NodeProto| {
            NOT_IN_BRANCHES.contains(&node.op_type()) || operators::random::OPERATORS.contains(&node.op_type())
        };
        if let Some(node) = graph.node.iter().find(|node| inside(node)) {
            return Err(format!("{} inside a branch is not supported", node.op_type()).into());
        }
        let takes = |name: &&String| self.given.contains(name.as_str());
        match graph.node.iter().flat_map(|node| &node.input).find(takes) {
            Some(name) => Err(format!("a branch that takes the input {name} is not supported").into()),
            None => Ok(()),
        }
    }

    /// The branch of an `If` whose condition is known.
    fn branch(&mut self, node: &NodeProto) -> Result<Vec<Value>, GraphError> {
        let condition = node.input.first().and_then(|name| self.values.get(name));
        let condition =
            condition.and_then(|value| self.graph.as_constant(*value)).and_then(|c| c.numbers().first().copied());
        let condition =
            condition.ok_or("its condition depends on the model's input, and only one branch could be trained")?;
        let name = if condition == 0.0 { "else_branch" } else { "then_branch" };
        let graph = find_attribute(node, name).and_then(|attribute| attribute.g.as_ref());
        let graph = graph.ok_or_else(|| format!("it has no {name}"))?;
        self.check_branch(graph)?;
        // Names inside hide those outside.
        let outside = self.values.clone();
        for name in graph.initializer.iter().map(TensorProto::name) {
            self.values.remove(name);
        }
        constants(self.graph, &mut self.values, &graph.initializer)?;
        self.nodes(&graph.node)?;
        let inside = std::mem::replace(&mut self.values, outside);
        outputs(&inside, graph)
    }
}

/// What a branch would need to be exported as it is trained.
const NOT_IN_BRANCHES: [&str; 2] = ["If", "BatchNormalization"];

/// Operators that may give a tensor without elements to others that leave it out.
const MAY_BE_EMPTY: [&str; 7] = ["Cast", "CastLike", "Expand", "Gather", "Identity", "Slice", "Split"];

/// Whether any input is no constant.
fn varies(call: &Call<'_>, inputs: &[Option<Value>]) -> bool {
    inputs.iter().flatten().any(|value| call.graph.as_constant(*value).is_none())
}

fn is_known(node: &NodeProto) -> bool {
    let standard = matches!(node.domain(), "" | "ai.onnx");
    let table = || operators::find(node.op_type()).is_some_and(|operator| operator.domain.is_empty());
    let sequence = || sequences::OPERATORS.contains(&node.op_type());
    standard
        && (matches!(node.op_type(), "Constant" | "If")
            || sequence()
            || operators::import(node.op_type()).is_some()
            || table())
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
