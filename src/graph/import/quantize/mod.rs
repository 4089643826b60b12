//! Static quantization of an exported model: linear layers and convolutions take and hold 8-bit integers. The form is QDQ
//! (`QuantizeLinear` and `DequantizeLinear` around nodes of float32), which runtimes fuse to integer kernels. Activations are
//! uint8 with one scale and zero point each; weights are int8, symmetric, with a scale for each output channel; biases of
//! convolutions are int32. (ONNX specification, `QuantizeLinear`; ONNX Runtime's documentation, "Quantize ONNX models".)

mod weights;
mod writer;

use std::collections::{BTreeMap, HashMap, HashSet};

use prost::Message;

use super::super::attributes::Attribute;
use super::super::error::GraphError;
use super::super::onnx::{attribute, tensor};
use super::super::proto::{GraphProto, ModelProto, NodeProto, tensor_proto::DataType};
use super::super::tensor::Constant;
use super::model::decode;
use super::nodes::{float, int, node, rename_taken, takers};
use super::rewrite::float_port;
pub use weights::{ComputedWeight, WeightModel, computed_weights};
use weights::{drop_unused, fold_norms, split_biases, unfolded_name, weights};
use writer::Writer;

/// Operators with weights. What of them is not quantized is counted.
const LAYERS: [&str; 7] = ["Conv", "ConvTranspose", "GRU", "Gemm", "LSTM", "MatMul", "RNN"];

/// What is known of an activation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observed {
    pub least: f32,
    pub greatest: f32,
    /// Axes.
    pub rank: usize,
}

/// Reads a model that this program wrote.
fn decode_graph(onnx: &[u8]) -> Result<ModelProto, GraphError> {
    let proto = decode(onnx)?;
    if proto.graph.is_none() {
        return Err(GraphError::NotOnnx { reason: "it has no graph".into() });
    }
    Ok(proto)
}

/// A model whose layers are to be quantized.
#[derive(Debug)]
pub struct Quantizer {
    proto: ModelProto,
    layers: Vec<Layer>,
    /// Values whose range has to be known.
    activations: Vec<String>,
}

/// A node with a weight of the file.
#[derive(Debug)]
struct Layer {
    /// Its place.
    node: usize,
    /// The weight's axis of output channels.
    axis: usize,
    /// Of a convolution, or of the `Relu` behind it: fused kernels give integers. Products give float32.
    output: Option<String>,
}

/// How many nodes became what, by operator.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct QuantizedLayers {
    pub int8: BTreeMap<String, usize>,
    pub float32: BTreeMap<String, usize>,
}

impl Quantizer {
    /// The layers of an exported model whose weights are `computed`, or tensors of the file that `is_weight` names: with
    /// others, such as matrices that interpolate, 8 bits are too coarse.
    ///
    /// # Errors
    /// The bytes are no model.
    pub fn new(onnx: &[u8], is_weight: impl Fn(&str) -> bool, computed: &[ComputedWeight]) -> Result<Self, GraphError> {
        let mut proto = decode_graph(onnx)?;
        let graph = proto.graph.as_mut().expect("checked by decode_graph");
        let names = computed.iter().map(|weight| (weight.name.clone(), format!("{}/computed", weight.name))).collect();
        rename_taken(&mut graph.node, &names);
        let tensors = computed.iter().map(|ComputedWeight { name, shape, values }| {
            tensor(&names[name], &Constant::F32(shape.clone(), values.clone()))
        });
        graph.initializer.extend(tensors);
        let names: HashSet<_> = names.into_values().collect();
        split_biases(graph);
        fold_norms(graph);
        let layers = layers(graph, |name| is_weight(name) || names.contains(name));
        let inputs = layers.iter().map(|layer| graph.node[layer.node].input[0].clone());
        let mut activations: Vec<_> = inputs.chain(layers.iter().filter_map(|layer| layer.output.clone())).collect();
        activations.sort_unstable();
        activations.dedup();
        Ok(Self { proto, layers, activations })
    }

    /// How many nodes will be quantized, and how many have weights all the same.
    pub fn layers(&self) -> QuantizedLayers {
        let graph = self.graph();
        let quantized: HashSet<_> = self.layers.iter().map(|layer| layer.node).collect();
        let mut counts = QuantizedLayers::default();
        for (at, node) in graph.node.iter().enumerate().filter(|(_, node)| LAYERS.contains(&node.op_type())) {
            let kind = if quantized.contains(&at) { &mut counts.int8 } else { &mut counts.float32 };
            *kind.entry(node.op_type().to_owned()).or_default() += 1;
        }
        counts
    }

    fn graph(&self) -> &GraphProto {
        self.proto.graph.as_ref().expect("checked when it was made")
    }

    /// Values whose range has to be known.
    pub fn activations(&self) -> &[String] {
        &self.activations
    }

    /// A model with the same inputs, whose outputs are the least and the greatest element of each activation, in order, with
    /// as many axes as that has.
    pub fn observing(&self) -> Vec<u8> {
        let mut proto = self.proto.clone();
        let graph = proto.graph.as_mut().expect("checked when it was made");
        graph.output.clear();
        for name in &self.activations {
            for operator in ["ReduceMin", "ReduceMax"] {
                let output = format!("{name}/{operator}");
                let mut reduce = node(operator, &[name], &output);
                reduce.attribute.push(attribute("keepdims", &Attribute::Int(1)));
                graph.node.push(reduce);
                graph.output.push(float_port(&output, None));
            }
        }
        proto.encode_to_vec()
    }

    /// The quantized model; `observed` are the activations, in order.
    ///
    /// # Errors
    /// A weight is not finite.
    pub fn quantized(&self, observed: &[Observed]) -> Result<Vec<u8>, GraphError> {
        let mut proto = self.proto.clone();
        let graph = proto.graph.as_mut().expect("checked when it was made");
        let ranges = observed.iter().map(|observed| Quantization::of(*observed));
        let ranges: HashMap<_, _> = self.activations.iter().cloned().zip(ranges).collect();
        let mut writer = Writer::new(graph, &ranges);
        for layer in &self.layers {
            writer.check_bias(layer)?;
        }
        for layer in &self.layers {
            writer.layer(layer)?;
        }
        let outputs: Vec<_> = self.layers.iter().filter_map(|layer| layer.output.clone()).collect();
        writer.activations(&outputs);
        drop_unused(graph);
        Ok(proto.encode_to_vec())
    }
}

/// Scale and zero point of an activation.
#[derive(Debug, Clone, Copy)]
struct Quantization {
    scale: f32,
    zero: u8,
    rank: usize,
}

impl Quantization {
    /// That of values between two bounds, and zero.
    fn of(observed: Observed) -> Self {
        let (low, high) = (observed.least.min(0.0), observed.greatest.max(0.0));
        let scale = if high > low { (high - low) / 255.0 } else { 1.0 };
        Self { scale, zero: (-low / scale).round() as u8, rank: observed.rank }
    }
}

/// The nodes that can be quantized.
fn layers(graph: &GraphProto, is_weight: impl Fn(&str) -> bool) -> Vec<Layer> {
    let (weights, takers) = (weights(graph), takers(graph));
    let relu_behind = |output: &str| {
        let [at] = takers.get(output)?[..] else { return None };
        Some(&graph.node[at]).filter(|node| node.op_type() == "Relu").map(|node| node.output[0].clone())
    };
    let mut layers = Vec::new();
    for (at, node) in graph.node.iter().enumerate() {
        let [input, name, ..] = &node.input[..] else { continue };
        let Some(weight) = weights.get(name.as_str()).filter(|_| is_weight(unfolded_name(name))) else { continue };
        if weight.data_type() != DataType::Float as i32 || weights.contains_key(input.as_str()) {
            continue;
        }
        let (axis, output) = match (node.op_type(), weight.dims.len()) {
            ("MatMul", 2) => (1, None),
            ("Gemm", 2) if is_plain(node) => (if int(node, "transB", 0) == 0 { 1 } else { 0 }, None),
            ("Conv", 3..) if bias_of(node).is_none_or(|bias| weights.contains_key(bias)) => {
                let output = &node.output[0];
                (0, Some(relu_behind(output).unwrap_or_else(|| output.clone())))
            }
            _ => continue,
        };
        layers.push(Layer { node: at, axis, output });
    }
    layers
}

/// Whether a `Gemm` is only a product.
fn is_plain(gemm: &NodeProto) -> bool {
    gemm.input.len() == 2 && int(gemm, "transA", 0) == 0 && float(gemm, "alpha", 1.0) == 1.0
}

/// The bias of a convolution.
fn bias_of(conv: &NodeProto) -> Option<&str> {
    conv.input.get(2).map(String::as_str).filter(|name| !name.is_empty())
}
