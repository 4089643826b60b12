//! Step graphs on the CPU: buffers in ordinary memory.

use ort::memory::Allocator;
use ort::session::{IoBinding, NoSelectedOutputs, RunOptions};
use ort::value::{PrimitiveTensorElementType, Tensor as OrtTensor};

use super::error::RuntimeError;
use super::session::Session;
use super::stepper::StepperSpec;

/// A step graph's buffers and bindings in host memory. Only state has two sets: steps take their inputs at once.
pub(super) struct HostMemory {
    state: [Vec<OrtTensor<f32>>; 2],
    tables: Vec<OrtTensor<f32>>,
    inputs: Vec<OrtTensor<f32>>,
    controls: Vec<OrtTensor<f32>>,
    integers: Vec<OrtTensor<i64>>,
    results: Vec<OrtTensor<f32>>,
    bindings: [IoBinding; 2],
    /// Of a run that ends by giving unused memory back.
    shrinking: RunOptions<NoSelectedOutputs>,
}

fn tensor<T>(shape: &[usize]) -> Result<OrtTensor<T>, RuntimeError>
where
    T: PrimitiveTensorElementType + std::fmt::Debug,
{
    OrtTensor::new(&Allocator::default(), shape).map_err(RuntimeError::ort("allocating step buffers"))
}

fn tensors<T>(list: &[(String, Vec<usize>)]) -> Result<Vec<OrtTensor<T>>, RuntimeError>
where
    T: PrimitiveTensorElementType + std::fmt::Debug,
{
    list.iter().map(|(_, shape)| tensor(shape)).collect()
}

impl HostMemory {
    pub(super) fn new(session: &Session, spec: &StepperSpec) -> Result<Self, RuntimeError> {
        let state = || spec.state.iter().map(|(_, _, n)| tensor(&[*n])).collect::<Result<Vec<_>, _>>();
        let mut state = [state()?, state()?];
        let tables = tensors(&spec.tables)?;
        let (inputs, controls) = (tensors(&spec.inputs)?, tensors(&spec.controls)?);
        let (integers, mut results) = (tensors(&spec.integers)?, tensors(&spec.results)?);
        let mut binding = |from: usize| -> Result<IoBinding, ort::Error> {
            let mut binding = session.inner.create_binding()?;
            for (i, (input, output, _)) in spec.state.iter().enumerate() {
                // What is only read lies in the first set.
                let read = if output.is_none() { 0 } else { from };
                binding.bind_input(input, &state[read][i])?;
                if let Some(output) = output {
                    binding.bind_output(output, &mut state[1 - from][i])?;
                }
            }
            let floats = spec.inputs.iter().zip(&inputs).chain(spec.controls.iter().zip(&controls));
            let floats = floats.chain(spec.tables.iter().zip(&tables));
            for ((name, _), tensor) in floats {
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
        let doing = "allocating step buffers";
        let bindings = [binding(0).map_err(RuntimeError::ort(doing))?, binding(1).map_err(RuntimeError::ort(doing))?];
        let mut shrinking = RunOptions::new().map_err(RuntimeError::ort(doing))?;
        shrinking.set("memory.enable_memory_arena_shrinkage", "cpu:0").map_err(RuntimeError::ort(doing))?;
        Ok(Self { state, tables, inputs, controls, integers, results, bindings, shrinking })
    }

    pub(super) fn set_state(&mut self, set: usize, i: usize, values: &[f32]) {
        self.state[set][i].extract_tensor_mut().1.copy_from_slice(values);
    }

    pub(super) fn state(&self, set: usize, i: usize) -> Vec<f32> {
        self.state[set][i].extract_tensor().1.to_vec()
    }

    pub(super) fn write_table(&mut self, i: usize, first: usize, values: &[f32]) {
        self.tables[i].extract_tensor_mut().1[first..first + values.len()].copy_from_slice(values);
    }

    pub(super) fn load(&mut self, inputs: &[&[f32]]) {
        for (tensor, values) in self.inputs.iter_mut().zip(inputs) {
            tensor.extract_tensor_mut().1.copy_from_slice(values);
        }
    }

    /// Runs the step that reads state set `set`, to its end; with `shrink`, memory that it leaves unused goes back to
    /// the system.
    pub(super) fn run(
        &mut self,
        session: &mut Session,
        set: usize,
        controls: &[&[f32]],
        integers: &[&[i64]],
        shrink: bool,
    ) -> Result<(), RuntimeError> {
        for (tensor, values) in self.controls.iter_mut().zip(controls) {
            tensor.extract_tensor_mut().1.copy_from_slice(values);
        }
        for (tensor, values) in self.integers.iter_mut().zip(integers) {
            tensor.extract_tensor_mut().1.copy_from_slice(values);
        }
        let outputs = if shrink {
            session.inner.run_binding_with_options(&self.bindings[set], &self.shrinking)
        } else {
            session.inner.run_binding(&self.bindings[set])
        };
        drop(outputs.map_err(RuntimeError::ort("running a step"))?);
        Ok(())
    }

    pub(super) fn results(&self) -> Vec<&[f32]> {
        self.results.iter().map(|tensor| tensor.extract_tensor().1).collect()
    }
}
