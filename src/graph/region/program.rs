//! What a region computes: one description for every provider.

use serde::{Deserialize, Serialize};

use super::super::error::GraphError;
use super::super::tensor::{DType, TensorType};

/// How a sum, maximum or minimum over the reduced axes is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reduction {
    Sum,
    Max,
    Min,
}

/// Numbers by their bits: JSON has no infinity.
mod bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(number: &f64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(number.to_bits())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        u64::deserialize(from).map(f64::from_bits)
    }
}

/// One operation on earlier steps, which are named by their place in the list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Operation {
    /// An element of an input: the number `offset` + sum of index x stride over the axes.
    Load {
        input: usize,
        offset: usize,
        strides: Vec<usize>,
    },
    Number(#[serde(with = "bits")] f64),
    /// A function by the name of its ONNX operator.
    Unary(String, usize),
    Binary(String, usize, usize),
    /// The second where the first is true, else the third.
    Select(usize, usize, usize),
    /// The same number in the step's type.
    Cast(usize),
    /// Over the reduced axes.
    Reduce(Reduction, usize),
}

impl Operation {
    /// The steps that it takes.
    pub fn arguments(&self) -> Vec<usize> {
        match self {
            Self::Load { .. } | Self::Number(_) => Vec::new(),
            Self::Unary(_, x) | Self::Cast(x) | Self::Reduce(_, x) => vec![*x],
            Self::Binary(_, a, b) => vec![*a, *b],
            Self::Select(c, a, b) => vec![*c, *a, *b],
        }
    }

    pub(super) fn arguments_mut(&mut self) -> Vec<&mut usize> {
        match self {
            Self::Load { .. } | Self::Number(_) => Vec::new(),
            Self::Unary(_, x) | Self::Cast(x) | Self::Reduce(_, x) => vec![x],
            Self::Binary(_, a, b) => vec![a, b],
            Self::Select(c, a, b) => vec![c, a, b],
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Numbers of half precision are rounded after every step, as standard operators round them.
    pub dtype: DType,
    pub operation: Operation,
    /// How many reductions lie one behind the other on the longest way here.
    pub depth: usize,
    /// Whether it has one element for each combination of the axes that are not reduced, rather than one for each
    /// point of the whole space. Always false where nothing is reduced.
    pub per_row: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Output {
    pub step: usize,
    pub shape: Vec<usize>,
    /// Whether it has one element for each row, rather than for each point.
    pub per_row: bool,
}

/// A region: steps for each point of a space of whole numbers, in order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// Sizes of the space's axes, row-major. Outputs lie in that order, whole or without the reduced axes.
    pub sizes: Vec<usize>,
    /// Which axes the reductions run over.
    pub reduced: Vec<bool>,
    pub inputs: Vec<(DType, Vec<usize>)>,
    pub steps: Vec<Step>,
    pub outputs: Vec<Output>,
}

impl Program {
    /// As the attribute of a node.
    pub(super) fn to_text(&self) -> String {
        serde_json::to_string(self).expect("no map keys, no failing writer")
    }

    /// Reads an attribute.
    ///
    /// # Errors
    /// It is not one, or would read or write elsewhere than in its inputs and outputs.
    pub fn from_text(text: &str) -> Result<Self, GraphError> {
        let program: Self = serde_json::from_str(text).map_err(|error| format!("not a region: {error}"))?;
        program.check().map_err(|what| format!("a region {what}"))?;
        Ok(program)
    }

    pub fn output_types(&self) -> Vec<TensorType> {
        let ty = |output: &Output| TensorType::new(self.steps[output.step].dtype, output.shape.clone());
        self.outputs.iter().map(ty).collect()
    }

    pub fn input_types(&self) -> Vec<TensorType> {
        self.inputs.iter().map(|(dtype, shape)| TensorType::new(*dtype, shape.clone())).collect()
    }

    pub fn has_reductions(&self) -> bool {
        self.reduced.contains(&true)
    }

    /// Points of the whole space.
    pub fn elements(&self) -> usize {
        self.sizes.iter().product()
    }

    fn along(&self, reduced: bool) -> usize {
        self.sizes.iter().zip(&self.reduced).filter(|(_, r)| **r == reduced).map(|(size, _)| *size).product()
    }

    /// Elements of what is not reduced: 1 for each reduction.
    pub fn rows(&self) -> usize {
        self.along(false)
    }

    /// Elements that a reduction takes together.
    pub fn columns(&self) -> usize {
        self.along(true)
    }

    fn check(&self) -> Result<(), String> {
        let elements = self.sizes.iter().try_fold(1usize, |n, size| n.checked_mul(*size).filter(|n| *n <= 1 << 40));
        if self.sizes.len() != self.reduced.len() || elements.is_none_or(|n| n == 0) {
            return Err(format!("of a space {:?}", self.sizes));
        }
        for (i, step) in self.steps.iter().enumerate() {
            if step.operation.arguments().iter().any(|argument| *argument >= i) {
                return Err(format!("whose step {i} comes before what it takes"));
            }
            self.check_step(i, step)?;
        }
        for output in &self.outputs {
            let count: usize = output.shape.iter().product();
            let expected = if output.per_row { self.rows() } else { self.elements() };
            let of_row = |step: &Step| step.per_row || !output.per_row;
            if self.steps.get(output.step).is_none_or(|step| !of_row(step)) || count != expected {
                return Err(format!("with an output {:?} of step {}", output.shape, output.step));
            }
        }
        Ok(())
    }

    fn check_step(&self, i: usize, step: &Step) -> Result<(), String> {
        let of = |j: &usize| &self.steps[*j];
        let arguments = step.operation.arguments();
        match &step.operation {
            Operation::Load { input, offset, strides } => {
                let size = self.inputs.get(*input).map_or(0, |(_, shape)| shape.iter().product::<usize>());
                let last = self.sizes.iter().zip(strides).map(|(size, stride)| (size - 1).saturating_mul(*stride));
                let last = last.fold(*offset, usize::saturating_add);
                let turns = self.reduced.iter().zip(strides).any(|(reduced, stride)| *reduced && *stride > 0);
                if strides.len() != self.sizes.len() || last >= size || (step.per_row && turns) {
                    return Err(format!("whose step {i} reads beyond its input"));
                }
            }
            Operation::Reduce(..) if !step.per_row || !self.has_reductions() => {
                return Err(format!("whose step {i} reduces nothing"));
            }
            Operation::Reduce(..) => {}
            _ if step.per_row && arguments.iter().any(|j| !of(j).per_row) => {
                return Err(format!("whose step {i} takes what is not of a row"));
            }
            _ => {}
        }
        let depth = arguments.iter().map(|j| of(j).depth).max().unwrap_or(0);
        if step.depth != depth + usize::from(matches!(step.operation, Operation::Reduce(..))) {
            return Err(format!("whose step {i} is out of turn"));
        }
        Ok(())
    }
}
