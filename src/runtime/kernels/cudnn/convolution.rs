//! Convolutions and their gradients. cuDNN offers several ways for each; the first run of a node tries the likely ones on
//! its own arrays, before its step is captured, and the fastest is kept for all nodes of the same sizes.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cudarc::cudnn::sys;
use cudarc::driver::{result, sys as driver};
use ort::memory::Allocator;
use ort::operator::{
    BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext,
};
use ort::value::DynTensorValueType;

use super::super::cuda::Module;
use super::super::depthwise::Depthwise;
use super::super::last_conv::Wanted;
use super::super::operator::{Attributes, Fused, refused};
use super::super::tensors::{device_memory, infer_output, output_address, stream, tensor_type};
use super::descriptor::{Descriptor, Handle, Kind, Name, Type};
use crate::graph::{DType, TensorType, find_operator, fused_shapes, row_major};

/// The operators.
pub(in super::super) const NAMES: [&str; 3] = ["LastConv", "LastConvInputGradient", "LastConvWeightGradient"];

/// Ways that are tried.
const TRIED: usize = 10;
/// Bytes that a way may need beside its arrays.
const MOST_WORKSPACE: usize = 1 << 30;
/// Runs that a way's time is taken of, after one that is not counted.
const RUNS: u32 = 3;

/// All that decides which way is fastest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Problem {
    wanted: Wanted,
    dtype: DType,
    /// Whether float32 may be rounded to TF32.
    tf32: bool,
    input: Vec<i64>,
    weight: Vec<i64>,
    output: Vec<i64>,
    pads: Vec<i64>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
}

/// A way, ready to be run.
struct Plan {
    plan: Descriptor,
    workspace: usize,
}

const INPUT: i64 = 1;
const WEIGHT: i64 = 2;
const OUTPUT: i64 = 3;

fn data_type(dtype: DType) -> sys::cudnnDataType_t {
    match dtype {
        DType::F16 => sys::cudnnDataType_t::CUDNN_DATA_HALF,
        DType::BF16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
        _ => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
    }
}

impl Problem {
    fn new(wanted: Wanted, tf32: bool, types: [&TensorType; 3], attributes: &Attributes) -> Self {
        let axes = types[0].rank() - 2;
        // Over one axis as over two, the first of one element.
        let lines = axes == 1;
        let dims = |ty: &TensorType| -> Vec<i64> {
            let mut dims: Vec<_> = ty.shape.iter().map(|dim| *dim as i64).collect();
            if lines {
                dims.insert(1, 1);
            }
            dims
        };
        let along = |name: &str, default: i64, first: i64| -> Vec<i64> {
            let mut values = attributes.ints(name, &vec![default; 2 * axes]);
            values.truncate(axes);
            if lines {
                values.insert(0, first);
            }
            values
        };
        let [input, weight, output] = types.map(dims);
        Self {
            wanted,
            dtype: types[0].dtype,
            tf32,
            input,
            weight,
            output,
            pads: along("pads", 0, 0),
            strides: along("strides", 1, 1),
            dilations: along("dilations", 1, 1),
        }
    }

    fn tensor(&self, id: i64, dims: &[i64]) -> ort::Result<Descriptor> {
        // Named with the channels second, wherever they lie.
        let second = |list: &[i64]| [&list[..1], &list[list.len() - 1..], &list[1..list.len() - 1]].concat();
        let sizes: Vec<_> = dims.iter().map(|dim| *dim as usize).collect();
        let strides: Vec<_> = row_major(&sizes).into_iter().map(|stride| stride as i64).collect();
        let (dims, strides) = (second(dims), second(&strides));
        Descriptor::new(Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?
            .set(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, Type::CUDNN_TYPE_DATA_TYPE, &[data_type(self.dtype)])?
            .set(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, Type::CUDNN_TYPE_INT64, &dims)?
            .set(Name::CUDNN_ATTR_TENSOR_STRIDES, Type::CUDNN_TYPE_INT64, &strides)?
            .set(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, Type::CUDNN_TYPE_INT64, &[id])?
            .set(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, Type::CUDNN_TYPE_INT64, &[16i64])?
            .finish()
    }

    fn convolution(&self) -> ort::Result<Descriptor> {
        let (float, mode) =
            (sys::cudnnDataType_t::CUDNN_DATA_FLOAT, sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION);
        Descriptor::new(Kind::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?
            .set(Name::CUDNN_ATTR_CONVOLUTION_COMP_TYPE, Type::CUDNN_TYPE_DATA_TYPE, &[float])?
            .set(Name::CUDNN_ATTR_CONVOLUTION_CONV_MODE, Type::CUDNN_TYPE_CONVOLUTION_MODE, &[mode])?
            .set(Name::CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, Type::CUDNN_TYPE_INT64, &[self.pads.len() as i64])?
            .set(Name::CUDNN_ATTR_CONVOLUTION_DILATIONS, Type::CUDNN_TYPE_INT64, &self.dilations)?
            .set(Name::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, Type::CUDNN_TYPE_INT64, &self.strides)?
            .set(Name::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, Type::CUDNN_TYPE_INT64, &self.pads)?
            .set(Name::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, Type::CUDNN_TYPE_INT64, &self.pads)?
            .finish()
    }

    /// The convolution, or a gradient of it, as a graph of one operation.
    fn graph(&self, handle: &Handle) -> ort::Result<Descriptor> {
        let (input, weight, output) =
            (self.tensor(INPUT, &self.input)?, self.tensor(WEIGHT, &self.weight)?, self.tensor(OUTPUT, &self.output)?);
        let convolution = self.convolution()?;
        let (kind, [of_convolution, of_input, of_weight, of_output, alpha, beta]) = match self.wanted {
            Wanted::Output => (
                Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
                [
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
                ],
            ),
            Wanted::Input => (
                Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
                [
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
                ],
            ),
            Wanted::Weight => (
                Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
                [
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
                ],
            ),
        };
        let operation = Descriptor::new(kind)?
            .set(of_convolution, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &[convolution.0])?
            .set(of_input, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &[input.0])?
            .set(of_weight, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &[weight.0])?
            .set(of_output, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &[output.0])?
            .set(alpha, Type::CUDNN_TYPE_FLOAT, &[1.0f32])?
            .set(beta, Type::CUDNN_TYPE_FLOAT, &[0.0f32])?
            .finish()?;
        Descriptor::new(Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?
            .set(Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, Type::CUDNN_TYPE_HANDLE, &[handle.0])?
            .set(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &[operation.0])?
            .finish()
    }

    /// Ways that cuDNN offers, the likely ones first.
    fn offered(&self, graph: &Descriptor) -> ort::Result<Vec<Descriptor>> {
        let mut offered = Vec::new();
        for mode in
            [sys::cudnnBackendHeurMode_t::CUDNN_HEUR_MODE_A, sys::cudnnBackendHeurMode_t::CUDNN_HEUR_MODE_FALLBACK]
        {
            let found = Descriptor::new(Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?
                .set(Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &[graph.0])?
                .set(Name::CUDNN_ATTR_ENGINEHEUR_MODE, Type::CUDNN_TYPE_HEUR_MODE, &[mode])?
                .finish()
                .and_then(|found| {
                    let kind = Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR;
                    found.children(Name::CUDNN_ATTR_ENGINEHEUR_RESULTS, kind, 64)
                });
            // A mode may know none for a problem.
            offered.extend(found.unwrap_or_default());
        }
        Ok(offered)
    }

    /// Whether a way keeps to the precision that was asked for.
    fn is_precise(&self, way: &Descriptor) -> bool {
        use sys::cudnnBackendNumericalNote_t as Note;
        if self.tf32 || self.dtype != DType::F32 {
            return true;
        }
        let kind = Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR;
        let Ok(engines) = way.children(Name::CUDNN_ATTR_ENGINECFG_ENGINE, kind, 1) else { return false };
        let lossy = [Note::CUDNN_NUMERICAL_NOTE_TENSOR_CORE, Note::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS];
        engines.iter().all(|engine| {
            let ty = Type::CUDNN_TYPE_NUMERICAL_NOTE;
            let notes = engine.get(Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, ty, lossy[0], 16);
            notes.is_ok_and(|notes| !notes.iter().any(|note| lossy.contains(note)))
        })
    }

    /// The likely ways that this device can run.
    fn plans(&self, handle: &Handle) -> ort::Result<Vec<Plan>> {
        let graph = self.graph(handle)?;
        let ways = self.offered(&graph)?;
        let plans = ways.iter().filter(|way| self.is_precise(way)).filter_map(|way| {
            let plan = Descriptor::new(Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)
                .and_then(|plan| plan.set(Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, Type::CUDNN_TYPE_HANDLE, &[handle.0]))
                .and_then(|plan| {
                    let ty = Type::CUDNN_TYPE_BACKEND_DESCRIPTOR;
                    plan.set(Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, ty, &[way.0])
                })
                .and_then(Descriptor::finish)
                .ok()?;
            let size =
                plan.get(Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, Type::CUDNN_TYPE_INT64, 0i64, 1).ok()?;
            let workspace = usize::try_from(*size.first()?).ok()?;
            (workspace <= MOST_WORKSPACE).then_some(Plan { plan, workspace })
        });
        Ok(plans.take(TRIED).collect())
    }
}

impl Plan {
    fn run(&self, handle: &Handle, [input, weight, output]: [*mut c_void; 3], space: *mut c_void) -> ort::Result<()> {
        let pack = Descriptor::new(Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?
            .set(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, Type::CUDNN_TYPE_INT64, &[INPUT, WEIGHT, OUTPUT])?
            .set(Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, Type::CUDNN_TYPE_VOID_PTR, &[input, weight, output])?
            .set(Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, Type::CUDNN_TYPE_VOID_PTR, &[space])?
            .finish()?;
        handle.execute(&self.plan, &pack)
    }

    /// Milliseconds of a run.
    fn time(
        &self,
        handle: &Handle,
        arrays: [*mut c_void; 3],
        allocator: &Allocator,
        stream: driver::CUstream,
    ) -> ort::Result<f32> {
        let failed = |error: result::DriverError| ort::Error::new(format!("timing a convolution: {error:?}"));
        let mut space = (self.workspace > 0).then(|| allocator.alloc::<u8>(self.workspace)).transpose()?;
        let space = space.as_mut().map_or(std::ptr::null_mut(), |space| space.as_mut_ptr().cast());
        self.run(handle, arrays, space)?;
        let event = || result::event::create(driver::CUevent_flags::CU_EVENT_DEFAULT).map_err(failed);
        let (start, end) = (event()?, event()?);
        // SAFETY: events and stream live.
        unsafe {
            result::event::record(start, stream).map_err(failed)?;
            for _ in 0..RUNS {
                self.run(handle, arrays, space)?;
            }
            result::event::record(end, stream).map_err(failed)?;
            result::stream::synchronize(stream).map_err(failed)?;
            let time = result::event::elapsed(start, end).map_err(failed);
            let _ = result::event::destroy(start);
            let _ = result::event::destroy(end);
            time
        }
    }
}

/// The fastest way for each problem that was met.
fn chosen(
    problem: &Problem,
    handle: &Handle,
    arrays: [*mut c_void; 3],
    allocator: &Allocator,
    stream: driver::CUstream,
) -> ort::Result<Arc<Plan>> {
    static CHOSEN: OnceLock<Mutex<HashMap<Problem, Arc<Plan>>>> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(Mutex::default);
    if let Some(plan) = chosen.lock().unwrap_or_else(PoisonError::into_inner).get(problem) {
        return Ok(Arc::clone(plan));
    }
    let mut best: Option<(f32, Plan)> = None;
    for plan in problem.plans(handle)? {
        // What the device lacks memory for, or cannot do after all, is not taken.
        let Ok(time) = plan.time(handle, arrays, allocator, stream) else { continue };
        if best.as_ref().is_none_or(|(least, _)| time < *least) {
            best = Some((time, plan));
        }
    }
    let (time, plan) = best.ok_or_else(|| ort::Error::new(format!("cuDNN has no way to compute {problem:?}")))?;
    tracing::debug!("{problem:?}: {:.3} ms, workspace {} bytes", time / RUNS as f32, plan.workspace);
    let plan = Arc::new(plan);
    chosen.lock().unwrap_or_else(PoisonError::into_inner).insert(problem.clone(), Arc::clone(&plan));
    Ok(plan)
}

/// One of the operators on CUDA.
pub(in super::super) struct OnCuda {
    pub(in super::super) fused: Fused,
    pub(in super::super) module: &'static Module,
    pub(in super::super) tf32: bool,
}

impl OnCuda {
    fn wanted(&self) -> Wanted {
        match self.fused.name {
            "LastConvInputGradient" => Wanted::Input,
            "LastConvWeightGradient" => Wanted::Weight,
            _ => Wanted::Output,
        }
    }
}

/// The output's type, by the graph's rule.
fn output_type(name: &str, inputs: &[TensorType], attributes: &Attributes) -> ort::Result<TensorType> {
    let operator = find_operator(name).ok_or_else(|| ort::Error::new(format!("{name} is not in the table")))?;
    let shape = fused_shapes(operator, inputs, attributes).map_err(refused)?.swap_remove(0);
    Ok(TensorType::new(inputs[0].dtype, shape))
}

impl Operator for OnCuda {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        self.fused.name
    }

    fn execution_provider_type(&self) -> Option<&str> {
        Some("CUDAExecutionProvider")
    }

    /// Of one type that is not fixed: two inputs alike.
    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::variadic(2)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::variadic(1)]
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
        let attributes = self.fused.read(|name| context.get(name), |name| context.get(name), |name| context.get(name));
        let (name, wanted, tf32, module) = (self.fused.name, self.wanted(), self.tf32, self.module);
        // The way, once the first run has chosen it.
        let ready = Ready::new();
        Ok(Box::new(move |context: &ComputeContext| {
            run(&Asked { name, wanted, tf32, module, attributes: &attributes }, &ready, context)
                .map_err(|error| ort::Error::new(format!("{name}: {error}")))
        }))
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        let attributes = self.fused.read(
            |name| context.attr(name).ok(),
            |name| context.attr(name).ok(),
            |name| context.attr(name).ok(),
        );
        let Some(inputs) = context.inputs().iter().map(tensor_type).collect::<Option<Vec<_>>>() else { return Ok(()) };
        let output = output_type(self.fused.name, &inputs, &attributes)?;
        infer_output(context, 0, &output)
    }
}

/// What a node asks for.
struct Asked<'a> {
    name: &'static str,
    wanted: Wanted,
    tf32: bool,
    module: &'static Module,
    attributes: &'a Attributes,
}

/// How it is computed.
enum Way {
    Cudnn(Arc<Plan>),
    Own(Depthwise),
}

/// The way that the first run chose, for the types of inputs and output.
type Ready = OnceLock<(Way, Vec<TensorType>, TensorType)>;

fn run(asked: &Asked<'_>, ready: &Ready, context: &ComputeContext) -> ort::Result<()> {
    let Asked { name, wanted, tf32, module, attributes } = *asked;
    let (mut types, mut given) = (Vec::with_capacity(2), Vec::with_capacity(2));
    for i in 0..2 {
        let value = context.input(i)?.ok_or_else(|| ort::Error::new(format!("input {i} is missing")))?;
        types.push(
            tensor_type(value.dtype())
                .filter(|ty| ty.dtype.is_float())
                .ok_or_else(|| ort::Error::new("an input that is no float tensor"))?,
        );
        given.push(value.downcast::<DynTensorValueType>()?.data_ptr().cast_mut());
    }
    if ready.get().is_some_and(|(_, known, _)| *known != types) {
        return Err(ort::Error::new(format!("inputs of other types than those of the first run: {types:?}")));
    }
    let output = match ready.get() {
        Some((.., output)) => output.clone(),
        None => output_type(name, &types, attributes)?,
    };
    let made = output_address(context, 0, &output.shape)?.ok_or_else(|| ort::Error::new("the output is left out"))?;
    let made = made as *mut c_void;
    let arrays = match wanted {
        Wanted::Output => [given[0], given[1], made],
        Wanted::Input => [made, given[1], given[0]],
        Wanted::Weight => [given[0], made, given[1]],
    };
    let (allocator, stream) = (device_memory(context)?, stream(context)?);
    if ready.get().is_none() {
        let tensors = match wanted {
            Wanted::Output => [&types[0], &types[1], &output],
            Wanted::Input => [&output, &types[1], &types[0]],
            Wanted::Weight => [&types[0], &output, &types[1]],
        };
        let way = match Depthwise::new(wanted, tensors, attributes) {
            Some(own) => Way::Own(own),
            None => {
                let problem = Problem::new(wanted, tf32, tensors, attributes);
                let handle = Handle::shared()?;
                handle.set_stream(stream.cast())?;
                Way::Cudnn(chosen(&problem, &handle, arrays, &allocator, stream)?)
            }
        };
        let _ = ready.set((way, types, output));
    }
    match ready.get() {
        Some((Way::Own(own), ..)) => own.run(module, arrays, &allocator, stream),
        Some((Way::Cudnn(plan), ..)) => {
            let handle = Handle::shared()?;
            handle.set_stream(stream.cast())?;
            let mut space = (plan.workspace > 0).then(|| allocator.alloc::<u8>(plan.workspace)).transpose()?;
            let space = space.as_mut().map_or(std::ptr::null_mut(), |space| space.as_mut_ptr().cast());
            plan.run(&handle, arrays, space)
        }
        None => unreachable!("chosen above"),
    }
}
