//! An exported model in 8-bit integers: calibrated on windows of a cache, and compared with the model it was.

use std::path::Path;

use serde::Serialize;

use super::error::PredictError;
use super::predictor::Predictor;
use super::recording::Rows;
use crate::cache::{Cache, Split};
use crate::digest;
use crate::graph::{ComputedWeight, Observed, QuantizedLayers, Quantizer, WeightModel, computed_weights};
use crate::metrics::Accumulator;
use crate::runtime::{Library, Provider, RuntimeError, Session, Tensor};

/// What messages call the model.
const MODEL: &str = "the exported model";

/// A quantized model.
#[derive(Debug, Clone)]
pub struct Int8Model {
    pub onnx: Vec<u8>,
    pub about: Int8Report,
}

/// What was quantized, and what it costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Int8Report {
    /// Nodes by operator.
    #[serde(flatten)]
    pub layers: QuantizedLayers,
    /// Windows whose activations were looked at.
    pub calibration_windows: usize,
    /// Windows that both models predicted, and the split they are of.
    pub compared_windows: usize,
    pub split: Split,
    /// Mean absolute errors over rows with a true pose; `None` where there are none.
    pub mae_deg: Option<f64>,
    pub float32_mae_deg: Option<f64>,
    /// Mean absolute difference of the two models' angles; `None` where no window was compared.
    pub difference_deg: Option<f64>,
}

/// The model of float32 `onnx` in 8-bit integers. Activations' ranges are those over `windows` windows of the training split;
/// both models predict as many of the test split (if that has none: of the validation or training split).
/// `is_weight` names the parameters, trained or frozen.
///
/// # Errors
/// The cache has no window for the model; nothing can be quantized; the library's.
pub fn int8(
    library: &Library,
    onnx: &[u8],
    is_weight: impl Fn(&str) -> bool,
    cache: &Cache,
    windows: usize,
) -> Result<Int8Model, PredictError> {
    let name = Path::new(MODEL);
    let mut float32 = Predictor::new(library, Provider::Cpu, name, onnx)?;
    let computed = computed(library, onnx, &is_weight)?;
    let quantizer = Quantizer::new(onnx, is_weight, &computed).map_err(PredictError::Quantize)?;
    let layers = quantizer.layers();
    if layers.int8.is_empty() {
        return Err(PredictError::NothingToQuantize);
    }
    let calibration = Windows::choose(cache, &[Split::Train], float32.window(), windows)?;
    let (observed, calibration_windows) = observe(library, &quantizer, &float32, &calibration)?;
    let mut onnx = quantizer.quantized(&observed).map_err(PredictError::Quantize)?;
    digest::seal_changed_model(&mut onnx);

    let mut quantized = Predictor::new(library, Provider::Cpu, name, &onnx)?;
    let compared = Windows::choose(cache, &[Split::Test, Split::Val, Split::Train], float32.window(), windows)?;
    let mut comparison = Comparison::new(&float32);
    for window in compared.iter() {
        comparison.add([&mut float32, &mut quantized], &window?)?;
    }
    let [float32_mae_deg, mae_deg] = comparison.errors.map(|errors| errors.mae_deg());
    let about = Int8Report {
        layers,
        calibration_windows,
        compared_windows: comparison.windows,
        split: compared.split,
        mae_deg,
        float32_mae_deg,
        difference_deg: (comparison.elements > 0)
            .then(|| comparison.difference.to_degrees() / comparison.elements as f64),
    };
    Ok(Int8Model { onnx, about })
}

/// Weights that the model computes of its tensors, such as reordered or normalized ones.
fn computed(
    library: &Library,
    onnx: &[u8],
    is_weight: impl Fn(&str) -> bool,
) -> Result<Vec<ComputedWeight>, PredictError> {
    let Some(WeightModel { onnx, names }) = computed_weights(onnx, is_weight).map_err(PredictError::Quantize)? else {
        return Ok(Vec::new());
    };
    let values = Session::new(library, Provider::Cpu, &onnx).and_then(|mut session| session.run(&[]));
    let values = values.map_err(failed)?.into_iter().zip(names);
    Ok(values.map(|(Tensor { shape, values }, name)| ComputedWeight { name, shape, values }).collect())
}

fn failed(source: RuntimeError) -> PredictError {
    PredictError::Load { path: MODEL.into(), source }
}

/// What each activation is over the windows, and how many of them the model can start from.
fn observe(
    library: &Library,
    quantizer: &Quantizer,
    predictor: &Predictor,
    windows: &Windows<'_>,
) -> Result<(Vec<Observed>, usize), PredictError> {
    let mut session = Session::new(library, Provider::Cpu, &quantizer.observing()).map_err(failed)?;
    let mut used = 0;
    let mut all = vec![Observed { least: 0.0, greatest: 0.0, rank: 0 }; quantizer.activations().len()];
    for window in windows.iter() {
        let window = window?;
        let Some(inputs) = predictor.window_inputs(&window) else { continue };
        used += 1;
        let inputs: Vec<_> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let bounds = session.run(&inputs).map_err(failed)?;
        for ((observed, bounds), name) in all.iter_mut().zip(bounds.chunks_exact(2)).zip(quantizer.activations()) {
            let [least, greatest] = [&bounds[0], &bounds[1]].map(|bound| bound.values[0]);
            if !least.is_finite() || !greatest.is_finite() {
                return Err(PredictError::NotFiniteActivation { name: name.clone() });
            }
            let (least, greatest) = (observed.least.min(least), observed.greatest.max(greatest));
            *observed = Observed { least, greatest, rank: bounds[0].shape.len() };
        }
    }
    if used == 0 {
        return Err(PredictError::NoPoseToCalibrate { split: windows.split });
    }
    Ok((all, used))
}

/// Windows spread evenly over a split's recordings.
struct Windows<'a> {
    cache: &'a Cache,
    split: Split,
    rows: usize,
    /// Recordings and first rows.
    chosen: Vec<(usize, u64)>,
}

impl<'a> Windows<'a> {
    /// At most `most` windows of the first of these splits that has any.
    fn choose(cache: &'a Cache, splits: &[Split], rows: usize, most: usize) -> Result<Self, PredictError> {
        for split in splits {
            let of_split = cache.recordings().enumerate().filter(|(_, recording)| recording.listed.split == *split);
            let windows = of_split.map(|(i, recording)| (i, recording.content.rows / rows as u64)).collect::<Vec<_>>();
            let total: u64 = windows.iter().map(|(_, count)| count).sum();
            let count = total.min(most as u64);
            if count == 0 {
                continue;
            }
            let (mut chosen, mut before, mut next) = (Vec::new(), 0, 0);
            for (recording, count_here) in windows {
                let place = |k: u64| ((2 * u128::from(k) + 1) * u128::from(total) / (2 * u128::from(count))) as u64;
                while next < count && place(next) < before + count_here {
                    chosen.push((recording, (place(next) - before) * rows as u64));
                    next += 1;
                }
                before += count_here;
            }
            return Ok(Self { cache, split: *split, rows, chosen });
        }
        Err(PredictError::NothingToCalibrate { split: splits[0], window: rows })
    }

    fn iter(&self) -> impl Iterator<Item = Result<Rows, PredictError>> {
        self.chosen.iter().map(|(recording, start)| Rows::cached(self.cache, *recording, *start, self.rows))
    }
}

/// Two models' angles over the same windows.
struct Comparison {
    windows: usize,
    errors: [Accumulator; 2],
    difference: f64,
    elements: usize,
}

impl Comparison {
    fn new(predictor: &Predictor) -> Self {
        let errors = [(); 2].map(|()| Accumulator::new(predictor.joints().len(), predictor.sample_rate()));
        Self { windows: 0, errors, difference: 0.0, elements: 0 }
    }

    fn add(&mut self, predictors: [&mut Predictor; 2], window: &Rows) -> Result<(), PredictError> {
        let Some(inputs) = predictors[0].window_inputs(window) else { return Ok(()) };
        self.windows += 1;
        self.elements += predictors[0].window_angles();
        let mut angles = Vec::with_capacity(2);
        for (predictor, errors) in predictors.into_iter().zip(&mut self.errors) {
            let predicted = predictor.predict_window(&inputs)?;
            errors.merge(&predictor.errors(window, &predicted));
            angles.push(predicted);
        }
        let pairs = angles[0].iter().zip(&angles[1]);
        self.difference += pairs.map(|(a, b)| f64::from((a - b).abs())).sum::<f64>();
        Ok(())
    }
}
