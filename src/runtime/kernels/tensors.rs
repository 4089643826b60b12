//! What custom operators ask of ONNX Runtime: types and addresses of tensors, and on CUDA the device's memory and stream.

use cudarc::driver::sys;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::operator::{ComputeContext, ShapeInferenceContext};
use ort::value::{DynTensorValueType, Shape, SymbolicDimensions, TensorElementType, ValueType};

use crate::graph::{DType, TensorType};

const TYPES: [(DType, TensorElementType); 5] = [
    (DType::F32, TensorElementType::Float32),
    (DType::F16, TensorElementType::Float16),
    (DType::BF16, TensorElementType::Bfloat16),
    (DType::I64, TensorElementType::Int64),
    (DType::Bool, TensorElementType::Bool),
];

/// A tensor's type, if the graph has such and all its sizes are known.
pub(super) fn tensor_type(ty: &ValueType) -> Option<TensorType> {
    let ValueType::Tensor { ty, shape, .. } = ty else { return None };
    let (dtype, _) = TYPES.into_iter().find(|(_, element)| element == ty)?;
    let shape = shape.iter().map(|dim| usize::try_from(*dim).ok()).collect::<Option<Vec<_>>>()?;
    Some(TensorType::new(dtype, shape))
}

/// Whether a tensor is of that type and shape.
pub(super) fn is(ty: &ValueType, dtype: DType, shape: &[usize]) -> bool {
    let ValueType::Tensor { ty, shape: given, .. } = ty else { return false };
    TYPES.contains(&(dtype, *ty))
        && given.len() == shape.len()
        && given.iter().zip(shape).all(|(dim, expected)| *dim == *expected as i64)
}

/// Sets the type of output `i`.
pub(super) fn infer_output(context: &mut ShapeInferenceContext, i: usize, ty: &TensorType) -> ort::Result<()> {
    let element = TYPES.into_iter().find(|(dtype, _)| *dtype == ty.dtype).map(|(_, element)| element);
    let element = element.ok_or_else(|| ort::Error::new(format!("output {i} of {ty}")))?;
    let shape = Shape::new(ty.shape.iter().map(|dim| *dim as i64));
    let dimension_symbols = SymbolicDimensions::empty(shape.len());
    context.set_output(i, &ValueType::Tensor { ty: element, shape, dimension_symbols })
}

/// The address of output `i`, of this shape; `None`: nobody takes it.
pub(super) fn output_address(context: &ComputeContext, i: usize, shape: &[usize]) -> ort::Result<Option<u64>> {
    let shape: Vec<_> = shape.iter().map(|dim| *dim as i64).collect();
    let value = context.output(i, shape)?;
    value.map(|value| Ok(value.downcast::<DynTensorValueType>()?.data_ptr() as u64)).transpose()
}

/// The device's memory. What is given back while kernels that use it are in the stream is taken next behind them.
pub(super) fn device_memory(context: &ComputeContext) -> ort::Result<Allocator> {
    let info = MemoryInfo::new(AllocationDevice::CUDA, 0, AllocatorType::Device, MemoryType::Default)?;
    context.allocator(&info)
}

/// The stream that the operator's kernels go into.
pub(super) fn stream(context: &ComputeContext) -> ort::Result<sys::CUstream> {
    Ok(context.stream()?.map_or(std::ptr::null_mut(), |stream| stream.as_ptr().cast()))
}
