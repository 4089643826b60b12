//! tds_lstm and tds_mlp: the TDS encoder with a recurrent or a feed-forward decoder.

use super::dropout::Dropout;
use super::parameter::{Parameter, ParameterList, Weights};
use super::{decoder, encoder, resample};
use crate::config::{InitialPose, ModelConfig, ModelType};
use crate::graph::{Graph, Value};

/// An architecture with its sizes.
#[derive(Debug, Clone)]
pub struct Model {
    config: ModelConfig,
}

impl Model {
    pub fn new(config: &ModelConfig) -> Self {
        Self { config: config.clone() }
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Rows at a window's start that have no prediction.
    pub fn left_context(&self) -> usize {
        encoder::left_context(&self.config.tds_stages)
    }

    /// Whether the pose before the first step is the recording's.
    pub fn takes_initial_pose(&self) -> bool {
        self.config.initial_pose == InitialPose::True
    }

    /// Fails where a window of `rows` rows is too short for the model.
    ///
    /// # Errors
    /// How long it must be.
    pub fn check_window(&self, rows: usize) -> Result<(), String> {
        let context = self.left_context();
        if rows > context && encoder::output_rows(&self.config.tds_stages, rows).is_some() {
            // Interpolation is a product with a matrix of steps x rows.
            const LARGEST_MATRIX: usize = 1 << 26;
            if rows < LARGEST_MATRIX && self.steps(rows) * rows <= LARGEST_MATRIX {
                return Ok(());
            }
            let steps = self.steps(rows);
            return Err(format!(
                "a window of {rows} rows, {steps} decoder steps, is too long: rows x steps must stay below {LARGEST_MATRIX}"
            ));
        }
        Err(format!(
            "a window of {rows} rows is too short: model.tds_stages need {context} rows of left context, so more than {context}"
        ))
    }

    /// Decoder steps in a window of `rows` rows: its seconds behind the context times the rollout frequency,
    /// rounded half to even.
    pub fn steps(&self, rows: usize) -> usize {
        let targets = (rows - self.left_context()) as f64;
        let steps = (targets * self.config.rollout_freq / self.config.original_sampling_rate).round_ties_even();
        (steps as usize).max(1)
    }

    /// The parameters in the order of the flat vector.
    pub fn parameters(&self) -> Vec<Parameter> {
        let (config, mut list) = (&self.config, ParameterList::default());
        encoder::parameters(&mut list, &config.tds_stages, config.input_size);
        let features = encoder::features(&config.tds_stages);
        if self.is_recurrent() {
            decoder::lstm_parameters(&mut list, config, features);
        } else {
            decoder::mlp_parameters(&mut list, config, features);
        }
        list.0
    }

    fn is_recurrent(&self) -> bool {
        self.config.architecture() == ModelType::TdsLstm
    }

    /// EMG [batch, rows, channels], normalized, to angles [batch, rows - left_context, joints] in the model's own
    /// units. `initial_pose` [batch, joints] in the same units, `None` for zeros.
    pub fn forward(
        &self,
        graph: &mut Graph,
        weights: &Weights,
        emg: Value,
        initial_pose: Option<Value>,
        dropout: Option<&mut Dropout>,
    ) -> Value {
        let rows = graph.shape(emg)[1];
        let features = encoder::forward(graph, weights, &self.config.tds_stages, emg);
        let features = resample::align_corners(graph, features, self.steps(rows));
        let recurrent = self.is_recurrent();
        let poses = decoder::roll_out(graph, weights, &self.config, features, initial_pose, dropout, recurrent);
        resample::half_pixel(graph, poses, rows - self.left_context())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_stages_have_172_rows_of_context_and_the_designs_steps() {
        let model = Model::new(&ModelConfig::default());
        assert_eq!(model.left_context(), 172);
        assert_eq!((model.steps(500), model.steps(2000)), (8, 46));
        assert!(model.check_window(172).unwrap_err().contains("172"));
        assert!(model.check_window(500).is_ok());
    }
}
