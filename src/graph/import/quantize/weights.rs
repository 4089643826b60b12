//! Weights of layers: tensors of the file, what a model computes of those, and what can be put into them.

use std::collections::{BTreeSet, HashMap, HashSet};

use prost::Message;

use super::super::super::error::GraphError;
use super::super::super::onnx::tensor;
use super::super::super::operators::random;
use super::super::super::proto::{GraphProto, NodeProto, TensorProto, ValueInfoProto};
use super::super::super::tensor::Constant;
use super::super::nodes::{float, node, taken, takers};
use super::super::rewrite::float_port;
use super::super::tensor::constant;
use super::{bias_of, decode_graph};

/// A tensor that a model computes of its weights alone.
#[derive(Debug, Clone, PartialEq)]
pub struct ComputedWeight {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// A model without inputs whose outputs are weights of layers.
#[derive(Debug)]
pub struct WeightModel {
    pub onnx: Vec<u8>,
    /// Of its outputs.
    pub names: Vec<String>,
}

/// What computes weights and biases of an exported model's layers; `None` where all are tensors of the file.
///
/// # Errors
/// The bytes are no model.
pub fn computed_weights(onnx: &[u8], is_weight: impl Fn(&str) -> bool) -> Result<Option<WeightModel>, GraphError> {
    let mut proto = decode_graph(onnx)?;
    let graph = proto.graph.as_mut().expect("checked by decode_graph");
    let inputs: HashSet<_> = graph.input.iter().map(|input| input.name().to_owned()).collect();
    graph.input.clear();
    // For each constant, whether it depends on a weight.
    let tensors = graph.initializer.iter().map(|tensor| tensor.name()).filter(|name| !inputs.contains(*name));
    let mut constants: HashMap<String, bool> = tensors.map(|name| (name.to_owned(), is_weight(name))).collect();
    let mut nodes = Vec::new();
    let mut wanted = BTreeSet::new();
    for node in std::mem::take(&mut graph.node) {
        let given: Vec<_> = taken(&node).filter(|name| !name.is_empty()).map(|name| constants.get(name)).collect();
        if given.iter().all(Option::is_some) && !random::OPERATORS.contains(&node.op_type()) {
            let of_weight = given.into_iter().flatten().any(|of_weight| *of_weight);
            constants.extend(node.output.iter().map(|name| (name.clone(), of_weight)));
            nodes.push(node);
        } else if let "Conv" | "Gemm" | "MatMul" = node.op_type() {
            let is_tensor = |name: &String| graph.initializer.iter().any(|tensor| tensor.name() == name);
            let weight = node.input.get(1).filter(|name| constants.get(*name) == Some(&true));
            let bias = node.input.get(2).filter(|name| weight.is_some() && constants.contains_key(*name));
            wanted.extend(weight.into_iter().chain(bias).filter(|name| !is_tensor(name)).cloned());
        }
    }
    graph.node = nodes;
    graph.output = wanted.iter().map(|name| float_port(name, None)).collect();
    drop_unused(graph);
    let names = wanted.into_iter().collect();
    Ok(Some(WeightModel { onnx: proto.encode_to_vec(), names }).filter(|model| !model.names.is_empty()))
}

/// Tensors of the file, without those that are defaults of inputs.
pub(super) fn weights(graph: &GraphProto) -> HashMap<&str, &TensorProto> {
    let inputs: HashSet<_> = graph.input.iter().map(ValueInfoProto::name).collect();
    let tensors = graph.initializer.iter().filter(|tensor| !inputs.contains(tensor.name()));
    tensors.map(|tensor| (tensor.name(), tensor)).collect()
}

/// Splits each `Gemm` with a bias into the product and an `Add`.
pub(super) fn split_biases(graph: &mut GraphProto) {
    let mut nodes = Vec::with_capacity(graph.node.len());
    for mut gemm in std::mem::take(&mut graph.node) {
        let is_sum = gemm.op_type() == "Gemm" && gemm.input.len() == 3 && float(&gemm, "beta", 1.0) == 1.0;
        let Some(bias) = is_sum.then(|| gemm.input.remove(2)).filter(|bias| !bias.is_empty()) else {
            nodes.push(gemm);
            continue;
        };
        let output = std::mem::take(&mut gemm.output[0]);
        let product = format!("{output}/product");
        gemm.output[0].clone_from(&product);
        nodes.extend([gemm, node("Add", &[&product, &bias], &output)]);
    }
    graph.node = nodes;
}

/// Puts batch normalizations into the convolutions before them, where nothing else takes what those give.
pub(super) fn fold_norms(graph: &mut GraphProto) {
    let folded = |graph: &GraphProto| -> Vec<(usize, usize)> {
        let (weights, takers) = (weights(graph), takers(graph));
        let outputs: HashSet<_> = graph.output.iter().map(ValueInfoProto::name).collect();
        let behind = |at: usize, conv: &NodeProto| {
            let output = conv.output.first()?;
            let [norm] = takers.get(output.as_str())?[..] else { return None };
            let is_norm = graph.node[norm].op_type() == "BatchNormalization" && !outputs.contains(output.as_str());
            let known = |name: &String| name.is_empty() || weights.contains_key(name.as_str());
            let constant = conv.input.iter().skip(1).all(known) && graph.node[norm].input.iter().skip(1).all(known);
            (is_norm && constant).then_some((at, norm))
        };
        let convs = graph.node.iter().enumerate().filter(|(_, node)| node.op_type() == "Conv");
        convs.filter_map(|(at, conv)| behind(at, conv)).collect()
    };
    let pairs = folded(graph);
    let mut made = Vec::new();
    for (conv, norm) in &pairs {
        if let Some(tensors) = fold_norm(graph, *conv, *norm) {
            made.extend(tensors);
        }
    }
    graph.initializer.extend(made);
    graph.node.retain(|node| !node.output.is_empty());
}

/// A convolution with the norm behind it in its weight and bias, new tensors; the norm is left without outputs.
fn fold_norm(graph: &mut GraphProto, conv: usize, norm: usize) -> Option<[TensorProto; 2]> {
    let find = |name: &str| graph.initializer.iter().find(|tensor| tensor.name() == name);
    let values = |name: &str| match constant(find(name)?).ok()? {
        Constant::F32(shape, values) => Some((shape, values)),
        _ => None,
    };
    let epsilon = float(&graph.node[norm], "epsilon", 1e-5);
    let (weight_name, bias_name) = (&graph.node[conv].input[1], bias_of(&graph.node[conv]));
    let (shape, mut weight) = values(weight_name)?;
    let channels = shape[0];
    let mut bias = bias_name.map_or(Some(vec![0.0; channels]), |name| Some(values(name)?.1))?;
    let parts = graph.node[norm].input[1..5].iter().map(|name| Some(values(name)?.1)).collect::<Option<Vec<_>>>()?;
    let [scale, shift, mean, variance] = &parts[..] else { return None };
    let per_channel = weight.len() / channels;
    for (channel, row) in weight.chunks_exact_mut(per_channel).enumerate() {
        let factor = scale[channel] / (variance[channel] + epsilon).sqrt();
        row.iter_mut().for_each(|value| *value *= factor);
        bias[channel] = (bias[channel] - mean[channel]) * factor + shift[channel];
    }
    // The names begin as the weight's does, so that it is known to be one.
    let output = graph.node[norm].output[0].clone();
    let [weight_name, bias_name] = [weight_name.clone(), format!("{output}/bias")];
    let weight_name = format!("{weight_name}{FOLDED}{output}");
    let node = &mut graph.node[conv];
    node.input.truncate(1);
    node.input.extend([weight_name.clone(), bias_name.clone()]);
    node.output[0] = output;
    graph.node[norm].output.clear();
    Some([
        tensor(&weight_name, &Constant::F32(shape, weight)),
        tensor(&bias_name, &Constant::F32(vec![channels], bias)),
    ])
}

/// Between the name of a weight and that of the norm that it was folded with.
const FOLDED: &str = "/folded/";

/// The name of the weight that a tensor was made of.
pub(super) fn unfolded_name(name: &str) -> &str {
    name.split_once(FOLDED).map_or(name, |(own, _)| own)
}

/// Takes out nodes and tensors that nothing takes any more.
pub(super) fn drop_unused(graph: &mut GraphProto) {
    let mut needed: HashSet<String> = graph.output.iter().map(|output| output.name().to_owned()).collect();
    let mut kept: Vec<_> = graph
        .node
        .drain(..)
        .rev()
        .filter(|node| {
            let is_needed = node.output.iter().any(|name| needed.contains(name));
            if is_needed {
                needed.extend(taken(node).map(str::to_owned));
            }
            is_needed
        })
        .collect();
    kept.reverse();
    graph.node = kept;
    let taken: HashSet<_> = graph.node.iter().flat_map(taken).map(str::to_owned).collect();
    let named = graph.input.iter().chain(&graph.output).map(|port| port.name().to_owned());
    let kept: HashSet<_> = named.chain(taken).collect();
    graph.initializer.retain(|tensor| kept.contains(tensor.name()));
}
