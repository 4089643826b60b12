//! Kernels of the fused operators (`graph::FUSED_DOMAIN`) for the CPU, and of some for CUDA, as custom operators of ONNX
//! Runtime.
//!
//! The arithmetic lies in safe functions over slices; work is cut into pieces whose number depends on shapes alone,
//! and sums over pieces are taken in order, so results do not depend on the number of threads.

mod adam;
mod batch_norm;
mod conv;
mod cuda;
mod cudnn;
mod depthwise;
mod elementwise;
mod frames;
mod last_conv;
mod launch;
mod layer_norm;
mod lstm;
mod mask;
mod operator;
mod pool;
mod product;
mod recurrence;
mod region;
mod softmax;
mod standardize;
mod table;
mod tensors;
mod transpose;

pub(super) use cuda::{Module, NoKernels};
pub(super) use table::{on_cpu, on_cuda};
