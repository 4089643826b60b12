//! Progress, metrics.jsonl and reports of a run, made from the events of the other layers.

mod bar;
mod build;
mod count;
mod environment;
mod fit;
mod html;
mod image;
mod metrics;
mod picture;
mod quantity;
mod say;
mod tensorboard;
mod tensors;
mod terminal;

pub use build::BuildProgress;
pub use count::CountProgress;
pub use environment::Environment;
pub use fit::FitReport;
pub use html::{ReportedRun, report_page};
pub use metrics::read_epochs;
pub use picture::{PictureError, draw_cache};
pub use quantity::{bytes, duration, hours, significant};
pub use say::{log_to_stderr, note_line, printable, say_line};
pub use tensors::tensor_table;
