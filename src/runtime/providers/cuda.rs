//! CUDA: buffers on the device, two of each that changes, batches copied from page-locked memory while the step before
//! them runs, and the whole step captured as one CUDA graph for each of the two sets.

use std::fmt;
use std::path::Path;

use cudarc::driver::{result, sys};
use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{CUDA, ExecutionProvider};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{IoBinding, NoSelectedOutputs, RunOptions, Session};
use ort::value::DynTensor;

use super::super::device::{Device, Event, Locked, driver};
use super::super::error::RuntimeError;
use super::super::kernels::{self, Module, NoKernels};
use super::super::library::Library;
use super::super::memory::{ALLOCATING, Bound, Buffers, Memory, Place, Use, new_tensor};
use super::Backend;
use crate::config::{Precision, TrainingConfig};
use crate::graph::{Kernels, region_programs};
use crate::ports::{Element, Port, StepPorts, Values};

/// How sessions on CUDA compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Whether float32 products may be rounded to TF32.
    tf32: bool,
    /// Whether convolutions compute in float16.
    half: bool,
    /// Most bytes that a session may take.
    memory_limit: Option<usize>,
    /// Whether this project's own kernels are there, too.
    fused: bool,
    /// Whether batches come through page-locked memory.
    locked: bool,
}

/// Whether the loaded library has CUDA.
pub(super) fn is_built_in() -> bool {
    CUDA::is_available().unwrap_or(false)
}

/// Why there is no CUDA here, if there is none.
pub(super) fn missing(library: &Library) -> Option<String> {
    if !is_built_in() {
        Some(format!("{} is built without CUDA; run `pip install onnxruntime-gpu==1.31.*`", library.path.display()))
    } else if !Path::new("/dev/nvidiactl").exists() {
        Some("there is no NVIDIA driver on this machine (/dev/nvidiactl)".to_owned())
    } else {
        None
    }
}

/// Loads CUDA's and cuDNN's libraries from the packages that pip has put beside the library, as its Python package does:
/// the loader would not look there. What is not there is left to the loader.
fn preload(library: &Library) {
    let Some(packages) = library.path.parent().and_then(|capi| capi.parent()?.parent()) else { return };
    let names = ort::ep::cuda::CUDA_DYLIBS.iter().chain(&["libcudnn.so.9"]);
    for name in names {
        let folders = ["nvidia/cu13/lib", "nvidia/cudnn/lib"].map(|folder| packages.join(folder).join(name));
        for path in folders.iter().filter(|path| path.exists()) {
            if let Err(error) = ort::util::preload_dylib(path) {
                tracing::warn!("{}: {error}", path.display());
            }
        }
    }
}

/// Whether the fused operators have kernels here.
fn has_own_kernels() -> bool {
    kernels_of_device().is_some_and(|kernels| kernels.is_ok())
}

/// The compiled kernels, or why there are none; `None` without a device, which the session that needs it reports.
fn kernels_of_device() -> Option<Result<&'static Module, &'static NoKernels>> {
    // Compiling asks the driver, which must be there, with a context that is current.
    Device::shared().and_then(Device::enter).ok()?;
    Some(Module::shared())
}

impl Settings {
    /// For training as configured, with the libraries beside `library`.
    pub(super) fn new(library: &Library, training: &TrainingConfig) -> Self {
        preload(library);
        Self {
            tf32: training.precision != Precision::Fp32,
            half: training.precision == Precision::Fp16,
            memory_limit: training.device_memory_limit,
            fused: training.cuda_kernels && has_own_kernels(),
            locked: training.pin_memory,
        }
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self { half: true, .. } => "CUDA (float16)",
            Self { tf32: true, .. } => "CUDA (TF32)",
            Self { tf32: false, .. } => "CUDA (float32)",
        })
    }
}

impl Backend for Settings {
    fn kernels(&self) -> Kernels {
        if self.fused { Kernels::Cuda } else { Kernels::Standard }
    }

    /// Without ONNX Runtime's own optimizer, which would get in the way of capture. Steps are captured as CUDA graphs, on
    /// the device's stream; a node that would not run on the device is an error.
    fn configure(&self, builder: SessionBuilder, steps: Option<&[u8]>) -> Result<SessionBuilder, RuntimeError> {
        let doing = "creating a session";
        let mut builder =
            builder.with_optimization_level(GraphOptimizationLevel::Disable).map_err(RuntimeError::ort(doing))?;
        // Trying all algorithms takes seconds; but what cuDNN guesses for float16 it sometimes cannot do.
        let search = if self.half { ConvAlgorithmSearch::Exhaustive } else { ConvAlgorithmSearch::Heuristic };
        let mut cuda = CUDA::default().with_tf32(self.tf32).with_conv_algorithm_search(search);
        if let Some(limit) = self.memory_limit {
            cuda = cuda.with_memory_limit(limit);
        }
        if let Some(onnx) = steps {
            let device = Device::shared()?;
            if self.fused
                && let Some(Ok(module)) = kernels_of_device()
            {
                let fused =
                    kernels::on_cuda(module, &region_programs(onnx), self.tf32).map_err(RuntimeError::ort(doing))?;
                builder = builder.with_operators(fused).map_err(RuntimeError::ort(doing))?;
            }
            // SAFETY: the stream lasts as long as the process.
            cuda = unsafe { cuda.with_compute_stream(device.compute.cast()) }.with_cuda_graph(true);
        }
        let cuda = cuda.build().error_on_failure();
        builder.with_execution_providers([cuda]).map_err(|error| RuntimeError::NoCuda {
            reason: format!("the CUDA provider does not start: {}", error.message()),
        })
    }

    fn bind(&self, session: &Session, ports: &StepPorts) -> Result<Box<dyn Buffers>, RuntimeError> {
        Ok(Box::new(Bound::new(DeviceMemory::new(session, self.locked)?, session, ports)?))
    }

    fn free_memory(&self) -> Result<Option<u64>, RuntimeError> {
        let free = Device::shared()?.free_memory()?;
        Ok(Some(self.memory_limit.map_or(free, |limit| free.min(limit as u64))))
    }

    fn missing_kernels(&self) -> Option<String> {
        if self.fused { None } else { kernels_of_device()?.err().map(ToString::to_string) }
    }

    fn has_own_memory(&self) -> bool {
        true
    }
}

/// Page-locked memory of the element type of a port.
enum Mirror {
    F32(Locked<f32>),
    I64(Locked<i64>),
}

/// A device tensor, with its page-locked counterpart where it has one: results and controls always do.
struct Mirrored {
    device: DynTensor,
    elements: usize,
    host: Option<Mirror>,
}

impl Mirrored {
    fn address(&self) -> sys::CUdeviceptr {
        self.device.data_ptr() as sys::CUdeviceptr
    }

    /// Starts copying `values` to the device, by way of page-locked memory if there is some: of ordinary memory the driver
    /// has taken a copy when it returns.
    fn send(&mut self, values: Values<'_>, stream: sys::CUstream) -> Result<(), RuntimeError> {
        let address = self.address();
        let sent = match (values, &mut self.host) {
            (Values::F32(values), None) => copy_to(address, self.elements, values, stream),
            (Values::I64(values), None) => copy_to(address, self.elements, values, stream),
            (Values::F32(values), Some(Mirror::F32(host))) => {
                host.as_mut().copy_from_slice(values);
                copy_to(address, self.elements, host.as_ref(), stream)
            }
            (Values::I64(values), Some(Mirror::I64(host))) => {
                host.as_mut().copy_from_slice(values);
                copy_to(address, self.elements, host.as_ref(), stream)
            }
            _ => unreachable!("values fit their port"),
        };
        sent.map_err(driver("copying to the device"))
    }
}

fn copy_to<T>(
    address: sys::CUdeviceptr,
    elements: usize,
    values: &[T],
    stream: sys::CUstream,
) -> Result<(), result::DriverError> {
    assert_eq!(values.len(), elements);
    // SAFETY: both sides have as many elements; page-locked memory lives until the stream was waited for.
    unsafe { result::memcpy_htod_async(address, values, stream) }
}

/// The device's memory, and how steps are run again.
struct DeviceMemory {
    device: &'static Device,
    allocator: Allocator,
    locked: bool,
    /// For each set: its batch is on the device.
    loaded: [Event; 2],
    /// For each set: how its first run goes, which ends with the captured graph, and how that is run again.
    options: [[RunOptions<NoSelectedOutputs>; 2]; 2],
    captured: [bool; 2],
}

impl DeviceMemory {
    fn new(session: &Session, locked: bool) -> Result<Self, RuntimeError> {
        let doing = ALLOCATING;
        let device = Device::shared()?;
        device.enter()?;
        let info = MemoryInfo::new(AllocationDevice::CUDA, 0, AllocatorType::Device, MemoryType::Default);
        let info = info.map_err(RuntimeError::ort(doing))?;
        let allocator = Allocator::new(session, info).map_err(RuntimeError::ort(doing))?;
        // One captured graph for each set of addresses. Its first run is two, a plain one and the captured one, and must
        // wait for the device between them: what the plain one frees only then would be allocated anew, which ends a
        // capture. Later the stream is waited for when results are read.
        let options = |id: &str, waits: bool| -> Result<_, ort::Error> {
            let mut options = RunOptions::new()?;
            options.set("gpu_graph_id", id)?;
            if !waits {
                options.disable_device_sync()?;
            }
            Ok(options)
        };
        let both = |id: &str| -> Result<_, RuntimeError> {
            let [first, later] = [true, false].map(|waits| options(id, waits).map_err(RuntimeError::ort(doing)));
            Ok([first?, later?])
        };
        let (loaded, options) = ([Event::new()?, Event::new()?], [both("1")?, both("2")?]);
        Ok(Self { device, allocator, locked, loaded, options, captured: [false; 2] })
    }
}

impl Memory for DeviceMemory {
    type Buffer = Mirrored;

    const SETS: usize = 2;

    fn allocate(&self, _: &Session, port: &Port, purpose: Use) -> Result<Mirrored, RuntimeError> {
        let elements = port.elements();
        let locked = match purpose {
            Use::State | Use::Table => false,
            Use::Batch => self.locked,
            Use::Control | Use::Result => true,
        };
        let device = new_tensor(&self.allocator, port)?;
        let mirror = || {
            Ok(match port.element {
                Element::F32 => Mirror::F32(Locked::new(elements)?),
                Element::I64 => Mirror::I64(Locked::new(elements)?),
            })
        };
        Ok(Mirrored { device, elements, host: locked.then(mirror).transpose()? })
    }

    fn tensor(buffer: &mut Mirrored) -> &mut DynTensor {
        &mut buffer.device
    }

    fn write(&self, buffer: &mut Mirrored, first: usize, values: &[f32]) -> Result<(), RuntimeError> {
        assert!(first.checked_add(values.len()).is_some_and(|end| end <= buffer.elements));
        self.device.enter()?;
        self.device.write(buffer.address() + (first * size_of::<f32>()) as sys::CUdeviceptr, values)
    }

    fn read(&self, buffer: &Mirrored) -> Result<Vec<f32>, RuntimeError> {
        self.device.enter()?;
        let mut values = vec![0.0f32; buffer.elements];
        // SAFETY: the tensor has as many elements.
        unsafe { result::memcpy_dtoh_sync(&mut values, buffer.address()) }
            .map_err(driver("copying from the device"))?;
        Ok(values)
    }

    fn place(buffer: &Mirrored) -> Place<'_> {
        Place::Device(buffer.address(), buffer.elements)
    }

    fn copy(&self, from: Place<'_>, to: &mut Mirrored) -> Result<(), RuntimeError> {
        let Place::Device(address, elements) = from else { unreachable!("buffers of one provider") };
        assert_eq!(elements, to.elements);
        self.device.enter()?;
        let (stream, bytes) = (self.device.compute, elements * size_of::<f32>());
        // SAFETY: both tensors have as many elements, and live until the copy was waited for.
        unsafe { result::memcpy_dtod_async(to.address(), address, bytes, stream) }
            .map_err(driver("copying on the device"))?;
        self.device.finish(stream)
    }

    fn load(&self, buffer: &mut Mirrored, values: Values<'_>) -> Result<(), RuntimeError> {
        self.device.enter()?;
        buffer.send(values, self.device.copies)
    }

    fn loaded(&self, set: usize) -> Result<(), RuntimeError> {
        self.device.enter()?;
        // SAFETY: both live.
        unsafe { result::event::record(self.loaded[set].0, self.device.copies) }
            .map_err(driver("copying to the device"))
    }

    fn await_batch(&self, set: usize) -> Result<(), RuntimeError> {
        self.device.enter()?;
        let (stream, flags) = (self.device.compute, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT);
        // SAFETY: both live.
        unsafe { result::stream::wait_event(stream, self.loaded[set].0, flags) }.map_err(driver("running a step"))
    }

    fn control(&self, buffer: &mut Mirrored, values: Values<'_>) -> Result<(), RuntimeError> {
        buffer.send(values, self.device.compute)
    }

    fn run(&mut self, session: &mut Session, binding: &IoBinding, set: usize, _: bool) -> Result<(), RuntimeError> {
        let options = &self.options[set][usize::from(self.captured[set])];
        let outputs = session.run_binding_with_options(binding, options);
        drop(outputs.map_err(RuntimeError::ort("running a step"))?);
        self.captured[set] = true;
        Ok(())
    }

    fn fetch(&self, buffer: &mut Mirrored) -> Result<(), RuntimeError> {
        let address = buffer.address();
        let Some(Mirror::F32(host)) = &mut buffer.host else { unreachable!("results are float32, page-locked") };
        // SAFETY: as in `copy_to`.
        unsafe { result::memcpy_dtoh_async(host.as_mut(), address, self.device.compute) }
            .map_err(driver("copying from the device"))
    }

    fn wait(&self) -> Result<(), RuntimeError> {
        self.device.enter()?;
        self.device.finish(self.device.compute)
    }

    fn settle(&self) {
        let _ = self.device.enter();
        let _ = self.device.finish(self.device.compute);
        let _ = self.device.finish(self.device.copies);
    }

    fn fetched(buffer: &Mirrored) -> &[f32] {
        let Some(Mirror::F32(host)) = &buffer.host else { unreachable!("results are float32, page-locked") };
        host.as_ref()
    }
}
