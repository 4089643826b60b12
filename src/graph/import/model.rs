//! Reading ONNX files.

use std::collections::HashSet;
use std::path::Path;

use prost::Message;

use super::super::error::GraphError;
use super::super::operators::random;
use super::super::proto::tensor_proto::DataType;
use super::super::proto::tensor_shape_proto::dimension;
use super::super::proto::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, type_proto};
use super::super::tensor::Constant;
use super::exporter::{Declared, Exporter, Record, is_detach};
use super::nodes::with_inner;
use super::prepare::{prepare, prepare_legacy, set_modes};
use super::tensor::{constant, embed, sizes};
use crate::digest::{ModelState, check_model};
use crate::files::read_regular;
use crate::ports::INITIAL_POSE;
use crate::units::EMG_STATISTICS;

/// Opsets whose operators are known (ONNX 1.8 to 1.17).
const OPSETS: std::ops::RangeInclusive<i64> = 13..=22;

/// Operators that take a tensor row by row of the batch, or let it pass.
const ROWWISE: [&str; 8] = ["Add", "Concat", "Div", "Expand", "Mul", "Sub", "Where", "Identity"];

/// A model read from an ONNX file.
#[derive(Debug, Clone, PartialEq)]
pub struct OnnxModel {
    pub(super) proto: ModelProto,
    pub(super) opset: i64,
    record: Record,
    legacy: bool,
    /// Whether the file does not say if batch normalizations are to train.
    norms_evaluate: bool,
}

/// An input or output of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelPort {
    pub name: String,
    pub is_float: bool,
    pub is_half: bool,
    /// `None`: known only when the model runs.
    pub dims: Vec<Option<usize>>,
}

impl ModelPort {
    /// Whether it is an input beside the EMG, known by its name.
    pub fn is_beside_emg(&self) -> bool {
        self.name == INITIAL_POSE || EMG_STATISTICS.contains(&self.name.as_str())
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<ModelProto, GraphError> {
    ModelProto::decode(bytes).map_err(|error| GraphError::NotOnnx { reason: error.to_string() })
}

impl OnnxModel {
    /// Reads a file, and the files that hold its weights where it names any.
    ///
    /// # Errors
    /// Unreadable, or as [`parse`](Self::parse).
    pub fn load(path: &Path) -> Result<Self, GraphError> {
        Self::load_by(path, false)
    }

    /// As [`load`](Self::load), as versions before 2026-12 read models: what they trained is what follows from it.
    ///
    /// # Errors
    /// As `load`.
    pub fn load_legacy(path: &Path) -> Result<Self, GraphError> {
        Self::load_by(path, true)
    }

    fn load_by(path: &Path, legacy: bool) -> Result<Self, GraphError> {
        let read = || {
            let bytes = read_regular(path)?;
            if check_model(&bytes) == ModelState::Damaged {
                return Err("damaged, or changed since it was exported: it does not match its digest (if it was changed on purpose, remove its metadata entry `digest`)".into());
            }
            let mut proto = decode(&bytes)?;
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            for tensor in proto.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
                embed(tensor, folder)?;
            }
            Self::new(proto, legacy)
        };
        read().map_err(|source| GraphError::File { path: path.to_owned(), source: Box::new(source) })
    }

    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// No ONNX model, or of an opset that is not known.
    pub fn parse(bytes: &[u8]) -> Result<Self, GraphError> {
        Self::new(decode(bytes)?, false)
    }

    fn new(mut proto: ModelProto, legacy: bool) -> Result<Self, GraphError> {
        let default = |domain: &Option<String>| matches!(domain.as_deref(), None | Some("" | "ai.onnx"));
        let opset = proto.opset_import.iter().find(|opset| default(&opset.domain)).and_then(|opset| opset.version);
        let opset = opset.ok_or_else(|| GraphError::NotOnnx { reason: "it names no opset".into() })?;
        if !OPSETS.contains(&opset) {
            return Err(GraphError::Opset { first: *OPSETS.start(), last: *OPSETS.end(), found: opset });
        }
        let graph = proto.graph.as_ref().ok_or_else(|| GraphError::NotOnnx { reason: "it holds no graph".into() })?;
        if !graph.sparse_initializer.is_empty() {
            return Err("sparse weights are not supported".into());
        }
        graph.initializer.iter().try_for_each(|tensor| sizes(tensor).map(|_| ()))?;
        if legacy {
            prepare_legacy(&mut proto)?;
            let record = Record::default();
            return Ok(Self { proto, opset, record, legacy, norms_evaluate: false });
        }
        let record = Record::new(&proto);
        let norms_evaluate = prepare(&mut proto, record.exporter)?;
        Ok(Self { proto, opset, record, legacy, norms_evaluate })
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
    pub fn initializers(&self) -> impl Iterator<Item = (&str, bool, Vec<usize>)> + Clone {
        self.graph().initializer.iter().map(|tensor| {
            let dims = tensor.dims.iter().map(|dim| (*dim).max(0) as usize).collect();
            (tensor.name(), tensor.data_type() == DataType::Float as i32, dims)
        })
    }

    /// The elements of a float32 initializer.
    ///
    /// # Errors
    /// There is none of that name, or its data is damaged.
    pub fn initializer(&self, name: &str) -> Result<Vec<f32>, GraphError> {
        let tensor = self.graph().initializer.iter().find(|tensor| tensor.name() == name);
        match constant(tensor.ok_or_else(|| format!("no initializer {name}"))?)? {
            Constant::F32(_, values) => Ok(values),
            other => Err(format!("initializer {name} is {}, expected floats", other.dtype()).into()),
        }
    }

    /// Makes all batch normalizations take the batch's statistics in training, or none.
    pub fn set_norms(&mut self, trains: bool) {
        self.norms_evaluate = false;
        set_modes(self.proto.graph.as_mut().expect("checked by parse"), trains);
    }

    /// Whether it was read as by versions before 2026-12.
    pub fn is_legacy(&self) -> bool {
        self.legacy
    }

    /// What wrote the file.
    pub fn exporter(&self) -> Exporter {
        self.record.exporter
    }

    /// What the file says an initializer is; `None`: nothing.
    pub fn declared(&self, name: &str) -> Option<Declared> {
        self.record.declared(name)
    }

    /// Fails for a file whose training could not be that of the model it was exported from.
    ///
    /// # Errors
    /// The exporter folded or merged parameters, or took a `detach()` out; a running statistic is used otherwise, too; a
    /// tensor has the batch's size.
    pub fn check_export(&self) -> Result<(), GraphError> {
        if self.legacy {
            return Ok(());
        }
        self.record.check(&self.graph().initializer, &self.statistics())?;
        if self.norms_evaluate {
            return Err(GraphError::EvaluatingNorms);
        }
        self.check_statistics()?;
        self.check_batch()
    }

    /// Fails where a running statistic is merged with something else.
    fn check_statistics(&self) -> Result<(), GraphError> {
        let statistics = self.statistics();
        for node in &self.graph().node {
            for (i, name) in node.input.iter().enumerate().filter(|(_, name)| statistics.contains(*name)) {
                let (norm, mean) = (node.op_type() == "BatchNormalization", node.input.get(3) == Some(name));
                let variance = node.input.get(4) == Some(name);
                if !norm || i < 3 || (mean && variance) {
                    let statistic = if mean || !norm { "mean or variance" } else { "variance" };
                    return Err(GraphError::MergedStatistic { name: name.clone(), statistic });
                }
            }
        }
        Ok(())
    }

    /// Fails for a tensor with a row for each window of a fixed batch, such as an expanded token or a zero state.
    fn check_batch(&self) -> Result<(), GraphError> {
        let emg = self.inputs().into_iter().find(|input| !input.is_beside_emg());
        let batch = emg.and_then(|input| input.dims.first().copied().flatten());
        let Some(batch) = batch.filter(|batch| *batch > 1) else { return Ok(()) };
        let rowwise = |name: &str| {
            let mut takers = self.graph().node.iter().filter(|node| node.input.iter().any(|input| input == name));
            takers.any(|node| ROWWISE.contains(&node.op_type()))
        };
        let trained = |name: &str| self.declared(name).is_none_or(|declared| declared == Declared::Parameter);
        let found = self.initializers().find(|(name, is_float, shape)| {
            *is_float && shape.len() > 2 && shape[0] == batch && trained(name) && rowwise(name)
        });
        let Some((name, _, shape)) = found else { return Ok(()) };
        Err(GraphError::BatchInTensor { name: name.to_owned(), shape, batch })
    }

    /// Names of initializers that hold the running mean or variance of a batch normalization.
    pub fn statistics(&self) -> HashSet<String> {
        let initializers: HashSet<_> = self.graph().initializer.iter().map(TensorProto::name).collect();
        let norms = self.graph().node.iter().filter(|node| node.op_type() == "BatchNormalization");
        let inputs = norms.flat_map(|node| node.input.iter().skip(3).take(2));
        inputs.filter(|name| initializers.contains(name.as_str())).cloned().collect()
    }

    /// Initializers that say how something is done, such as the factors of a `Resize`, and are no weights. Where the file
    /// does not name its parameters, single numbers that nothing but factors, bounds and exponents are, too.
    pub fn settings(&self) -> HashSet<String> {
        let mut settings = self.named_settings();
        if self.record.exporter != Exporter::Other {
            return settings;
        }
        let single = self.initializers().filter(|(.., shape)| shape.iter().product::<usize>() == 1);
        settings.extend(single.map(|(name, ..)| name.to_owned()).filter(|name| self.is_number(name)));
        settings
    }

    /// Initializers that operators take as settings.
    pub fn named_settings(&self) -> HashSet<String> {
        let named = |node: &NodeProto| match node.op_type() {
            "Clip" | "Resize" => node.input.iter().skip(1).cloned().collect::<Vec<_>>(),
            "Dropout" => node.input.iter().skip(1).cloned().collect(),
            "Pad" => node.input.iter().skip(2).take(1).cloned().collect(),
            _ => Vec::new(),
        };
        self.graph().node.iter().flat_map(with_inner).flat_map(named).collect()
    }

    /// Whether the model stops gradients by itself.
    pub fn stops_gradients(&self) -> bool {
        self.graph().node.iter().any(is_detach)
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
        self.graph().node.iter().flat_map(with_inner).filter(takes).all(as_number)
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

    /// Whether any node gives random numbers, or drops elements, while training.
    pub fn is_random(&self) -> bool {
        self.graph().node.iter().any(|node| random::OPERATORS.contains(&node.op_type()))
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
        is_half: tensor.is_some_and(|tensor| {
            [DataType::Float16, DataType::Bfloat16].iter().any(|half| tensor.elem_type() == *half as i32)
        }),
        dims: dims.unwrap_or_default(),
    }
}
