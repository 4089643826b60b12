//! Step graphs on CUDA: buffers on the device, two of each that changes, batches copied from page-locked memory while
//! the step before them runs, and the whole step captured as one CUDA graph for each of the two sets.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use cudarc::driver::{result, sys};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, NoSelectedOutputs, RunOptions};
use ort::value::{PrimitiveTensorElementType, Tensor as OrtTensor};

use super::error::RuntimeError;
use super::session::Session;
use super::stepper::StepperSpec;

fn driver(doing: &'static str) -> impl Fn(result::DriverError) -> RuntimeError {
    move |error| {
        let text = error.error_string().map(|text| text.to_string_lossy().into_owned());
        RuntimeError::Device { doing, message: text.unwrap_or_else(|_| format!("{error:?}")) }
    }
}

/// The device's primary context, which ONNX Runtime uses, too, with a stream for steps and one for copies.
pub(super) struct Device {
    context: sys::CUcontext,
    compute: sys::CUstream,
    copies: sys::CUstream,
}

// SAFETY: contexts, streams and events may be used from any thread that has made the context current, which every
// operation here does first.
unsafe impl Send for Device {}
// SAFETY: as above; the driver serializes what several threads put into a stream.
unsafe impl Sync for Device {}

impl Device {
    /// The device with streams that all sessions share: once a second stream has run steps, every captured step is a tenth
    /// slower.
    pub(super) fn shared() -> Result<Arc<Self>, RuntimeError> {
        static SHARED: Mutex<Weak<Device>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = shared.upgrade() {
            return Ok(device);
        }
        let device = Arc::new(Self::new()?);
        *shared = Arc::downgrade(&device);
        Ok(device)
    }

    fn new() -> Result<Self, RuntimeError> {
        let doing = "starting CUDA";
        // SAFETY: asks for the library's presence only; calling into a missing one would panic.
        if !unsafe { sys::is_culib_present() } {
            return Err(RuntimeError::Cuda { message: "there is no NVIDIA driver on this machine (libcuda)".into() });
        }
        result::init().map_err(driver(doing))?;
        let device = result::device::get(0).map_err(driver(doing))?;
        // SAFETY: the device was just found. The primary context lives as long as the process.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(driver(doing))?;
        // SAFETY: the context was just retained.
        unsafe { result::ctx::set_current(context) }.map_err(driver(doing))?;
        let stream = || result::stream::create(result::stream::StreamKind::NonBlocking).map_err(driver(doing));
        Ok(Self { context, compute: stream()?, copies: stream()? })
    }

    /// The stream that steps run on, for the session.
    pub(super) fn compute_stream(&self) -> *mut () {
        self.compute.cast()
    }

    /// Bytes of memory that nobody has taken.
    pub(super) fn free_memory(&self) -> Result<u64, RuntimeError> {
        self.enter()?;
        let (free, _) = result::mem_get_info().map_err(driver("asking for free memory"))?;
        Ok(free as u64)
    }

    /// Makes the device's context this thread's.
    pub(super) fn enter(&self) -> Result<(), RuntimeError> {
        // SAFETY: the primary context is never released.
        unsafe { result::ctx::set_current(self.context) }.map_err(driver("entering the CUDA context"))
    }

    /// Copies values to an address that has room for them, and waits until they are there: a plain copy from ordinary
    /// memory ends when the driver has a copy of its own.
    fn write(&self, address: sys::CUdeviceptr, values: &[f32]) -> Result<(), RuntimeError> {
        // SAFETY: the callers have as many elements at the address; the copy is waited for.
        unsafe { result::memcpy_htod_async(address, values, self.copies) }.map_err(driver("copying to the device"))?;
        self.finish(self.copies)
    }

    fn finish(&self, stream: sys::CUstream) -> Result<(), RuntimeError> {
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(stream) }.map_err(driver("waiting for the device"))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        for stream in [self.compute, self.copies] {
            // SAFETY: nothing uses the streams any more; sessions on them are dropped before.
            let _ = unsafe { result::stream::destroy(stream) };
        }
    }
}

/// Page-locked host memory, which the device copies from and to by itself.
struct Locked<T> {
    pointer: *mut T,
    elements: usize,
}

// SAFETY: plain memory with one owner.
unsafe impl<T: Send> Send for Locked<T> {}

impl<T: Copy + Default> Locked<T> {
    fn new(elements: usize) -> Result<Self, RuntimeError> {
        let bytes = (elements * size_of::<T>()).max(1);
        // SAFETY: a context is current.
        let pointer = unsafe { result::malloc_host(bytes, 0) }.map_err(driver("locking host memory"))?.cast::<T>();
        let mut locked = Self { pointer, elements };
        locked.as_mut().fill(T::default());
        Ok(locked)
    }

    fn as_ref(&self) -> &[T] {
        // SAFETY: `elements` were allocated, aligned to pages, and filled.
        unsafe { std::slice::from_raw_parts(self.pointer, self.elements) }
    }

    fn as_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and borrowed exclusively; every bit pattern of these number types is a value.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.elements) }
    }
}

impl<T> Drop for Locked<T> {
    fn drop(&mut self) {
        // SAFETY: allocated by malloc_host; copies that use it were waited for.
        let _ = unsafe { result::free_host(self.pointer.cast()) };
    }
}

/// A device tensor with its page-locked counterpart, which inputs can do without.
struct Mirrored<T: PrimitiveTensorElementType + std::fmt::Debug + Copy + Default> {
    device: OrtTensor<T>,
    host: Option<Locked<T>>,
}

impl<T: PrimitiveTensorElementType + std::fmt::Debug + Copy + Default> Mirrored<T> {
    fn new(allocator: &Allocator, shape: &[usize], locked: bool) -> Result<Self, RuntimeError> {
        let device = OrtTensor::new(allocator, shape).map_err(RuntimeError::ort("allocating step buffers"))?;
        let host = locked.then(|| Locked::new(shape.iter().product())).transpose()?;
        Ok(Self { device, host })
    }

    fn address(&self) -> sys::CUdeviceptr {
        self.device.data_ptr() as sys::CUdeviceptr
    }

    /// Starts copying `values` to the device.
    fn send(&mut self, values: &[T], stream: sys::CUstream) -> Result<(), RuntimeError> {
        assert_eq!(values.len(), self.device.shape().num_elements());
        let address = self.address();
        let from = match &mut self.host {
            Some(host) => {
                host.as_mut().copy_from_slice(values);
                host.as_ref()
            }
            // Of ordinary memory the driver has taken a copy when it returns.
            None => values,
        };
        // SAFETY: both sides have as many elements; page-locked memory lives until the stream was waited for.
        unsafe { result::memcpy_htod_async(address, from, stream) }.map_err(driver("copying to the device"))
    }

    /// Starts copying the device's values to the host.
    fn fetch(&mut self, stream: sys::CUstream) -> Result<(), RuntimeError> {
        let address = self.address();
        let host = self.host.as_mut().expect("results have page-locked memory");
        // SAFETY: as in `send`.
        unsafe { result::memcpy_dtoh_async(host.as_mut(), address, stream) }.map_err(driver("copying from the device"))
    }
}

/// Marks a point in a stream.
struct Event(sys::CUevent);

// SAFETY: see `Device`.
unsafe impl Send for Event {}

impl Event {
    fn new() -> Result<Self, RuntimeError> {
        result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).map(Self).map_err(driver("starting CUDA"))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: created above; streams that wait for it keep what they need.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}

/// One of the two sets of what changes from step to step.
struct Set {
    state: Vec<OrtTensor<f32>>,
    inputs: Vec<Mirrored<f32>>,
    controls: Vec<Mirrored<f32>>,
    integers: Vec<Mirrored<i64>>,
    results: Vec<Mirrored<f32>>,
    /// The inputs are on the device.
    loaded: Event,
}

/// A step graph's buffers and bindings on the device.
pub(super) struct DeviceMemory {
    sets: [Set; 2],
    /// Both sets' steps read them.
    tables: Vec<OrtTensor<f32>>,
    bindings: [IoBinding; 2],
    /// For each set: how its first run goes, which ends with the captured graph, and how that is run again.
    options: [[RunOptions<NoSelectedOutputs>; 2]; 2],
    captured: [bool; 2],
    device: Arc<Device>,
}

impl DeviceMemory {
    /// `locked`: whether batches come through page-locked memory.
    pub(super) fn new(
        session: &Session,
        spec: &StepperSpec,
        device: Arc<Device>,
        locked: bool,
    ) -> Result<Self, RuntimeError> {
        let doing = "allocating step buffers";
        device.enter()?;
        let info = MemoryInfo::new(AllocationDevice::CUDA, 0, AllocatorType::Device, MemoryType::Default);
        let info = info.map_err(RuntimeError::ort(doing))?;
        let allocator = Allocator::new(&session.inner, info).map_err(RuntimeError::ort(doing))?;
        let set = || -> Result<Set, RuntimeError> {
            let state = spec.state.iter().map(|(_, _, n)| OrtTensor::new(&allocator, [*n]));
            let floats = |list: &[(String, Vec<usize>)], locked| {
                list.iter().map(|(_, shape)| Mirrored::new(&allocator, shape, locked)).collect::<Result<Vec<_>, _>>()
            };
            Ok(Set {
                state: state.collect::<Result<_, _>>().map_err(RuntimeError::ort(doing))?,
                inputs: floats(&spec.inputs, locked)?,
                controls: floats(&spec.controls, true)?,
                integers: spec
                    .integers
                    .iter()
                    .map(|(_, shape)| Mirrored::new(&allocator, shape, true))
                    .collect::<Result<_, _>>()?,
                results: floats(&spec.results, true)?,
                loaded: Event::new()?,
            })
        };
        let mut sets = [set()?, set()?];
        let tables = spec.tables.iter().map(|(_, shape)| OrtTensor::new(&allocator, shape.as_slice()));
        let tables = tables.collect::<Result<Vec<_>, _>>().map_err(RuntimeError::ort(doing))?;
        let mut binding = |from| bind(session, spec, &mut sets, &tables, from).map_err(RuntimeError::ort(doing));
        let bindings = [binding(0)?, binding(1)?];
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
        Ok(Self { sets, tables, bindings, options: [both("1")?, both("2")?], captured: [false; 2], device })
    }

    pub(super) fn set_state(&mut self, set: usize, i: usize, values: &[f32]) -> Result<(), RuntimeError> {
        self.device.enter()?;
        let tensor = &self.sets[set].state[i];
        assert_eq!(tensor.shape().num_elements(), values.len());
        self.device.write(tensor.data_ptr() as sys::CUdeviceptr, values)
    }

    pub(super) fn write_table(&mut self, i: usize, first: usize, values: &[f32]) -> Result<(), RuntimeError> {
        self.device.enter()?;
        let address = self.tables[i].data_ptr() as sys::CUdeviceptr + (first * size_of::<f32>()) as sys::CUdeviceptr;
        self.device.write(address, values)
    }

    pub(super) fn state(&self, set: usize, i: usize, elements: usize) -> Result<Vec<f32>, RuntimeError> {
        self.device.enter()?;
        let mut values = vec![0.0; elements];
        let tensor = &self.sets[set].state[i];
        // SAFETY: as in `set_state`.
        unsafe { result::memcpy_dtoh_sync(&mut values, tensor.data_ptr() as sys::CUdeviceptr) }
            .map_err(driver("copying from the device"))?;
        Ok(values)
    }

    /// Starts copying a batch for the step that will use this set.
    pub(super) fn load(&mut self, set: usize, inputs: &[&[f32]]) -> Result<(), RuntimeError> {
        self.device.enter()?;
        let set = &mut self.sets[set];
        for (input, values) in set.inputs.iter_mut().zip(inputs) {
            input.send(values, self.device.copies)?;
        }
        // SAFETY: both live.
        unsafe { result::event::record(set.loaded.0, self.device.copies) }.map_err(driver("copying to the device"))
    }

    /// Starts the step on this set.
    pub(super) fn launch(
        &mut self,
        session: &mut Session,
        set: usize,
        controls: &[&[f32]],
        integers: &[&[i64]],
    ) -> Result<(), RuntimeError> {
        self.device.enter()?;
        let (stream, own) = (self.device.compute, &mut self.sets[set]);
        // SAFETY: both live.
        unsafe { result::stream::wait_event(stream, own.loaded.0, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT) }
            .map_err(driver("running a step"))?;
        for (control, values) in own.controls.iter_mut().zip(controls) {
            control.send(values, stream)?;
        }
        for (control, values) in own.integers.iter_mut().zip(integers) {
            control.send(values, stream)?;
        }
        let options = &self.options[set][usize::from(self.captured[set])];
        let outputs = session.inner.run_binding_with_options(&self.bindings[set], options);
        drop(outputs.map_err(RuntimeError::ort("running a step"))?);
        self.captured[set] = true;
        own.results.iter_mut().try_for_each(|result| result.fetch(stream))
    }

    /// Waits for the step on this set; gives its results.
    pub(super) fn results(&self, set: usize) -> Result<Vec<&[f32]>, RuntimeError> {
        self.device.enter()?;
        self.device.finish(self.device.compute)?;
        Ok(self.sets[set].results.iter().filter_map(|result| result.host.as_ref()).map(Locked::as_ref).collect())
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // Nothing may still be copied from or to what is freed next.
        let _ = self.device.enter();
        let _ = self.device.finish(self.device.compute);
        let _ = self.device.finish(self.device.copies);
    }
}

/// Binds the step that reads set `from` and writes the other's state.
fn bind(
    session: &Session,
    spec: &StepperSpec,
    sets: &mut [Set; 2],
    tables: &[OrtTensor<f32>],
    from: usize,
) -> Result<IoBinding, ort::Error> {
    let mut binding = session.inner.create_binding()?;
    for (i, (input, output, _)) in spec.state.iter().enumerate() {
        // What is only read lies in the first set.
        let read = if output.is_none() { 0 } else { from };
        binding.bind_input(input, &sets[read].state[i])?;
        if let Some(output) = output {
            binding.bind_output(output, &mut sets[1 - from].state[i])?;
        }
    }
    for ((name, _), table) in spec.tables.iter().zip(tables) {
        binding.bind_input(name, table)?;
    }
    let own = &mut sets[from];
    let floats = spec.inputs.iter().zip(&own.inputs).chain(spec.controls.iter().zip(&own.controls));
    for ((name, _), tensor) in floats {
        binding.bind_input(name, &tensor.device)?;
    }
    for ((name, _), tensor) in spec.integers.iter().zip(&own.integers) {
        binding.bind_input(name, &tensor.device)?;
    }
    for ((name, _), tensor) in spec.results.iter().zip(&mut own.results) {
        binding.bind_output(name, &mut tensor.device)?;
    }
    Ok(binding)
}
