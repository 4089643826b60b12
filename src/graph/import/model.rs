//! Reading ONNX files.

use std::collections::HashSet;
use std::path::Path;

use prost::Message;

use super::super::proto::tensor_proto::{DataLocation, DataType};
use super::super::proto::tensor_shape_proto::dimension;
use super::super::proto::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, type_proto};
use super::super::tensor::{Constant, DType};
use super::prepare::prepare;

/// Opsets whose operators are known (ONNX 1.8 to 1.17).
const OPSETS: std::ops::RangeInclusive<i64> = 13..=22;

/// A model read from an ONNX file.
#[derive(Debug, Clone, PartialEq)]
pub struct OnnxModel {
    pub(super) proto: ModelProto,
    pub(super) opset: i64,
}

/// An input or output of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelPort {
    pub name: String,
    pub is_float: bool,
    /// `None`: known only when the model runs.
    pub dims: Vec<Option<usize>>,
}

impl OnnxModel {
    /// Reads a file, and the files that hold its weights where it names any.
    ///
    /// # Errors
    /// Unreadable, or as [`parse`](Self::parse).
    pub fn load(path: &Path) -> Result<Self, String> {
        let told = |message: String| format!("{}: {message}", path.display());
        let bytes = std::fs::read(path).map_err(|error| told(error.to_string()))?;
        let mut proto = ModelProto::decode(&bytes[..]).map_err(|error| told(format!("not an ONNX model: {error}")))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        for tensor in proto.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
            embed(tensor, folder).map_err(told)?;
        }
        Self::new(proto).map_err(told)
    }

    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// No ONNX model, or of an opset that is not known.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        Self::new(ModelProto::decode(bytes).map_err(|error| format!("not an ONNX model: {error}"))?)
    }

    fn new(mut proto: ModelProto) -> Result<Self, String> {
        let default = |domain: &Option<String>| matches!(domain.as_deref(), None | Some("" | "ai.onnx"));
        let opset = proto.opset_import.iter().find(|opset| default(&opset.domain)).and_then(|opset| opset.version);
        let opset = opset.ok_or("not an ONNX model: it names no opset")?;
        if !OPSETS.contains(&opset) {
            return Err(format!("expected opset {} to {}, found {opset}", OPSETS.start(), OPSETS.end()));
        }
        let graph = proto.graph.as_ref().ok_or("not an ONNX model: it holds no graph")?;
        if !graph.sparse_initializer.is_empty() {
            return Err("sparse weights are not supported".into());
        }
        graph.initializer.iter().try_for_each(|tensor| sizes(tensor).map(|_| ()))?;
        prepare(&mut proto)?;
        Ok(Self { proto, opset })
    }

    /// The whole file, weights included.
    pub fn bytes(&self) -> Vec<u8> {
        self.proto.encode_to_vec()
    }

    pub(super) fn graph(&self) -> &GraphProto {
        self.proto.graph.as_ref().expect("checked by parse")
    }

    /// What must be given to the model: its inputs without those that have a default.
    pub fn inputs(&self) -> Vec<ModelPort> {
        let defaults: HashSet<_> = self.graph().initializer.iter().map(TensorProto::name).collect();
        let inputs = self.graph().input.iter().filter(|input| !defaults.contains(input.name()));
        inputs.map(port).collect()
    }

    pub fn outputs(&self) -> Vec<ModelPort> {
        self.graph().output.iter().map(port).collect()
    }

    /// Name, type and shape of each initializer.
    pub fn initializers(&self) -> impl Iterator<Item = (&str, bool, Vec<usize>)> {
        self.graph().initializer.iter().map(|tensor| {
            let dims = tensor.dims.iter().map(|dim| (*dim).max(0) as usize).collect();
            (tensor.name(), tensor.data_type() == DataType::Float as i32, dims)
        })
    }

    /// The elements of a float32 initializer.
    ///
    /// # Errors
    /// There is none of that name, or its data is damaged.
    pub fn initializer(&self, name: &str) -> Result<Vec<f32>, String> {
        let tensor = self.graph().initializer.iter().find(|tensor| tensor.name() == name);
        match constant(tensor.ok_or_else(|| format!("no initializer {name}"))?)? {
            Constant::F32(_, values) => Ok(values),
            other => Err(format!("initializer {name} is {:?}, expected floats", other.dtype())),
        }
    }

    /// Names of initializers that hold the running mean or variance of a batch normalization.
    pub fn statistics(&self) -> HashSet<String> {
        let initializers: HashSet<_> = self.graph().initializer.iter().map(TensorProto::name).collect();
        let norms = self.graph().node.iter().filter(|node| node.op_type() == "BatchNormalization");
        let inputs = norms.flat_map(|node| node.input.iter().skip(3).take(2));
        inputs.filter(|name| initializers.contains(name.as_str())).cloned().collect()
    }

    /// Initializers that say how something is done, such as the factors of a `Resize`, and are no weights: single
    /// numbers that nothing but factors, bounds and exponents are, too.
    pub fn settings(&self) -> HashSet<String> {
        let named = |node: &NodeProto| match node.op_type() {
            "Clip" | "Resize" => node.input.iter().skip(1).cloned().collect::<Vec<_>>(),
            "Dropout" => node.input.iter().skip(1).cloned().collect(),
            "Pad" => node.input.iter().skip(2).take(1).cloned().collect(),
            _ => Vec::new(),
        };
        let mut settings: HashSet<_> = self.graph().node.iter().flat_map(named).collect();
        let single = self.initializers().filter(|(.., shape)| shape.iter().product::<usize>() == 1);
        settings.extend(single.map(|(name, ..)| name.to_owned()).filter(|name| self.is_number(name)));
        settings
    }

    /// Whether every node that takes the initializer does with it what is done with a number.
    fn is_number(&self, name: &str) -> bool {
        let takes = |node: &&NodeProto| node.input.iter().any(|input| input == name);
        let as_number = |node: &NodeProto| {
            matches!(
                node.op_type(),
                "Div"
                    | "Equal"
                    | "Greater"
                    | "GreaterOrEqual"
                    | "Less"
                    | "LessOrEqual"
                    | "Max"
                    | "Min"
                    | "Mul"
                    | "Pow"
                    | "Sub"
                    | "Where"
            )
        };
        self.graph().node.iter().filter(takes).all(as_number)
    }

    /// Names of the operators of its own nodes.
    pub fn operators(&self) -> impl Iterator<Item = &str> {
        self.graph().node.iter().map(NodeProto::op_type)
    }

    /// Whether any input, initializer or node output has that name.
    pub fn has_value(&self, name: &str) -> bool {
        let graph = self.graph();
        let outputs = graph.node.iter().flat_map(|node| &node.output).map(String::as_str);
        let given = graph.input.iter().map(ValueInfoProto::name).chain(graph.initializer.iter().map(TensorProto::name));
        outputs.chain(given).any(|other| other == name)
    }

    /// Whether any node drops elements while training.
    pub fn has_dropout(&self) -> bool {
        self.graph().node.iter().any(|node| node.op_type() == "Dropout")
    }

    /// How errors name a node.
    pub(super) fn label(node: &NodeProto) -> String {
        let name = node.name.as_ref().filter(|name| !name.is_empty()).or(node.output.first());
        name.cloned().unwrap_or_default()
    }
}

fn port(info: &ValueInfoProto) -> ModelPort {
    let tensor = match info.r#type.as_ref().and_then(|ty| ty.value.as_ref()) {
        Some(type_proto::Value::TensorType(tensor)) => Some(tensor),
        _ => None,
    };
    let dims = tensor.and_then(|tensor| tensor.shape.as_ref()).map(|shape| {
        let size = |dim: &dimension::Value| match dim {
            dimension::Value::DimValue(size) => usize::try_from(*size).ok(),
            dimension::Value::DimParam(_) => None,
        };
        shape.dim.iter().map(|dim| dim.value.as_ref().and_then(size)).collect()
    });
    ModelPort {
        name: info.name().to_owned(),
        is_float: tensor.is_some_and(|tensor| tensor.elem_type() == DataType::Float as i32),
        dims: dims.unwrap_or_default(),
    }
}

/// A tensor of the file; doubles become float32, and 32-bit integers int64.
///
/// # Errors
/// Another type, or data that does not fit its shape.
pub(super) fn constant(tensor: &TensorProto) -> Result<Constant, String> {
    let name = tensor.name();
    let (shape, elements) = sizes(tensor)?;
    if tensor.data_location() == DataLocation::External {
        return Err(format!("tensor {name} lies in a file beside the model"));
    }
    let (dtype, numbers) = match DataType::try_from(tensor.data_type()) {
        Ok(DataType::Float) => {
            let values = decode(tensor, &tensor.float_data, f32::from_le_bytes);
            return check(name, elements, values).map(|values| Constant::F32(shape, values));
        }
        Ok(DataType::Int64) => {
            let values = decode(tensor, &tensor.int64_data, i64::from_le_bytes);
            return check(name, elements, values).map(|values| Constant::I64(shape, values));
        }
        Ok(DataType::Double) => (DType::F32, decode(tensor, &tensor.double_data, f64::from_le_bytes)),
        Ok(DataType::Int32) => {
            (DType::I64, decode(tensor, &tensor.int32_data, i32::from_le_bytes).into_iter().map(f64::from).collect())
        }
        Ok(DataType::Bool) => {
            let bytes = tensor.raw_data.as_ref().filter(|bytes| !bytes.is_empty());
            let values = match bytes {
                Some(bytes) => bytes.iter().map(|byte| f64::from(*byte)).collect(),
                None => tensor.int32_data.iter().map(|value| f64::from(*value)).collect(),
            };
            (DType::Bool, values)
        }
        Ok(other) => return Err(format!("tensor {name} is of type {other:?}: models compute in float32")),
        Err(_) => return Err(format!("tensor {name} is of a type that is not known")),
    };
    check(name, elements, numbers).map(|numbers| Constant::from_numbers(dtype, shape, &numbers))
}

/// Shape and number of elements.
fn sizes(tensor: &TensorProto) -> Result<(Vec<usize>, usize), String> {
    let name = tensor.name();
    let shape = tensor.dims.iter().map(|dim| usize::try_from(*dim).ok()).collect::<Option<Vec<_>>>();
    let shape = shape.ok_or_else(|| format!("tensor {name} has a negative size"))?;
    let elements = shape.iter().try_fold(1usize, |product, dim| product.checked_mul(*dim));
    let elements = elements.ok_or_else(|| format!("tensor {name} has too many elements"))?;
    Ok((shape, elements))
}

fn decode<T: Copy, const N: usize>(tensor: &TensorProto, listed: &[T], from: fn([u8; N]) -> T) -> Vec<T> {
    match tensor.raw_data.as_ref().filter(|bytes| !bytes.is_empty()) {
        Some(bytes) => bytes.as_chunks::<N>().0.iter().map(|bytes| from(*bytes)).collect(),
        None => listed.to_vec(),
    }
}

fn check<T>(name: &str, elements: usize, values: Vec<T>) -> Result<Vec<T>, String> {
    if values.len() == elements {
        return Ok(values);
    }
    Err(format!("tensor {name} holds {} elements, expected {elements}", values.len()))
}

/// Brings the data of a tensor that lies in a file beside the model into the model.
fn embed(tensor: &mut TensorProto, folder: &Path) -> Result<(), String> {
    use std::io::{Read, Seek, SeekFrom};
    if tensor.data_location() != DataLocation::External {
        return Ok(());
    }
    let name = tensor.name().to_owned();
    let entry = |key: &str| tensor.external_data.iter().find(|entry| entry.key() == key).map(|entry| entry.value());
    let location = entry("location").ok_or_else(|| format!("tensor {name} names no file"))?;
    let inside =
        |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(_) | std::path::Component::CurDir);
    if !Path::new(location).components().all(inside) {
        return Err(format!("tensor {name} lies in {location}, outside of the model's folder"));
    }
    let path = folder.join(location);
    let told = |error: std::io::Error| format!("tensor {name}: {}: {error}", path.display());
    let mut file = std::fs::File::open(&path).map_err(told)?;
    let size = file.metadata().map_err(told)?.len();
    let number = |key: &str, default: u64| match entry(key) {
        Some(text) => text.parse::<u64>().map_err(|_| format!("tensor {name}: {key} is {text}")),
        None => Ok(default),
    };
    let offset = number("offset", 0)?;
    let length = number("length", size.saturating_sub(offset))?;
    if offset.checked_add(length).is_none_or(|end| end > size) {
        return Err(format!("tensor {name}: {} has {size} bytes, expected more", path.display()));
    }
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(offset)).map_err(told)?;
    file.take(length).read_to_end(&mut bytes).map_err(told)?;
    tensor.raw_data = Some(bytes.into());
    tensor.external_data.clear();
    tensor.data_location = None;
    Ok(())
}
