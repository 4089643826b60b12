//! From a configuration to its architecture.

use std::sync::Arc;

use super::lstm::PlainLstm;
use super::network::{Network, Pass};
use super::neuropose::Neuropose;
use super::parameter::Parameter;
use super::tds::Tds;
use crate::config::{ModelConfig, ModelType};
use crate::graph::{Graph, Value};

/// An architecture with its sizes.
#[derive(Debug, Clone)]
pub struct Model {
    config: ModelConfig,
    network: Arc<dyn Network>,
}

impl Model {
    /// The architecture that the configuration names.
    pub fn new(config: &ModelConfig) -> Self {
        let network: Arc<dyn Network> = match config.architecture() {
            ModelType::TdsLstm | ModelType::TdsMlp => Arc::new(Tds::configured(config)),
            ModelType::Lstm => Arc::new(PlainLstm::new(config)),
            ModelType::Neuropose => Arc::new(Neuropose::new(config)),
            published => Arc::new(Tds::published(published, config)),
        };
        Self { config: config.clone(), network }
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Rows at a window's start that have no prediction.
    pub fn left_context(&self) -> usize {
        self.network.left_context()
    }

    /// Whether the pose before the first step is the recording's.
    pub fn takes_initial_pose(&self) -> bool {
        self.network.takes_initial_pose()
    }

    /// Fails where a window of `rows` rows does not suit the model.
    ///
    /// # Errors
    /// How long it must be.
    pub fn check_window(&self, rows: usize) -> Result<(), String> {
        self.network.check_window(rows)
    }

    /// The parameters in the order of the flat vector.
    pub fn parameters(&self) -> Vec<Parameter> {
        self.network.parameters()
    }

    /// What training changes beside the parameters, such as running statistics.
    pub fn buffers(&self) -> Vec<Parameter> {
        self.network.buffers()
    }

    /// EMG [batch, rows, channels], normalized, to angles [batch, rows - left_context, joints] in the model's own
    /// units. `initial_pose` [batch, joints] in the same units, `None` for zeros.
    pub fn forward(&self, graph: &mut Graph, pass: &mut Pass, emg: Value, initial_pose: Option<Value>) -> Value {
        self.network.forward(graph, pass, emg, initial_pose)
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
        assert!(model.check_window(172).unwrap_err().contains("172"));
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
            assert!(model.check_window(200).unwrap_err().contains("too short"), "{kind}");
        }
    }
}
