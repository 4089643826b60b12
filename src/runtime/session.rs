//! Sessions that take and give plain host tensors.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ort::ep::CUDA;
use ort::ep::cuda::ConvAlgorithmSearch;
use ort::session::builder::GraphOptimizationLevel;

use super::error::RuntimeError;
use super::kernels;
use super::library::{Library, Provider};
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
pub struct Port {
    pub name: String,
    /// `None` where a dimension is not fixed.
    pub shape: Vec<Option<usize>>,
}

impl Port {
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
    /// Loads ONNX bytes. ONNX Runtime's own optimizer is worth a tenth of a step on the CPU, for half a second at
    /// some 4,000 nodes; its time grows fast with the graph, and on CUDA it would get in the way of capture. Its memory
    /// patterns are off: they plan one block for a whole run beside what the first run has taken already, which is
    /// twice the memory at the same speed.
    ///
    /// # Errors
    /// The library refuses the model or the provider.
    pub fn new(library: &Library, provider: Provider, onnx: &[u8]) -> Result<Self, RuntimeError> {
        Self::with_stream(library, provider, onnx, None)
    }

    /// A session for CUDA whose runs are captured as CUDA graphs, on this stream. Fails where a node would not run on
    /// the device.
    ///
    /// The stream must outlive the session.
    pub(super) fn on_stream(
        library: &Library,
        provider: Provider,
        onnx: &[u8],
        stream: *mut (),
    ) -> Result<Self, RuntimeError> {
        Self::with_stream(library, provider, onnx, Some(stream))
    }

    fn with_stream(
        library: &Library,
        provider: Provider,
        onnx: &[u8],
        stream: Option<*mut ()>,
    ) -> Result<Self, RuntimeError> {
        let doing = "creating a session";
        let builder = ort::session::Session::builder(&library.environment).map_err(RuntimeError::ort(doing))?;
        let level = match provider {
            Provider::Cpu => GraphOptimizationLevel::Level3,
            Provider::Cuda { .. } => GraphOptimizationLevel::Disable,
        };
        let builder = builder.with_optimization_level(level).map_err(RuntimeError::ort(doing))?;
        let mut builder = builder.with_memory_pattern(false).map_err(RuntimeError::ort(doing))?;
        if provider == Provider::Cpu {
            let fused = kernels::on_cpu().map_err(RuntimeError::ort(doing))?;
            builder = builder.with_operators(fused).map_err(RuntimeError::ort(doing))?;
        }
        if let Ok(file) = std::env::var("EMG_PROFILE") {
            builder = builder.with_profiling(file).map_err(RuntimeError::ort(doing))?;
        }
        if let Provider::Cuda { tf32, half, memory_limit, fused, .. } = provider {
            // Trying all algorithms takes seconds; but what cuDNN guesses for float16 it sometimes cannot do.
            let search = if half { ConvAlgorithmSearch::Exhaustive } else { ConvAlgorithmSearch::Heuristic };
            let mut cuda = CUDA::default().with_tf32(tf32).with_conv_algorithm_search(search);
            if let Some(limit) = memory_limit {
                cuda = cuda.with_memory_limit(limit);
            }
            if fused && let Some(module) = kernels::Module::shared().ok().filter(|_| stream.is_some()) {
                let fused = kernels::on_cuda(module).map_err(RuntimeError::ort(doing))?;
                builder = builder.with_operators(fused).map_err(RuntimeError::ort(doing))?;
            }
            if let Some(stream) = stream {
                // SAFETY: the caller keeps the stream until the session is gone.
                cuda = unsafe { cuda.with_compute_stream(stream) }.with_cuda_graph(true);
            }
            let cuda = cuda.build().error_on_failure();
            builder = builder.with_execution_providers([cuda]).map_err(|error| RuntimeError::Cuda {
                message: format!("the CUDA provider does not start: {}", error.message()),
            })?;
        }
        let first = FirstSession::begin(provider);
        let inner = builder.commit_from_memory(onnx).map_err(RuntimeError::ort(doing))?;
        first.end();
        Ok(Self { inner })
    }

    /// The model's inputs, those with defaults last.
    pub fn inputs(&self) -> Vec<Port> {
        let needed = self.inner.inputs().iter().map(|outlet| Port::of(outlet.name(), outlet.dtype()));
        let defaulted = self.inner.overridable_initializers();
        needed.chain(defaulted.iter().map(|input| Port::of(input.name(), input.dtype()))).collect()
    }

    /// The model's outputs.
    pub fn outputs(&self) -> Vec<Port> {
        self.inner.outputs().iter().map(|outlet| Port::of(outlet.name(), outlet.dtype())).collect()
    }

    /// What the model says of itself under `name`.
    pub fn metadata(&self, name: &str) -> Option<String> {
        self.inner.metadata().ok()?.custom(name)
    }

    /// Runs the model on named inputs; gives all outputs in the model's order.
    ///
    /// # Errors
    /// The library's, e.g. for inputs of another shape.
    pub fn run(&mut self, inputs: &[(&str, &Tensor)]) -> Result<Vec<Tensor>, RuntimeError> {
        let doing = "running a model";
        let given = inputs
            .iter()
            .map(|(name, tensor)| {
                let view = ort::value::TensorRef::from_array_view((tensor.shape.as_slice(), tensor.values.as_slice()));
                Ok((*name, view.map_err(RuntimeError::ort(doing))?))
            })
            .collect::<Result<Vec<_>, RuntimeError>>()?;
        let outputs = self.inner.run(given).map_err(RuntimeError::ort(doing))?;
        outputs
            .iter()
            .map(|(_, value)| {
                let (shape, values) = value.try_extract_tensor::<f32>().map_err(RuntimeError::ort(doing))?;
                let shape = shape.iter().map(|dim| *dim as usize).collect::<Vec<_>>();
                Ok(Tensor::new(shape, values.to_vec()))
            })
            .collect()
    }
}
