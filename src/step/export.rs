//! The exported model: EMG in original units in, angles in radians out, any batch.

use super::error::StepError;
use super::problem::{constants, normalize, to_radians, to_units};
use crate::config::Dtype;
use crate::graph::{
    Autocast, Constant, DType, Dim, Graph, InputDefault, Kernels, ModelInfo, Retrained, TensorType, Value,
    narrow_constants, plain_products, prune, select_kernels, to_onnx,
};
use crate::model::{ImportedParts, Model, ModelInputs, Pass, Stream, Weights};
use crate::ports;
use crate::units::{Affine, EMG_STATISTICS, Units};

/// A model to export.
#[derive(Debug, Clone)]
pub struct Exported<'a> {
    pub model: &'a Model,
    /// All parameters end to end.
    pub parameters: &'a [f32],
    /// All buffers end to end.
    pub buffers: &'a [f32],
    /// Rows per window.
    pub rows: usize,
    /// Of the EMG. By recording, its statistics are inputs ([`EMG_STATISTICS`]) [1, channels].
    pub emg: Units,
    /// The training split's EMG statistics: the defaults of those inputs.
    pub train_emg: Affine,
    pub angles: Units,
    /// float16: weights, and products with them, in half precision; inputs and outputs are float32 all the same. Of a user's
    /// own model only the weights are.
    pub dtype: Dtype,
    pub metadata: Vec<(String, String)>,
}

/// The model as ONNX bytes. Inputs: `emg` [batch, rows, channels], `initial_pose` [batch, joints] (radians) for
/// models that take it. Output: `joint_angles` [batch, rows - left_context, joints] in radians.
///
/// # Errors
/// Angles normalized by recording: the statistics of an unseen recording's angles cannot be known.
pub fn export(exported: &Exported<'_>) -> Result<Vec<u8>, StepError> {
    let model = exported.model;
    if let Some(parts) = model.imported_parts(exported.parameters, exported.buffers, exported.rows) {
        return retrained(exported, &parts?);
    }
    let mut writer = Writer::new(exported)?;
    let emg = writer.emg(&[Dim::Batch(1).size(), exported.rows])?;
    let inputs = ModelInputs { emg, initial_pose: writer.initial_pose(Dim::Batch(1).size()), emg_statistics: None };
    let prediction = writer.body(|graph, pass| Ok(model.forward(graph, pass, &inputs)?))?;
    let radians = writer.radians(prediction);
    writer.graph.output(ports::JOINT_ANGLES, radians);
    Ok(writer.finish(&exported.metadata))
}

/// The model's streaming form as ONNX bytes. Inputs: `emg` [1, chunk, channels], `rows` [1] (int64: how many of the chunk's
/// rows there are; fewer only at the end), `state` [elements] and `position` [3] (int64), both zero at the start,
/// `initial_pose` [1, joints] (radians) for models that take it. Outputs: `joint_angles` [1, chunk, joints] in radians, which
/// lag behind, zero where there is no prediction; `next_state` and `next_position`.
///
/// # Errors
/// As [`export`].
pub fn export_stream(exported: &Exported<'_>, stream: &Stream) -> Result<Vec<u8>, StepError> {
    let mut writer = Writer::new(exported)?;
    let emg = writer.emg(&[1, stream.chunk()])?;
    let rows = writer.graph.input("rows", TensorType::new(DType::I64, [1]));
    let state = writer.graph.input("state", TensorType::f32([stream.state_elements()]));
    let position = writer.graph.input("position", TensorType::new(DType::I64, [Stream::POSITIONS]));
    let inputs = ModelInputs { emg, initial_pose: writer.initial_pose(1), emg_statistics: writer.emg_statistics() };
    let streamed = writer.body(|graph, pass| Ok(stream.forward(graph, pass, &inputs, rows, [state, position])?))?;
    let radians = writer.radians(streamed.angles);
    let graph = &mut writer.graph;
    let zero = graph.scalar(0.0);
    let angles = graph.select(streamed.is_predicted, radians, zero);
    let state = graph.to_f32(streamed.state);
    for (name, value) in [(ports::JOINT_ANGLES, angles), ("next_state", state), ("next_position", streamed.position)] {
        graph.output(name, value);
    }
    Ok(writer.finish(&exported.metadata))
}

/// A graph on its way to a file: units around a model with its weights.
struct Writer<'a> {
    graph: Graph,
    exported: &'a Exported<'a>,
    /// Mean and divisor of the model's angle units.
    units: Option<(Value, Value)>,
    defaults: Vec<InputDefault>,
    /// Inputs for the statistics of a recording's EMG, where there are any.
    emg_statistics: Option<[Value; 2]>,
}

impl<'a> Writer<'a> {
    fn new(exported: &'a Exported<'a>) -> Result<Self, StepError> {
        let mut graph = Graph::new();
        let units = match &exported.angles {
            Units::Raw => None,
            Units::Fixed(affine) => Some(constants(&mut graph, affine)),
            Units::PerRecording => return Err(StepError::UnknownAngles),
        };
        Ok(Self { graph, exported, units, defaults: Vec::new(), emg_statistics: None })
    }

    /// The input `emg` [batch, rows, channels], normalized.
    fn emg(&mut self, batch_and_rows: &[usize; 2]) -> Result<Value, StepError> {
        let (graph, channels) = (&mut self.graph, self.exported.model.config().input_size);
        let [batch, rows] = *batch_and_rows;
        let emg = graph.input(ports::EMG, TensorType::f32([batch, rows, channels]));
        Ok(match &self.exported.emg {
            Units::Raw => emg,
            Units::Fixed(affine) => normalize(graph, emg, affine),
            Units::PerRecording => {
                let affine = &self.exported.train_emg;
                let mut optional = |name: &str, values: &[f32]| {
                    let input = graph.input(name, TensorType::f32([1, channels]));
                    self.defaults
                        .push(InputDefault { input, value: Constant::F32(vec![1, channels], values.to_vec()) });
                    input
                };
                let [mean_name, std_name] = EMG_STATISTICS;
                let (mean, std) = (optional(mean_name, &affine.mean), optional(std_name, &affine.divisor));
                self.emg_statistics = Some([mean, std]);
                let centred = graph.sub(emg, mean);
                graph.div(centred, std)
            }
        })
    }

    /// The input `initial_pose` [batch, joints] of a model that takes it, in the model's units.
    fn initial_pose(&mut self, batch: usize) -> Option<Value> {
        let joints = self.exported.model.config().output_size;
        self.exported.model.takes_initial_pose().then(|| {
            let pose = self.graph.input(ports::INITIAL_POSE, TensorType::f32([batch, joints]));
            to_units(&mut self.graph, pose, self.units)
        })
    }

    /// The inputs [1, channels] of a model that takes the statistics of a recording's EMG: those that [`emg`](Self::emg) has
    /// made, if it has.
    fn emg_statistics(&mut self) -> Option<[Value; 2]> {
        let (model, graph) = (self.exported.model, &mut self.graph);
        let ty = TensorType::f32([1, model.config().input_size]);
        let made = self.emg_statistics;
        let inputs = || made.unwrap_or_else(|| EMG_STATISTICS.map(|name| graph.input(name, ty.clone())));
        model.takes_emg_statistics().then(inputs)
    }

    /// What the model computes, in the precision of the export.
    fn body<R>(&mut self, forward: impl FnOnce(&mut Graph, &mut Pass) -> Result<R, StepError>) -> Result<R, StepError> {
        let (model, graph) = (self.exported.model, &mut self.graph);
        let (dtype, autocast) = match self.exported.dtype {
            Dtype::Float32 => (DType::F32, None),
            Dtype::Float16 => (DType::F16, Some(Autocast::Fp16Weights)),
        };
        let parameters = Weights::constants(graph, self.exported.parameters, &model.parameters(), dtype);
        let buffers = Weights::constants(graph, self.exported.buffers, &model.buffers(), dtype);
        let mut pass = Pass::export(parameters.and(buffers));
        graph.set_autocast(autocast);
        let result = forward(graph, &mut pass);
        graph.set_autocast(None);
        result
    }

    fn radians(&mut self, prediction: Value) -> Value {
        let prediction = self.graph.to_f32(prediction);
        to_radians(&mut self.graph, prediction, self.units)
    }

    fn finish(mut self, metadata: &[(String, String)]) -> Vec<u8> {
        select_kernels(&mut self.graph, Kernels::Standard);
        if self.exported.dtype == Dtype::Float16 {
            narrow_constants(&mut self.graph);
        }
        plain_products(&mut self.graph);
        prune(&mut self.graph);
        to_onnx(&self.graph, &self.defaults, &ModelInfo { metadata: metadata.to_vec() })
    }
}

/// A user's own model: the file it came from, with the new weights and the units around it.
fn retrained(exported: &Exported<'_>, parts: &ImportedParts<'_>) -> Result<Vec<u8>, StepError> {
    if exported.angles == Units::PerRecording {
        return Err(StepError::UnknownAngles);
    }
    Ok(parts.onnx.retrained(&Retrained {
        weights: &parts.weights,
        emg: &exported.emg,
        train_emg: &exported.train_emg,
        angles: &exported.angles,
        channels_second: parts.channels_second,
        half_weights: exported.dtype == Dtype::Float16,
        output_rank: parts.output_rank,
        shapes: &parts.shapes,
        metadata: &exported.metadata,
    }))
}
