//! A trained model back as the file it came from: the same nodes, names and shapes, with other weights, and with the
//! units of the data around it.

use std::collections::{HashMap, HashSet};

use prost::Message;

use super::super::attributes::Attribute;
use super::super::onnx::{attribute, tensor};
use super::super::products::TRANSPOSED;
use super::super::proto::tensor_shape_proto::{Dimension, dimension};
use super::super::proto::{
    AttributeProto, GraphProto, NodeProto, StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, tensor_proto::DataType, type_proto,
};
use super::super::tensor::{Constant, DType};
use super::exporter::TRAINED;
use super::model::OnnxModel;
use super::nodes::{node, rename_taken};
use super::portable::make_portable;
use super::random::mean_of;
use super::tensor::constant;
use crate::ports::INITIAL_POSE;
use crate::units::{Affine, EMG_STATISTICS, Units};

/// A model to write.
#[derive(Debug, Clone)]
pub struct Retrained<'a> {
    /// New elements of initializers, by name.
    pub weights: &'a HashMap<String, Vec<f32>>,
    /// Of the EMG; by recording, its statistics are inputs [1, channels].
    pub emg: &'a Units,
    /// The training split's EMG statistics: the defaults of those inputs.
    pub train_emg: &'a Affine,
    /// Of the angles; by recording they cannot be written.
    pub angles: &'a Units,
    /// Whether channels and joints are the second axis of input and output, or the last.
    pub channels_second: [bool; 2],
    /// Whether weights are stored in float16; what is computed with them stays in float32.
    pub half_weights: bool,
    /// Axes of the output.
    pub output_rank: usize,
    /// Shapes of the file's values for one window.
    pub shapes: &'a HashMap<String, Vec<usize>>,
    pub metadata: &'a [(String, String)],
}

impl OnnxModel {
    /// The file with other weights, for inference.
    pub fn retrained(&self, with: &Retrained<'_>) -> Vec<u8> {
        let mut proto = self.proto.clone();
        let graph = proto.graph.as_mut().expect("checked by parse");
        for initializer in &mut graph.initializer {
            if let Some(values) = with.weights.get(initializer.name()) {
                let shape = initializer.dims.iter().map(|dim| *dim as usize).collect();
                *initializer = tensor(initializer.name(), &Constant::F32(shape, values.clone()));
            }
        }
        graph.node = std::mem::take(&mut graph.node).into_iter().flat_map(for_inference).collect();
        constants_as_tensors(graph);
        make_portable(graph, with.shapes);
        // Types of inner values, which tools that change types trip over and infer themselves.
        graph.value_info.clear();
        let emg = self.inputs().into_iter().find(|input| !input.is_beside_emg());
        let emg = emg.expect("checked when it was imported").name;
        let takes_pose = self.inputs().iter().any(|input| input.name == INITIAL_POSE);
        let angles = graph.output[0].name().to_owned();
        if with.half_weights {
            narrow_weights(graph, with.weights);
        }
        if let Units::Fixed(units) = with.angles {
            denormalize(graph, &angles, units, with.channels_second[1] && with.output_rank == 3);
            if takes_pose {
                normalize(graph, INITIAL_POSE, units, false, false);
            }
        }
        match with.emg {
            Units::Raw => {}
            Units::Fixed(units) => normalize(graph, &emg, units, false, with.channels_second[0]),
            Units::PerRecording => normalize(graph, &emg, with.train_emg, true, with.channels_second[0]),
        }
        let entry = |(key, value): &(String, String)| StringStringEntryProto {
            key: Some(key.clone()),
            value: Some(value.clone()),
        };
        // So that a model that is trained further has the same parameters, not what export has written beside them.
        let mut trained: Vec<_> = with.weights.keys().cloned().collect();
        trained.extend(trained.clone().iter().map(|name| format!("{name}{TRANSPOSED}")));
        let graph = proto.graph.as_ref().expect("checked by parse");
        trained.retain(|name| graph.initializer.iter().any(|tensor| tensor.name() == name));
        trained.sort_unstable();
        let mut metadata = vec![(TRAINED.to_owned(), trained.join("\n"))];
        metadata.extend_from_slice(with.metadata);
        proto.metadata_props.retain(|own| metadata.iter().all(|(key, _)| own.key() != key));
        proto.metadata_props.extend(metadata.iter().map(entry));
        proto.encode_to_vec()
    }
}

/// Stores weights in float16, each behind a cast to float32.
fn narrow_weights(graph: &mut GraphProto, weights: &HashMap<String, Vec<f32>>) {
    let (mut casts, mut names) = (Vec::new(), HashMap::new());
    for weight in &mut graph.initializer {
        let name = weight.name().to_owned();
        let known =
            weights.contains_key(&name) || name.strip_suffix(TRANSPOSED).is_some_and(|own| weights.contains_key(own));
        let Some(Constant::F32(shape, values)) = constant(weight).ok().filter(|_| known) else { continue };
        if values.len() == 1 {
            continue;
        }
        let wide = format!("{name}/float32");
        *weight = tensor(&name, &Constant::F32(shape, values).cast(DType::F16));
        let mut cast = node("Cast", &[&name], &wide);
        cast.attribute.push(attribute("to", &Attribute::Int(i64::from(DataType::Float as i32))));
        casts.push(cast);
        names.insert(name, wide);
    }
    rename_taken(&mut graph.node, &names);
    graph.node.splice(0..0, casts);
}

/// Makes tensors of the file of `Constant` nodes: converters to half precision leave those as they are.
fn constants_as_tensors(graph: &mut GraphProto) {
    let outputs: HashSet<_> = graph.output.iter().map(|output| output.name().to_owned()).collect();
    let mut tensors = Vec::new();
    graph.node.retain(|node| {
        let (true, [name]) = (node.op_type() == "Constant", &node.output[..]) else { return true };
        let given = node.attribute.first().filter(|_| !outputs.contains(name));
        let Some(value) = given.and_then(|attribute| constant_tensor(name, attribute)) else { return true };
        tensors.push(value);
        false
    });
    graph.initializer.extend(tensors);
}

/// The tensor that an attribute of a `Constant` node is.
fn constant_tensor(name: &str, attribute: &AttributeProto) -> Option<TensorProto> {
    Some(match attribute.name() {
        "value" => TensorProto { name: Some(name.to_owned()), ..attribute.t.clone()? },
        "value_float" => tensor(name, &Constant::F32(Vec::new(), vec![attribute.f?])),
        "value_floats" => tensor(name, &Constant::F32(vec![attribute.floats.len()], attribute.floats.clone())),
        "value_int" => tensor(name, &Constant::I64(Vec::new(), vec![attribute.i?])),
        "value_ints" => tensor(name, &Constant::I64(vec![attribute.ints.len()], attribute.ints.clone())),
        _ => return None,
    })
}

/// Nodes that were exported as they train do in inference what they do there.
fn for_inference(mut node: NodeProto) -> Vec<NodeProto> {
    if let Some(mean) = mean_of(&node) {
        return mean;
    }
    match node.op_type() {
        "BatchNormalization" => {
            node.attribute.retain(|attribute| attribute.name() != "training_mode");
            node.output.truncate(1);
        }
        "Dropout" => {
            node.op_type = Some("Identity".into());
            node.attribute.clear();
            node.input.truncate(1);
            node.output.truncate(1);
        }
        _ => {}
    }
    vec![node]
}

/// [n] as [n, 1] where it belongs to the second of three axes.
fn column(values: &[f32], second: bool) -> Constant {
    let shape = if second { vec![values.len(), 1] } else { vec![values.len()] };
    Constant::F32(shape, values.to_vec())
}

/// Puts (x - mean) / std behind the input.
fn normalize(graph: &mut GraphProto, emg: &str, units: &Affine, inputs: bool, second: bool) {
    let normal = format!("{emg}/normalized");
    rename_taken(&mut graph.node, &HashMap::from([(emg.to_owned(), normal.clone())]));
    let mut names = EMG_STATISTICS.map(str::to_owned);
    let mut first = Vec::new();
    for (name, values) in names.iter_mut().zip([&units.mean, &units.divisor]) {
        if !inputs {
            *name = format!("{emg}/{name}");
            graph.initializer.push(tensor(name, &column(values, second)));
            continue;
        }
        if graph.input.iter().any(|input| input.name() == name) {
            // The model's own, [batch, channels].
            let (wide, axes) = (format!("{emg}/{name}"), format!("{emg}/{name}/axes"));
            graph.initializer.push(tensor(&axes, &Constant::I64(vec![1], vec![if second { 2 } else { 1 }])));
            first.push(node("Unsqueeze", &[name, &axes], &wide));
            *name = wide;
            continue;
        }
        let shape = vec![1, values.len()];
        graph.initializer.push(tensor(name, &Constant::F32(shape.clone(), values.clone())));
        graph.input.push(float_port(name, Some(&shape)));
        if second {
            let turned = format!("{emg}/{name}");
            let mut transpose = node("Transpose", &[name], &turned);
            transpose.attribute.push(attribute("perm", &Attribute::Ints(vec![1, 0])));
            first.push(transpose);
            *name = turned;
        }
    }
    let centred = format!("{emg}/centred");
    first.push(node("Sub", &[emg, &names[0]], &centred));
    first.push(node("Div", &[&centred, &names[1]], &normal));
    graph.node.splice(0..0, first);
}

/// Puts x std + mean before the output.
fn denormalize(graph: &mut GraphProto, angles: &str, units: &Affine, second: bool) {
    let [raw, scaled] = ["normalized", "scaled"].map(|part| format!("{angles}/{part}"));
    rename_taken(&mut graph.node, &HashMap::from([(angles.to_owned(), raw.clone())]));
    let outputs = graph.node.iter_mut().flat_map(|node| &mut node.output);
    outputs.filter(|name| *name == angles).for_each(|name| name.clone_from(&raw));
    let [mean, std] = ["mean", "std"].map(|part| format!("{angles}/{part}"));
    graph.initializer.push(tensor(&mean, &column(&units.mean, second)));
    graph.initializer.push(tensor(&std, &column(&units.divisor, second)));
    graph.node.push(node("Mul", &[&raw, &std], &scaled));
    graph.node.push(node("Add", &[&scaled, &mean], angles));
}

/// An input or output of float32, of any shape if none is given.
pub(super) fn float_port(name: &str, shape: Option<&[usize]>) -> ValueInfoProto {
    let dim = |size: &usize| Dimension { value: Some(dimension::Value::DimValue(*size as i64)), ..Default::default() };
    let tensor = type_proto::Tensor {
        elem_type: Some(DataType::Float as i32),
        shape: shape.map(|shape| TensorShapeProto { dim: shape.iter().map(dim).collect() }),
    };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }),
        ..Default::default()
    }
}
