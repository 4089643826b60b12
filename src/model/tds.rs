//! The TDS encoder with a recurrent or a feed-forward decoder: tds_lstm and tds_mlp, and the networks that
//! Meta published with emg2pose (Salter and others 2024), which are the same thing with other sizes.

use super::decoder::{Decoder, Rollout};
use super::encoder::Encoder;
use super::error::ModelError;
use super::network::{ModelInputs, Network, check_cells, check_matrix, steps};
use super::parameter::{Parameter, ParameterList};
use super::pass::Pass;
use super::resample;
use super::stream::Stream;
use super::tds_stream::TdsStream;
use crate::config::{InitialPose, ModelConfig, ModelType, TdsStage};
use crate::graph::{Graph, Value};

#[derive(Debug)]
pub(super) struct Tds {
    encoder: Encoder,
    decoder: Decoder,
    true_initial_pose: bool,
    rollout_freq: f64,
    sampling_rate: f64,
}

impl Tds {
    /// tds_lstm or tds_mlp as configured.
    pub(super) fn configured(config: &ModelConfig) -> Self {
        let encoder = Encoder { channels: config.input_size, stages: config.tds_stages.clone(), projection: None };
        let decoder = Decoder {
            features: encoder.features(),
            joints: config.output_size,
            hidden: config.decoder_hidden_size,
            layers: config.decoder_num_layers,
            recurrent: config.architecture() == ModelType::TdsLstm,
            conditioned: config.decoder_state_condition,
            scale: 1.0,
            rollout: if config.predict_velocity { Rollout::Velocity } else { Rollout::Pose },
        };
        Self {
            encoder,
            decoder,
            true_initial_pose: config.initial_pose == InitialPose::True,
            rollout_freq: config.rollout_freq,
            sampling_rate: config.original_sampling_rate,
        }
    }

    /// A network of emg2pose. Of the configuration only the data's own sizes count: channels, joints and rate.
    pub(super) fn published(kind: ModelType, config: &ModelConfig) -> Self {
        const ROLLOUT_FREQ: f64 = 50.0;
        const POSITION_STEPS: usize = 12;
        let stage = |in_conv_kernel, in_conv_stride, num_blocks, kernel_width| TdsStage {
            in_conv_kernel,
            in_conv_stride,
            num_blocks,
            channels: 16,
            feature_width: 16,
            kernel_width,
        };
        let stages = vec![stage(11, 5, 0, 1), stage(5, 2, 0, 1), stage(17, 4, 2, 9), stage(9, 2, 2, 5)];
        let encoder = Encoder { channels: config.input_size, stages, projection: Some(64) };
        let tracking = matches!(kind, ModelType::TrackingVemg2pose | ModelType::TrackingEmg2pose);
        let (recurrent, rollout) = match kind {
            ModelType::TrackingVemg2pose => (true, Rollout::Velocity),
            ModelType::RegressionVemg2pose => (true, Rollout::PoseThenVelocity(POSITION_STEPS)),
            _ => (false, Rollout::Pose),
        };
        let decoder = Decoder {
            features: encoder.features(),
            joints: config.output_size,
            hidden: 512,
            layers: 2,
            recurrent,
            conditioned: true,
            scale: 0.01,
            rollout,
        };
        let sampling_rate = config.original_sampling_rate;
        Self { encoder, decoder, true_initial_pose: tracking, rollout_freq: ROLLOUT_FREQ, sampling_rate }
    }

    /// Decoder steps in a window of `rows` rows: its seconds behind the context times the rollout frequency.
    fn steps(&self, rows: usize) -> usize {
        steps(rows - self.left_context(), self.rollout_freq, self.sampling_rate)
    }
}

impl Network for Tds {
    fn left_context(&self) -> usize {
        self.encoder.left_context()
    }

    fn takes_initial_pose(&self) -> bool {
        self.true_initial_pose
    }

    fn check_window(&self, rows: usize) -> Result<(), ModelError> {
        let context = self.left_context();
        if rows <= context || self.encoder.output_rows(rows).is_none() {
            return Err(ModelError::ShorterThanEncoder { rows, context });
        }
        check_cells(self.steps(rows), self.decoder.layers)?;
        check_matrix(rows, self.steps(rows))
    }

    fn parameters(&self) -> Vec<Parameter> {
        let mut list = ParameterList::default();
        self.encoder.parameters(&mut list);
        self.decoder.parameters(&mut list);
        list.0
    }

    fn stream(&self, rows: usize, chunk: Option<usize>) -> Result<Stream, ModelError> {
        self.check_window(rows)?;
        let steps = self.steps(rows);
        TdsStream::new(&self.encoder, &self.decoder, rows, steps, chunk, self.sampling_rate).map(Into::into)
    }

    fn forward(
        &self,
        graph: &mut Graph,
        pass: &mut Pass,
        &ModelInputs { emg, initial_pose, .. }: &ModelInputs,
    ) -> Result<Value, ModelError> {
        let rows = graph.shape(emg)[1];
        let features = self.encoder.forward(graph, pass, emg, None);
        let features = resample::align_corners(graph, pass.interpolate, features, self.steps(rows));
        let poses = self.decoder.roll_out(graph, pass, features, initial_pose);
        Ok(resample::half_pixel(graph, pass.interpolate, poses, rows - self.left_context()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_have_the_designs_number_of_steps() {
        let tds = Tds::configured(&ModelConfig::default());
        assert_eq!((tds.steps(500), tds.steps(2000)), (8, 46));
        let published = Tds::published(ModelType::TrackingVemg2pose, &ModelConfig::default());
        assert_eq!(published.steps(11_790), 250);
    }
}
