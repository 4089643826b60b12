//! Fused operators on CUDA: cuda.cu, compiled by NVIDIA's run-time compiler (NVRTC) for the device at hand.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::OnceLock;

use cudarc::driver::{result, sys};
use cudarc::nvrtc;
use ort::operator::{
    BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext,
};
use ort::value::{DynTensorValueType, ValueType};

use super::super::error::KERNEL_LIMIT;
use super::cudnn;
use super::launch::{BLOCK, Launch, Room};
use super::operator::{Fused, FusedNode, inputs, refused};
use super::tensors::{device_memory, output_address, stream};
use crate::graph::fused_on_cuda;

/// What other texts use.
pub(super) const PRELUDE: &str = include_str!("prelude.cu");
/// Name of the texts of regions.
pub(super) const REGIONS: &str = "regions.cu";
const SOURCE: &str = concat!(include_str!("prelude.cu"), include_str!("cuda.cu"), include_str!("depthwise.cu"));
/// The compiled kernels, by name.
pub(in super::super) struct Module(HashMap<&'static str, sys::CUfunction>);

// SAFETY: handles of code that is never unloaded.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

/// Why there are no kernels of our own.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum NoKernels {
    #[error("NVRTC (libnvrtc.so.13) was not found; run `pip install nvidia-cuda-nvrtc`")]
    NoNvrtc,
    #[error("NVRTC: {0}")]
    Nvrtc(String),
    #[error("NVRTC {}.{} (expected: 13) cannot compile for {architecture}: {error} {log}", version[0], version[1])]
    Compile { version: [i32; 2], architecture: String, error: String, log: String },
    #[error("{0}")]
    Driver(String),
}

impl Module {
    /// The kernels for the first device, whose context is current; compiled once in a process.
    ///
    /// # Errors
    /// Why there are none: no NVRTC, or a device that it does not know.
    pub(in super::super) fn shared() -> Result<&'static Self, &'static NoKernels> {
        static SHARED: OnceLock<Result<Module, NoKernels>> = OnceLock::new();
        SHARED.get_or_init(Self::new).as_ref()
    }

    fn new() -> Result<Self, NoKernels> {
        let found = functions(&compile(SOURCE, "cuda.cu", &architecture()?)?, &ENTRIES)?;
        Ok(Self(ENTRIES.into_iter().map(|name| (name, found[name])).collect()))
    }

    /// A kernel.
    pub(super) fn function(&self, name: &str) -> ort::Result<sys::CUfunction> {
        self.0.get(name).copied().ok_or_else(|| ort::Error::new(format!("there is no kernel {name}")))
    }
}

/// The first device's, such as `sm_90`; its context is current.
pub(super) fn architecture() -> Result<String, NoKernels> {
    let text = |error: result::DriverError| NoKernels::Driver(format!("{error:?}"));
    let device = result::device::get(0).map_err(text)?;
    // SAFETY: the device was just found.
    let capability = |attribute| unsafe { result::device::get_attribute(device, attribute) }.map_err(text);
    let major = capability(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = capability(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok(format!("sm_{major}{minor}"))
}

/// Loads machine code, and finds these kernels in it.
pub(super) fn functions(binary: &[u8], names: &[&str]) -> Result<HashMap<String, sys::CUfunction>, NoKernels> {
    let text = |error: result::DriverError| NoKernels::Driver(format!("{error:?}"));
    // SAFETY: a whole binary for this device; the caller has made a context current.
    let module = unsafe { result::module::load_data(binary.as_ptr().cast()) }.map_err(text)?;
    let function = |name: &&str| {
        let symbol = CString::new(*name).expect("no zero byte");
        // SAFETY: the module was just loaded, and is never unloaded.
        let function = unsafe { result::module::get_function(module, symbol) };
        function
            .map(|function| ((*name).to_owned(), function))
            .map_err(|error| NoKernels::Driver(format!("{name}: {error:?}")))
    };
    names.iter().map(function).collect()
}

/// The kernels of cuda.cu and depthwise.cu.
pub(super) const ENTRIES: [&str; 21] = [
    "depthwise_bfloat16",
    "depthwise_float16",
    "depthwise_float32",
    "depthwise_input_gradient_bfloat16",
    "depthwise_input_gradient_float16",
    "depthwise_input_gradient_float32",
    "depthwise_weight_parts_bfloat16",
    "depthwise_weight_parts_float16",
    "depthwise_weight_parts_float32",
    "depthwise_weight_sum_bfloat16",
    "depthwise_weight_sum_float16",
    "depthwise_weight_sum_float32",
    "lstm_cell",
    "lstm_cell_gradient",
    "recurrence",
    "recurrence_clear",
    "recurrence_gradient",
    "recurrence_gradient_clear",
    "recurrence_together",
    "recurrence_together_gradient",
    "recurrence_weights",
];

/// Machine code for an architecture such as `sm_90`.
pub(super) fn compile(source: &str, name: &str, architecture: &str) -> Result<Vec<u8>, NoKernels> {
    // SAFETY: asks for the library's presence only; calling into a missing one would panic.
    if !unsafe { nvrtc::sys::is_culib_present() } {
        return Err(NoKernels::NoNvrtc);
    }
    let text = |error: nvrtc::result::NvrtcError| NoKernels::Nvrtc(error.to_string());
    // What two regions compute alike must be equal, as the comparisons of extremes' gradients expect: there, products and
    // sums are not joined as the compiler likes.
    let joined = format!("--fmad={}", name != REGIONS);
    let (source, name) = (CString::new(source).expect("no zero byte"), CString::new(name).expect("no zero byte"));
    let program = nvrtc::result::create_program(&source, Some(&name)).map_err(text)?;
    let options = [format!("--gpu-architecture={architecture}"), joined];
    // SAFETY: the program was just made, lives until the end, and is asked for its binary only once it is compiled.
    unsafe {
        let compiled = nvrtc::result::compile_program(program, &options).map_err(|error| {
            let log = nvrtc::result::get_program_log(program).unwrap_or_default();
            let log: Vec<_> = log.into_iter().map(|byte| byte as u8).collect();
            let (mut major, mut minor) = (0, 0);
            let _ = nvrtc::sys::nvrtcVersion(&raw mut major, &raw mut minor);
            let log = String::from_utf8_lossy(&log).into_owned();
            let architecture = architecture.to_owned();
            NoKernels::Compile { version: [major, minor], architecture, error: error.to_string(), log }
        });
        let binary = compiled.and_then(|()| {
            let mut size = 0;
            nvrtc::sys::nvrtcGetCUBINSize(program, &raw mut size).result().map_err(text)?;
            let mut binary = vec![0u8; size];
            nvrtc::sys::nvrtcGetCUBIN(program, binary.as_mut_ptr().cast()).result().map_err(text)?;
            Ok(binary)
        });
        nvrtc::result::destroy_program(program).map_err(text)?;
        binary
    }
}

/// A fused operator on CUDA.
#[derive(Clone, Copy)]
pub(super) struct OnCuda {
    fused: Fused,
    module: &'static Module,
}

impl OnCuda {
    /// `None` where it has no kernel.
    pub(super) fn new(fused: Fused, module: &'static Module) -> Option<Self> {
        let has_kernel = fused_on_cuda().any(|name| name == fused.name && !cudnn::NAMES.contains(&name));
        has_kernel.then_some(Self { fused, module })
    }
}

impl Operator for OnCuda {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        self.fused.name
    }

    fn execution_provider_type(&self) -> Option<&str> {
        Some("CUDAExecutionProvider")
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        self.fused.input_ports()
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        self.fused.output_ports()
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
        let (module, node) = (self.module, self.fused.node(context)?);
        Ok(Box::new(move |context: &ComputeContext| {
            run(module, &node, context).map_err(|error| ort::Error::new(format!("{}: {error}", node.fused.name)))
        }))
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        self.fused.infer(context)
    }
}

/// What the first device has room for; nothing where that is not known.
fn room() -> Room {
    static ROOM: OnceLock<Room> = OnceLock::new();
    *ROOM.get_or_init(|| {
        use sys::CUdevice_attribute as Attribute;
        let of_device = |attribute| {
            let value = result::device::get(0).and_then(|device| {
                // SAFETY: the device was just found.
                unsafe { result::device::get_attribute(device, attribute) }
            });
            value.map_or(0, |value| value.max(0) as usize)
        };
        Room {
            processors: of_device(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT),
            shared: of_device(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN),
        }
    })
}

fn run(module: &Module, node: &FusedNode, context: &ComputeContext) -> ort::Result<()> {
    let fused = node.fused;
    let (mut shapes, mut arrays) = (Vec::new(), Vec::new());
    for value in inputs(fused, context)? {
        let ValueType::Tensor { shape, .. } = value.dtype() else {
            return Err(ort::Error::new("a value that is no tensor"));
        };
        shapes.push(shape.iter().map(|dim| *dim as usize).collect::<Vec<_>>());
        arrays.push(value.downcast::<DynTensorValueType>()?.data_ptr() as u64);
    }
    arrays.resize(fused.inputs + fused.more_inputs, 0);
    for (i, shape) in node.shapes(&shapes).map_err(refused)?.into_iter().enumerate() {
        arrays.push(output_address(context, i, &shape)?.unwrap_or(0));
    }
    // The kernels count in 32 bits, and some have four elements of an array for one of another.
    let elements = |shape: &[usize]| shape.iter().try_fold(4, |n: u32, dim| n.checked_mul(u32::try_from(*dim).ok()?));
    if shapes.iter().any(|shape| elements(shape).is_none_or(|n| n == 0)) {
        return Err(ort::Error::new(format!("{shapes:?}: empty, or {KERNEL_LIMIT}")));
    }
    let launch = node.kernel.launch(&shapes, room()).ok_or_else(|| ort::Error::new("it has no kernel for CUDA"))?;
    let Launch { kernels, mut numbers, scratch, together } = launch;
    let allocator = device_memory(context)?;
    let mut scratch = (scratch > 0).then(|| allocator.alloc::<f32>(scratch)).transpose()?;
    arrays.extend(scratch.as_mut().map(|block| block.as_mut_ptr() as u64));
    let stream = stream(context)?;
    let arrays = arrays.iter_mut().map(|array| std::ptr::from_mut(array).cast::<c_void>());
    let mut arguments: Vec<_> = arrays.chain(numbers.iter_mut().map(|n| std::ptr::from_mut(n).cast())).collect();
    let count = kernels.len();
    for (number, (entry, [x, y])) in kernels.into_iter().enumerate() {
        if x > i32::MAX as usize || y > 65_535 {
            return Err(ort::Error::new(format!("a grid of {x} x {y} blocks is too large")));
        }
        let (grid, block) = ((x as u32, y as u32, 1), (BLOCK as u32, 1, 1));
        let kernel = module.function(entry)?;
        let failed = |error: result::DriverError| ort::Error::new(format!("{entry}: {error:?}"));
        // SAFETY: the arguments are those of the kernel, each of its size: arrays of the shapes that the launch was made
        // for, or null, and numbers. The driver reads them before it returns. Blocks that wait for each other are started
        // only if all are there at once.
        unsafe {
            match together.filter(|_| number + 1 == count) {
                Some(bytes) => {
                    let most = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                    result::function::set_function_attribute(kernel, most, bytes as i32).map_err(failed)?;
                    result::launch_cooperative_kernel(kernel, grid, block, bytes as u32, stream, &mut arguments)
                }
                None => result::launch_kernel(kernel, grid, block, 0, stream, &mut arguments),
            }
        }
        .map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Attributes;
    use crate::runtime::kernels::table::OPERATORS;

    /// NVRTC needs no GPU: `scripts/setup --test` has brought it.
    #[test]
    fn the_kernels_compile_for_all_architectures_of_cuda_13() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/.tools/nvrtc/nvidia/cu13/lib/libnvrtc.so.13");
        ort::util::preload_dylib(folder).unwrap();
        let mut count = 0;
        // SAFETY: asks for a number, then for as many.
        let architectures = unsafe {
            nvrtc::sys::nvrtcGetNumSupportedArchs(&raw mut count).result().unwrap();
            let mut list = vec![0; count as usize];
            nvrtc::sys::nvrtcGetSupportedArchs(list.as_mut_ptr()).result().unwrap();
            list
        };
        assert!(architectures.contains(&90), "{architectures:?}");
        for architecture in architectures.into_iter().map(|number| format!("sm_{number}")) {
            let binary = compile(SOURCE, "cuda.cu", &architecture).unwrap();
            for entry in ENTRIES {
                let symbol = format!("\0.text.{entry}\0");
                assert!(binary.windows(symbol.len()).any(|bytes| bytes == symbol.as_bytes()), "{architecture} {entry}");
            }
        }
        let refusal = compile(SOURCE, "cuda.cu", "sm_1").unwrap_err().to_string();
        assert!(refusal.contains("sm_1"), "{refusal}");
    }

    /// The parameters of a kernel in the source.
    fn parameters(entry: &str) -> Vec<String> {
        let between = |text: &str, from: &str, to: &str| -> String {
            let start = text.find(from).unwrap_or_else(|| panic!("no {from}")) + from.len();
            text[start..start + text[start..].find(to).unwrap()].replace('\\', " ")
        };
        let mut list = between(SOURCE, &format!("__global__ void {entry}("), ")");
        // Parameters that kernels share are a macro, up to a line that does not go on.
        if list.chars().all(|c| c.is_ascii_uppercase() || c == '_') {
            let start = SOURCE.find(&format!("#define {list} ")).unwrap();
            let lines = SOURCE[start..].lines();
            let macro_lines = lines.clone().take_while(|line| line.ends_with('\\')).count() + 1;
            let text: Vec<_> = lines.take(macro_lines).collect();
            list = text.join(" ").replace(&format!("#define {list} "), "").replace('\\', " ");
        }
        list.split(',').map(|one| one.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    /// What the driver is given is what each kernel takes: arrays in the order of the operator's inputs and outputs,
    /// scratch, numbers.
    #[test]
    fn launches_have_the_arguments_of_their_kernels() {
        let rows = vec![6, 40];
        let shapes = |name: &str| match name {
            "LstmCell" => vec![vec![6, 160], rows.clone(), vec![160], vec![6, 160]],
            "LstmCellGradient" => {
                vec![rows.clone(), rows.clone(), vec![6, 120], rows.clone(), rows.clone(), rows.clone()]
            }
            "Recurrence" => vec![vec![3, 6, 160], vec![160, 40], rows.clone(), rows.clone()],
            "RecurrenceGradient" => {
                let (state, over_time) = (rows.clone(), |width| vec![3, 6, width]);
                let [dy, kept, states] = [40, 240, 40].map(over_time);
                vec![dy, state.clone(), state.clone(), vec![160, 40], kept, states, state.clone(), state]
            }
            _ => vec![rows.clone(), rows.clone()],
        };
        for fused in OPERATORS {
            let node = FusedNode::new(fused, Attributes::new()).unwrap();
            for processors in [0, 132] {
                let room = Room { processors, shared: 96 << 10 };
                let Some(launch) = node.kernel.launch(&shapes(fused.name), room) else { continue };
                let Launch { kernels, numbers, scratch, .. } = launch;
                let arrays = fused.inputs + fused.more_inputs + fused.outputs + usize::from(scratch > 0);
                for (entry, grid) in kernels {
                    let parameters = parameters(entry);
                    assert!(ENTRIES.contains(&entry) && grid.iter().all(|blocks| *blocks > 0), "{entry}");
                    assert_eq!(parameters.len(), arrays + numbers.len(), "{entry}: {parameters:?}");
                    for (i, parameter) in parameters.iter().enumerate() {
                        let kind = match i {
                            _ if i < fused.inputs + fused.more_inputs => "const float *",
                            _ if i < arrays => "float *",
                            _ => "unsigned ",
                        };
                        assert!(parameter.starts_with(kind), "{entry}: {parameter}, expected {kind}");
                    }
                }
            }
        }
        // The third part of the gates is one row for all, the fourth has rows of its own.
        let cell = OPERATORS.into_iter().find(|fused| fused.name == "LstmCell").unwrap();
        let node = FusedNode::new(cell, Attributes::new()).unwrap();
        assert_eq!(
            node.kernel.launch(&shapes("LstmCell"), Room { processors: 0, shared: 0 }).unwrap().numbers,
            [40, 0, 160]
        );
    }

    #[test]
    fn the_operators_that_graphs_may_use_are_those_with_a_kernel() {
        let shapes = vec![vec![4, 8, 8]; 8];
        let launches = |fused: &Fused| {
            let attributes = fused.read(|_| Some(1), |_| Some(vec![1, 0]), |_| Some(1.0));
            let node = FusedNode::new(*fused, attributes).unwrap();
            node.kernel.launch(&shapes, Room { processors: 0, shared: 0 }).is_some()
        };
        let mut with_kernel: Vec<_> = OPERATORS.iter().filter(|f| launches(f)).map(|f| f.name).collect();
        with_kernel.sort_unstable();
        let mut used: Vec<_> =
            fused_on_cuda().filter(|name| !cudnn::NAMES.contains(name) && *name != crate::graph::REGION).collect();
        used.sort_unstable();
        assert_eq!(with_kernel, used);
    }
}
