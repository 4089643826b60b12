//! The fused operators.

use std::sync::Arc;

use ort::operator::OperatorDomain;

use super::cuda::{Module, OnCuda};
use super::operator::{Fused, OnCpu};
use super::{adam, batch_norm, elementwise, frames, layer_norm, lstm, mask, pool, transpose};
use crate::graph::FUSED_DOMAIN;

pub(super) const OPERATORS: [Fused; 12] = [
    Fused {
        name: "LayerNorm",
        inputs: 3,
        more_inputs: 0,
        takes_integers: false,
        outputs: 3,
        shapes: layer_norm::forward_shapes,
        compute: layer_norm::forward,
        launch: None,
    },
    Fused {
        name: "LayerNormGradient",
        inputs: 5,
        more_inputs: 0,
        takes_integers: false,
        outputs: 3,
        shapes: layer_norm::gradient_shapes,
        compute: layer_norm::gradient,
        launch: Some(layer_norm::launch_gradient),
    },
    Fused {
        name: "ReluGradient",
        inputs: 2,
        more_inputs: 0,
        takes_integers: false,
        outputs: 1,
        shapes: elementwise::shapes,
        compute: elementwise::relu_gradient,
        launch: Some(elementwise::launch),
    },
    Fused {
        name: "BatchTranspose",
        inputs: 1,
        more_inputs: 0,
        takes_integers: false,
        outputs: 1,
        shapes: transpose::shapes,
        compute: transpose::batch_transpose,
        launch: None,
    },
    Fused {
        name: "BatchNorm",
        inputs: 3,
        more_inputs: 0,
        takes_integers: false,
        outputs: 3,
        shapes: batch_norm::forward_shapes,
        compute: batch_norm::forward,
        launch: None,
    },
    Fused {
        name: "BatchNormGradient",
        inputs: 5,
        more_inputs: 0,
        takes_integers: false,
        outputs: 3,
        shapes: batch_norm::gradient_shapes,
        compute: batch_norm::gradient,
        launch: None,
    },
    Fused {
        name: "LstmCell",
        inputs: 2,
        more_inputs: 2,
        takes_integers: false,
        outputs: 5,
        shapes: lstm::shapes,
        compute: lstm::forward,
        launch: Some(lstm::launch),
    },
    Fused {
        name: "LstmCellGradient",
        inputs: 6,
        more_inputs: 1,
        takes_integers: false,
        outputs: 2,
        shapes: lstm::gradient_shapes,
        compute: lstm::gradient,
        launch: Some(lstm::launch_gradient),
    },
    Fused {
        name: "AdamUpdate",
        inputs: 8,
        more_inputs: 0,
        takes_integers: false,
        outputs: 3,
        shapes: adam::shapes,
        compute: adam::update,
        launch: None,
    },
    Fused {
        name: "MaxPoolGradient",
        inputs: 3,
        more_inputs: 0,
        takes_integers: false,
        outputs: 1,
        shapes: pool::shapes,
        compute: pool::max_pool_gradient,
        launch: None,
    },
    Fused {
        name: "DropoutMask",
        inputs: 3,
        more_inputs: 0,
        takes_integers: true,
        outputs: 1,
        shapes: mask::shapes,
        compute: mask::mask,
        launch: None,
    },
    Fused {
        name: "Frames",
        inputs: 1,
        more_inputs: 0,
        takes_integers: false,
        outputs: 1,
        shapes: frames::shapes,
        compute: frames::frames,
        launch: None,
    },
];

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
