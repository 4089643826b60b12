//! Training: the loop with its schedules, early stopping, checkpoints and resume; evaluation; export.

mod checkpoint;
mod error;
mod evaluate;
mod events;
mod examples;
mod export;
mod fit;
mod gallery;
mod groups;
mod learner;
mod passes;
mod predict;
mod residency;
mod run;
mod schedule;
mod setup;
mod throughput;

pub use checkpoint::{Checkpoint, Progress};
pub use error::TrainError;
pub use evaluate::{EvaluateOptions, Evaluation, evaluate};
pub use events::{EpochRecord, Event, Listener};
pub use examples::{Example, Examples};
pub use export::{ExportOptions, ExportedModel, Form, export_run};
pub use fit::{FitOptions, FitSummary, Start, fit};
pub use gallery::{Gallery, gallery};
pub use groups::Group;
pub use predict::{Predicted, Prediction, Predictor};
pub use run::{RunFolder, check_file_path, checkpoint_folder, write_file};
pub use setup::{IMPORTED, Normalization, apply_manifest, check_resume, load_model};
pub(crate) use throughput::anonymous_bytes;
pub use throughput::{Duty, Throughput, throughput};
