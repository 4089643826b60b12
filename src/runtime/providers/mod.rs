//! Where sessions run. A provider is one file: its sessions, its memory, the operators that it has.

mod cpu;
mod cuda;

use std::fmt;

use ort::session::Session;
use ort::session::builder::SessionBuilder;

use super::error::RuntimeError;
use super::library::Library;
use super::memory::Buffers;
use crate::config::{Device, TrainingConfig};
use crate::graph::Kernels;
use crate::ports::StepPorts;

pub use cuda::Settings as CudaSettings;

/// Where sessions run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    Cpu,
    Cuda(CudaSettings),
}

/// What a provider does in its own way.
trait Backend: fmt::Display {
    /// The operators that step graphs may use.
    fn kernels(&self) -> Kernels;

    /// Options of sessions; `steps`: the model of one whose buffers are bound, rather than given with each run.
    fn configure(&self, builder: SessionBuilder, steps: Option<&[u8]>) -> Result<SessionBuilder, RuntimeError>;

    /// Buffers for steps, bound to the session.
    fn bind(&self, session: &Session, ports: &StepPorts) -> Result<Box<dyn Buffers>, RuntimeError>;

    /// Bytes of memory that a session may take now; `None`: as many as there are rows.
    fn free_memory(&self) -> Result<Option<u64>, RuntimeError>;

    /// Why this project's own kernels are not there.
    fn missing_kernels(&self) -> Option<String>;

    /// Whether rows that lie with the step save copies.
    fn has_own_memory(&self) -> bool;
}

impl Provider {
    fn backend(&self) -> &dyn Backend {
        match self {
            Self::Cpu => &cpu::Cpu,
            Self::Cuda(settings) => settings,
        }
    }

    /// The provider for `training.device`: CUDA if asked for, or if `auto` and both library and driver have it.
    ///
    /// # Errors
    /// [`RuntimeError::NoCuda`]: CUDA was asked for and is not there.
    pub fn choose(library: &Library, training: &TrainingConfig) -> Result<Self, RuntimeError> {
        match (training.device, cuda::missing(library)) {
            (Device::Cpu, _) | (Device::Auto, Some(_)) => Ok(Self::Cpu),
            (Device::Auto | Device::Cuda, None) => Ok(Self::Cuda(CudaSettings::new(library, training))),
            (Device::Cuda, Some(reason)) => Err(RuntimeError::NoCuda { reason }),
        }
    }

    /// The operators that step graphs for this provider may use.
    pub fn kernels(self) -> Kernels {
        self.backend().kernels()
    }

    /// Why this project's own kernels are not there, if they were wanted.
    pub fn missing_kernels(self, training: &TrainingConfig) -> Option<String> {
        if training.cuda_kernels { self.backend().missing_kernels() } else { None }
    }

    /// Bytes of memory that a session here may take now; `None` where nobody counts.
    ///
    /// # Errors
    /// The driver's.
    pub fn free_memory(self) -> Result<Option<u64>, RuntimeError> {
        self.backend().free_memory()
    }

    /// Whether steps compute in other memory than the host's.
    pub fn has_own_memory(self) -> bool {
        self.backend().has_own_memory()
    }

    pub(super) fn configure(
        self,
        builder: SessionBuilder,
        steps: Option<&[u8]>,
    ) -> Result<SessionBuilder, RuntimeError> {
        self.backend().configure(builder, steps)
    }

    pub(super) fn bind(self, session: &Session, ports: &StepPorts) -> Result<Box<dyn Buffers>, RuntimeError> {
        self.backend().bind(session, ports)
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.backend().fmt(f)
    }
}

/// Providers of the loaded library that this project uses.
pub fn providers(_: &Library) -> Vec<&'static str> {
    ["CPU"].into_iter().chain(cuda::is_built_in().then_some("CUDA")).collect()
}
