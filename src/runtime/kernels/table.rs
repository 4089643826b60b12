//! The fused operators.

use std::sync::Arc;

use ort::operator::OperatorDomain;

use super::cuda::{Module, OnCuda};
use super::operator::{Compute, Fused, OnCpu, Shapes};
use super::{adam, batch_norm, elementwise, frames, layer_norm, lstm, mask, pool, transpose};
use crate::graph::FUSED_DOMAIN;

pub(super) const OPERATORS: [Fused; 12] = [
    fused("LayerNorm", [3, 3], layer_norm::forward_shapes, layer_norm::forward),
    Fused {
        launch: Some(layer_norm::launch_gradient),
        ..fused("LayerNormGradient", [5, 3], layer_norm::gradient_shapes, layer_norm::gradient)
    },
    Fused {
        launch: Some(elementwise::launch),
        ..fused("ReluGradient", [2, 1], elementwise::shapes, elementwise::relu_gradient)
    },
    fused("BatchTranspose", [1, 1], transpose::shapes, transpose::batch_transpose),
    fused("BatchNorm", [3, 3], batch_norm::forward_shapes, batch_norm::forward),
    fused("BatchNormGradient", [5, 3], batch_norm::gradient_shapes, batch_norm::gradient),
    Fused { more_inputs: 2, launch: Some(lstm::launch), ..fused("LstmCell", [2, 5], lstm::shapes, lstm::forward) },
    Fused {
        more_inputs: 1,
        launch: Some(lstm::launch_gradient),
        ..fused("LstmCellGradient", [6, 2], lstm::gradient_shapes, lstm::gradient)
    },
    fused("AdamUpdate", [8, 3], adam::shapes, adam::update),
    fused("MaxPoolGradient", [3, 1], pool::shapes, pool::max_pool_gradient),
    Fused { takes_integers: true, ..fused("DropoutMask", [3, 1], mask::shapes, mask::mask) },
    fused("Frames", [1, 1], frames::shapes, frames::frames),
];

/// On the CPU only, from so many float32 inputs to so many outputs.
const fn fused(name: &'static str, [inputs, outputs]: [usize; 2], shapes: Shapes, compute: Compute) -> Fused {
    Fused { name, inputs, more_inputs: 0, takes_integers: false, outputs, shapes, compute, launch: None }
}

/// All of them, on the CPU.
pub(in super::super) fn on_cpu() -> ort::Result<Arc<OperatorDomain>> {
    let domain = OperatorDomain::new(FUSED_DOMAIN)?;
    OPERATORS.into_iter().map(OnCpu).try_fold(domain, OperatorDomain::add).map(Arc::new)
}

/// Those with a kernel in `module`.
pub(in super::super) fn on_cuda(module: &'static Module) -> ort::Result<Arc<OperatorDomain>> {
    let domain = OperatorDomain::new(FUSED_DOMAIN)?;
    let mut operators = OPERATORS.into_iter().filter_map(|fused| OnCuda::new(fused, module));
    operators.try_fold(domain, OperatorDomain::add).map(Arc::new)
}
