//! The CUDA device: its context and streams, page-locked host memory, events.

use std::sync::{Mutex, PoisonError};

use cudarc::driver::{result, sys};

use super::error::RuntimeError;

/// Turns an error of the driver into ours, with what was being done.
pub(super) fn driver(doing: &'static str) -> impl Fn(result::DriverError) -> RuntimeError {
    move |error| {
        let text = error.error_string().map(|text| text.to_string_lossy().into_owned());
        RuntimeError::Device { doing, message: text.unwrap_or_else(|_| format!("{error:?}")) }
    }
}

/// The device's primary context, which ONNX Runtime uses, too, with a stream for steps and one for copies.
pub(super) struct Device {
    context: sys::CUcontext,
    /// Steps run on it.
    pub(super) compute: sys::CUstream,
    pub(super) copies: sys::CUstream,
}

// SAFETY: contexts, streams and events may be used from any thread that has made the context current, which every
// operation here does first.
unsafe impl Send for Device {}
// SAFETY: as above; the driver serializes what several threads put into a stream.
unsafe impl Sync for Device {}

impl Device {
    /// The device with streams that all sessions share, which last as long as the process, so that no session outlives
    /// them. All share them because, once a second stream has run steps, every captured step is a tenth slower.
    pub(super) fn shared() -> Result<&'static Self, RuntimeError> {
        static SHARED: Mutex<Option<&'static Device>> = Mutex::new(None);
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = *shared {
            return Ok(device);
        }
        let device: &'static Self = Box::leak(Box::new(Self::new()?));
        *shared = Some(device);
        Ok(device)
    }

    fn new() -> Result<Self, RuntimeError> {
        let doing = "starting CUDA";
        // SAFETY: asks for the library's presence only; calling into a missing one would panic.
        if !unsafe { sys::is_culib_present() } {
            return Err(RuntimeError::NoCuda { reason: "there is no NVIDIA driver on this machine (libcuda)".into() });
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

    /// Free device memory in bytes.
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
    pub(super) fn write(&self, address: sys::CUdeviceptr, values: &[f32]) -> Result<(), RuntimeError> {
        // SAFETY: the callers have as many elements at the address; the copy is waited for.
        unsafe { result::memcpy_htod_async(address, values, self.copies) }.map_err(driver("copying to the device"))?;
        self.finish(self.copies)
    }

    /// Waits for all that was put into the stream.
    pub(super) fn finish(&self, stream: sys::CUstream) -> Result<(), RuntimeError> {
        // SAFETY: streams are never destroyed.
        unsafe { result::stream::synchronize(stream) }.map_err(driver("waiting for the device"))
    }
}

/// Page-locked host memory, which the device copies from and to by itself.
pub(super) struct Locked<T> {
    pointer: *mut T,
    elements: usize,
}

// SAFETY: plain memory with one owner.
unsafe impl<T: Send> Send for Locked<T> {}

impl<T: Copy + Default> Locked<T> {
    pub(super) fn new(elements: usize) -> Result<Self, RuntimeError> {
        let bytes = (elements * size_of::<T>()).max(1);
        // SAFETY: a context is current.
        let pointer = unsafe { result::malloc_host(bytes, 0) }.map_err(driver("locking host memory"))?.cast::<T>();
        let mut locked = Self { pointer, elements };
        locked.as_mut().fill(T::default());
        Ok(locked)
    }

    pub(super) fn as_ref(&self) -> &[T] {
        // SAFETY: `elements` were allocated, aligned to pages, and filled.
        unsafe { std::slice::from_raw_parts(self.pointer, self.elements) }
    }

    pub(super) fn as_mut(&mut self) -> &mut [T] {
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

/// Marks a point in a stream.
pub(super) struct Event(pub(super) sys::CUevent);

// SAFETY: see `Device`.
unsafe impl Send for Event {}

impl Event {
    pub(super) fn new() -> Result<Self, RuntimeError> {
        result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).map(Self).map_err(driver("starting CUDA"))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: created above; streams that wait for it keep what they need.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}
