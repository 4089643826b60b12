//! Types of values, and constants.

use std::fmt;

/// Element types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    I64,
    Bool,
}

/// Element type and static shape.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TensorType {
    pub dtype: DType,
    pub shape: Vec<usize>,
}

impl TensorType {
    pub fn new(dtype: DType, shape: impl Into<Vec<usize>>) -> Self {
        Self { dtype, shape: shape.into() }
    }

    pub fn f32(shape: impl Into<Vec<usize>>) -> Self {
        Self::new(DType::F32, shape)
    }

    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{:?}", self.dtype, self.shape)
    }
}

/// A constant tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Constant {
    F32(Vec<usize>, Vec<f32>),
    I64(Vec<usize>, Vec<i64>),
}

impl Constant {
    pub fn tensor_type(&self) -> TensorType {
        match self {
            Self::F32(shape, _) => TensorType::f32(shape.clone()),
            Self::I64(shape, _) => TensorType::new(DType::I64, shape.clone()),
        }
    }

    /// Little-endian bytes, row-major.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::F32(_, values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::I64(_, values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }
}
