//! What is learned: model, batch, units and loss.

use crate::config::LossType;
use crate::dataset::BatchShape;
use crate::graph::{DType, Graph, TensorType, Value};
use crate::model::{Model, ModelInputs};
use crate::ports::{self, Element, Port, StepPorts};
use crate::units::{Affine, EMG_STATISTICS, Units};

/// A model with its data's shapes and units, and its loss.
#[derive(Debug, Clone)]
pub struct Problem {
    pub model: Model,
    pub shape: BatchShape,
    /// Of the EMG; what is normalized by recording comes so from the cache.
    pub emg: Units,
    pub angles: Units,
    pub loss: LossType,
    pub mae_weight: f64,
    /// Weight of each joint in the loss; `None`: all 1.
    pub joint_weights: Option<Vec<f32>>,
    /// Whether angles of valid rows may be missing (NaN): joints that a recording did not measure do not count.
    pub unmeasured: bool,
    /// Where the rows of the split lie with the step, which gathers windows from them; `None`: batches bring rows.
    pub resident: Option<ResidentRows>,
}

/// Rows that stay where steps compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResidentRows {
    pub rows: u64,
    /// Whether channels are taken from others, window by window.
    pub rolled: bool,
}

/// A batch as values of a graph.
pub(super) struct BatchValues {
    pub(super) emg: Value,
    pub(super) joint_angles: Value,
    pub(super) mask: Value,
    /// 1 for angles that were measured, else 0 [batch, rows, joints]; `None`: all were. Those that were not are 0.
    pub(super) measured: Option<Value>,
    /// Mean and divisor of the model's angle units, broadcastable over [batch, rows, joints].
    pub(super) units: Option<(Value, Value)>,
    /// Mean and divisor of each recording's EMG [batch, channels], for models that take them.
    emg_statistics: Option<[Value; 2]>,
}

impl Problem {
    /// In raw units, with batches that bring rows, and every joint of weight 1.
    pub fn new(model: Model, shape: BatchShape, loss: LossType, mae_weight: f64) -> Self {
        let (emg, angles) = (Units::Raw, Units::Raw);
        Self { model, shape, emg, angles, loss, mae_weight, joint_weights: None, unmeasured: false, resident: None }
    }

    /// Rows of a whole batch.
    pub(super) fn rows(&self) -> f32 {
        (self.shape.batch * self.shape.target_rows()) as f32
    }

    /// Weights of one row's joints together.
    pub(super) fn weight_per_row(&self) -> f32 {
        self.joint_weights.as_ref().map_or(self.shape.joints as f32, |weights| weights.iter().sum())
    }

    /// What a batch brings.
    fn batch_ports(&self) -> Vec<Port> {
        let BatchShape { batch, rows, channels, joints, .. } = self.shape;
        let targets = self.shape.target_rows();
        let mut ports = match self.resident {
            None => vec![
                Port::f32(ports::EMG, [batch, rows, channels]),
                Port::f32(ports::JOINT_ANGLES, [batch, targets, joints]),
                Port::f32(ports::MASK, [batch, targets]),
            ],
            Some(ResidentRows { rolled: false, .. }) => vec![Port::i64(ports::FIRST_ROWS, [batch])],
            Some(ResidentRows { rolled: true, .. }) => {
                vec![Port::i64(ports::FIRST_ROWS, [batch]), Port::i64(ports::CHANNELS, [batch, channels])]
            }
        };
        if self.angles == Units::PerRecording {
            ports.extend([ports::ANGLE_MEAN, ports::ANGLE_DIVISOR].map(|name| Port::f32(name, [batch, joints])));
        }
        if self.model.takes_emg_statistics() {
            ports.extend(EMG_STATISTICS.map(|name| Port::f32(name, [batch, channels])));
        }
        ports
    }

    /// Resident rows.
    fn tables(&self) -> Vec<Port> {
        let Some(ResidentRows { rows, .. }) = self.resident else { return Vec::new() };
        let (rows, BatchShape { channels, joints, .. }) = (rows as usize, self.shape);
        vec![
            Port::f32(ports::ALL_EMG, [rows, channels]),
            Port::f32(ports::ALL_JOINT_ANGLES, [rows, joints]),
            Port::f32(ports::ALL_VALID, [rows]),
        ]
    }

    /// EMG, angles and mask of a batch, as [`crate::dataset::Gather`] fills them in where rows are not resident.
    fn gathered(&self, graph: &mut Graph, inputs: &Inputs) -> [Value; 3] {
        let BatchShape { batch, rows, channels, context, after, .. } = self.shape;
        let offsets: Vec<_> = (0..rows as i64).collect();
        let (first, offsets) = (graph.reshape(inputs.get(ports::FIRST_ROWS), &[batch, 1]), graph.i64s(&offsets));
        let places = graph.add(first, offsets);
        let targets = graph.slice(places, 1, context, rows - after);
        let mut emg = graph.gather(inputs.get(ports::ALL_EMG), places, 0);
        if let Some(sources) = inputs.find(ports::CHANNELS) {
            let sources = graph.reshape(sources, &[batch, 1, channels]);
            let sources = graph.expand(sources, &[batch, rows, channels]);
            emg = graph.gather_elements(emg, sources, 2);
        }
        let angles = graph.gather(inputs.get(ports::ALL_JOINT_ANGLES), targets, 0);
        let mut mask = graph.gather(inputs.get(ports::ALL_VALID), targets, 0);
        if self.model.takes_initial_pose() {
            // Windows count only if the pose that they start from is known.
            let start = graph.slice(mask, 1, 0, 1);
            mask = graph.mul(mask, start);
        }
        [emg, angles, mask]
    }

    /// What a step takes of a batch and of resident rows.
    pub fn ports(&self) -> StepPorts {
        StepPorts { batch: self.batch_ports(), tables: self.tables(), ..Default::default() }
    }

    /// Adds the batch's inputs to a graph, EMG already in the model's units.
    pub(super) fn batch(&self, graph: &mut Graph) -> BatchValues {
        let inputs = Inputs::new(graph, self.tables().into_iter().chain(self.batch_ports()));
        let [emg, joint_angles, mask] = match self.resident {
            Some(_) => self.gathered(graph, &inputs),
            None => [ports::EMG, ports::JOINT_ANGLES, ports::MASK].map(|name| inputs.get(name)),
        };
        let emg = match &self.emg {
            Units::Raw | Units::PerRecording => emg,
            Units::Fixed(affine) => normalize(graph, emg, affine),
        };
        let units = match &self.angles {
            Units::Raw => None,
            Units::Fixed(affine) => Some(constants(graph, affine)),
            Units::PerRecording => {
                let BatchShape { batch, joints, .. } = self.shape;
                let [mean, divisor] = [ports::ANGLE_MEAN, ports::ANGLE_DIVISOR]
                    .map(|name| graph.reshape(inputs.get(name), &[batch, 1, joints]));
                Some((mean, divisor))
            }
        };
        let (joint_angles, measured) = if self.unmeasured {
            let (zero, one) = (graph.scalar(0.0), graph.scalar(1.0));
            let missing = graph.is_nan(joint_angles);
            (graph.select(missing, zero, joint_angles), Some(graph.select(missing, zero, one)))
        } else {
            (joint_angles, None)
        };
        let emg_statistics = self.model.takes_emg_statistics().then(|| EMG_STATISTICS.map(|name| inputs.get(name)));
        BatchValues { emg, joint_angles, mask, measured, units, emg_statistics }
    }
}

/// Inputs of a graph by their ports' names.
struct Inputs(Vec<(Port, Value)>);

impl Inputs {
    fn new(graph: &mut Graph, ports: impl Iterator<Item = Port>) -> Self {
        Self(ports.map(|port| (add_input(graph, &port), port)).map(|(value, port)| (port, value)).collect())
    }

    fn find(&self, name: &str) -> Option<Value> {
        self.0.iter().find(|(port, _)| port.name == name).map(|(_, value)| *value)
    }

    fn get(&self, name: &str) -> Value {
        self.find(name).unwrap_or_else(|| panic!("{name} is a port of this problem"))
    }
}

/// Adds a port to a graph.
pub(super) fn add_input(graph: &mut Graph, port: &Port) -> Value {
    let dtype = match port.element {
        Element::F32 => DType::F32,
        Element::I64 => DType::I64,
    };
    graph.input(&port.name, TensorType::new(dtype, port.shape.clone()))
}

/// Mean and divisor as constants [columns].
pub(super) fn constants(graph: &mut Graph, affine: &Affine) -> (Value, Value) {
    let n = affine.mean.len();
    (graph.f32([n], affine.mean.clone()), graph.f32([n], affine.divisor.clone()))
}

/// (x - mean) / divisor over the last axis.
pub(super) fn normalize(graph: &mut Graph, x: Value, affine: &Affine) -> Value {
    let (mean, divisor) = constants(graph, affine);
    let centred = graph.sub(x, mean);
    graph.div(centred, divisor)
}

/// Radians to the model's units.
pub(super) fn to_units(graph: &mut Graph, angles: Value, units: Option<(Value, Value)>) -> Value {
    let Some((mean, divisor)) = units else { return angles };
    let centred = graph.sub(angles, mean);
    graph.div(centred, divisor)
}

/// The model's units to radians.
pub(super) fn to_radians(graph: &mut Graph, angles: Value, units: Option<(Value, Value)>) -> Value {
    let Some((mean, divisor)) = units else { return angles };
    let scaled = graph.mul(angles, divisor);
    graph.add(scaled, mean)
}

impl BatchValues {
    /// What the model takes.
    pub(super) fn inputs(&self, graph: &mut Graph, model: &Model) -> ModelInputs {
        ModelInputs {
            emg: self.emg,
            initial_pose: self.initial_pose(graph, model),
            emg_statistics: self.emg_statistics,
        }
    }

    /// The true pose at the first target row, in the model's units, for models that start from it.
    fn initial_pose(&self, graph: &mut Graph, model: &Model) -> Option<Value> {
        model.takes_initial_pose().then(|| {
            let first = graph.slice(self.joint_angles, 1, 0, 1);
            let pose = to_units(graph, first, self.units);
            let [batch, _, joints] = graph.shape(pose)[..] else { unreachable!("angles are [batch, rows, joints]") };
            graph.reshape(pose, &[batch, joints])
        })
    }
}
