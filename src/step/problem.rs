//! What is learned: model, batch, units and loss.

use crate::config::LossType;
use crate::dataset::BatchShape;
use crate::graph::{DType, Graph, TensorType, Value};
use crate::model::Model;
use crate::runtime::StepperSpec;
use crate::units::{Affine, Units};

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
    /// Mean and divisor of the model's angle units, broadcastable over [batch, rows, joints].
    pub(super) units: Option<(Value, Value)>,
}

impl Problem {
    /// Rows of a whole batch.
    pub(super) fn rows(&self) -> f32 {
        (self.shape.batch * self.shape.target_rows()) as f32
    }

    /// Weights of one row's joints together.
    pub(super) fn weight_per_row(&self) -> f32 {
        self.joint_weights.as_ref().map_or(self.shape.joints as f32, |weights| weights.iter().sum())
    }

    /// Names and shapes of the batch's inputs, in the order of [`crate::dataset::Batch`]'s fields.
    fn inputs(&self) -> Vec<(String, Vec<usize>)> {
        let BatchShape { batch, rows, channels, joints, .. } = self.shape;
        let targets = self.shape.target_rows();
        let mut inputs = Vec::new();
        if self.resident.is_none() {
            inputs.push(("emg".to_owned(), vec![batch, rows, channels]));
            inputs.push(("joint_angles".to_owned(), vec![batch, targets, joints]));
            inputs.push(("mask".to_owned(), vec![batch, targets]));
        }
        if self.angles == Units::PerRecording {
            inputs.push(("angle_mean".to_owned(), vec![batch, joints]));
            inputs.push(("angle_divisor".to_owned(), vec![batch, joints]));
        }
        inputs
    }

    /// The batch's integers: where resident rows are taken from.
    pub fn integers(&self) -> Vec<(String, Vec<usize>)> {
        let BatchShape { batch, channels, .. } = self.shape;
        let Some(resident) = self.resident else { return Vec::new() };
        let rolled = resident.rolled.then(|| ("channels".to_owned(), vec![batch, channels]));
        [("first_rows".to_owned(), vec![batch])].into_iter().chain(rolled).collect()
    }

    /// Resident rows: EMG, angles, and which rows count.
    fn tables(&self) -> Vec<(String, Vec<usize>)> {
        let Some(ResidentRows { rows, .. }) = self.resident else { return Vec::new() };
        let (rows, BatchShape { channels, joints, .. }) = (rows as usize, self.shape);
        let tables =
            [("all_emg", vec![rows, channels]), ("all_joint_angles", vec![rows, joints]), ("all_valid", vec![rows])];
        tables.map(|(name, shape)| (name.to_owned(), shape)).into()
    }

    /// EMG, angles and mask of a batch, as [`crate::dataset::Gather`] fills them in where rows are not resident.
    fn gathered(&self, graph: &mut Graph) -> [Value; 3] {
        let BatchShape { batch, rows, channels, context, .. } = self.shape;
        let tables: Vec<_> =
            self.tables().into_iter().map(|(name, shape)| graph.input(&name, TensorType::f32(shape))).collect();
        let integers = self.integers().into_iter();
        let integers: Vec<_> =
            integers.map(|(name, shape)| graph.input(&name, TensorType::new(DType::I64, shape))).collect();
        let offsets: Vec<_> = (0..rows as i64).collect();
        let (first, offsets) = (graph.reshape(integers[0], &[batch, 1]), graph.i64s(&offsets));
        let places = graph.add(first, offsets);
        let targets = graph.slice(places, 1, context, rows);
        let mut emg = graph.gather(tables[0], places, 0);
        if let Some(sources) = integers.get(1) {
            let sources = graph.reshape(*sources, &[batch, 1, channels]);
            let sources = graph.expand(sources, &[batch, rows, channels]);
            emg = graph.gather_elements(emg, sources, 2);
        }
        let (angles, mut mask) = (graph.gather(tables[1], targets, 0), graph.gather(tables[2], targets, 0));
        if self.model.takes_initial_pose() {
            // Windows count only if the pose that they start from is known.
            let start = graph.slice(mask, 1, 0, 1);
            mask = graph.mul(mask, start);
        }
        [emg, angles, mask]
    }

    /// What a step takes of a batch and of resident rows.
    pub(super) fn spec(&self) -> StepperSpec {
        let (inputs, integers, tables) = (self.inputs(), self.integers(), self.tables());
        StepperSpec { inputs, integers, tables, ..Default::default() }
    }

    /// Adds the batch's inputs to a graph, EMG already in the model's units.
    pub(super) fn batch(&self, graph: &mut Graph) -> BatchValues {
        let mut values = if self.resident.is_some() { self.gathered(graph).to_vec() } else { Vec::new() };
        values.extend(self.inputs().into_iter().map(|(name, shape)| graph.input(&name, TensorType::f32(shape))));
        let emg = match &self.emg {
            Units::Raw | Units::PerRecording => values[0],
            Units::Fixed(affine) => normalize(graph, values[0], affine),
        };
        let units = match &self.angles {
            Units::Raw => None,
            Units::Fixed(affine) => Some(constants(graph, affine)),
            Units::PerRecording => {
                let BatchShape { batch, joints, .. } = self.shape;
                Some((graph.reshape(values[3], &[batch, 1, joints]), graph.reshape(values[4], &[batch, 1, joints])))
            }
        };
        BatchValues { emg, joint_angles: values[1], mask: values[2], units }
    }
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
    /// The true pose at the first target row, in the model's units, for models that start from it.
    pub(super) fn initial_pose(&self, graph: &mut Graph, model: &Model) -> Option<Value> {
        model.takes_initial_pose().then(|| {
            let first = graph.slice(self.joint_angles, 1, 0, 1);
            let pose = to_units(graph, first, self.units);
            let [batch, _, joints] = graph.shape(pose)[..] else { unreachable!("angles are [batch, rows, joints]") };
            graph.reshape(pose, &[batch, joints])
        })
    }
}
