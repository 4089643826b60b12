//! Running step graphs: state that stays where the provider computes, two sets of it in turn.
//!
//! A step reads one set and writes the other, so no buffer is ever both input and output of a run, which CUDA graph
//! capture needs, and nothing is allocated or copied between steps but the batch. The next batch is loaded while a
//! step runs: `load`, then again and again `launch`, `load` the next, `finish`.

use super::error::RuntimeError;
use super::library::Library;
use super::memory::Buffers;
use super::providers::Provider;
use super::session::Session;
use crate::ports::{Named, Port, StepPorts, Values};

/// A step graph with its bound buffers.
pub struct Stepper {
    ports: StepPorts,
    session: Session,
    buffers: Box<dyn Buffers>,
    /// Which set holds the current state.
    current: usize,
    steps: u64,
    /// Steps between releases of unused memory; 0 for never.
    shrink_every: u64,
}

/// What a step gave.
pub struct Results<'a> {
    ports: &'a [Port],
    values: Vec<&'a [f32]>,
}

impl<'a> Results<'a> {
    /// The result of that name, if the step has one.
    pub fn find(&self, name: &str) -> Option<&'a [f32]> {
        self.ports.iter().position(|port| port.name == name).map(|i| self.values[i])
    }

    /// The result of that name.
    ///
    /// # Panics
    /// The step has none.
    pub fn get(&self, name: &str) -> &'a [f32] {
        self.find(name).unwrap_or_else(|| panic!("the step has no result {name}"))
    }
}

/// The values of each of `ports`, by name.
fn in_order<'a>(ports: &[Port], given: &[Named<'a>]) -> Vec<Values<'a>> {
    let one = |port: &Port| {
        let found = given.iter().find(|(name, _)| port.name == *name);
        let (_, values) = found.unwrap_or_else(|| panic!("the step's input {} is not given", port.name));
        assert!(port.fits(*values), "the step's input {} is {:?} {:?}", port.name, port.element, port.shape);
        *values
    };
    ports.iter().map(one).collect()
}

impl Stepper {
    /// Loads the graph and binds its buffers. State starts as zeros.
    ///
    /// # Errors
    /// The library's.
    pub fn new(library: &Library, provider: Provider, onnx: &[u8], ports: StepPorts) -> Result<Self, RuntimeError> {
        let session = Session::for_steps(library, provider, onnx)?;
        let buffers = provider.bind(&session.inner, &ports)?;
        let mut stepper = Self { ports, session, buffers, current: 0, steps: 0, shrink_every: 0 };
        for i in 0..stepper.ports.state.len() {
            let zeros = vec![0.0; stepper.ports.state[i].port.elements()];
            stepper.buffers.set_state(0, i, &zeros)?;
        }
        Ok(stepper)
    }

    /// Returns unused memory of the library to the system every `steps` steps; not on CUDA, where every step is
    /// a captured graph, which keeps what it uses.
    pub fn shrink_every(mut self, steps: u64) -> Self {
        self.shrink_every = steps;
        self
    }

    pub fn ports(&self) -> &StepPorts {
        &self.ports
    }

    /// Where a state vector stands among the ports, and the set that holds it now.
    fn place(&self, name: &str) -> (usize, usize) {
        let i = self.ports.state.iter().position(|state| state.port.name == name);
        let i = i.unwrap_or_else(|| panic!("the step has no state {name}"));
        (i, if self.ports.state[i].next.is_none() { 0 } else { self.current })
    }

    /// Sets a state vector.
    ///
    /// # Errors
    /// The library's.
    ///
    /// # Panics
    /// There is no such vector, or it has another number of elements.
    pub fn set_state(&mut self, name: &str, values: &[f32]) -> Result<(), RuntimeError> {
        let (i, set) = self.place(name);
        assert_eq!(self.ports.state[i].port.elements(), values.len(), "elements of {name}");
        self.buffers.set_state(set, i, values)
    }

    /// Reads a state vector.
    ///
    /// # Errors
    /// The library's.
    ///
    /// # Panics
    /// There is no such vector.
    pub fn state(&self, name: &str) -> Result<Vec<f32>, RuntimeError> {
        let (i, set) = self.place(name);
        self.buffers.state(set, i)
    }

    /// Reads a state vector as it was before the last step.
    ///
    /// # Errors
    /// The library's.
    ///
    /// # Panics
    /// There is no such vector.
    pub fn state_before(&self, name: &str) -> Result<Vec<f32>, RuntimeError> {
        let (i, set) = self.place(name);
        self.buffers.state(if self.ports.state[i].next.is_none() { set } else { 1 - set }, i)
    }

    /// Copies a state vector of another step that runs on the same provider.
    ///
    /// # Errors
    /// The library's.
    ///
    /// # Panics
    /// There are no such vectors, or they have different numbers of elements.
    pub fn copy_state(&mut self, name: &str, other: &Self, from: &str) -> Result<(), RuntimeError> {
        let ((i, set), (j, other_set)) = (self.place(name), other.place(from));
        let elements = [&self.ports.state[i], &other.ports.state[j]].map(|state| state.port.elements());
        assert_eq!(elements[0], elements[1], "elements of {name} and {from}");
        self.buffers.copy_state(set, i, other.buffers.state_place(other_set, j))
    }

    /// Writes to a table from element `first` on.
    ///
    /// # Errors
    /// The library's.
    ///
    /// # Panics
    /// There is no such table, or it ends before the values do.
    pub fn write_table(&mut self, name: &str, first: usize, values: &[f32]) -> Result<(), RuntimeError> {
        let i = self.ports.tables.iter().position(|table| table.name == name);
        let i = i.unwrap_or_else(|| panic!("the step has no table {name}"));
        let elements = self.ports.tables[i].elements();
        assert!(first.checked_add(values.len()).is_some_and(|end| end <= elements), "beyond the table {name}");
        self.buffers.write_table(i, first, values)
    }

    /// Loads the batch of the next step, also while a step runs. What the step has no input for is left out.
    ///
    /// # Errors
    /// The library's.
    ///
    /// # Panics
    /// An input is not given, or of another size.
    pub fn load(&mut self, batch: &[Named<'_>]) -> Result<(), RuntimeError> {
        self.buffers.load(self.current, &in_order(&self.ports.batch, batch))
    }

    /// Starts a step on the batch that was loaded last.
    ///
    /// # Errors
    /// The library's.
    ///
    /// # Panics
    /// A control is not given, or of another size.
    pub fn launch(&mut self, controls: &[Named<'_>]) -> Result<(), RuntimeError> {
        let controls = in_order(&self.ports.controls, controls);
        self.steps += 1;
        let shrink = self.shrink_every > 0 && self.steps.is_multiple_of(self.shrink_every);
        self.buffers.launch(&mut self.session.inner, self.current, &controls, shrink)?;
        self.current = 1 - self.current;
        Ok(())
    }

    /// Waits for the step that was started last; `read` gets its results.
    ///
    /// # Errors
    /// The library's.
    pub fn finish<R>(&mut self, read: impl FnOnce(&Results<'_>) -> R) -> Result<R, RuntimeError> {
        let values = self.buffers.results(1 - self.current)?;
        Ok(read(&Results { ports: &self.ports.results, values }))
    }

    /// Runs one step on its own; `read` gets its results.
    ///
    /// # Errors
    /// The library's.
    ///
    /// # Panics
    /// As [`load`](Self::load) and [`launch`](Self::launch).
    pub fn step<R>(
        &mut self,
        batch: &[Named<'_>],
        controls: &[Named<'_>],
        read: impl FnOnce(&Results<'_>) -> R,
    ) -> Result<R, RuntimeError> {
        self.load(batch)?;
        self.launch(controls)?;
        self.finish(read)
    }
}
