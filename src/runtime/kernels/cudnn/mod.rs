//! cuDNN, which ONNX Runtime's CUDA provider loads anyway: convolutions and their gradients as operators, through its
//! graph API (NVIDIA cuDNN developer guide, "Graph API").

mod convolution;
mod descriptor;

pub(super) use convolution::{NAMES, OnCuda};
