//! Nodes that are taken as they are, because nothing above them is trained: ONNX Runtime runs them, and says what shapes
//! they give.

use std::fmt::Debug;

use prost::Message;

use super::super::attributes::Attribute;
use super::super::core::Value;
use super::super::error::GraphError;
use super::super::onnx::{IR_VERSION, OPSET, attribute, tensor};
use super::super::operators::{self, Call};
use super::super::proto::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto};
use super::super::tensor::{Constant, DType, TensorType};

/// Runs small models to learn the types of what they give.
pub trait Probe: Debug + Send + Sync {
    /// Types of the outputs of a model without inputs.
    ///
    /// # Errors
    /// It cannot be run, with the reason.
    fn types(&self, onnx: &[u8]) -> Result<Vec<TensorType>, String>;
}

/// Elements of all tensors together that a node is tried with.
const MOST_ELEMENTS: usize = 1 << 26;

/// Operators whose results have as many elements as their inputs' values make them.
const DEPENDS_ON_VALUES: [&str; 4] = ["Compress", "NonMaxSuppression", "NonZero", "Unique"];

/// Takes a node as it is.
///
/// # Errors
/// ONNX Runtime does not run it, or nothing can ask ONNX Runtime.
pub(super) fn apply(
    call: &mut Call<'_>,
    node: &NodeProto,
    probe: Option<&dyn Probe>,
) -> Result<Vec<Value>, GraphError> {
    let probe = probe.ok_or_else(|| GraphError::UnknownOperators(vec![call.operator.to_owned()]))?;
    if DEPENDS_ON_VALUES.contains(&call.operator) {
        return Err("the shape of its output depends on the values of its input".into());
    }
    let left_out = node.output.iter().position(String::is_empty);
    if left_out.is_some_and(|first| node.output[first..].iter().any(|name| !name.is_empty())) {
        return Err("it leaves an output out before one that it gives".into());
    }
    let elements = call.inputs.iter().flatten().map(|value| call.graph.ty(*value).elements());
    if elements.fold(0, usize::saturating_add) > MOST_ELEMENTS {
        return Err("its inputs are too large".into());
    }
    axis_as_attribute(call);
    let (domain, name) = (node.domain(), call.operator);
    let operator = operators::foreign(name, if domain == "ai.onnx" { "" } else { domain });
    let mut alone = NodeProto { input: Vec::new(), ..node.clone() };
    if name == "DFT" {
        alone.attribute.retain(|attribute| attribute.name() != "axis");
        alone.attribute.push(attribute("axis", &Attribute::Int(call.attributes.int("axis", 1))));
    }
    let name_of = |(i, value): (usize, &Option<Value>)| value.map_or_else(String::new, |_| format!("x{i}"));
    alone.input = call.inputs.iter().enumerate().map(name_of).collect();
    let output = |name: &String| ValueInfoProto { name: Some(name.clone()), ..Default::default() };
    let output = alone.output.iter().filter(|name| !name.is_empty()).map(output).collect();
    let graph = GraphProto { name: Some("node".into()), node: vec![alone], output, ..Default::default() };
    let mut versions = vec![("", OPSET)];
    versions.extend((!operator.domain.is_empty()).then_some((operator.domain, 1)));
    let version =
        |(domain, version): (&str, i64)| OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) };
    let mut model = ModelProto {
        ir_version: Some(IR_VERSION),
        opset_import: versions.into_iter().map(version).collect(),
        graph: Some(graph),
        ..Default::default()
    };
    let mut given = |noise: bool| {
        let examples = call.inputs.iter().enumerate().filter_map(|(i, value)| Some((i, (*value)?)));
        let tensors = examples.map(|(i, value)| tensor(&format!("x{i}"), &example(call, value, noise))).collect();
        model.graph.as_mut().expect("given above").initializer = tensors;
        probe.types(&model.encode_to_vec())
    };
    let types = given(false)?;
    // Values that a node does not take may be among the second ones, but shapes that differ tell.
    if given(true).is_ok_and(|others| others != types) {
        return Err("the shape of its output depends on the values of its input".into());
    }
    Ok(call.graph.foreign(operator, call.inputs.clone(), call.attributes.clone(), types))
}

/// What an input may be: itself where it is known, else zeros, or floats that differ.
fn example(call: &Call<'_>, value: Value, noise: bool) -> Constant {
    if let Some(constant) = call.graph.as_constant(value) {
        return constant.clone();
    }
    let ty = call.graph.ty(value);
    if noise && ty.dtype == DType::F32 {
        let values = (0..ty.elements()).map(|i| (i * 7 % 11) as f32 * 0.3 - 1.0).collect();
        return Constant::F32(ty.shape.clone(), values);
    }
    Constant::filled(ty.dtype, ty.shape.clone(), 0.0)
}

/// `DFT` takes its axis as an input since opset 20; graphs here are of opset 18.
fn axis_as_attribute(call: &mut Call<'_>) {
    if call.operator != "DFT" || call.inputs.len() < 3 {
        return;
    }
    if let Ok(Some(axis)) = call.integers(2) {
        call.attributes.insert("axis".into(), Attribute::Int(axis.first().copied().unwrap_or(-2)));
    }
    call.inputs.truncate(2);
}
