//! Quantized layers in a graph.

use std::collections::HashMap;

use super::super::super::attributes::Attribute;
use super::super::super::error::GraphError;
use super::super::super::onnx::{attribute, tensor};
use super::super::super::proto::{GraphProto, NodeProto, TensorProto, tensor_proto::DataType};
use super::super::super::tensor::Constant;
use super::super::nodes::{node, rename_taken};
use super::super::tensor::constant;
use super::{Layer, Quantization, bias_of};

/// Weights reach from -64 to 64, not to 127: processors without VNNI add two products of 8 bits in 16, which saturate
/// silently beyond that.
const LARGEST_WEIGHT: f32 = 64.0;

/// Writes quantized layers into a graph.
pub(super) struct Writer<'a> {
    graph: &'a mut GraphProto,
    activations: &'a HashMap<String, Quantization>,
    /// Scales that biases need: what a channel's weights are quantized by must not be less.
    least: HashMap<String, Vec<f32>>,
    /// Scales of the weights that are quantized already.
    weights: HashMap<String, Vec<f32>>,
    /// Nodes that give weights and biases.
    first: Vec<NodeProto>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(graph: &'a mut GraphProto, activations: &'a HashMap<String, Quantization>) -> Self {
        Self { graph, activations, least: HashMap::new(), weights: HashMap::new(), first: Vec::new() }
    }

    /// Notes what scales of a layer's weight let its bias fit into 32 bits. Channels with tiny weights need larger ones.
    pub(super) fn check_bias(&mut self, layer: &Layer) -> Result<(), GraphError> {
        const LARGEST_BIAS: f32 = (1u32 << 30) as f32;
        let node = &self.graph.node[layer.node];
        let Some(bias) = bias_of(node).filter(|_| node.op_type() == "Conv") else { return Ok(()) };
        let (weight, scale) = (node.input[1].clone(), self.activations[&node.input[0]].scale);
        let (_, values) = self.values(bias)?;
        let least = self.least.entry(weight).or_insert_with(|| vec![0.0; values.len()]);
        for (least, bias) in least.iter_mut().zip(&values) {
            *least = least.max(bias.abs() / scale / LARGEST_BIAS);
        }
        Ok(())
    }

    pub(super) fn layer(&mut self, layer: &Layer) -> Result<(), GraphError> {
        let [input, weight, ..] = &self.graph.node[layer.node].input[..] else { unreachable!("a layer has both") };
        let (input, weight) = (input.clone(), weight.clone());
        if !self.weights.contains_key(&weight) {
            let scales = self.weight(&weight, layer.axis)?;
            self.weights.insert(weight.clone(), scales);
        }
        if let Some(bias) = bias_of(&self.graph.node[layer.node]).map(str::to_owned) {
            let of_input = self.activations[&input].scale;
            let scales: Vec<_> = self.weights[&weight].iter().map(|scale| scale * of_input).collect();
            let own = format!("{}/{bias}", self.graph.node[layer.node].output[0]);
            self.bias(&bias, &own, scales)?;
            self.graph.node[layer.node].input[2] = dequantized(&own);
        }
        let node = &mut self.graph.node[layer.node];
        if node.op_type() == "MatMul" && self.activations[&input].rank == 2 {
            // ONNX Runtime merges a MatMul with the addition after it into a Gemm first, for which it has no integer kernel.
            node.op_type = Some("Gemm".into());
        }
        node.input[0] = dequantized(&input);
        node.input[1] = dequantized(&weight);
        Ok(())
    }

    /// The scales of a weight's channels, which lie along `axis`.
    fn weight(&mut self, name: &str, axis: usize) -> Result<Vec<f32>, GraphError> {
        let (shape, values) = self.values(name)?;
        // Of a weight's elements, those of one channel follow each other so often, or lie that far apart.
        let inner: usize = shape[axis + 1..].iter().product();
        let channel = |at: usize| at / inner % shape[axis];
        let mut scales = self.least.get(name).cloned().unwrap_or_else(|| vec![0.0; shape[axis]]);
        for (at, value) in values.iter().enumerate() {
            let scale = &mut scales[channel(at)];
            *scale = scale.max(value.abs() / LARGEST_WEIGHT);
        }
        scales.iter_mut().filter(|scale| **scale < f32::MIN_POSITIVE).for_each(|scale| *scale = 1.0);
        let bytes = values.iter().enumerate().map(|(at, value)| (value / scales[channel(at)]).round() as i8 as u8);
        let quantized = int_tensor(format!("{name}/quantized"), DataType::Int8, &shape, bytes.collect());
        self.dequantize(name, quantized, DataType::Int8, &scales, axis);
        Ok(scales)
    }

    /// A convolution's bias, in units of its sums of products.
    fn bias(&mut self, bias: &str, own: &str, scales: Vec<f32>) -> Result<(), GraphError> {
        let (shape, values) = self.values(bias)?;
        let whole =
            values.iter().zip(&scales).flat_map(|(value, scale)| ((value / scale).round() as i32).to_le_bytes());
        let quantized = int_tensor(format!("{own}/quantized"), DataType::Int32, &shape, whole.collect());
        self.dequantize(own, quantized, DataType::Int32, &scales, 0);
        Ok(())
    }

    /// Adds a quantized tensor with scales along `axis` and the node that gives its numbers.
    fn dequantize(&mut self, name: &str, quantized: TensorProto, ty: DataType, scales: &[f32], axis: usize) {
        let [scale, zero] = ["scale", "zero_point"].map(|part| format!("{name}/{part}"));
        let zeros = vec![0; scales.len() * if ty == DataType::Int32 { size_of::<i32>() } else { 1 }];
        self.graph.initializer.push(tensor(&scale, &Constant::F32(vec![scales.len()], scales.to_vec())));
        self.graph.initializer.push(int_tensor(zero.clone(), ty, &[scales.len()], zeros));
        let mut node = node("DequantizeLinear", &[quantized.name(), &scale, &zero], &dequantized(name));
        node.attribute.push(attribute("axis", &Attribute::Int(axis as i64)));
        self.graph.initializer.push(quantized);
        self.first.push(node);
    }

    fn values(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>), GraphError> {
        let found = self.graph.initializer.iter().find(|tensor| tensor.name() == name);
        match constant(found.expect("layers have tensors of the file"))? {
            Constant::F32(_, values) if values.iter().any(|value| !value.is_finite()) => {
                Err(format!("cannot be quantized, since the weight {name} is not finite").into())
            }
            Constant::F32(shape, values) => Ok((shape, values)),
            other => Err(format!("expected the weight {name} in float32, found {}", other.dtype()).into()),
        }
    }

    /// Quantizes activations where they are made. `outputs`: those that everything takes quantized; of the others, only
    /// layers do.
    pub(super) fn activations(mut self, outputs: &[String]) {
        let names = outputs.iter().map(|name| (name.clone(), dequantized(name))).collect();
        rename_taken(&mut self.graph.node, &names);
        let nodes = std::mem::take(&mut self.graph.node);
        let inputs: Vec<_> = self.graph.input.iter().map(|input| input.name().to_owned()).collect();
        let mut all = std::mem::take(&mut self.first);
        inputs.iter().for_each(|name| all.extend(self.quantize(name)));
        for node in nodes {
            let made = node.output.clone();
            all.push(node);
            made.iter().for_each(|name| all.extend(self.quantize(name)));
        }
        self.graph.node = all;
    }

    /// The nodes that quantize an activation and give its numbers; none for other values.
    fn quantize(&mut self, name: &str) -> Vec<NodeProto> {
        let Some(Quantization { scale, zero, .. }) = self.activations.get(name) else { return Vec::new() };
        let [scale_name, zero_name, quantized] =
            ["scale", "zero_point", "quantized"].map(|part| format!("{name}/{part}"));
        self.graph.initializer.push(tensor(&scale_name, &Constant::F32(Vec::new(), vec![*scale])));
        self.graph.initializer.push(int_tensor(zero_name.clone(), DataType::Uint8, &[], vec![*zero]));
        vec![
            node("QuantizeLinear", &[name, &scale_name, &zero_name], &quantized),
            node("DequantizeLinear", &[&quantized, &scale_name, &zero_name], &dequantized(name)),
        ]
    }
}

fn dequantized(name: &str) -> String {
    format!("{name}/dequantized")
}

fn int_tensor(name: String, ty: DataType, shape: &[usize], bytes: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name),
        dims: shape.iter().map(|size| *size as i64).collect(),
        data_type: Some(ty as i32),
        raw_data: Some(bytes.into()),
        ..Default::default()
    }
}
