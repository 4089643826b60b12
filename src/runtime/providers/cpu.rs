//! The CPU: buffers in ordinary memory, a step at once.

use std::fmt;

use ort::memory::Allocator;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{IoBinding, NoSelectedOutputs, RunOptions, Session};
use ort::value::DynTensor;

use super::super::error::RuntimeError;
use super::super::kernels;
use super::super::memory::{ALLOCATING, Bound, Buffers, Memory, Place, Use, new_tensor};
use super::Backend;
use crate::graph::Kernels;
use crate::ports::{Port, StepPorts, Values};

pub(super) struct Cpu;

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CPU")
    }
}

impl Backend for Cpu {
    fn kernels(&self) -> Kernels {
        Kernels::Cpu
    }

    /// ONNX Runtime's own optimizer is worth a tenth of a step, for half a second at some 4,000 nodes.
    fn configure(&self, builder: SessionBuilder, _: Option<&[u8]>) -> Result<SessionBuilder, RuntimeError> {
        let doing = "creating a session";
        let builder =
            builder.with_optimization_level(GraphOptimizationLevel::Level3).map_err(RuntimeError::ort(doing))?;
        let fused = kernels::on_cpu().map_err(RuntimeError::ort(doing))?;
        builder.with_operators(fused).map_err(RuntimeError::ort(doing))
    }

    fn bind(&self, session: &Session, ports: &StepPorts) -> Result<Box<dyn Buffers>, RuntimeError> {
        Ok(Box::new(Bound::new(HostMemory::new()?, session, ports)?))
    }

    fn free_memory(&self) -> Result<Option<u64>, RuntimeError> {
        Ok(None)
    }

    fn missing_kernels(&self) -> Option<String> {
        None
    }

    fn has_own_memory(&self) -> bool {
        false
    }
}

struct HostMemory {
    /// Of a run that ends by giving unused memory back.
    shrinking: RunOptions<NoSelectedOutputs>,
}

impl HostMemory {
    fn new() -> Result<Self, RuntimeError> {
        let mut shrinking = RunOptions::new().map_err(RuntimeError::ort(ALLOCATING))?;
        shrinking.set("memory.enable_memory_arena_shrinkage", "cpu:0").map_err(RuntimeError::ort(ALLOCATING))?;
        Ok(Self { shrinking })
    }
}

/// The elements of a tensor that was made for them.
fn floats(tensor: &DynTensor) -> &[f32] {
    tensor.try_extract_tensor().expect("a float32 tensor in ordinary memory").1
}

fn copy(tensor: &mut DynTensor, values: Values<'_>) {
    match values {
        Values::F32(values) => {
            tensor.try_extract_tensor_mut().expect("a float32 tensor").1.copy_from_slice(values);
        }
        Values::I64(values) => {
            tensor.try_extract_tensor_mut().expect("an int64 tensor").1.copy_from_slice(values);
        }
    }
}

impl Memory for HostMemory {
    type Buffer = DynTensor;

    const SETS: usize = 1;

    fn allocate(&self, _: &Session, port: &Port, _: Use) -> Result<DynTensor, RuntimeError> {
        new_tensor(&Allocator::default(), port)
    }

    fn tensor(buffer: &mut DynTensor) -> &mut DynTensor {
        buffer
    }

    fn write(&self, buffer: &mut DynTensor, first: usize, values: &[f32]) -> Result<(), RuntimeError> {
        let (_, all) = buffer.try_extract_tensor_mut::<f32>().expect("a float32 tensor");
        all[first..first + values.len()].copy_from_slice(values);
        Ok(())
    }

    fn read(&self, buffer: &DynTensor) -> Result<Vec<f32>, RuntimeError> {
        Ok(floats(buffer).to_vec())
    }

    fn place(buffer: &DynTensor) -> Place<'_> {
        Place::Host(floats(buffer))
    }

    fn copy(&self, from: Place<'_>, to: &mut DynTensor) -> Result<(), RuntimeError> {
        let Place::Host(values) = from else { unreachable!("buffers of one provider") };
        self.write(to, 0, values)
    }

    fn load(&self, buffer: &mut DynTensor, values: Values<'_>) -> Result<(), RuntimeError> {
        copy(buffer, values);
        Ok(())
    }

    fn loaded(&self, _: usize) -> Result<(), RuntimeError> {
        Ok(())
    }

    fn await_batch(&self, _: usize) -> Result<(), RuntimeError> {
        Ok(())
    }

    fn control(&self, buffer: &mut DynTensor, values: Values<'_>) -> Result<(), RuntimeError> {
        copy(buffer, values);
        Ok(())
    }

    fn run(&mut self, session: &mut Session, binding: &IoBinding, _: usize, shrink: bool) -> Result<(), RuntimeError> {
        let outputs = if shrink {
            session.run_binding_with_options(binding, &self.shrinking)
        } else {
            session.run_binding(binding)
        };
        outputs.map(drop).map_err(RuntimeError::ort("running a step"))
    }

    fn fetch(&self, _: &mut DynTensor) -> Result<(), RuntimeError> {
        Ok(())
    }

    fn wait(&self) -> Result<(), RuntimeError> {
        Ok(())
    }

    fn settle(&self) {}

    fn fetched(buffer: &DynTensor) -> &[f32] {
        floats(buffer)
    }
}
