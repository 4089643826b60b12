//! Inputs and outputs of an exported model, checked against its metadata.

use crate::cache::SegmentSettings;
use crate::config::{AxisLayout, Dtype, ModelType};
use crate::ports::INITIAL_POSE;
use crate::runtime::{Session, TensorInfo};
use crate::step::{ExportedForm, MetadataError, ModelMetadata};
use crate::units::EMG_STATISTICS;

/// Most EMG values at once, in a model whose batch is fixed.
const MOST_VALUES: usize = 1 << 28;

/// What an exported model takes and gives.
#[derive(Debug)]
pub(super) struct Signature {
    pub(super) window: usize,
    pub(super) left_context: usize,
    pub(super) right_context: usize,
    pub(super) joints: Vec<String>,
    /// What recordings look like, and how their statistics are taken.
    pub(super) recordings: SegmentSettings,
    /// The input for EMG, and whether channels, and joints, are the second axis rather than the last.
    pub(super) emg: TensorInfo,
    pub(super) emg_first: bool,
    pub(super) angles_first: bool,
    /// A user's own model, whose output may have fewer rows.
    pub(super) is_own: bool,
    pub(super) takes_statistics: bool,
    /// Rows of the inputs for statistics, 1; `None`: as many as windows.
    pub(super) statistics_rows: Option<usize>,
    pub(super) takes_pose: bool,
}

/// Why predict cannot use a model.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    #[error("this is a streaming model, but predict needs one for whole windows; export it without --streaming")]
    Stream,
    #[error("the model has no input for EMG")]
    NoEmg,
    #[error("the model's metadata is inconsistent: window {window}, context {context}, {joints} joints")]
    Contradiction { window: usize, context: usize, joints: usize },
    #[error("the model's metadata says {told:?} EMG values per window, but its input is {input}")]
    Input { told: [usize; 2], input: String },
    #[error("the model's metadata says {told:?} angles per window, but its output is {output}")]
    Output { told: [usize; 2], output: String },
    #[error("the model's batch size is fixed at {batch} windows, which predict does not support")]
    Batch { batch: usize },
}

impl Signature {
    /// # Errors
    /// What is missing, or contradicts the model.
    pub(super) fn read(session: &Session) -> Result<Self, SignatureError> {
        let ModelMetadata {
            joints,
            window,
            left_context,
            right_context,
            emg_layout,
            angles_layout,
            recordings,
            architecture,
            form,
            ..
        } = ModelMetadata::read(|name| session.metadata(name))?;
        if form != ExportedForm::Window {
            return Err(SignatureError::Stream);
        }
        let inputs = session.inputs();
        let takes = |name: &str| inputs.iter().any(|input| input.name == name);
        let is_emg = |name: &str| name != INITIAL_POSE && !EMG_STATISTICS.contains(&name);
        let emg = inputs.iter().find(|input| is_emg(&input.name)).cloned().ok_or(SignatureError::NoEmg)?;
        let mean = inputs.iter().find(|input| input.name == EMG_STATISTICS[0]);
        let statistics_rows = mean.and_then(|input| input.shape.first().copied().flatten());
        let signature = Self {
            window,
            left_context,
            right_context,
            joints,
            emg,
            emg_first: emg_layout == AxisLayout::ChannelsFirst,
            angles_first: angles_layout == AxisLayout::ChannelsFirst,
            is_own: architecture == Some(ModelType::Onnx),
            takes_statistics: EMG_STATISTICS.into_iter().all(takes),
            statistics_rows,
            takes_pose: takes(INITIAL_POSE),
            recordings: SegmentSettings { dtype: Dtype::Float32, ..recordings },
        };
        signature.check(&session.outputs()).map(|()| signature)
    }

    /// Fails where the metadata is not of this model.
    fn check(&self, outputs: &[TensorInfo]) -> Result<(), SignatureError> {
        let (channels, joints) = (self.recordings.emg_channels, self.joints.len());
        if self.window <= self.left_context.saturating_add(self.right_context)
            || joints != self.recordings.joint_angles_channels
        {
            let (window, context) = (self.window, self.left_context.saturating_add(self.right_context));
            return Err(SignatureError::Contradiction { window, context, joints });
        }
        let fits = |shape: &[Option<usize>], wanted: [usize; 2]| {
            shape.len() == 3 && shape[1..].iter().zip(wanted).all(|(dim, wanted)| dim.is_none_or(|dim| dim == wanted))
        };
        let taken = if self.emg_first { [channels, self.window] } else { [self.window, channels] };
        if !fits(&self.emg.shape, taken) {
            return Err(SignatureError::Input { told: taken, input: shape(&self.emg) });
        }
        let given = [self.predicted(), joints];
        if let Some(output) = outputs.first().filter(|output| !self.is_own && !fits(&output.shape, given)) {
            return Err(SignatureError::Output { told: given, output: shape(output) });
        }
        let batch = self.fixed_batch().unwrap_or(1);
        if batch == 0 || (self.takes_pose && batch > 1) || batch.saturating_mul(self.window * channels) > MOST_VALUES {
            return Err(SignatureError::Batch { batch });
        }
        Ok(())
    }

    /// The number of windows that the model takes at once, if it takes no other.
    pub(super) fn fixed_batch(&self) -> Option<usize> {
        self.emg.shape.first().copied().flatten()
    }

    /// Rows of a window that have a prediction.
    pub(super) fn predicted(&self) -> usize {
        self.window - self.left_context - self.right_context
    }

    /// First rows of the windows over `rows` rows: each begins where its left context overlaps the one before, the last ends
    /// at the last row.
    pub(super) fn starts(&self, rows: usize) -> Vec<usize> {
        let last = rows - self.window;
        (0..last).step_by(self.predicted()).chain([last]).collect()
    }
}

/// A shape as people write it.
fn shape(port: &TensorInfo) -> String {
    let dims: Vec<_> = port.shape.iter().map(|dim| dim.map_or("batch".to_owned(), |dim| dim.to_string())).collect();
    format!("{} [{}]", port.name, dims.join(", "))
}
