//! Convolutions and their gradients with channels last, as CUDA computes them between regions.

use super::super::geometry::Geometry;
use super::super::ty;
use super::{groups, input_gradient, of_gradient, weight_gradient, with_groups};
use crate::graph::attributes::Attributes;
use crate::graph::core::{Graph, Node, Value};
use crate::graph::error::GraphError;
use crate::graph::tensor::TensorType;

/// Spatial axes that cuDNN has convolutions over.
const MOST_AXES: usize = 3;

/// The types of an operator whose inputs and output have their channels last, weights those of the input: from the rule
/// of the one that has them second.
pub(super) fn channels_last(
    graph: &Graph,
    node: &Node,
    rule: fn(&Graph, &Node) -> Result<Vec<TensorType>, GraphError>,
) -> Result<Vec<TensorType>, GraphError> {
    let mut second = Graph::new();
    let mut inputs = Vec::with_capacity(2);
    for i in 0..2 {
        let mut given = ty(graph, node, i)?;
        if given.rank() < 3 {
            return Err(format!("{given} has no spatial axes").into());
        }
        let channels = given.shape.pop().expect("it has axes");
        given.shape.insert(1, channels);
        inputs.push(Some(second.input("", given)));
    }
    let node = Node { inputs, ..node.clone() };
    let mut types = rule(&second, &node)?;
    for ty in &mut types {
        let channels = ty.shape.remove(1);
        ty.shape.push(channels);
    }
    Ok(types)
}

/// Applies an operator to tensors with their channels second that wants them last: cuDNN's fastest kernels do, and
/// would turn each tensor for themselves.
fn apply_last(graph: &mut Graph, operator: &str, inputs: [Value; 2], attributes: Attributes) -> Value {
    let turned = inputs.map(|x| graph.channels_last(x));
    let y = graph.apply1(operator, &turned, attributes);
    graph.channels_second(y)
}

/// What a kernel's own convolution does not do is taken out: different pads before and after, and the bias, which costs
/// nothing where the region that takes the output adds it.
pub(super) fn conv_parts(graph: &mut Graph, node: &Node) -> Option<Vec<Value>> {
    let (mut x, weight) = (node.input(0), node.input(1));
    let mut geometry = Geometry::new(node, &graph.shape(weight)[2..]).ok()?;
    if geometry.kernel.len() > MOST_AXES {
        return None;
    }
    if geometry.is_uneven() {
        x = geometry.pad(graph, x, 2, 0.0);
        geometry = geometry.unpadded();
    }
    let y = apply_last(graph, "LastConv", [x, weight], with_groups(&geometry, groups(node).ok()?));
    Some(vec![biased(graph, y, node.optional(2))])
}

fn biased(graph: &mut Graph, y: Value, bias: Option<Value>) -> Value {
    let Some(bias) = bias else { return y };
    let bias = graph.per_channel(bias, graph.shape(y).len());
    graph.add(y, bias)
}

/// A transposed convolution is the gradient of a convolution.
pub(super) fn conv_transpose_parts(graph: &mut Graph, node: &Node) -> Option<Vec<Value>> {
    let (x, weight) = (node.input(0), node.input(1));
    let geometry = Geometry::new(node, &graph.shape(weight)[2..]).ok()?;
    let sizes = graph.shape(node.outputs[0])[2..].to_vec();
    // Output padding of a stride or more makes windows that no input belongs to.
    let fits = geometry.output(&sizes).is_ok_and(|output| output == graph.shape(x)[2..]);
    if geometry.kernel.len() > MOST_AXES || geometry.is_uneven() || !fits {
        return None;
    }
    let y = input_gradient(graph, x, weight, &geometry, groups(node).ok()?, &sizes);
    Some(vec![biased(graph, y, node.optional(2))])
}

pub(super) fn input_gradient_parts(graph: &mut Graph, node: &Node) -> Option<Vec<Value>> {
    let (dy, weight, sizes) = (node.input(0), node.input(1), graph.shape(node.outputs[0])[2..].to_vec());
    let (geometry, groups) = of_gradient(node).ok()?;
    if geometry.kernel.len() > MOST_AXES {
        return None;
    }
    if !geometry.is_uneven() {
        let attributes = node.attributes.clone();
        return Some(vec![apply_last(graph, "LastConvInputGradient", [dy, weight], attributes)]);
    }
    let padded: Vec<_> = sizes.iter().zip(&geometry.pads).map(|(size, pads)| size + pads.0 + pads.1).collect();
    let whole = input_gradient(graph, dy, weight, &geometry.unpadded(), groups, &padded);
    Some(vec![geometry.crop(graph, whole, &sizes)])
}

pub(super) fn weight_gradient_parts(graph: &mut Graph, node: &Node) -> Option<Vec<Value>> {
    let (x, dy) = (node.input(0), node.input(1));
    let (geometry, groups) = of_gradient(node).ok()?;
    if geometry.kernel.len() > MOST_AXES {
        return None;
    }
    if !geometry.is_uneven() {
        let attributes = node.attributes.clone();
        return Some(vec![apply_last(graph, "LastConvWeightGradient", [x, dy], attributes)]);
    }
    let x = geometry.pad(graph, x, 2, 0.0);
    Some(vec![weight_gradient(graph, x, dy, &geometry.unpadded(), groups)])
}
