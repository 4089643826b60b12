//! Asking ONNX Runtime what an operator gives.

use ort::value::{TensorElementType, ValueType};

use super::library::load;
use super::providers::Provider;
use super::session::Session;
use crate::graph::{DType, Probe, TensorType};

/// Runs small models on the CPU with the library that is loaded, or that would be.
#[derive(Debug, Clone, Copy)]
pub struct LibraryProbe;

impl Probe for LibraryProbe {
    fn types(&self, onnx: &[u8]) -> Result<Vec<TensorType>, String> {
        let library = load(None).map_err(|error| error.to_string())?;
        let mut session = Session::new(&library, Provider::Cpu, onnx).map_err(|error| error.to_string())?;
        let outputs =
            session.inner.run(Vec::<(&str, ort::value::DynValue)>::new()).map_err(|error| error.message().to_owned());
        outputs?.iter().map(|(name, value)| tensor_type(value.dtype()).ok_or_else(|| unsupported(name))).collect()
    }
}

fn unsupported(name: &str) -> String {
    format!("its output {name} has an element type that is not supported")
}

fn tensor_type(ty: &ValueType) -> Option<TensorType> {
    let ValueType::Tensor { ty, shape, .. } = ty else { return None };
    let dtype = match ty {
        TensorElementType::Float32 => DType::F32,
        TensorElementType::Int64 => DType::I64,
        TensorElementType::Bool => DType::Bool,
        _ => return None,
    };
    let shape: Option<Vec<_>> = shape.iter().map(|dim| usize::try_from(*dim).ok()).collect();
    Some(TensorType::new(dtype, shape?))
}
