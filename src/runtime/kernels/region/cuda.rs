//! Regions on CUDA: the texts of all that a session has, compiled at once.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{result, sys};
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::operator::{
    BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext,
};
use ort::value::DynTensorValueType;

use super::super::cuda::{NoKernels, compiled, functions};
use super::source::{PRELUDE, Source, Start, source};
use super::{check, infer, inputs, outputs, program};
use crate::graph::{Program, REGION};

/// A region's kernels, ready to be started.
struct Loaded {
    starts: Vec<(Start, sys::CUfunction)>,
    scratch: usize,
}

/// The kernels of a session's regions, by their programs' texts.
#[derive(Default)]
pub(in super::super) struct Regions(HashMap<String, Loaded>);

// SAFETY: handles of code that is never unloaded.
unsafe impl Send for Regions {}
// SAFETY: as above.
unsafe impl Sync for Regions {}

/// The text of all regions, and each one's starts.
fn texts(programs: &[String]) -> Result<(String, Vec<(String, Source)>), NoKernels> {
    let mut whole = PRELUDE.to_owned();
    let mut sources = Vec::new();
    for text in programs {
        let program = Program::from_text(text).map_err(|error| NoKernels::Driver(error.to_string()))?;
        let name = format!("region_{}", &blake3::hash(text.as_bytes()).to_hex()[..16]);
        let source = source(&program, &name);
        whole.push_str(&source.text);
        sources.push((text.clone(), source));
    }
    Ok((whole, sources))
}

impl Regions {
    /// Compiles the regions of a session for the device at hand, whose context is current.
    ///
    /// # Errors
    /// NVRTC's or the driver's.
    pub(in super::super) fn new(programs: &[String]) -> Result<Self, NoKernels> {
        if programs.is_empty() {
            return Ok(Self::default());
        }
        let (text, sources) = texts(programs)?;
        let names: Vec<_> = sources.iter().flat_map(|(_, source)| &source.starts).map(|start| &*start.entry).collect();
        let mut found = functions(&compiled(&text, "regions.cu")?, &names)?;
        let loaded = sources.into_iter().map(|(text, source)| {
            let starts = source.starts.into_iter().map(|start| {
                let function = found.remove(&start.entry).expect("asked for");
                (start, function)
            });
            (text, Loaded { starts: starts.collect(), scratch: source.scratch })
        });
        Ok(Self(loaded.collect()))
    }
}

/// Regions on CUDA.
pub(in super::super) struct OnCuda(pub(in super::super) Arc<Regions>);

impl Operator for OnCuda {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        REGION
    }

    fn execution_provider_type(&self) -> Option<&str> {
        Some("CUDAExecutionProvider")
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        inputs()
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        outputs()
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
        let (text, program) = program(context)?;
        let regions = Arc::clone(&self.0);
        if !regions.0.contains_key(&text) {
            return Err(ort::Error::new("a region that was not compiled"));
        }
        Ok(Box::new(move |context: &ComputeContext| {
            run(&program, &regions.0[&text], context).map_err(|error| ort::Error::new(format!("{REGION}: {error}")))
        }))
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        infer(context)
    }
}

fn run(program: &Program, region: &Loaded, context: &ComputeContext) -> ort::Result<()> {
    let mut arrays = Vec::with_capacity(program.inputs.len() + program.outputs.len() + 1);
    for i in 0..program.inputs.len() {
        let value = context.input(i)?.ok_or_else(|| ort::Error::new(format!("input {i} is missing")))?;
        check(program, i, value.dtype())?;
        arrays.push(value.downcast::<DynTensorValueType>()?.data_ptr() as u64);
    }
    for (i, ty) in program.output_types().into_iter().enumerate() {
        let shape: Vec<_> = ty.shape.iter().map(|dim| *dim as i64).collect();
        let value = context.output(i, shape)?.ok_or_else(|| ort::Error::new(format!("output {i} is left out")))?;
        arrays.push(value.downcast::<DynTensorValueType>()?.data_ptr() as u64);
    }
    let info = MemoryInfo::new(AllocationDevice::CUDA, 0, AllocatorType::Device, MemoryType::Default)?;
    let allocator = context.allocator(&info)?;
    // Given back at the end, when the kernels are in the stream: what takes it next comes after them.
    let mut scratch = (region.scratch > 0).then(|| allocator.alloc::<f32>(region.scratch)).transpose()?;
    arrays.push(scratch.as_mut().map_or(0, |block| block.as_mut_ptr() as u64));
    let stream = context.stream()?.map_or(std::ptr::null_mut(), |stream| stream.as_ptr());
    let mut arguments: Vec<_> = arrays.iter_mut().map(|array| std::ptr::from_mut(array).cast::<c_void>()).collect();
    for (start, function) in &region.starts {
        let grid = (start.blocks[0] as u32, start.blocks[1] as u32, 1);
        // SAFETY: the arguments are those that the text was written with: arrays of the program's types and sizes, which
        // were checked. The driver reads them before it returns.
        unsafe {
            result::launch_kernel(*function, grid, (start.threads as u32, 1, 1), 0, stream.cast(), &mut arguments)
        }
        .map_err(|error| ort::Error::new(format!("{}: {error:?}", start.entry)))?;
    }
    Ok(())
}
