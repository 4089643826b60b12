//! A user's own ONNX model as an architecture: its initializers become parameters.

use std::collections::HashMap;
use std::sync::Arc;

use super::causal_stream::CausalStream;
use super::error::{Dims, ModelError};
use super::network::{ModelInputs, Network, check_matrix};
use super::parameter::{Init, Parameter, Weights, total_elements};
use super::pass::Pass;
use super::resample::{self, Interpolate};
use super::roles::{ModelTensor, Role, roles};
use super::stream::{Stream, default_chunk};
use crate::config::{AxisLayout, ModelConfig, NormMode, Target};
use crate::graph::{Graph, Kernels, ModelPort, OnnxModel, Probe, TensorType, Value, prune};
use crate::ports::INITIAL_POSE;
use crate::units::EMG_STATISTICS;

#[derive(Debug)]
pub(super) struct Imported {
    pub(super) onnx: OnnxModel,
    emg: ModelPort,
    parameters: Vec<Parameter>,
    buffers: Vec<Parameter>,
    tensors: Vec<ModelTensor>,
    takes_initial_pose: bool,
    takes_emg_statistics: bool,
    probe: Option<Arc<dyn Probe>>,
    channels: usize,
    joints: usize,
    left_context: usize,
    right_context: usize,
    target: Target,
    /// Hz.
    rate: f64,
    /// Whether EMG is [batch, channels, rows], not [batch, rows, channels].
    pub(super) channels_second: bool,
    angles_layout: AxisLayout,
}

impl Imported {
    /// The parameters of the model ([`roles`] says which tensors those are) with the file's values. `probe` knows the shapes
    /// of what only ONNX Runtime computes.
    pub(super) fn new(
        config: &ModelConfig,
        mut onnx: OnnxModel,
        probe: Option<Arc<dyn Probe>>,
    ) -> Result<Self, ModelError> {
        match config.batch_norm {
            NormMode::Auto => {}
            mode => onnx.set_norms(mode == NormMode::Train),
        }
        onnx.check_export()?;
        let inputs = onnx.inputs();
        let find = |name: &str| inputs.iter().find(|input| input.name == name);
        let emg: Vec<_> = inputs.iter().filter(|input| !input.is_beside_emg()).collect();
        let [emg] = emg[..] else {
            return Err(ModelError::Inputs(inputs.into_iter().map(|input| input.name).collect()));
        };
        let emg = emg.clone();
        let takes_initial_pose = check_initial_pose(config, find(INITIAL_POSE))?;
        let takes_emg_statistics = check_emg_statistics(config, &emg, EMG_STATISTICS.map(find))?;
        if emg.is_half {
            return Err(ModelError::HalfPrecision { name: emg.name });
        }
        if !emg.is_float || emg.dims.len() != 3 {
            return Err(ModelError::Input { name: emg.name, is_float: emg.is_float, dims: Dims(emg.dims) });
        }
        let channels_second = channels_second(config, &emg)?;
        if let Some(name) = EMG_STATISTICS.iter().find(|name| find(name).is_none() && onnx.has_value(name)) {
            return Err(ModelError::NameTaken { name });
        }
        let tensors = roles(&onnx, &config.freeze, &config.train)?;
        let given = |role: Role| -> Result<Vec<Parameter>, ModelError> {
            let named = tensors.iter().filter(|tensor| tensor.role == role);
            let parameter = |tensor: &ModelTensor| {
                let init = Init::Given(Arc::from(onnx.initializer(&tensor.name)?));
                Ok(Parameter { name: tensor.name.clone(), shape: tensor.shape.clone(), init })
            };
            named.map(parameter).collect()
        };
        let (parameters, buffers) = (given(Role::Trained)?, given(Role::Statistic)?);
        if parameters.is_empty() {
            return Err(ModelError::NothingToTrain);
        }
        Ok(Self {
            onnx,
            emg,
            parameters,
            buffers,
            tensors,
            takes_initial_pose,
            takes_emg_statistics,
            probe,
            channels: config.input_size,
            joints: config.output_size,
            left_context: config.left_context,
            right_context: config.right_context,
            target: config.target,
            rate: config.original_sampling_rate,
            channels_second,
            angles_layout: config.angles_layout,
        })
    }

    /// Poses [batch, rows, joints] from what the model gives, which may be turned, of a lower rate, or one pose per
    /// window.
    fn poses(&self, graph: &mut Graph, y: Value, batch: usize, rows: usize) -> Result<Value, ModelError> {
        let (ty, shape) = (graph.ty(y).clone(), graph.shape(y).to_vec());
        if !ty.dtype.is_float() || shape.first() != Some(&batch) {
            return Err(ModelError::BatchMismatch { found: ty.to_string(), batch });
        }
        let joints_second = self.joints_second(&shape)?;
        let y = match shape[..] {
            [batch, joints] => graph.reshape(y, &[batch, 1, joints]),
            _ if joints_second => graph.transpose(y, &[0, 2, 1]),
            _ => y,
        };
        let (given, expected) = (graph.shape(y)[1], rows - self.left_context - self.right_context);
        if self.target != Target::Rows && given != 1 {
            return Err(ModelError::NotOnePose { given, target: self.target });
        }
        if given == expected {
            return Ok(y);
        }
        if given == rows {
            return Ok(graph.slice(y, 1, self.left_context, rows - self.right_context));
        }
        if given > expected || given == 0 {
            return Err(ModelError::RowMismatch { given, rows, expected });
        }
        check_matrix(expected, given)?;
        Ok(resample::half_pixel(graph, Interpolate::Product, y, expected))
    }

    /// Whether joints are the second of three axes of an output of this shape.
    pub(super) fn joints_second(&self, shape: &[usize]) -> Result<bool, ModelError> {
        let joints = self.joints;
        match (shape, self.angles_layout) {
            ([_, n], _) if *n == joints => Ok(false),
            ([_, second, _], AxisLayout::ChannelsFirst) if *second == joints => Ok(true),
            ([_, _, last], AxisLayout::ChannelsLast) if *last == joints => Ok(false),
            ([_, second, last], AxisLayout::Auto) if *second == joints && *last == joints => {
                Err(ModelError::AmbiguousJoints)
            }
            ([_, second, last], AxisLayout::Auto) if *second == joints || *last == joints => Ok(*second == joints),
            _ => Err(ModelError::JointMismatch { found: shape.to_vec(), joints }),
        }
    }

    /// The shape of the model's output, among those of all its values.
    pub(super) fn output_shape<'a>(&self, shapes: &'a HashMap<String, Vec<usize>>) -> Result<&'a [usize], ModelError> {
        let output = self.onnx.outputs().into_iter().next().ok_or(ModelError::NoOutput)?;
        shapes.get(&output.name).map(Vec::as_slice).ok_or(ModelError::NoOutput)
    }

    /// Shapes of all values of the file, by name, for one window of `rows` rows.
    pub(super) fn shapes(&self, rows: usize) -> Result<HashMap<String, Vec<usize>>, ModelError> {
        let mut graph = Graph::new();
        let batch = self.emg.dims[0].unwrap_or(1);
        let emg = graph.input("emg", TensorType::f32([batch, rows, self.channels]));
        let elements = total_elements(&self.parameters) + total_elements(&self.buffers);
        let flat = graph.input("weights", TensorType::f32([elements]));
        let list = [self.parameters.as_slice(), &self.buffers].concat();
        let mut pass = Pass::evaluation(Weights::split(&mut graph, flat, &list).0, Kernels::Cpu);
        let inputs = self.inputs(&mut graph, emg, batch);
        let bound = self.bound(&mut graph, &pass, &inputs);
        let values = self.onnx.build_all(&mut graph, &mut pass, &bound, self.probe.as_deref())?;
        Ok(values.into_iter().map(|(name, value)| (name, graph.shape(value).to_vec())).collect())
    }

    /// Inputs of a graph for all that the model takes.
    fn inputs(&self, graph: &mut Graph, emg: Value, batch: usize) -> ModelInputs {
        let mut input = |name: &str, columns: usize| graph.input(name, TensorType::f32([batch, columns]));
        ModelInputs {
            emg,
            initial_pose: self.takes_initial_pose.then(|| input(INITIAL_POSE, self.joints)),
            emg_statistics: self.takes_emg_statistics.then(|| EMG_STATISTICS.map(|name| input(name, self.channels))),
        }
    }

    /// Values of the file's inputs and of the tensors that training changes.
    fn bound(&self, graph: &mut Graph, pass: &Pass, inputs: &ModelInputs) -> HashMap<String, Value> {
        let emg = inputs.emg;
        let x = if self.channels_second { graph.transpose(emg, &[0, 2, 1]) } else { emg };
        let own = self.parameters.iter().chain(&self.buffers);
        let weights = own.map(|parameter| (parameter.name.clone(), pass.weights.get(&parameter.name)));
        weights.chain([(self.emg.name.clone(), x)]).chain(inputs.beside_emg()).collect()
    }

    /// The output of the model itself.
    fn output(&self, graph: &mut Graph, pass: &mut Pass, inputs: &ModelInputs) -> Result<Value, ModelError> {
        let bound = self.bound(graph, pass, inputs);
        let outputs = self.onnx.build(graph, pass, &bound, self.probe.as_deref())?;
        outputs.first().copied().ok_or(ModelError::NoOutput)
    }

    /// Elements of its initializers, from the flat vectors of parameters and buffers.
    pub(super) fn weights(&self, parameters: &[f32], buffers: &[f32]) -> HashMap<String, Vec<f32>> {
        let mut weights = HashMap::new();
        for (list, values) in [(&self.parameters, parameters), (&self.buffers, buffers)] {
            let mut rest = values;
            for parameter in list {
                let (own, others) = rest.split_at(parameter.elements());
                weights.insert(parameter.name.clone(), own.to_vec());
                rest = others;
            }
        }
        weights
    }
}

/// Whether there is an input for the pose that a window starts from.
fn check_initial_pose(config: &ModelConfig, pose: Option<&ModelPort>) -> Result<bool, ModelError> {
    let Some(pose) = pose else { return Ok(false) };
    let joints = config.output_size;
    match pose.dims[..] {
        _ if config.target != Target::Rows => Err(ModelError::PoseIsTarget { target: config.target }),
        [_, found] if pose.is_float && found.is_none_or(|found| found == joints) => Ok(true),
        _ => Err(ModelError::InitialPose { dims: Dims(pose.dims.clone()), joints }),
    }
}

/// Whether there are inputs for the EMG statistics of each recording.
fn check_emg_statistics(
    config: &ModelConfig,
    emg: &ModelPort,
    ports: [Option<&ModelPort>; 2],
) -> Result<bool, ModelError> {
    let channels = config.input_size;
    let check = |name: &'static str, port: &ModelPort| {
        let is_batch = port.dims.first() == emg.dims.first();
        let fits = matches!(port.dims[..], [_, found] if is_batch && found.is_none_or(|found| found == channels));
        if port.is_float && fits {
            return Ok(());
        }
        Err(ModelError::EmgStatistics { name, dims: Dims(port.dims.clone()), channels })
    };
    let [mean_name, std_name] = EMG_STATISTICS;
    match ports {
        [None, None] => Ok(false),
        [Some(mean), Some(std)] => check(mean_name, mean).and_then(|()| check(std_name, std)).map(|()| true),
        [Some(_), None] => Err(ModelError::OneStatistic { found: mean_name, missing: std_name }),
        [None, Some(_)] => Err(ModelError::OneStatistic { found: std_name, missing: mean_name }),
    }
}

fn channels_second(config: &ModelConfig, emg: &ModelPort) -> Result<bool, ModelError> {
    let channels = config.input_size;
    let [second, last] = [emg.dims[1], emg.dims[2]];
    let could_be = |dim: Option<usize>| dim.is_none_or(|dim| dim == channels);
    let told = match config.emg_layout {
        AxisLayout::ChannelsFirst => Some(true),
        AxisLayout::ChannelsLast => Some(false),
        AxisLayout::Auto => match (second == Some(channels), last == Some(channels)) {
            (true, false) => Some(true),
            (false, true) => Some(false),
            _ => None,
        },
    };
    let (name, dims) = (emg.name.clone(), Dims(emg.dims.clone()));
    // Where no axis fits, there is nothing to set.
    if !could_be(second) && !could_be(last) {
        return Err(ModelError::ChannelMismatch { name, dims, channels });
    }
    let Some(second_is) = told else { return Err(ModelError::AmbiguousChannels { name, dims, channels }) };
    if could_be(if second_is { second } else { last }) {
        return Ok(second_is);
    }
    Err(ModelError::ChannelMismatch { name, dims, channels })
}

impl Network for Imported {
    fn left_context(&self) -> usize {
        self.left_context
    }

    fn right_context(&self) -> usize {
        self.right_context
    }

    fn has_dropout(&self) -> Option<bool> {
        Some(self.onnx.is_random())
    }

    fn check_window(&self, rows: usize) -> Result<(), ModelError> {
        let fixed = self.emg.dims[if self.channels_second { 2 } else { 1 }];
        if let Some(fixed) = fixed.filter(|fixed| *fixed != rows) {
            return Err(ModelError::FixedWindow { fixed, rows });
        }
        let context = self.left_context + self.right_context;
        if rows <= context {
            return Err(ModelError::ShorterThanContext { rows, context });
        }
        if self.target != Target::Rows && rows != context + 1 {
            return Err(ModelError::OtherWindow { rows, trained: context + 1, target: self.target });
        }
        Ok(())
    }

    fn parameters(&self) -> Vec<Parameter> {
        self.parameters.clone()
    }

    fn tensors(&self) -> Vec<ModelTensor> {
        self.tensors.clone()
    }

    fn buffers(&self) -> Vec<Parameter> {
        self.buffers.clone()
    }

    fn takes_initial_pose(&self) -> bool {
        self.takes_initial_pose
    }

    fn takes_emg_statistics(&self) -> bool {
        self.takes_emg_statistics
    }

    fn stream(&self, rows: usize, chunk: Option<usize>) -> Result<Stream, ModelError> {
        if self.target != Target::Rows {
            return Err(ModelError::NeedsWholeWindow);
        }
        let mut graph = Graph::new();
        let emg = graph.input("emg", TensorType::f32([1, rows, self.channels]));
        let inputs = self.inputs(&mut graph, emg, 1);
        let weights = [self.parameters.as_slice(), &self.buffers].concat();
        let mut pass = Pass::export(Weights::inputs(&mut graph, weights.iter()));
        let y = self.forward(&mut graph, &mut pass, &inputs)?;
        graph.output("angles", y);
        prune(&mut graph);
        let chunk = chunk.unwrap_or_else(|| default_chunk(1, self.rate));
        CausalStream::new(graph, &weights, self.left_context, chunk).map(Into::into)
    }

    fn forward(&self, graph: &mut Graph, pass: &mut Pass, inputs: &ModelInputs) -> Result<Value, ModelError> {
        let [batch, rows, channels] = graph.shape(inputs.emg)[..] else {
            unreachable!("EMG is [batch, rows, channels]")
        };
        debug_assert_eq!(channels, self.channels);
        if let Some(fixed) = self.emg.dims[0].filter(|fixed| *fixed != batch) {
            return Err(ModelError::FixedBatch { fixed });
        }
        let y = self.output(graph, pass, inputs)?;
        self.poses(graph, y, batch, rows)
    }
}
