//! What a validation pass looked like: how errors are distributed, and some windows, from the first few windows of every
//! batch. Constant memory.

use crate::cache::Cache;
use crate::dataset::Batch;
use crate::metrics::Histogram;

/// Windows of every batch that are looked at.
pub(super) const OF_BATCH: usize = 4;
/// Windows that are kept.
const KEPT: u64 = 4;

/// Predicted and true angles of a validation pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Examples {
    /// Hz.
    pub rate: f64,
    /// Names of the joints.
    pub joints: Vec<String>,
    /// Absolute errors of each joint over valid rows.
    pub errors: Vec<Histogram>,
    /// Windows spread over the split, the same in every epoch.
    pub windows: Vec<Example>,
}

/// A window.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    pub recording: String,
    /// Row of the recording that the first predicted row is.
    pub first_row: u64,
    /// [rows, joints], radians.
    pub prediction: Vec<f32>,
    pub target: Vec<f32>,
    /// [rows], 1 where the target can be believed, else 0.
    pub mask: Vec<f32>,
}

impl Example {
    /// Window `i` of a batch with its predictions.
    ///
    /// # Panics
    /// The batch's rows are resident.
    pub(super) fn of(cache: &Cache, batch: &Batch, predictions: &[f32], i: usize) -> Self {
        let (rows, content) = (batch.shape.target_rows(), batch.rows().expect("evaluation brings rows"));
        let part = |values: &[f32], width: usize| values[i * rows * width..(i + 1) * rows * width].to_vec();
        let (window, joints) = (&batch.windows[i], batch.shape.joints);
        Self {
            recording: cache.recording(window.recording).listed.name.clone(),
            first_row: window.start + batch.shape.context as u64,
            prediction: part(predictions, joints),
            target: part(&content.joint_angles, joints),
            mask: part(&content.mask, 1),
        }
    }
}

impl Examples {
    pub(super) fn new(cache: &Cache, joints: usize) -> Self {
        let settings = &cache.manifest().settings;
        let (rate, names) = (settings.sample_rate, settings.joint_names());
        Self { rate, joints: names, errors: vec![Histogram::default(); joints], windows: Vec::new() }
    }

    /// Adds what `predictions` [at most [`OF_BATCH`], rows, joints] say of batch `number` of `batches`.
    pub(super) fn push(&mut self, cache: &Cache, batch: &Batch, predictions: &[f32], [number, batches]: [u64; 2]) {
        let joints = batch.shape.joints;
        for (i, [prediction, target, mask]) in batch.windows_with(predictions).enumerate() {
            for ((prediction, target), valid) in
                prediction.chunks_exact(joints).zip(target.chunks_exact(joints)).zip(mask)
            {
                if *valid > 0.0 {
                    let joints = prediction.iter().zip(target).zip(&mut self.errors);
                    for ((prediction, target), errors) in joints.filter(|((_, target), _)| !target.is_nan()) {
                        errors.push(f64::from((prediction - target).abs()).to_degrees());
                    }
                }
            }
            // The first window of the batches that begin each share of the pass.
            let share = |number: u64| number * KEPT / batches.max(1);
            if i == 0 && (number == 0 || share(number) != share(number - 1)) {
                self.windows.push(Example::of(cache, batch, predictions, 0));
            }
        }
    }
}
