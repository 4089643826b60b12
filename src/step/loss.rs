//! Masked losses, and the sums that metrics are made of.

use super::problem::{BatchValues, Problem, to_units};
use super::results;
use crate::config::LossType;
use crate::graph::{Graph, Value};
use crate::ports::Port;

/// Loss and sums of one batch.
pub(super) struct Outcome {
    pub(super) loss: Value,
    pub(super) valid_rows: Value,
    pub(super) absolute: Value,
    pub(super) squared: Value,
    /// The loss as a sum over [`Problem::joint_weights`] x valid elements instead of their mean.
    pub(super) total: Value,
}

/// Compares a prediction in the model's units with the batch's targets.
///
/// The loss is sum(mask x weight x e) / (max(valid rows, 1) x sum(weight)) over rows x joints; mse+mae = mse + mae_weight x
/// mae. Where joints were not measured, they have no share in either sum: the means are over what was.
pub(super) fn outcome(graph: &mut Graph, problem: &Problem, batch: &BatchValues, prediction: Value) -> Outcome {
    let shape = problem.shape;
    let target = to_units(graph, batch.joint_angles, batch.units);
    let difference = graph.sub(prediction, target);
    let mask = graph.reshape(batch.mask, &[shape.batch, shape.target_rows(), 1]);
    let counted = batch.measured.map(|measured| graph.mul(measured, mask));
    let error = graph.mul(difference, counted.unwrap_or(mask));
    let magnitude = graph.abs(error);
    let square = graph.mul(error, error);
    let (absolute, squared) = (graph.reduce_sum(magnitude, &[1], false), graph.reduce_sum(square, &[1], false));
    let valid_rows = graph.sum_all(batch.mask);
    let counts = counted.map(|counted| graph.reduce_sum(counted, &[0, 1], false));

    let weighted = |graph: &mut Graph, sums: Value| {
        let weighted = match &problem.joint_weights {
            Some(weights) => {
                let weights = graph.f32([weights.len()], weights.clone());
                graph.mul(sums, weights)
            }
            None => sums,
        };
        graph.sum_all(weighted)
    };
    let total = match problem.loss {
        LossType::Mse => weighted(graph, squared),
        LossType::Mae => weighted(graph, absolute),
        LossType::MseMae => {
            let (mse, mae) = (weighted(graph, squared), weighted(graph, absolute));
            let share = graph.scalar(problem.mae_weight as f32);
            let mae = graph.mul(mae, share);
            graph.add(mse, mae)
        }
    };
    let one = graph.scalar(1.0);
    let rows = graph.max(valid_rows, one);
    let per_row = graph.scalar(problem.weight_per_row());
    let elements = graph.mul(rows, per_row);
    // As if the joints that were not measured had the mean error of the others: sums stay comparable between batches.
    let total = match counts {
        Some(counts) => {
            let share = weighted(graph, counts);
            let factor = whole_per_counted(graph, elements, share);
            graph.mul(total, factor)
        }
        None => total,
    };
    let loss = graph.div(total, elements);
    // Sums per window, then in radians, then over the batch: statistics may differ from window to window.
    let radians = batch.units.map(|(_, divisor)| {
        let last = graph.shape(divisor).to_vec();
        if last.len() == 3 { graph.reshape(divisor, &[last[0], last[2]]) } else { divisor }
    });
    let (mut absolute, mut squared) = (absolute, squared);
    if let Some(divisor) = radians {
        absolute = graph.mul(absolute, divisor);
        let variance = graph.mul(divisor, divisor);
        squared = graph.mul(squared, variance);
    }
    let (mut absolute, mut squared) = (graph.reduce_sum(absolute, &[0], false), graph.reduce_sum(squared, &[0], false));
    if let Some(counts) = counts {
        let joints = graph.scalar(shape.joints as f32);
        let (elements, share) = (graph.mul(rows, joints), graph.sum_all(counts));
        let factor = whole_per_counted(graph, elements, share);
        (absolute, squared) = (graph.mul(absolute, factor), graph.mul(squared, factor));
    }
    Outcome { loss, valid_rows, absolute, squared, total }
}

/// whole / counted, also where nothing was counted and sums are 0.
fn whole_per_counted(graph: &mut Graph, whole: Value, counted: Value) -> Value {
    let least = graph.scalar(1e-6);
    let counted = graph.max(counted, least);
    graph.div(whole, counted)
}

/// Names a value as a result; gives its port.
pub(super) fn result(graph: &mut Graph, name: &'static str, value: Value) -> Port {
    graph.output(name, value);
    Port::f32(name, graph.shape(value))
}

impl Outcome {
    /// Names the outcome's values as outputs; gives their ports.
    pub(super) fn outputs(&self, graph: &mut Graph) -> Vec<Port> {
        let named = [
            (results::LOSS, self.loss),
            (results::VALID_ROWS, self.valid_rows),
            (results::ABSOLUTE, self.absolute),
            (results::SQUARED, self.squared),
        ];
        named.into_iter().map(|(name, value)| result(graph, name, value)).collect()
    }
}
