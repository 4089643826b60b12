//! From a configuration to its architecture.

use std::collections::HashMap;
use std::sync::Arc;

use super::error::ModelError;
use super::imported::Imported;
use super::lstm::PlainLstm;
use super::network::{ModelInputs, Network};
use super::neuropose::Neuropose;
use super::parameter::Parameter;
use super::pass::Pass;
use super::roles::ModelTensor;
use super::stream::Stream;
use super::tds::Tds;
use crate::config::{ModelConfig, ModelType};
use crate::graph::{Graph, OnnxModel, Probe, Value};

/// An architecture with its sizes.
#[derive(Debug, Clone)]
pub struct Model {
    config: ModelConfig,
    network: Arc<dyn Network>,
    imported: Option<Arc<Imported>>,
}

/// What exporting a user's model takes beside its weights.
pub(crate) struct ImportedParts<'a> {
    pub(crate) onnx: &'a OnnxModel,
    pub(crate) weights: HashMap<String, Vec<f32>>,
    pub(crate) channels_second: [bool; 2],
    pub(crate) output_rank: usize,
    /// Of all values of the file, for one window.
    pub(crate) shapes: HashMap<String, Vec<usize>>,
}

impl Model {
    /// The architecture that the configuration names.
    ///
    /// # Panics
    /// It names a user's own model, which [`imported`](Self::imported) makes.
    pub fn new(config: &ModelConfig) -> Self {
        let network: Arc<dyn Network> = match config.architecture() {
            ModelType::Onnx => panic!("a user's model comes with its file"),
            ModelType::TdsLstm | ModelType::TdsMlp => Arc::new(Tds::configured(config)),
            ModelType::Lstm => Arc::new(PlainLstm::new(config)),
            ModelType::Neuropose => Arc::new(Neuropose::new(config)),
            published => Arc::new(Tds::published(published, config)),
        };
        Self { config: config.clone(), network, imported: None }
    }

    /// A user's own model. `probe` knows the shapes of what only ONNX Runtime computes; without it such operators are
    /// refused.
    ///
    /// # Errors
    /// The exporter lost what training needs; its input does not look like EMG, or it has nothing to train.
    pub fn imported(config: &ModelConfig, onnx: OnnxModel, probe: Option<Arc<dyn Probe>>) -> Result<Self, ModelError> {
        let imported = Arc::new(Imported::new(config, onnx, probe)?);
        Ok(Self { config: config.clone(), network: Arc::clone(&imported) as _, imported: Some(imported) })
    }

    /// The file of a user's own model.
    pub fn onnx(&self) -> Option<&OnnxModel> {
        self.imported.as_ref().map(|imported| &imported.onnx)
    }

    /// A user's own model with these weights, for windows of `rows` rows.
    pub(crate) fn imported_parts(
        &self,
        parameters: &[f32],
        buffers: &[f32],
        rows: usize,
    ) -> Option<Result<ImportedParts<'_>, ModelError>> {
        let imported = self.imported.as_ref()?;
        Some(imported.shapes(rows).and_then(|shapes| {
            let shape = imported.output_shape(&shapes)?;
            Ok(ImportedParts {
                onnx: &imported.onnx,
                weights: imported.weights(parameters, buffers),
                channels_second: [imported.channels_second, imported.joints_second(shape)?],
                output_rank: shape.len(),
                shapes,
            })
        }))
    }

    /// Whether channels, and joints, are the second axis of the exported model's input and output rather than the last.
    ///
    /// # Errors
    /// A user's own model does not fit windows of `rows` rows.
    pub(crate) fn channels_first(&self, rows: usize) -> Result<[bool; 2], ModelError> {
        let Some(imported) = &self.imported else { return Ok([false; 2]) };
        let shapes = imported.shapes(rows)?;
        Ok([imported.channels_second, imported.joints_second(imported.output_shape(&shapes)?)?])
    }

    /// Whether training drops elements at random.
    pub fn has_dropout(&self) -> bool {
        self.network.has_dropout().unwrap_or(self.config.dropout > 0.0)
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Rows at a window's start that have no prediction.
    pub fn left_context(&self) -> usize {
        self.network.left_context()
    }

    /// Rows at a window's end that have no prediction.
    pub fn right_context(&self) -> usize {
        self.network.right_context()
    }

    /// Whether the pose before the first step is the recording's.
    pub fn takes_initial_pose(&self) -> bool {
        self.network.takes_initial_pose()
    }

    /// Whether the model takes the EMG statistics of each recording.
    pub fn takes_emg_statistics(&self) -> bool {
        self.network.takes_emg_statistics()
    }

    /// Fails where a window of `rows` rows does not suit the model.
    ///
    /// # Errors
    /// How long it must be.
    pub fn check_window(&self, rows: usize) -> Result<(), ModelError> {
        self.network.check_window(rows)
    }

    /// The model as a stream, on the time grid of windows of `rows` rows, in chunks of `chunk` rows (default: some 20 ms).
    ///
    /// # Errors
    /// It cannot be streamed, or not in such windows or chunks.
    pub fn stream(&self, rows: usize, chunk: Option<usize>) -> Result<Stream, ModelError> {
        let architecture = self.config.architecture();
        self.network.stream(rows, chunk).map_err(|source| ModelError::Stream { architecture, source: Box::new(source) })
    }

    /// The parameters in the order of the flat vector.
    pub fn parameters(&self) -> Vec<Parameter> {
        self.network.parameters()
    }

    /// The tensors of a user's own model, and what becomes of them.
    pub fn tensors(&self) -> Vec<ModelTensor> {
        self.network.tensors()
    }

    /// What training changes beside the parameters, such as running statistics.
    pub fn buffers(&self) -> Vec<Parameter> {
        self.network.buffers()
    }

    /// Angles [batch, rows - left_context - right_context, joints] in the model's own units. Without an initial pose, a model
    /// that could take one starts from zeros.
    ///
    /// # Errors
    /// A user's model does not fit these sizes, or has operators that are not known.
    pub fn forward(&self, graph: &mut Graph, pass: &mut Pass, inputs: &ModelInputs) -> Result<Value, ModelError> {
        self.network.forward(graph, pass, inputs)
    }
}

#[cfg(test)]
mod tests {
    use super::super::total_elements;
    use super::*;

    #[test]
    fn default_stages_have_172_rows_of_context() {
        let model = Model::new(&ModelConfig::default());
        assert_eq!(model.left_context(), 172);
        assert!(model.check_window(172).unwrap_err().to_string().contains("172"));
        assert!(model.check_window(500).is_ok());
    }

    #[test]
    fn published_networks_have_their_parameter_counts() {
        let model = |kind| Model::new(&ModelConfig { kind: Some(kind), ..Default::default() });
        for (kind, parameters, context) in [
            (ModelType::TrackingVemg2pose, 5_970_068, 1790),
            (ModelType::RegressionVemg2pose, 5_980_328, 1790),
            (ModelType::TrackingEmg2pose, 2_952_340, 1790),
            (ModelType::RegressionEmg2pose, 2_952_340, 1790),
            (ModelType::Neuropose, 6_354_903, 0),
        ] {
            let model = model(kind);
            assert_eq!((total_elements(&model.parameters()), model.left_context()), (parameters, context), "{kind}");
            assert_eq!(model.takes_initial_pose(), kind.to_string().starts_with("tracking"), "{kind}");
            assert!(model.check_window(200).unwrap_err().to_string().contains("too short"), "{kind}");
        }
    }
}
