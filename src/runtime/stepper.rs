//! Running step graphs: state that stays where the provider computes, two sets of it in turn.
//!
//! A step reads one set and writes the other, so no buffer is ever both input and output of a run, which CUDA graph
//! capture needs, and nothing is allocated or copied between steps but the batch. The next batch is loaded while a
//! step runs: `load`, then again and again `launch`, `load` the next, `finish`.

use super::cuda::{Device, DeviceMemory};
use super::error::RuntimeError;
use super::host::HostMemory;
use super::library::{Library, Provider};
use super::session::Session;

/// Names and sizes of a step graph's inputs and outputs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepperSpec {
    /// State vectors: (input name, output name, elements). Without output name the step only reads it.
    pub state: Vec<(String, Option<String>, usize)>,
    /// Float32 inputs that stay as they are from step to step; [`Stepper::write_table`] fills them.
    pub tables: Vec<(String, Vec<usize>)>,
    /// Float32 inputs of a batch.
    pub inputs: Vec<(String, Vec<usize>)>,
    /// Small float32 inputs that are known when a step starts.
    pub controls: Vec<(String, Vec<usize>)>,
    /// Small int64 inputs, likewise.
    pub integers: Vec<(String, Vec<usize>)>,
    /// Float32 outputs read after every step.
    pub results: Vec<(String, Vec<usize>)>,
}

/// What a step is given, in the order of the spec.
#[derive(Debug, Clone, Default)]
pub struct Inputs<'a> {
    /// The batch's, then the controls.
    pub floats: Vec<&'a [f32]>,
    pub integers: Vec<&'a [i64]>,
}

/// A step graph with its bound buffers.
pub struct Stepper {
    spec: StepperSpec,
    // Dropped before the memory, whose stream it runs on.
    session: Session,
    memory: Memory,
    /// Which set holds the current state.
    current: usize,
    steps: u64,
    /// Steps between releases of unused memory; 0 for never.
    shrink_every: u64,
}

enum Memory {
    Host(Box<HostMemory>),
    Device(Box<DeviceMemory>),
}

impl Stepper {
    /// Loads the graph and binds its buffers. State starts as zeros.
    ///
    /// # Errors
    /// The library's.
    pub fn new(library: &Library, provider: Provider, onnx: &[u8], spec: StepperSpec) -> Result<Self, RuntimeError> {
        let (session, memory) = match provider {
            Provider::Cpu => {
                let session = Session::new(library, provider, onnx)?;
                let memory = HostMemory::new(&session, &spec)?;
                (session, Memory::Host(Box::new(memory)))
            }
            Provider::Cuda { locked, .. } => {
                let device = Device::shared()?;
                let session = Session::on_stream(library, provider, onnx, device.compute_stream())?;
                let memory = DeviceMemory::new(&session, &spec, device, locked)?;
                (session, Memory::Device(Box::new(memory)))
            }
        };
        let mut stepper = Self { spec, session, memory, current: 0, steps: 0, shrink_every: 0 };
        for i in 0..stepper.spec.state.len() {
            let zeros = vec![0.0; stepper.spec.state[i].2];
            stepper.set_state(i, &zeros)?;
        }
        Ok(stepper)
    }

    /// Gives memory that the library holds but does not use back every so many steps; not on CUDA, where every step is
    /// a captured graph, which keeps what it uses.
    pub fn shrink_every(mut self, steps: u64) -> Self {
        self.shrink_every = steps;
        self
    }

    /// Sets state vector `i`.
    ///
    /// # Errors
    /// The library's.
    pub fn set_state(&mut self, i: usize, values: &[f32]) -> Result<(), RuntimeError> {
        let set = self.set_of(i);
        match &mut self.memory {
            Memory::Host(memory) => memory.set_state(set, i, values),
            Memory::Device(memory) => memory.set_state(set, i, values)?,
        }
        Ok(())
    }

    /// Writes to table `i` from element `first` on.
    ///
    /// # Errors
    /// The library's.
    ///
    /// # Panics
    /// The table ends before the values do.
    pub fn write_table(&mut self, i: usize, first: usize, values: &[f32]) -> Result<(), RuntimeError> {
        let elements = self.spec.tables[i].1.iter().product::<usize>();
        assert!(first.checked_add(values.len()).is_some_and(|end| end <= elements), "beyond table {i}");
        match &mut self.memory {
            Memory::Host(memory) => memory.write_table(i, first, values),
            Memory::Device(memory) => memory.write_table(i, first, values)?,
        }
        Ok(())
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
        let set = self.set_of(i);
        match &self.memory {
            Memory::Host(memory) => Ok(memory.state(set, i)),
            Memory::Device(memory) => memory.state(set, i, self.spec.state[i].2),
        }
    }

    /// Loads the batch of the next step, also while a step runs.
    ///
    /// # Errors
    /// The library's.
    ///
    /// # Panics
    /// Inputs that do not match the spec.
    pub fn load(&mut self, inputs: &[&[f32]]) -> Result<(), RuntimeError> {
        assert_eq!(inputs.len(), self.spec.inputs.len());
        match &mut self.memory {
            Memory::Host(memory) => memory.load(inputs),
            Memory::Device(memory) => memory.load(self.current, inputs)?,
        }
        Ok(())
    }

    /// Starts a step on the batch that was loaded last.
    ///
    /// # Errors
    /// The library's.
    ///
    /// # Panics
    /// Controls that do not match the spec.
    pub fn launch(&mut self, controls: &[&[f32]], integers: &[&[i64]]) -> Result<(), RuntimeError> {
        assert_eq!((controls.len(), integers.len()), (self.spec.controls.len(), self.spec.integers.len()));
        let set = self.current;
        self.steps += 1;
        let shrink = self.shrink_every > 0 && self.steps.is_multiple_of(self.shrink_every);
        match &mut self.memory {
            Memory::Host(memory) => memory.run(&mut self.session, set, controls, integers, shrink)?,
            Memory::Device(memory) => memory.launch(&mut self.session, set, controls, integers)?,
        }
        self.current = 1 - self.current;
        Ok(())
    }

    /// Waits for the step that was started last; `read` gets its results in the order of the spec.
    ///
    /// # Errors
    /// The library's.
    pub fn finish<R>(&mut self, read: impl FnOnce(&[&[f32]]) -> R) -> Result<R, RuntimeError> {
        let results = match &self.memory {
            Memory::Host(memory) => memory.results(),
            Memory::Device(memory) => memory.results(1 - self.current)?,
        };
        Ok(read(&results))
    }

    /// Runs one step on its own; `read` gets the results in the order of the spec.
    ///
    /// # Errors
    /// The library's.
    ///
    /// # Panics
    /// Inputs that do not match the spec.
    pub fn step<R>(&mut self, inputs: &Inputs<'_>, read: impl FnOnce(&[&[f32]]) -> R) -> Result<R, RuntimeError> {
        let (batch, controls) = inputs.floats.split_at(self.spec.inputs.len());
        self.load(batch)?;
        self.launch(controls, &inputs.integers)?;
        self.finish(read)
    }
}
