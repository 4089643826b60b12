//! Ports: the named, typed, shaped tensors that go into a step and come out of it. `step` declares them, `dataset` fills
//! those of a batch and of resident rows, `runtime` binds them; all agree by name.

use std::borrow::Cow;

use crate::units::EMG_STATISTICS;

/// EMG [batch, rows, channels].
pub const EMG: &str = "emg";
/// True joint angles [batch, target rows, joints], radians.
pub const JOINT_ANGLES: &str = "joint_angles";
/// 1 for target rows that count, else 0 [batch, target rows].
pub const MASK: &str = "mask";
/// Statistics of each window's recording [batch, joints].
pub const ANGLE_MEAN: &str = "angle_mean";
pub const ANGLE_DIVISOR: &str = "angle_divisor";
/// Each window's first row among resident rows [batch].
pub const FIRST_ROWS: &str = "first_rows";
/// The channel that each one is taken from [batch, channels].
pub const CHANNELS: &str = "channels";
/// Resident rows: EMG [rows, channels], angles [rows, joints], and 1 for rows that count, else 0 [rows].
pub const ALL_EMG: &str = "all_emg";
pub const ALL_JOINT_ANGLES: &str = "all_joint_angles";
pub const ALL_VALID: &str = "all_valid";

/// The pose that a tracking model starts from [batch, joints], radians: an input of exported models.
pub const INITIAL_POSE: &str = "initial_pose";

/// EMG statistics of each window's recording [batch, channels], in the recording's units: an input of some models.
pub const EMG_MEAN: &str = EMG_STATISTICS[0];
pub const EMG_STD: &str = EMG_STATISTICS[1];

/// Element type of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    F32,
    I64,
}

/// A tensor that goes in or out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub name: Cow<'static, str>,
    pub element: Element,
    pub shape: Vec<usize>,
}

impl Port {
    pub fn f32(name: impl Into<Cow<'static, str>>, shape: impl Into<Vec<usize>>) -> Self {
        Self { name: name.into(), element: Element::F32, shape: shape.into() }
    }

    pub fn i64(name: impl Into<Cow<'static, str>>, shape: impl Into<Vec<usize>>) -> Self {
        Self { name: name.into(), element: Element::I64, shape: shape.into() }
    }

    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether `values` have the port's element type and number of elements.
    pub fn fits(&self, values: Values<'_>) -> bool {
        let (element, elements) = match values {
            Values::F32(values) => (Element::F32, values.len()),
            Values::I64(values) => (Element::I64, values.len()),
        };
        element == self.element && elements == self.elements()
    }
}

/// The elements of a port, row-major.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Values<'a> {
    F32(&'a [f32]),
    I64(&'a [i64]),
}

/// A port's elements with its name.
pub type Named<'a> = (&'static str, Values<'a>);

/// A state vector that a step reads and may update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatePort {
    pub port: Port,
    /// The output with its next value; `None` if it is only read.
    pub next: Option<String>,
}

/// All inputs and outputs of a step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepPorts {
    /// Float32 vectors that stay in the memory of the device that runs the step.
    pub state: Vec<StatePort>,
    /// Float32 inputs that stay as they are from step to step.
    pub tables: Vec<Port>,
    /// Inputs of a batch, which may be loaded while the previous step runs.
    pub batch: Vec<Port>,
    /// Small inputs that are known when a step starts.
    pub controls: Vec<Port>,
    /// Float32 outputs that are read after every step.
    pub results: Vec<Port>,
}

impl StepPorts {
    /// Whether a step takes a control of that name.
    pub fn has_control(&self, name: &str) -> bool {
        self.controls.iter().any(|port| port.name == name)
    }

    /// Whether a step has a state vector of that name.
    pub fn has_state(&self, name: &str) -> bool {
        self.state.iter().any(|state| state.port.name == name)
    }
}
