//! The exported model: EMG in original units in, angles in radians out, any batch.

use super::problem::{Affine, AngleUnits};
use crate::graph::{
    Constant, DYNAMIC_BATCH, ExportedUnits, Graph, InputDefault, Kernels, ModelInfo, Retrained, TensorType, prune,
    select_kernels, to_onnx,
};
use crate::model::{ImportedParts, Model, Pass, Weights};

/// How the exported model normalizes its EMG.
#[derive(Debug, Clone, PartialEq)]
pub enum ExportedEmg {
    None,
    /// By the training split's statistics, built in.
    Train(Affine),
    /// By the recording's: inputs `emg_mean` and `emg_std` [1, channels], with these defaults.
    Recording(Affine),
}

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
    pub emg: ExportedEmg,
    pub angles: AngleUnits,
    pub metadata: Vec<(String, String)>,
}

/// The model as ONNX bytes. Inputs: `emg` [batch, rows, channels], `initial_pose` [batch, joints] (radians) for
/// models that take it. Output: `joint_angles` [batch, rows - left_context, joints] in radians.
///
/// # Errors
/// Angles normalized by recording: the statistics of an unseen recording's angles cannot be known.
pub fn export(exported: &Exported<'_>) -> Result<Vec<u8>, String> {
    let model = exported.model;
    if let Some(parts) = model.imported_parts(exported.parameters, exported.buffers, exported.rows) {
        return retrained(exported, &parts?);
    }
    let (channels, joints) = (model.config().input_size, model.config().output_size);
    let mut graph = Graph::new();
    let emg = graph.input("emg", TensorType::f32([DYNAMIC_BATCH, exported.rows, channels]));
    let mut defaults = Vec::new();
    let emg = match &exported.emg {
        ExportedEmg::None => emg,
        ExportedEmg::Train(affine) => super::problem::normalize(&mut graph, emg, affine),
        ExportedEmg::Recording(affine) => {
            let mut optional = |name: &str, values: &[f32]| {
                let input = graph.input(name, TensorType::f32([1, channels]));
                defaults.push(InputDefault { input, value: Constant::F32(vec![1, channels], values.to_vec()) });
                input
            };
            let (mean, std) = (optional("emg_mean", &affine.mean), optional("emg_std", &affine.divisor));
            let centred = graph.sub(emg, mean);
            graph.div(centred, std)
        }
    };
    let units = match &exported.angles {
        AngleUnits::Radians => None,
        AngleUnits::Train(affine) => {
            Some((graph.f32([joints], affine.mean.clone()), graph.f32([joints], affine.divisor.clone())))
        }
        AngleUnits::Recording => return Err(UNKNOWN_ANGLES.into()),
    };
    let initial_pose = model.takes_initial_pose().then(|| {
        let pose = graph.input("initial_pose", TensorType::f32([DYNAMIC_BATCH, joints]));
        super::problem::to_units(&mut graph, pose, units)
    });
    let parameters = Weights::constants(&mut graph, exported.parameters, &model.parameters());
    let buffers = Weights::constants(&mut graph, exported.buffers, &model.buffers());
    let mut pass = Pass::evaluation(parameters.and(buffers));
    let prediction = model.forward(&mut graph, &mut pass, emg, initial_pose)?;
    let radians = super::problem::to_radians(&mut graph, prediction, units);
    graph.output("joint_angles", radians);
    select_kernels(&mut graph, Kernels::Standard);
    prune(&mut graph);
    Ok(to_onnx(&graph, &defaults, &ModelInfo { metadata: exported.metadata.clone() }))
}

const UNKNOWN_ANGLES: &str = "angles were normalized by recording (data.normalize_angles), and the statistics of a \
                              new recording's angles are not known: train with normalize_angles: train to export";

/// A user's own model: the file it came from, with the new weights and the units around it.
fn retrained(exported: &Exported<'_>, parts: &ImportedParts<'_>) -> Result<Vec<u8>, String> {
    let pair = |affine: &Affine| (affine.mean.clone(), affine.divisor.clone());
    let (emg, emg_inputs) = match &exported.emg {
        ExportedEmg::None => (None, false),
        ExportedEmg::Train(affine) => (Some(pair(affine)), false),
        ExportedEmg::Recording(affine) => (Some(pair(affine)), true),
    };
    let angles = match &exported.angles {
        AngleUnits::Radians => None,
        AngleUnits::Train(affine) => Some(pair(affine)),
        AngleUnits::Recording => return Err(UNKNOWN_ANGLES.into()),
    };
    Ok(parts.onnx.retrained(&Retrained {
        weights: &parts.weights,
        units: &ExportedUnits { emg, emg_inputs, angles },
        channels_second: parts.channels_second,
        output_rank: parts.output_rank,
        metadata: &exported.metadata,
    }))
}
