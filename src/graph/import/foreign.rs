//! Nodes that are taken as they are, because nothing above them is trained: ONNX Runtime runs them, and says what shapes
//! they give.

use std::fmt::Debug;

use prost::Message;

use super::super::core::{Attribute, Value};
use super::super::error::GraphError;
use super::super::onnx::{IR_VERSION, OPSET, tensor};
use super::super::operators::{self, Call};
use super::super::proto::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto};
use super::super::tensor::{Constant, TensorType};

/// Runs small models to learn the types of what they give.
pub trait Probe: Debug + Send + Sync {
    /// Types of the outputs of a model without inputs.
    ///
    /// # Errors
    /// It cannot be run, with the reason.
    fn types(&self, onnx: &[u8]) -> Result<Vec<TensorType>, String>;
}

/// Elements of a tensor that a node is tried with.
const MOST_ELEMENTS: usize = 1 << 26;

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
    axis_as_attribute(call);
    let (domain, name) = (node.domain(), call.operator);
    let operator = operators::foreign(name, if domain == "ai.onnx" { "" } else { domain });
    let mut alone = NodeProto { input: Vec::new(), ..node.clone() };
    if name == "DFT" {
        alone.attribute.retain(|attribute| attribute.name() != "axis");
        alone.attribute.push(super::super::onnx::attribute("axis", &Attribute::Int(call.attributes.int("axis", 1))));
    }
    let mut initializer = Vec::new();
    for (i, value) in call.inputs.iter().enumerate() {
        let given = value.map(|value| example(call, value)).transpose()?;
        alone.input.push(if given.is_some() { format!("x{i}") } else { String::new() });
        initializer.extend(given.map(|constant| tensor(&format!("x{i}"), &constant)));
    }
    let output = |name: &String| ValueInfoProto { name: Some(name.clone()), ..Default::default() };
    let output = alone.output.iter().filter(|name| !name.is_empty()).map(output).collect();
    let graph = GraphProto { name: Some("node".into()), node: vec![alone], initializer, output, ..Default::default() };
    let mut versions = vec![("", OPSET)];
    versions.extend((!operator.domain.is_empty()).then_some((operator.domain, 1)));
    let version =
        |(domain, version): (&str, i64)| OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) };
    let model = ModelProto {
        ir_version: Some(IR_VERSION),
        opset_import: versions.into_iter().map(version).collect(),
        graph: Some(graph),
        ..Default::default()
    };
    let types = probe.types(&model.encode_to_vec())?;
    Ok(call.graph.foreign(operator, call.inputs.clone(), call.attributes.clone(), types))
}

/// What an input may be: itself where it is known, else zeros.
fn example(call: &Call<'_>, value: Value) -> Result<Constant, GraphError> {
    if let Some(constant) = call.graph.as_constant(value) {
        return Ok(constant.clone());
    }
    let ty = call.graph.ty(value);
    if ty.elements() > MOST_ELEMENTS {
        return Err(format!("its input {ty} is too large").into());
    }
    Ok(Constant::filled(ty.dtype, ty.shape.clone(), 0.0))
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
