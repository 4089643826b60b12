//! Regions on CUDA: the texts of all that a session has, compiled at once.

use std::collections::{BTreeMap, HashMap};
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{result, sys};
use ort::operator::{
    BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext,
};
use ort::value::DynTensorValueType;

use super::super::cuda::{NoKernels, PRELUDE, REGIONS, architecture, compile, functions};
use super::super::tensors::{device_memory, output_address, stream};
use super::source::{Source, Start, source};
use super::{check, infer, inputs, outputs, program};
use crate::graph::{DType, Operation, Program, REGION};

/// A region's kernels, ready to be started.
struct Loaded {
    starts: Vec<(Start, sys::CUfunction)>,
    scratch: usize,
    /// Bytes after which each input begins.
    shifts: Vec<u64>,
}

/// The kernels of a session's regions, by their programs' texts.
#[derive(Default)]
pub(in super::super) struct Regions(HashMap<String, Loaded>);

// SAFETY: handles of code that is never unloaded.
unsafe impl Send for Regions {}
// SAFETY: as above.
unsafe impl Sync for Regions {}

/// A program whose inputs begin where it first reads them, and after how many bytes that is: parts of one vector, such as
/// casts of parameters, then share their kernels.
fn shifted(mut program: Program) -> (Program, Vec<u64>) {
    // What four neighbours are read from stays at a multiple of four.
    const NEIGHBOURS: usize = 4;
    let mut first = vec![usize::MAX; program.inputs.len()];
    for step in &program.steps {
        if let Operation::Load { input, offset, .. } = &step.operation {
            first[*input] = first[*input].min(offset / NEIGHBOURS * NEIGHBOURS);
        }
    }
    for step in &mut program.steps {
        if let Operation::Load { input, offset, .. } = &mut step.operation {
            *offset -= first[*input];
        }
    }
    let bytes = |dtype: DType| match dtype {
        DType::I64 => 8,
        DType::F32 => 4,
        DType::F16 | DType::BF16 => 2,
        DType::Bool => 1,
    };
    let used = |first: usize| if first == usize::MAX { 0 } else { first as u64 };
    let shifts = program.inputs.iter().zip(first).map(|((dtype, _), first)| used(first) * bytes(*dtype)).collect();
    (program, shifts)
}

/// A program's text by its own name, which equal texts share.
fn named(program: &Program) -> Source {
    let text = source(program, "region").text;
    source(program, &format!("region_{}", &blake3::hash(text.as_bytes()).to_hex()[..16]))
}

/// Machine code, and the kernels in it.
type Compiled = (Vec<u8>, Vec<String>);

/// Compiles different texts, some of them at once.
fn compile_all(sources: &[&Source]) -> Result<Vec<Compiled>, NoKernels> {
    /// Texts that are worth a thread.
    const FEW: usize = 6;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(sources.len().div_ceil(FEW)).max(1);
    let architecture = &architecture()?;
    let chunk = |sources: &[&Source]| {
        let texts: String = sources.iter().map(|source| source.text.as_str()).collect();
        let names = sources.iter().flat_map(|source| &source.starts).map(|start| start.entry.clone()).collect();
        Ok((compile(&format!("{PRELUDE}{texts}"), REGIONS, architecture)?, names))
    };
    std::thread::scope(|scope| {
        let chunks = sources.chunks(sources.len().div_ceil(threads).max(1));
        let running: Vec<_> = chunks.map(|sources| scope.spawn(move || chunk(sources))).collect();
        running.into_iter().map(|thread| thread.join().expect("compiling does not panic")).collect()
    })
}

impl Regions {
    /// Compiles the regions of a session for the device at hand, whose context is current.
    ///
    /// # Errors
    /// NVRTC's or the driver's.
    pub(in super::super) fn new(programs: &[String]) -> Result<Self, NoKernels> {
        let mut sources = Vec::with_capacity(programs.len());
        for text in programs {
            let program = Program::from_text(text).map_err(|error| NoKernels::Driver(error.to_string()))?;
            let (program, shifts) = shifted(program);
            sources.push((text.clone(), named(&program), shifts));
        }
        let different: BTreeMap<_, _> = sources.iter().map(|(_, source, _)| (&source.text, source)).collect();
        let mut found = HashMap::new();
        for (binary, names) in compile_all(&different.into_values().collect::<Vec<_>>())? {
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            found.extend(functions(&binary, &names)?);
        }
        let loaded = sources.into_iter().map(|(text, source, shifts)| {
            let starts = source.starts.into_iter().map(|start| {
                let function = found.get(&start.entry).copied();
                function.map(|function| (start, function)).ok_or_else(|| NoKernels::Driver("a kernel is lost".into()))
            });
            let starts = starts.collect::<Result<_, _>>()?;
            Ok((text, Loaded { starts, scratch: source.scratch, shifts }))
        });
        loaded.collect::<Result<_, _>>().map(Self)
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
        arrays.push(value.downcast::<DynTensorValueType>()?.data_ptr() as u64 + region.shifts[i]);
    }
    for (i, output) in program.outputs.iter().enumerate() {
        let address = output_address(context, i, &output.shape)?;
        arrays.push(address.ok_or_else(|| ort::Error::new(format!("output {i} is left out")))?);
    }
    let allocator = device_memory(context)?;
    let mut scratch = (region.scratch > 0).then(|| allocator.alloc::<f32>(region.scratch)).transpose()?;
    arrays.push(scratch.as_mut().map_or(0, |block| block.as_mut_ptr() as u64));
    let stream = stream(context)?;
    let mut arguments: Vec<_> = arrays.iter_mut().map(|array| std::ptr::from_mut(array).cast::<c_void>()).collect();
    for (start, function) in &region.starts {
        let grid = (start.blocks[0] as u32, start.blocks[1] as u32, 1);
        // SAFETY: the arguments are those that the text was written with: arrays of the program's types and sizes, which
        // were checked. The driver reads them before it returns.
        unsafe { result::launch_kernel(*function, grid, (start.threads as u32, 1, 1), 0, stream, &mut arguments) }
            .map_err(|error| ort::Error::new(format!("{}: {error:?}", start.entry)))?;
    }
    Ok(())
}
