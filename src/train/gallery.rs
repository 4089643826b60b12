//! An evaluation with pictures in it: the best, the median and the worst window.

use std::sync::Arc;

use super::checkpoint::Checkpoint;
use super::error::TrainError;
use super::evaluate::{EvaluateOptions, Evaluation, Predicting};
use super::examples::Example;
use crate::cache::Cache;
use crate::model::Model;
use crate::runtime::{Library, Provider};

/// An evaluation and some of its windows.
#[derive(Debug, Clone)]
pub struct Gallery {
    pub evaluation: Evaluation,
    /// Best, median and worst by mean absolute error, which is given in degrees; fewer where there are fewer windows.
    pub windows: Vec<(&'static str, f64, Example)>,
}

/// Evaluates `checkpoint` on every window of a split. Memory: 16 bytes per window.
///
/// # Errors
/// As [`evaluate`](super::evaluate).
pub fn gallery(
    library: &Library,
    provider: Provider,
    cache: &Arc<Cache>,
    model: &Model,
    checkpoint: &Checkpoint,
    options: &EvaluateOptions,
    advanced: &mut dyn FnMut(u64),
) -> Result<Gallery, TrainError> {
    let mut predicting = Predicting::new(library, provider, cache, model, checkpoint, options.split)?;
    let (mut errors, mut seen) = (Vec::new(), 0u64);
    let evaluation = predicting.evaluate(checkpoint, options, |batch, predictions| {
        for [prediction, target, mask] in batch.windows_with(predictions) {
            errors.extend(error_deg(batch.shape.joints, prediction, target, mask).map(|error| (error, seen)));
            seen += 1;
        }
        advanced(batch.windows.len() as u64);
    })?;
    errors.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let last = errors.len().saturating_sub(1);
    let mut windows = Vec::new();
    for (name, place) in [("best", 0), ("median", errors.len() / 2), ("worst", last)] {
        // Of few windows, none is shown twice.
        let again = name != "worst" && place == last;
        if let Some((error, window)) = errors.get(place).filter(|_| !again) {
            let example = predicting.examples(&[*window])?.remove(0);
            windows.push((name, *error, example));
        }
    }
    Ok(Gallery { evaluation, windows })
}

/// Mean absolute error over a window's valid rows, degrees; `None` if there is none.
fn error_deg(joints: usize, prediction: &[f32], target: &[f32], mask: &[f32]) -> Option<f64> {
    let rows = prediction.chunks_exact(joints).zip(target.chunks_exact(joints)).zip(mask);
    let valid = rows.filter(|(_, mask)| **mask > 0.0).map(|(row, _)| row);
    let (sum, count) = valid.fold((0.0, 0u64), |(sum, count), (prediction, target)| {
        let error: f64 = prediction.iter().zip(target).map(|(p, t)| f64::from((p - t).abs())).sum();
        (sum + error, count + 1)
    });
    (count > 0).then(|| (sum / (count * joints as u64) as f64).to_degrees())
}
