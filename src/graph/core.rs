//! The graph itself: values, nodes, inputs, outputs, constants.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::attributes::Attributes;
use super::error::GraphError;
use super::fold;
use super::operators::{self, Operator};
use super::precision::Autocast;
use super::simplify::Given;
use super::tensor::{Constant, DType, TensorType};

/// A value: an input, a constant or a node's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(pub(super) u32);

/// An operator applied to values.
#[derive(Debug, Clone)]
pub struct Node {
    pub operator: &'static Operator,
    /// `None`: an optional input that is not given.
    pub inputs: Vec<Option<Value>>,
    pub outputs: Vec<Value>,
    pub attributes: Attributes,
    /// The node of a user's model that this one comes from.
    pub origin: Option<Arc<str>>,
}

impl Node {
    /// Integer attribute, or its default.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.attributes.int(name, default)
    }

    /// Integer list attribute, or its default.
    pub fn ints(&self, name: &str, default: &[i64]) -> Vec<i64> {
        self.attributes.ints(name, default)
    }

    /// Float attribute, or its default.
    pub fn float(&self, name: &str, default: f32) -> f32 {
        self.attributes.float(name, default)
    }

    /// Text attribute, or its default.
    pub fn text<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        self.attributes.text(name, default)
    }

    /// Input `i`, if it is given.
    pub fn optional(&self, i: usize) -> Option<Value> {
        self.inputs.get(i).copied().flatten()
    }

    /// Input `i`, which the operator requires.
    ///
    /// # Panics
    /// It is not given.
    pub fn input(&self, i: usize) -> Value {
        self.optional(i).unwrap_or_else(|| panic!("{} lacks input {i}", self.operator.name))
    }
}

/// A kind of node, as far as it decides whether a provider has a kernel for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signature {
    pub operator: &'static str,
    /// Type of what the operator computes with.
    pub dtype: DType,
    pub inputs: usize,
    pub outputs: usize,
}

#[derive(Debug, Clone)]
pub(super) struct ValueInfo {
    pub(super) ty: TensorType,
    pub(super) constant: Option<Constant>,
}

/// An ONNX graph under construction, always in topological order.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    pub(super) values: Vec<ValueInfo>,
    pub(super) nodes: Vec<Node>,
    pub(super) inputs: Vec<(String, Value)>,
    pub(super) outputs: Vec<(String, Value)>,
    /// Names of constants that readers of the file should recognise.
    pub(super) names: HashMap<Value, String>,
    /// Nodes already made, so that an equal one is not made again (all operators are pure).
    pub(super) made: HashMap<String, Vec<Value>>,
    /// Values that gradients are taken of: no simplification steps around them.
    wanted: HashSet<Value>,
    /// Copies through which no gradient flows.
    stopped: HashSet<Value>,
    /// What nodes made from now on come from.
    origin: Option<Arc<str>>,
    /// Set while operators are applied in a lower precision.
    pub(super) autocast: Option<Autocast>,
}

impl Graph {
    pub fn new() -> Self {
        Self::default()
    }

    fn value(&mut self, ty: TensorType, constant: Option<Constant>) -> Value {
        self.values.push(ValueInfo { ty, constant });
        Value(u32::try_from(self.values.len() - 1).expect("fewer than 2^32 values"))
    }

    /// Adds an input.
    pub fn input(&mut self, name: &str, ty: TensorType) -> Value {
        let value = self.value(ty, None);
        self.inputs.push((name.to_owned(), value));
        value
    }

    /// Names a value as an output. An output has one name, so an input, constant or other output is copied.
    pub fn output(&mut self, name: &str, value: Value) {
        let named = self.inputs.iter().chain(&self.outputs).any(|(_, other)| *other == value);
        let value = if named || self.as_constant(value).is_some() { self.copy(value) } else { value };
        self.outputs.push((name.to_owned(), value));
    }

    fn copy(&mut self, value: Value) -> Value {
        let copy = self.value(self.ty(value).clone(), None);
        let operator = operators::find("Identity").expect("in the table");
        let (attributes, origin) = (Attributes::new(), self.origin.clone());
        self.nodes.push(Node { operator, inputs: vec![Some(value)], outputs: vec![copy], attributes, origin });
        copy
    }

    /// A copy through which no gradient flows.
    pub(super) fn stop_gradient(&mut self, value: Value) -> Value {
        let copy = self.copy(value);
        self.stopped.insert(copy);
        copy
    }

    pub(super) fn stops_gradient(&self, node: &Node) -> bool {
        node.outputs.iter().any(|output| self.stopped.contains(output))
    }

    pub(super) fn wants_gradient(&self, value: Value) -> bool {
        self.wanted.contains(&value)
    }

    /// A node of an operator that is not in the table: taken as it is, with outputs of these types.
    pub(super) fn foreign(
        &mut self,
        operator: &'static Operator,
        inputs: Vec<Option<Value>>,
        attributes: Attributes,
        types: Vec<TensorType>,
    ) -> Vec<Value> {
        let outputs: Vec<_> = types.into_iter().map(|ty| self.value(ty, None)).collect();
        let (inputs, origin) = (self.cast_inputs(operator, inputs), self.origin.clone());
        self.nodes.push(Node { operator, inputs, outputs: outputs.clone(), attributes, origin });
        outputs
    }

    pub fn inputs(&self) -> &[(String, Value)] {
        &self.inputs
    }

    pub fn outputs(&self) -> &[(String, Value)] {
        &self.outputs
    }

    /// Whether any node reads the input `name`.
    pub fn uses_input(&self, name: &str) -> bool {
        let input = self.inputs.iter().find(|(other, _)| other == name).map(|(_, value)| *value);
        self.nodes.iter().any(|node| node.inputs.contains(&input)) && input.is_some()
    }

    /// Takes back an input that no node reads.
    pub fn remove_input(&mut self, name: &str) {
        self.inputs.retain(|(other, _)| other != name);
    }

    /// Names the node of a user's model that nodes made from now on come from.
    pub(super) fn set_origin(&mut self, origin: Option<Arc<str>>) {
        self.origin = origin;
    }

    /// Makes every node anew, in order: `replace` gets each node with its inputs already replaced, and where earlier
    /// values went, and gives the values that take its outputs' place, or `None` to keep it. Gives where each old
    /// value went.
    pub(super) fn rewrite(
        &mut self,
        mut replace: impl FnMut(&mut Self, &Node, &HashMap<Value, Value>) -> Option<Vec<Value>>,
    ) -> HashMap<Value, Value> {
        self.made.retain(|_, values| self.values[values[0].0 as usize].constant.is_some());
        let mut moved: HashMap<Value, Value> = HashMap::new();
        for mut node in std::mem::take(&mut self.nodes) {
            for input in node.inputs.iter_mut().flatten() {
                *input = moved.get(input).copied().unwrap_or(*input);
            }
            self.origin.clone_from(&node.origin);
            let values = replace(self, &node, &moved).unwrap_or_else(|| self.again(&node));
            moved.extend(node.outputs.iter().copied().zip(values));
        }
        self.origin = None;
        for (_, output) in &mut self.outputs {
            *output = moved.get(output).copied().unwrap_or(*output);
        }
        moved
    }

    /// A node like this one, with outputs of its own.
    fn again(&mut self, node: &Node) -> Vec<Value> {
        if node.operator.name == "Identity" {
            return vec![self.copy(node.input(0))];
        }
        if node.operator.is_foreign {
            let types = node.outputs.iter().map(|output| self.ty(*output).clone()).collect();
            return self.foreign(node.operator, node.inputs.clone(), node.attributes.clone(), types);
        }
        self.try_apply(node.operator.name, node.inputs.clone(), node.attributes.clone())
            .unwrap_or_else(|message| panic!("{message}"))
    }

    /// The node that `value` is an output of.
    pub(super) fn producer(&self, value: Value) -> Option<&Node> {
        // Values are numbered as they are made, so nodes are in the order of their outputs.
        let after = self.nodes.partition_point(|node| node.outputs[0] <= value);
        self.nodes[..after].last().filter(|node| node.outputs.contains(&value))
    }

    /// Keeps simplifications from stepping around `value`, whose gradient is wanted: what is computed from it stays so.
    pub fn want_gradient(&mut self, value: Value) {
        self.wanted.insert(value);
    }

    /// The node that `value` is an output of, if a simplification may look behind it.
    pub(super) fn simplifiable(&self, value: Value) -> Option<&Node> {
        self.producer(value).filter(|_| !self.wanted.contains(&value))
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// What kernels a provider must have to run the graph: each operator with the type that it computes in.
    pub fn signatures(&self) -> BTreeSet<Signature> {
        let signature = |node: &Node| {
            let (operator, inputs, outputs) = (node.operator.name, node.inputs.len(), node.outputs.len());
            let types = (node.operator.computes_in)(self, node);
            types.into_iter().map(move |dtype| Signature { operator, dtype, inputs, outputs })
        };
        self.nodes.iter().flat_map(signature).collect()
    }

    /// Adds a constant; equal ones are made once.
    pub fn constant(&mut self, constant: Constant) -> Value {
        let hash = blake3::hash(&constant.bytes());
        let key = format!("constant {} {hash}", constant.tensor_type());
        if let Some(made) = self.made.get(&key) {
            return made[0];
        }
        let value = self.value(constant.tensor_type(), Some(constant));
        self.made.insert(key, vec![value]);
        value
    }

    /// A constant that keeps its name in the file, of these values rounded to `dtype`.
    pub fn named_constant(
        &mut self,
        name: &str,
        shape: impl Into<Vec<usize>>,
        values: Vec<f32>,
        dtype: DType,
    ) -> Value {
        let constant = Constant::F32(shape.into(), values).cast(dtype);
        let value = self.value(constant.tensor_type(), Some(constant));
        self.names.insert(value, name.to_owned());
        value
    }

    /// A float32 constant.
    pub fn f32(&mut self, shape: impl Into<Vec<usize>>, values: Vec<f32>) -> Value {
        self.constant(Constant::F32(shape.into(), values))
    }

    /// A float32 scalar.
    pub fn scalar(&mut self, value: f32) -> Value {
        self.f32([], vec![value])
    }

    /// A vector of int64.
    pub fn i64s(&mut self, values: &[i64]) -> Value {
        self.constant(Constant::I64(vec![values.len()], values.to_vec()))
    }

    pub fn ty(&self, value: Value) -> &TensorType {
        &self.values[value.0 as usize].ty
    }

    pub fn shape(&self, value: Value) -> &[usize] {
        &self.ty(value).shape
    }

    pub fn dtype(&self, value: Value) -> DType {
        self.ty(value).dtype
    }

    pub fn as_constant(&self, value: Value) -> Option<&Constant> {
        self.values[value.0 as usize].constant.as_ref()
    }

    /// A scalar of the type of `like`.
    pub fn scalar_like(&mut self, like: Value, value: f32) -> Value {
        let constant = Constant::filled(self.dtype(like), Vec::new(), f64::from(value));
        self.constant(constant)
    }

    /// The int64 constant that `value` is.
    pub fn as_i64s(&self, value: Value) -> Option<&[i64]> {
        match self.as_constant(value) {
            Some(Constant::I64(_, values)) => Some(values),
            _ => None,
        }
    }

    /// Applies operator `name`; the number of outputs comes from shape inference.
    ///
    /// # Errors
    /// An unknown operator, or inputs that do not fit it.
    pub(super) fn try_apply(
        &mut self,
        name: &str,
        inputs: Vec<Option<Value>>,
        attributes: Attributes,
    ) -> Result<Vec<Value>, GraphError> {
        let operator = operators::find(name).ok_or_else(|| format!("operator {name} is not supported"))?;
        let inputs = self.cast_inputs(operator, inputs);
        let key = format!("{name} {inputs:?} {attributes:?}");
        if let Some(made) = self.made.get(&key) {
            return Ok(made.clone());
        }
        let mut node = Node { operator, inputs, outputs: Vec::new(), attributes, origin: self.origin.clone() };
        let types = (operator.infer)(self, &node).map_err(|source| {
            let input = |value: &Option<Value>| value.map_or("nothing".to_owned(), |value| self.ty(value).to_string());
            let inputs: Vec<_> = node.inputs.iter().map(input).collect();
            let attributes: Vec<_> = node.attributes.iter().map(|(name, value)| format!(", {name} {value}")).collect();
            let node = format!("{name} of {}{}", inputs.join(", "), attributes.concat());
            GraphError::Node { node, source: Box::new(source) }
        })?;
        if let Some(ty) = types.iter().find(|ty| ty.is_too_large()) {
            return Err(format!("the output {ty} of {name} is too large").into());
        }
        if let Some(folded) = self.fold(&node, &types) {
            let outputs: Vec<_> = folded.into_iter().map(|constant| self.constant(constant)).collect();
            self.made.insert(key, outputs.clone());
            return Ok(outputs);
        }
        if let (Some(rule), Some(ty)) = (operator.simplify, types.first()) {
            let given = Given { inputs: &node.inputs, attributes: &node.attributes, ty };
            if let Some(value) = rule(self, &given) {
                self.made.insert(key, vec![value]);
                return Ok(vec![value]);
            }
        }
        node.outputs = types.into_iter().map(|ty| self.value(ty, None)).collect();
        let outputs = node.outputs.clone();
        self.nodes.push(node);
        self.made.insert(key, outputs.clone());
        Ok(outputs)
    }

    /// What the node gives, if that is known now. A constant with a name stays one that readers of a file can find.
    fn fold(&self, node: &Node, types: &[TensorType]) -> Option<Vec<Constant>> {
        let constant = |value: &Value| self.as_constant(*value).filter(|_| !self.names.contains_key(value));
        let inputs = node.inputs.iter().map(|value| value.as_ref().and_then(constant)).collect::<Option<Vec<_>>>()?;
        fold::fold(node, &inputs, types)
    }

    /// Applies an operator whose inputs this project's own code chose.
    ///
    /// # Panics
    /// The inputs do not fit the operator: a mistake in the caller.
    pub(super) fn apply(&mut self, name: &str, inputs: &[Value], attributes: Attributes) -> Vec<Value> {
        let inputs = inputs.iter().copied().map(Some).collect();
        self.try_apply(name, inputs, attributes).unwrap_or_else(|message| panic!("{message}"))
    }

    /// [`apply`](Self::apply) for operators with one output.
    ///
    /// # Panics
    /// As `apply`.
    pub(super) fn apply1(&mut self, name: &str, inputs: &[Value], attributes: Attributes) -> Value {
        self.apply(name, inputs, attributes)[0]
    }
}
