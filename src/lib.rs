//! Training surface-EMG to joint-angle models on stock ONNX Runtime, from shared memory-mapped caches.
//!
//! The modules are layers; each uses only those listed after it:
//!
//! | layer | what it does |
//! |---|---|
//! | [`report`] | progress bars and metrics files; listens to [`train`]'s events |
//! | [`train`] | the loop: epochs, schedules, early stopping, checkpoints, resume, evaluation, export |
//! | [`step`] | composes model, loss, backward pass and optimizer into one ONNX graph |
//! | [`runtime`] | finds and loads ONNX Runtime, sessions, bound buffers (the only place with `ort`) |
//! | [`model`] | architectures, as builders of forward graphs |
//! | [`graph`] | ONNX graphs: operators, shape inference, autodiff, protobuf |
//! | [`dataset`] | splits, window index, shuffled order, batches ahead of the step |
//! | [`metrics`] | online accumulators and their offline references |
//! | [`cache`] | keys, store layout, build, publish, open, verify (the only place with mmap) |
//! | [`recording`] | HDF5 in and out (the only place with `hdf5`) |
//! | [`config`] | the YAML schema, presets, validation |

pub mod cache;
pub mod config;
pub mod dataset;
mod digest;
pub mod files;
pub mod graph;
pub mod metrics;
pub mod model;
pub mod ports;
pub mod predict;
pub mod random;
pub mod recording;
pub mod report;
pub mod runtime;
pub mod startup;
pub mod statistics;
pub mod step;
pub mod train;
pub mod units;
