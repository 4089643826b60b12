//! CPU kernels of the fused operators (`graph::FUSED_DOMAIN`), as custom operators of ONNX Runtime.
//!
//! The arithmetic lies in safe functions over slices; work is cut into pieces whose number depends on shapes alone,
//! and sums over pieces are taken in order, so results do not depend on the number of threads.

mod adam;
mod batch_norm;
mod elementwise;
mod frames;
mod layer_norm;
mod lstm;
mod mask;
mod operator;
mod pool;
mod transpose;

pub(super) use operator::domain;
