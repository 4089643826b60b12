//! Types of values, and constants.

use std::fmt;

use half::{bf16, f16};

use super::proto::tensor_proto::DataType;

/// Element types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum DType {
    F32,
    F16,
    BF16,
    I64,
    Bool,
}

impl DType {
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    pub fn is_half(self) -> bool {
        matches!(self, Self::F16 | Self::BF16)
    }

    /// As ONNX writes it.
    pub(super) fn data_type(self) -> DataType {
        match self {
            Self::F32 => DataType::Float,
            Self::F16 => DataType::Float16,
            Self::BF16 => DataType::Bfloat16,
            Self::I64 => DataType::Int64,
            Self::Bool => DataType::Bool,
        }
    }

    /// Of what ONNX writes; `None` for types that no value here has.
    pub(super) fn of(data_type: DataType) -> Option<Self> {
        [Self::F32, Self::F16, Self::BF16, Self::I64, Self::Bool]
            .into_iter()
            .find(|dtype| dtype.data_type() == data_type)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
            Self::I64 => "int64",
            Self::Bool => "bool",
        })
    }
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

    /// Whether no machine could hold it, even with a batch that is not known yet.
    pub fn is_too_large(&self) -> bool {
        let elements = self.shape.iter().try_fold(1usize, |product, dim| product.checked_mul(*dim));
        elements.is_none_or(|elements| elements > 1 << 60)
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.dtype, self.shape)
    }
}

/// A constant tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Constant {
    F32(Vec<usize>, Vec<f32>),
    F16(Vec<usize>, Vec<f16>),
    BF16(Vec<usize>, Vec<bf16>),
    I64(Vec<usize>, Vec<i64>),
    Bool(Vec<usize>, Vec<bool>),
}

impl Constant {
    pub fn tensor_type(&self) -> TensorType {
        TensorType::new(self.dtype(), self.shape())
    }

    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(..) => DType::F32,
            Self::F16(..) => DType::F16,
            Self::BF16(..) => DType::BF16,
            Self::I64(..) => DType::I64,
            Self::Bool(..) => DType::Bool,
        }
    }

    pub fn shape(&self) -> &[usize] {
        match self {
            Self::F32(shape, _)
            | Self::F16(shape, _)
            | Self::BF16(shape, _)
            | Self::I64(shape, _)
            | Self::Bool(shape, _) => shape,
        }
    }

    /// Elements as numbers; false and true are 0 and 1. Exact but for integers beyond 2^53.
    pub fn numbers(&self) -> Vec<f64> {
        match self {
            Self::F32(_, values) => values.iter().map(|value| f64::from(*value)).collect(),
            Self::F16(_, values) => values.iter().map(|value| value.to_f64()).collect(),
            Self::BF16(_, values) => values.iter().map(|value| value.to_f64()).collect(),
            Self::I64(_, values) => values.iter().map(|value| *value as f64).collect(),
            Self::Bool(_, values) => values.iter().map(|value| f64::from(u8::from(*value))).collect(),
        }
    }

    /// A tensor of these numbers, rounded to the type.
    pub fn from_numbers(dtype: DType, shape: impl Into<Vec<usize>>, numbers: &[f64]) -> Self {
        let shape = shape.into();
        match dtype {
            DType::F32 => Self::F32(shape, numbers.iter().map(|value| *value as f32).collect()),
            DType::F16 => Self::F16(shape, numbers.iter().map(|value| f16::from_f64(*value)).collect()),
            DType::BF16 => Self::BF16(shape, numbers.iter().map(|value| bf16::from_f64(*value)).collect()),
            DType::I64 => Self::I64(shape, numbers.iter().map(|value| *value as i64).collect()),
            DType::Bool => Self::Bool(shape, numbers.iter().map(|value| *value != 0.0).collect()),
        }
    }

    /// The same numbers, rounded to another type.
    #[must_use]
    pub fn cast(self, to: DType) -> Self {
        if self.dtype() == to { self } else { Self::from_numbers(to, self.shape(), &self.numbers()) }
    }

    /// A tensor with one value everywhere.
    pub fn filled(dtype: DType, shape: impl Into<Vec<usize>>, value: f64) -> Self {
        let shape = shape.into();
        let elements = shape.iter().product();
        Self::from_numbers(dtype, shape, &vec![value; elements])
    }

    /// Little-endian bytes, row-major.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::F32(_, values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::F16(_, values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::BF16(_, values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::I64(_, values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::Bool(_, values) => values.iter().map(|value| u8::from(*value)).collect(),
        }
    }
}
