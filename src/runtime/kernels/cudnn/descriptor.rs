//! cuDNN's handle, and descriptors of its graph API as values that end with their owner.

use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use cudarc::cudnn::sys;
pub(super) use sys::{
    cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type, cudnnBackendDescriptorType_t as Kind,
};

/// A failure, in cuDNN's words.
pub(super) fn failed(doing: &str, status: sys::cudnnStatus_t) -> ort::Error {
    ort::Error::new(format!("cuDNN, {doing}: {status:?}"))
}

pub(super) fn check(doing: &str, status: sys::cudnnStatus_t) -> ort::Result<()> {
    match status {
        sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS => Ok(()),
        status => Err(failed(doing, status)),
    }
}

/// The functions of the graph API, from the library that ONNX Runtime's CUDA provider has loaded: a second cuDNN of
/// another version, as a system may have under `libcudnn.so`, would not find its parts.
struct Functions {
    create: unsafe extern "C" fn(*mut sys::cudnnHandle_t) -> sys::cudnnStatus_t,
    set_stream: unsafe extern "C" fn(sys::cudnnHandle_t, sys::cudaStream_t) -> sys::cudnnStatus_t,
    make: unsafe extern "C" fn(Kind, *mut sys::cudnnBackendDescriptor_t) -> sys::cudnnStatus_t,
    destroy: unsafe extern "C" fn(sys::cudnnBackendDescriptor_t) -> sys::cudnnStatus_t,
    finalize: unsafe extern "C" fn(sys::cudnnBackendDescriptor_t) -> sys::cudnnStatus_t,
    set: unsafe extern "C" fn(sys::cudnnBackendDescriptor_t, Name, Type, i64, *const c_void) -> sys::cudnnStatus_t,
    get: unsafe extern "C" fn(
        sys::cudnnBackendDescriptor_t,
        Name,
        Type,
        i64,
        *mut i64,
        *mut c_void,
    ) -> sys::cudnnStatus_t,
    execute: unsafe extern "C" fn(
        sys::cudnnHandle_t,
        sys::cudnnBackendDescriptor_t,
        sys::cudnnBackendDescriptor_t,
    ) -> sys::cudnnStatus_t,
}

impl Functions {
    fn load() -> Result<Self, libloading::Error> {
        // SAFETY: the library is loaded already, or has initializers of its own only; it is never unloaded, and the
        // functions have the types that its headers say.
        unsafe {
            let library = libloading::Library::new("libcudnn.so.9")?;
            let functions = Self {
                create: *library.get(b"cudnnCreate\0")?,
                set_stream: *library.get(b"cudnnSetStream\0")?,
                make: *library.get(b"cudnnBackendCreateDescriptor\0")?,
                destroy: *library.get(b"cudnnBackendDestroyDescriptor\0")?,
                finalize: *library.get(b"cudnnBackendFinalize\0")?,
                set: *library.get(b"cudnnBackendSetAttribute\0")?,
                get: *library.get(b"cudnnBackendGetAttribute\0")?,
                execute: *library.get(b"cudnnBackendExecute\0")?,
            };
            std::mem::forget(library);
            Ok(functions)
        }
    }

    fn shared() -> ort::Result<&'static Self> {
        static SHARED: OnceLock<Result<Functions, String>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| {
            Self::load().map_err(|error| format!("cuDNN: {error}; run `pip install nvidia-cudnn-cu13`"))
        });
        shared.as_ref().map_err(ort::Error::new)
    }
}

/// cuDNN's state for the device, which one thread at a time may use.
pub(super) struct Handle(pub(super) sys::cudnnHandle_t);

// SAFETY: used by one thread at a time.
unsafe impl Send for Handle {}

impl Handle {
    /// The process's only one; made when it is first needed, in the context that is current then.
    pub(super) fn shared() -> ort::Result<MutexGuard<'static, Self>> {
        static SHARED: OnceLock<Result<Mutex<Handle>, String>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| {
            let text = |error: ort::Error| error.to_string();
            let mut handle = std::ptr::null_mut();
            // SAFETY: writes the handle.
            let status = unsafe { (Functions::shared().map_err(text)?.create)(&raw mut handle) };
            check("starting", status).map_err(text)?;
            Ok(Mutex::new(Handle(handle)))
        });
        let handle = shared.as_ref().map_err(ort::Error::new)?;
        Ok(handle.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is run from now on goes into this stream.
    pub(super) fn set_stream(&self, stream: *mut c_void) -> ort::Result<()> {
        // SAFETY: the stream lives as long as the process.
        check("setting the stream", unsafe { (Functions::shared()?.set_stream)(self.0, stream.cast()) })
    }

    /// Runs a plan on what a variant pack names.
    pub(super) fn execute(&self, plan: &Descriptor, pack: &Descriptor) -> ort::Result<()> {
        // SAFETY: finished descriptors; the callers' arrays are those that the plan was made for.
        check("running a plan", unsafe { (Functions::shared()?.execute)(self.0, plan.0, pack.0) })
    }
}

/// A descriptor.
pub(super) struct Descriptor(pub(super) sys::cudnnBackendDescriptor_t);

// SAFETY: plain data that one thread at a time uses.
unsafe impl Send for Descriptor {}
// SAFETY: as above.
unsafe impl Sync for Descriptor {}

impl Descriptor {
    pub(super) fn new(kind: Kind) -> ort::Result<Self> {
        let mut descriptor = std::ptr::null_mut();
        // SAFETY: writes the descriptor.
        check("making a descriptor", unsafe { (Functions::shared()?.make)(kind, &raw mut descriptor) })?;
        Ok(Self(descriptor))
    }

    /// Sets an attribute, whose elements must be of the type that `ty` names.
    pub(super) fn set<T: Copy>(self, name: Name, ty: Type, values: &[T]) -> ort::Result<Self> {
        let (count, values) = (values.len() as i64, values.as_ptr().cast());
        // SAFETY: as many elements lie there.
        check(&format!("{name:?}"), unsafe { (Functions::shared()?.set)(self.0, name, ty, count, values) })?;
        Ok(self)
    }

    /// Ends the setting of attributes.
    pub(super) fn finish(self) -> ort::Result<Self> {
        // SAFETY: a descriptor that was made above.
        check("finishing a descriptor", unsafe { (Functions::shared()?.finalize)(self.0) })?;
        Ok(self)
    }

    /// Up to `most` elements of an attribute, which must be of the type that `ty` names.
    pub(super) fn get<T: Copy>(&self, name: Name, ty: Type, blank: T, most: usize) -> ort::Result<Vec<T>> {
        let (mut values, mut count) = (vec![blank; most], 0i64);
        let to = values.as_mut_ptr().cast();
        // SAFETY: there is room for as many elements.
        let status = unsafe { (Functions::shared()?.get)(self.0, name, ty, most as i64, &raw mut count, to) };
        check(&format!("{name:?}"), status)?;
        values.truncate(count.max(0) as usize);
        Ok(values)
    }

    /// Fills descriptors of one kind from an attribute; gives those that were there.
    pub(super) fn children(&self, name: Name, kind: Kind, most: usize) -> ort::Result<Vec<Self>> {
        let children = (0..most).map(|_| Self::new(kind)).collect::<ort::Result<Vec<_>>>()?;
        let mut pointers: Vec<_> = children.iter().map(|child| child.0).collect();
        let mut count = 0i64;
        let (ty, to) = (Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, pointers.as_mut_ptr().cast());
        // SAFETY: as many descriptors are there to be filled.
        let status = unsafe { (Functions::shared()?.get)(self.0, name, ty, most as i64, &raw mut count, to) };
        check(&format!("{name:?}"), status)?;
        Ok(children.into_iter().take(count.max(0) as usize).collect())
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        if let Ok(functions) = Functions::shared() {
            // SAFETY: made in `new`, and not used again.
            let _ = unsafe { (functions.destroy)(self.0) };
        }
    }
}
