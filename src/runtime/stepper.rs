//! Running step graphs: state that stays where the provider computes, two sets of it in turn.
//!
//! A step reads one set and writes the other, so no buffer is ever both input and output of a run, which CUDA
//! graph capture will need, and nothing is allocated or copied between steps but the batch.

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::IoBinding;
use ort::value::Tensor as OrtTensor;

use super::error::RuntimeError;
use super::library::{Library, Provider};
use super::session::Session;

/// Names and sizes of a step graph's inputs and outputs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepperSpec {
    /// State vectors: (input name, output name, elements). Without output name the step only reads it.
    pub state: Vec<(String, Option<String>, usize)>,
    /// Float32 inputs that change every step.
    pub inputs: Vec<(String, Vec<usize>)>,
    /// Int64 inputs that change every step.
    pub integers: Vec<(String, Vec<usize>)>,
    /// Float32 outputs read after every step.
    pub results: Vec<(String, Vec<usize>)>,
}

/// What a step is given, in the order of the spec.
#[derive(Debug, Clone, Default)]
pub struct Inputs<'a> {
    pub floats: Vec<&'a [f32]>,
    pub integers: Vec<&'a [i64]>,
}

/// A step graph with its bound buffers.
pub struct Stepper {
    spec: StepperSpec,
    session: Session,
    device: Option<Allocator>,
    /// The two sets of state vectors.
    state: [Vec<OrtTensor<f32>>; 2],
    inputs: Vec<OrtTensor<f32>>,
    integers: Vec<OrtTensor<i64>>,
    results: Vec<OrtTensor<f32>>,
    bindings: [IoBinding; 2],
    /// Which set holds the current state.
    current: usize,
}

impl Stepper {
    /// Loads the graph and binds its buffers. State starts as zeros.
    ///
    /// # Errors
    /// The library's.
    pub fn new(library: &Library, provider: Provider, onnx: &[u8], spec: StepperSpec) -> Result<Self, RuntimeError> {
        let session = Session::new(library, provider, onnx)?;
        let doing = "allocating step buffers";
        let device = match provider {
            Provider::Cpu => None,
            Provider::Cuda { .. } => {
                let info = MemoryInfo::new(AllocationDevice::CUDA, 0, AllocatorType::Device, MemoryType::Default);
                let info = info.map_err(RuntimeError::ort(doing))?;
                Some(Allocator::new(&session.inner, info).map_err(RuntimeError::ort(doing))?)
            }
        };
        let buffers = Buffers { device: device.as_ref() };
        let state = || spec.state.iter().map(|(_, _, n)| buffers.on_device(&[*n])).collect::<Result<Vec<_>, _>>();
        let mut state = [state()?, state()?];
        let inputs = spec.inputs.iter().map(|(_, shape)| buffers.on_device(shape)).collect::<Result<Vec<_>, _>>()?;
        let integers = spec.integers.iter().map(|(_, s)| buffers.on_device(s)).collect::<Result<Vec<_>, _>>()?;
        let mut results = spec.results.iter().map(|(_, s)| buffers.on_host(s)).collect::<Result<Vec<_>, _>>()?;
        let mut binding = |from: usize| -> Result<IoBinding, ort::Error> {
            let mut binding = session.inner.create_binding()?;
            for (i, (input, output, _)) in spec.state.iter().enumerate() {
                let read_only = output.is_none();
                binding.bind_input(input, &state[if read_only { 0 } else { from }][i])?;
                if let Some(output) = output {
                    binding.bind_output(output, &mut state[1 - from][i])?;
                }
            }
            for ((name, _), tensor) in spec.inputs.iter().zip(&inputs) {
                binding.bind_input(name, tensor)?;
            }
            for ((name, _), tensor) in spec.integers.iter().zip(&integers) {
                binding.bind_input(name, tensor)?;
            }
            for ((name, _), tensor) in spec.results.iter().zip(&mut results) {
                binding.bind_output(name, tensor)?;
            }
            Ok(binding)
        };
        let bindings = [binding(0).map_err(RuntimeError::ort(doing))?, binding(1).map_err(RuntimeError::ort(doing))?];
        let mut stepper = Self { spec, session, device, state, inputs, integers, results, bindings, current: 0 };
        for i in 0..stepper.spec.state.len() {
            let zeros = vec![0.0; stepper.spec.state[i].2];
            stepper.set_state(i, &zeros)?;
        }
        Ok(stepper)
    }

    /// Sets state vector `i`.
    ///
    /// # Errors
    /// The library's.
    pub fn set_state(&mut self, i: usize, values: &[f32]) -> Result<(), RuntimeError> {
        let set = self.set_of(i);
        write(self.device.as_ref(), &mut self.state[set][i], values)
    }

    /// The set that holds state vector `i` now.
    fn set_of(&self, i: usize) -> usize {
        if self.spec.state[i].1.is_none() { 0 } else { self.current }
    }

    /// Reads state vector `i`.
    ///
    /// # Errors
    /// The library's.
    pub fn state(&self, i: usize) -> Result<Vec<f32>, RuntimeError> {
        let tensor = &self.state[self.set_of(i)][i];
        if self.device.is_none() {
            return Ok(tensor.extract_tensor().1.to_vec());
        }
        let doing = "reading the state";
        let mut host =
            OrtTensor::<f32>::new(&Allocator::default(), [self.spec.state[i].2]).map_err(RuntimeError::ort(doing))?;
        tensor.copy_into(&mut host).map_err(RuntimeError::ort(doing))?;
        Ok(host.extract_tensor().1.to_vec())
    }

    /// Runs one step; `read` gets the results in the order of the spec.
    ///
    /// # Errors
    /// The library's.
    ///
    /// # Panics
    /// Inputs that do not match the spec.
    pub fn step<R>(&mut self, inputs: &Inputs<'_>, read: impl FnOnce(&[&[f32]]) -> R) -> Result<R, RuntimeError> {
        assert_eq!((inputs.floats.len(), inputs.integers.len()), (self.inputs.len(), self.integers.len()));
        for (tensor, values) in self.inputs.iter_mut().zip(&inputs.floats) {
            write(self.device.as_ref(), tensor, values)?;
        }
        for (tensor, values) in self.integers.iter_mut().zip(&inputs.integers) {
            write(self.device.as_ref(), tensor, values)?;
        }
        let outputs = self.session.inner.run_binding(&self.bindings[self.current]);
        drop(outputs.map_err(RuntimeError::ort("running a step"))?);
        self.current = 1 - self.current;
        let results: Vec<_> = self.results.iter().map(|tensor| tensor.extract_tensor().1).collect();
        Ok(read(&results))
    }
}

struct Buffers<'a> {
    device: Option<&'a Allocator>,
}

impl Buffers<'_> {
    fn on_device<T>(&self, shape: &[usize]) -> Result<OrtTensor<T>, RuntimeError>
    where
        T: ort::value::PrimitiveTensorElementType + std::fmt::Debug,
    {
        let host = Allocator::default();
        OrtTensor::new(self.device.unwrap_or(&host), shape).map_err(RuntimeError::ort("allocating step buffers"))
    }

    fn on_host(&self, shape: &[usize]) -> Result<OrtTensor<f32>, RuntimeError> {
        OrtTensor::new(&Allocator::default(), shape).map_err(RuntimeError::ort("allocating step buffers"))
    }
}

fn write<T>(device: Option<&Allocator>, tensor: &mut OrtTensor<T>, values: &[T]) -> Result<(), RuntimeError>
where
    T: ort::value::PrimitiveTensorElementType + std::fmt::Debug + Copy + 'static,
{
    if device.is_none() {
        tensor.extract_tensor_mut().1.copy_from_slice(values);
        return Ok(());
    }
    let doing = "copying to the device";
    let shape: Vec<_> = tensor.shape().iter().copied().collect();
    let mut host = OrtTensor::<T>::new(&Allocator::default(), shape).map_err(RuntimeError::ort(doing))?;
    host.extract_tensor_mut().1.copy_from_slice(values);
    host.copy_into(tensor).map_err(RuntimeError::ort(doing))
}
