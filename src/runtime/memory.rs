//! A step's buffers: two sets of state in turn, bound to a session by name. Where they lie is a provider's matter.

use ort::memory::Allocator;
use ort::session::{IoBinding, Session};
use ort::value::{DynTensor, Tensor};

use super::error::RuntimeError;
use crate::ports::{Element, Port, StepPorts, Values};

/// What a buffer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    State,
    Table,
    Batch,
    Control,
    Result,
}

/// Where the elements of a buffer lie.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    Host(&'a [f32]),
    /// Address and elements.
    Device(u64, usize),
}

/// A tensor for a port.
///
/// # Errors
/// There is no room.
pub(super) fn new_tensor(allocator: &Allocator, port: &Port) -> Result<DynTensor, RuntimeError> {
    let shape = port.shape.as_slice();
    let tensor = match port.element {
        Element::F32 => Tensor::<f32>::new(allocator, shape).map(Tensor::upcast),
        Element::I64 => Tensor::<i64>::new(allocator, shape).map(Tensor::upcast),
    };
    tensor.map_err(RuntimeError::ort(ALLOCATING))
}

/// A provider's memory, and how steps run there.
pub(super) trait Memory {
    type Buffer;

    /// Sets of buffers for batches, controls and results: two where a batch is loaded while a step runs, else one.
    const SETS: usize;

    /// # Errors
    /// There is no room.
    fn allocate(&self, session: &Session, port: &Port, purpose: Use) -> Result<Self::Buffer, RuntimeError>;

    fn tensor(buffer: &mut Self::Buffer) -> &mut DynTensor;

    /// Writes from element `first` on; the values are there when it returns.
    fn write(&self, buffer: &mut Self::Buffer, first: usize, values: &[f32]) -> Result<(), RuntimeError>;

    fn read(&self, buffer: &Self::Buffer) -> Result<Vec<f32>, RuntimeError>;

    /// Where a float32 buffer lies.
    fn place(buffer: &Self::Buffer) -> Place<'_>;

    /// Copies a float32 buffer of the same provider; the values are there when it returns.
    fn copy(&self, from: Place<'_>, to: &mut Self::Buffer) -> Result<(), RuntimeError>;

    /// Starts copying a part of a batch.
    fn load(&self, buffer: &mut Self::Buffer, values: Values<'_>) -> Result<(), RuntimeError>;

    /// The whole batch of this set is on its way.
    fn loaded(&self, set: usize) -> Result<(), RuntimeError>;

    /// The next step is to wait for the batch of this set.
    fn await_batch(&self, set: usize) -> Result<(), RuntimeError>;

    /// Starts copying a control, ahead of the step that is run next.
    fn control(&self, buffer: &mut Self::Buffer, values: Values<'_>) -> Result<(), RuntimeError>;

    /// Starts the step that reads state set `set`; with `shrink`, unused memory goes back to the system after it, where
    /// the provider can do that.
    fn run(&mut self, session: &mut Session, binding: &IoBinding, set: usize, shrink: bool)
    -> Result<(), RuntimeError>;

    /// Starts copying a result to the host, behind the step.
    fn fetch(&self, buffer: &mut Self::Buffer) -> Result<(), RuntimeError>;

    /// Waits for the steps that were started, and what was fetched of them.
    fn wait(&self) -> Result<(), RuntimeError>;

    /// Waits for all that was started, batches that no step has read included.
    fn settle(&self);

    /// A result that was fetched and waited for.
    fn fetched(buffer: &Self::Buffer) -> &[f32];
}

/// A step's buffers, whatever memory they lie in. Positions are those of the ports.
pub(super) trait Buffers {
    fn set_state(&mut self, set: usize, i: usize, values: &[f32]) -> Result<(), RuntimeError>;
    fn state(&self, set: usize, i: usize) -> Result<Vec<f32>, RuntimeError>;
    fn state_place(&self, set: usize, i: usize) -> Place<'_>;
    fn copy_state(&mut self, set: usize, i: usize, from: Place<'_>) -> Result<(), RuntimeError>;
    fn write_table(&mut self, i: usize, first: usize, values: &[f32]) -> Result<(), RuntimeError>;
    /// Loads the batch of the step that will read state set `set`.
    fn load(&mut self, set: usize, values: &[Values<'_>]) -> Result<(), RuntimeError>;
    /// Starts that step.
    fn launch(
        &mut self,
        session: &mut Session,
        set: usize,
        controls: &[Values<'_>],
        shrink: bool,
    ) -> Result<(), RuntimeError>;
    /// Waits for the step that read state set `set`; gives its results.
    fn results(&self, set: usize) -> Result<Vec<&[f32]>, RuntimeError>;
}

/// What changes with every step, but for the state.
struct Set<B> {
    batch: Vec<B>,
    controls: Vec<B>,
    results: Vec<B>,
}

/// Buffers that are bound to a session.
pub(super) struct Bound<M: Memory> {
    memory: M,
    state: [Vec<M::Buffer>; 2],
    tables: Vec<M::Buffer>,
    sets: Vec<Set<M::Buffer>>,
    /// Of the step that reads the first state set and writes the second, and of the one that does the opposite.
    bindings: [IoBinding; 2],
}

pub(super) const ALLOCATING: &str = "allocating step buffers";

impl<M: Memory> Bound<M> {
    /// # Errors
    /// There is no room, or the session has no such ports.
    pub(super) fn new(memory: M, session: &Session, ports: &StepPorts) -> Result<Self, RuntimeError> {
        let all = |ports: &[Port], purpose| {
            ports.iter().map(|port| memory.allocate(session, port, purpose)).collect::<Result<Vec<_>, _>>()
        };
        let vectors = || {
            let one = |state: &crate::ports::StatePort| memory.allocate(session, &state.port, Use::State);
            ports.state.iter().map(one).collect::<Result<Vec<_>, _>>()
        };
        let mut state = [vectors()?, vectors()?];
        let mut tables = all(&ports.tables, Use::Table)?;
        let set = |_| {
            Ok(Set {
                batch: all(&ports.batch, Use::Batch)?,
                controls: all(&ports.controls, Use::Control)?,
                results: all(&ports.results, Use::Result)?,
            })
        };
        let mut sets = (0..M::SETS).map(set).collect::<Result<Vec<_>, RuntimeError>>()?;
        let mut binding = |from: usize| {
            let set = &mut sets[from % M::SETS];
            bind::<M>(session, ports, &mut state, &mut tables, set, from).map_err(RuntimeError::ort(ALLOCATING))
        };
        let bindings = [binding(0)?, binding(1)?];
        Ok(Self { memory, state, tables, sets, bindings })
    }
}

/// Binds the step that reads state set `from` and writes the other.
fn bind<M: Memory>(
    session: &Session,
    ports: &StepPorts,
    state: &mut [Vec<M::Buffer>; 2],
    tables: &mut [M::Buffer],
    set: &mut Set<M::Buffer>,
    from: usize,
) -> Result<IoBinding, ort::Error> {
    let mut binding = session.create_binding()?;
    for (i, vector) in ports.state.iter().enumerate() {
        // What is only read lies in the first set.
        let read = if vector.next.is_none() { 0 } else { from };
        binding.bind_input(&*vector.port.name, M::tensor(&mut state[read][i]))?;
        if let Some(next) = &vector.next {
            binding.bind_output(next, M::tensor(&mut state[1 - from][i]))?;
        }
    }
    let inputs = ports.tables.iter().zip(tables).chain(ports.batch.iter().zip(&mut set.batch));
    for (port, buffer) in inputs.chain(ports.controls.iter().zip(&mut set.controls)) {
        binding.bind_input(&*port.name, M::tensor(buffer))?;
    }
    for (port, buffer) in ports.results.iter().zip(&mut set.results) {
        binding.bind_output(&*port.name, M::tensor(buffer))?;
    }
    Ok(binding)
}

impl<M: Memory> Buffers for Bound<M> {
    fn set_state(&mut self, set: usize, i: usize, values: &[f32]) -> Result<(), RuntimeError> {
        self.memory.write(&mut self.state[set][i], 0, values)
    }

    fn state(&self, set: usize, i: usize) -> Result<Vec<f32>, RuntimeError> {
        self.memory.read(&self.state[set][i])
    }

    fn state_place(&self, set: usize, i: usize) -> Place<'_> {
        M::place(&self.state[set][i])
    }

    fn copy_state(&mut self, set: usize, i: usize, from: Place<'_>) -> Result<(), RuntimeError> {
        self.memory.copy(from, &mut self.state[set][i])
    }

    fn write_table(&mut self, i: usize, first: usize, values: &[f32]) -> Result<(), RuntimeError> {
        self.memory.write(&mut self.tables[i], first, values)
    }

    fn load(&mut self, set: usize, values: &[Values<'_>]) -> Result<(), RuntimeError> {
        let batch = &mut self.sets[set % M::SETS].batch;
        batch.iter_mut().zip(values).try_for_each(|(buffer, values)| self.memory.load(buffer, *values))?;
        self.memory.loaded(set)
    }

    fn launch(
        &mut self,
        session: &mut Session,
        set: usize,
        controls: &[Values<'_>],
        shrink: bool,
    ) -> Result<(), RuntimeError> {
        let own = &mut self.sets[set % M::SETS];
        self.memory.await_batch(set)?;
        own.controls.iter_mut().zip(controls).try_for_each(|(buffer, values)| self.memory.control(buffer, *values))?;
        self.memory.run(session, &self.bindings[set], set, shrink)?;
        own.results.iter_mut().try_for_each(|result| self.memory.fetch(result))
    }

    fn results(&self, set: usize) -> Result<Vec<&[f32]>, RuntimeError> {
        self.memory.wait()?;
        Ok(self.sets[set % M::SETS].results.iter().map(M::fetched).collect())
    }
}

impl<M: Memory> Drop for Bound<M> {
    fn drop(&mut self) {
        // Nothing may still be copied from or to what is freed next.
        self.memory.settle();
    }
}
