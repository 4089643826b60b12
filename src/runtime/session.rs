//! Sessions that take and give plain host tensors.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ort::session::SessionOutputs;

use super::error::RuntimeError;
use super::library::Library;
use super::providers::Provider;
use crate::graph::Kernels;

/// A float32 tensor in host memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

impl Tensor {
    pub fn new(shape: impl Into<Vec<usize>>, values: Vec<f32>) -> Self {
        let shape = shape.into();
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{shape:?}");
        Self { shape, values }
    }
}

/// An input or output of a loaded model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    /// `None` where a dimension is not fixed.
    pub shape: Vec<Option<usize>>,
}

impl TensorInfo {
    fn of(name: &str, dtype: &ort::value::ValueType) -> Self {
        let dims = dtype.tensor_shape().into_iter().flat_map(|shape| shape.iter());
        Self { name: name.to_owned(), shape: dims.map(|dim| usize::try_from(*dim).ok()).collect() }
    }
}

/// A loaded model.
pub struct Session {
    pub(super) inner: ort::session::Session,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

/// The library enters our operators' domain into a list with the first session that has them, without looking whether
/// another thread is about to do the same: until one is made, they are made one at a time.
struct FirstSession(Option<MutexGuard<'static, bool>>);

impl FirstSession {
    fn begin(provider: Provider) -> Self {
        static MADE: Mutex<bool> = Mutex::new(false);
        let made =
            (provider.kernels() != Kernels::Standard).then(|| MADE.lock().unwrap_or_else(PoisonError::into_inner));
        Self(made.filter(|made| !**made))
    }

    fn end(self) {
        self.0.into_iter().for_each(|mut made| *made = true);
    }
}

impl Session {
    /// Loads ONNX bytes.
    ///
    /// # Errors
    /// The library refuses the model or the provider.
    pub fn new(library: &Library, provider: Provider, onnx: &[u8]) -> Result<Self, RuntimeError> {
        Self::load(library, provider, onnx, false)
    }

    /// A session whose buffers are bound.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(super) fn for_steps(library: &Library, provider: Provider, onnx: &[u8]) -> Result<Self, RuntimeError> {
        Self::load(library, provider, onnx, true)
    }

    /// Without ONNX Runtime's memory patterns: they plan one block for a whole run beside what the first run has taken
    /// already, which is twice the memory at the same speed.
    fn load(library: &Library, provider: Provider, onnx: &[u8], steps: bool) -> Result<Self, RuntimeError> {
        let doing = "creating a session";
        let builder = ort::session::Session::builder(&library.environment).map_err(RuntimeError::ort(doing))?;
        let builder = builder.with_memory_pattern(false).map_err(RuntimeError::ort(doing))?;
        let mut builder = provider.configure(builder, steps.then_some(onnx))?;
        if let Ok(file) = std::env::var("EMG_PROFILE") {
            builder = builder.with_profiling(file).map_err(RuntimeError::ort(doing))?;
        }
        let first = FirstSession::begin(provider);
        let inner = builder.commit_from_memory(onnx).map_err(RuntimeError::ort(doing))?;
        first.end();
        Ok(Self { inner })
    }

    /// The model's inputs, those with defaults last.
    pub fn inputs(&self) -> Vec<TensorInfo> {
        let needed = self.inner.inputs().iter().map(|outlet| TensorInfo::of(outlet.name(), outlet.dtype()));
        let defaulted = self.inner.overridable_initializers();
        needed.chain(defaulted.iter().map(|input| TensorInfo::of(input.name(), input.dtype()))).collect()
    }

    /// The model's outputs.
    pub fn outputs(&self) -> Vec<TensorInfo> {
        self.inner.outputs().iter().map(|outlet| TensorInfo::of(outlet.name(), outlet.dtype())).collect()
    }

    /// What the model says of itself under `name`.
    pub fn metadata(&self, name: &str) -> Option<String> {
        self.inner.metadata().ok()?.custom(name)
    }

    /// Runs a model of float64 tensors on named inputs, each with its shape; gives the elements of its first output.
    ///
    /// # Errors
    /// The library's.
    pub fn run_float64(&mut self, inputs: &[(&str, &[usize], &[f64])]) -> Result<Vec<f64>, RuntimeError> {
        let doing = "running a model";
        let given = inputs
            .iter()
            .map(|(name, shape, values)| {
                let view = ort::value::TensorRef::from_array_view((*shape, *values));
                Ok((*name, view.map_err(RuntimeError::ort(doing))?))
            })
            .collect::<Result<Vec<_>, RuntimeError>>()?;
        let outputs = self.inner.run(given).map_err(RuntimeError::ort(doing))?;
        let (_, values) = outputs[0].try_extract_tensor::<f64>().map_err(RuntimeError::ort(doing))?;
        Ok(values.to_vec())
    }

    /// Runs the model on named inputs, whatever its outputs are.
    ///
    /// # Errors
    /// The library's.
    pub fn try_run(&mut self, inputs: &[(&str, &Tensor)]) -> Result<(), RuntimeError> {
        self.outputs_for(inputs).map(drop)
    }

    /// Runs the model on named inputs; gives all outputs in the model's order.
    ///
    /// # Errors
    /// The library's, e.g. for inputs of another shape.
    pub fn run(&mut self, inputs: &[(&str, &Tensor)]) -> Result<Vec<Tensor>, RuntimeError> {
        let outputs = self.outputs_for(inputs)?;
        outputs
            .iter()
            .map(|(_, value)| {
                let (shape, values) =
                    value.try_extract_tensor::<f32>().map_err(RuntimeError::ort("running a model"))?;
                let shape = shape.iter().map(|dim| *dim as usize).collect::<Vec<_>>();
                Ok(Tensor::new(shape, values.to_vec()))
            })
            .collect()
    }

    fn outputs_for(&mut self, inputs: &[(&str, &Tensor)]) -> Result<SessionOutputs<'_>, RuntimeError> {
        let doing = "running a model";
        let given = inputs
            .iter()
            .map(|(name, tensor)| {
                let view = ort::value::TensorRef::from_array_view((tensor.shape.as_slice(), tensor.values.as_slice()));
                Ok((*name, view.map_err(RuntimeError::ort(doing))?))
            })
            .collect::<Result<Vec<_>, RuntimeError>>()?;
        self.inner.run(given).map_err(RuntimeError::ort(doing))
    }
}
