//! The fused operators.

use std::sync::Arc;

use ort::operator::OperatorDomain;

use super::cuda::{Module, OnCuda};
use super::last_conv::{LastConv, Wanted};
use super::operator::{Attributes, Fused, Kernel, Kind, OnCpu};
use super::region::{self, Regions};
use super::{
    adam, batch_norm, conv, cudnn, elementwise, frames, layer_norm, lstm, mask, pool, recurrence, softmax, standardize,
    transpose,
};
use crate::graph::FUSED_DOMAIN;

const RECURRENCE: &[(&str, Kind)] = &[("kind", Kind::Int), ("reverse", Kind::Int)];
const WINDOWS: &[(&str, Kind)] = &[
    ("kernel_shape", Kind::Ints),
    ("strides", Kind::Ints),
    ("dilations", Kind::Ints),
    ("pads", Kind::Ints),
    ("group", Kind::Int),
    ("sizes", Kind::Ints),
];
const EPSILON: &[(&str, Kind)] = &[("epsilon", Kind::Float)];

pub(super) const OPERATORS: [Fused; 23] = [
    fused("LayerNorm", EPSILON, [3, 3], |a| Box::new(layer_norm::LayerNorm::new(a))),
    fused("LayerNormGradient", &[], [5, 3], |_| Box::new(layer_norm::LayerNormGradient)),
    fused("Standardize", EPSILON, [1, 2], |a| Box::new(standardize::Standardize::new(a))),
    fused("StandardizeGradient", &[], [3, 1], |_| Box::new(standardize::StandardizeGradient)),
    fused("SoftmaxGradient", &[("axis", Kind::Int)], [2, 1], |_| Box::new(softmax::SoftmaxGradient)),
    fused("ReluGradient", &[("slope", Kind::Float)], [2, 1], |a| Box::new(elementwise::ReluGradient::new(a))),
    fused("BatchTranspose", &[("perm", Kind::Ints)], [1, 1], |a| Box::new(transpose::BatchTranspose::new(a))),
    fused("LastConv", WINDOWS, [2, 1], |a| Box::new(LastConv::new(Wanted::Output, a))),
    fused("LastConvInputGradient", WINDOWS, [2, 1], |a| Box::new(LastConv::new(Wanted::Input, a))),
    fused("LastConvWeightGradient", WINDOWS, [2, 1], |a| Box::new(LastConv::new(Wanted::Weight, a))),
    Fused { more_inputs: 1, ..fused("Convolution", WINDOWS, [2, 1], |a| Box::new(conv::Convolution::new(a))) },
    fused("ConvolutionInputGradient", WINDOWS, [2, 1], |a| Box::new(conv::InputGradient::new(a))),
    fused("ConvolutionWeightGradient", WINDOWS, [2, 1], |a| Box::new(conv::WeightGradient::new(a))),
    fused("BatchNorm", EPSILON, [3, 3], |a| Box::new(batch_norm::BatchNorm::new(a))),
    fused("BatchNormGradient", EPSILON, [5, 3], |a| Box::new(batch_norm::BatchNormGradient::new(a))),
    Fused { more_inputs: 1, ..fused("Recurrence", RECURRENCE, [3, 4], |a| Box::new(recurrence::Recurrence::new(a))) },
    fused("RecurrenceGradient", RECURRENCE, [8, 4], |a| Box::new(recurrence::RecurrenceGradient::new(a))),
    Fused { more_inputs: 2, ..fused("LstmCell", &[], [2, 5], |_| Box::new(lstm::Cell)) },
    Fused { more_inputs: 1, ..fused("LstmCellGradient", &[], [6, 2], |_| Box::new(lstm::CellGradient)) },
    fused(
        "AdamUpdate",
        &[
            ("keep1", Kind::Float),
            ("keep2", Kind::Float),
            ("take1", Kind::Float),
            ("take2", Kind::Float),
            ("epsilon", Kind::Float),
            ("decoupled", Kind::Int),
        ],
        [8, 3],
        |a| Box::new(adam::Adam::new(a)),
    ),
    fused(
        "MaxPoolGradient",
        &[("kernel_shape", Kind::Ints), ("strides", Kind::Ints), ("dilations", Kind::Ints), ("pads", Kind::Ints)],
        [3, 1],
        |a| Box::new(pool::MaxPoolGradient::new(a)),
    ),
    Fused {
        takes_integers: true,
        ..fused(
            "DropoutMask",
            &[("modulus", Kind::Int), ("threshold", Kind::Int), ("scale", Kind::Float)],
            [3, 1],
            |a| Box::new(mask::Mask::new(a)),
        )
    },
    fused("Frames", &[("advance", Kind::Int), ("length", Kind::Int), ("count", Kind::Int)], [1, 1], |a| {
        Box::new(frames::Frames::new(a))
    }),
];

/// From so many float32 inputs to so many outputs.
const fn fused(
    name: &'static str,
    attributes: &'static [(&'static str, Kind)],
    [inputs, outputs]: [usize; 2],
    kernel: fn(&Attributes) -> Box<dyn Kernel>,
) -> Fused {
    Fused { name, attributes, inputs, more_inputs: 0, takes_integers: false, outputs, kernel }
}

/// All of them, on the CPU.
pub(in super::super) fn on_cpu() -> ort::Result<Arc<OperatorDomain>> {
    let domain = OperatorDomain::new(FUSED_DOMAIN)?;
    let domain = OPERATORS.into_iter().map(OnCpu).try_fold(domain, OperatorDomain::add)?;
    domain.add(region::OnCpu).map(Arc::new)
}

/// Those with a kernel in `module`, and regions of these programs.
///
/// `tf32`: whether convolutions may round float32 to it.
pub(in super::super) fn on_cuda(
    module: &'static Module,
    programs: &[String],
    tf32: bool,
) -> ort::Result<Arc<OperatorDomain>> {
    let regions = Regions::new(programs).map_err(|error| ort::Error::new(error.to_string()))?;
    let domain = OperatorDomain::new(FUSED_DOMAIN)?;
    let mut operators = OPERATORS.into_iter().filter_map(|fused| OnCuda::new(fused, module));
    let domain = operators.try_fold(domain, OperatorDomain::add)?;
    let convolutions = OPERATORS.into_iter().filter(|fused| cudnn::NAMES.contains(&fused.name));
    let domain =
        convolutions.map(|fused| cudnn::OnCuda { fused, module, tf32 }).try_fold(domain, OperatorDomain::add)?;
    domain.add(region::OnCuda(Arc::new(regions))).map(Arc::new)
}
