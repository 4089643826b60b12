//! What becomes of the tensors of a user's model: which are trained, and why the others are not.

use std::fmt;

use super::error::ModelError;
use super::parameter::matching_names;
use crate::graph::{Declared, Exporter, OnnxModel};

/// What becomes of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Trained,
    /// By `model.freeze`.
    Frozen,
    /// The file calls it one.
    Buffer,
    /// A running mean or variance of a batch normalization: follows the batches.
    Statistic,
    /// Says how something is done, was computed by the exporter, or is not finite.
    Constant,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Trained => "trained",
            Self::Frozen => "frozen by you",
            Self::Buffer => "buffer",
            Self::Statistic => "running statistic",
            Self::Constant => "constant",
        })
    }
}

/// A float tensor of a user's model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelTensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub role: Role,
    /// Whether it is trained, but may be a buffer: the file does not say, and its name is none of PyTorch's for parameters.
    pub may_be_buffer: bool,
    /// Whether it is taken for a constant, but may be a parameter of one element: the file does not say.
    pub may_be_parameter: bool,
}

impl ModelTensor {
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The float tensors of a model in the order of its file, and what becomes of them. What the file declares is followed;
/// where it says nothing, all but settings and masks are trained. `freeze`, `train`: patterns of names that say otherwise.
///
/// # Errors
/// A pattern that matches no tensor that it could change, or a name that both lists match.
pub(super) fn roles(onnx: &OnnxModel, freeze: &[String], train: &[String]) -> Result<Vec<ModelTensor>, ModelError> {
    let (statistics, settings, named_settings) = (onnx.statistics(), onnx.settings(), onnx.named_settings());
    let mut tensors = Vec::new();
    for (name, _, shape) in onnx.initializers().filter(|(_, is_float, _)| *is_float) {
        let declared = onnx.declared(name);
        let role = match declared {
            _ if statistics.contains(name) => Role::Statistic,
            Some(Declared::Buffer) => Role::Buffer,
            Some(Declared::Constant) => Role::Constant,
            Some(Declared::Parameter) => Role::Trained,
            _ if settings.contains(name) => Role::Constant,
            None if shape.is_empty() && (onnx.exporter() == Exporter::Other || onnx.is_legacy()) => Role::Constant,
            // Such as a mask of minus infinity.
            _ if onnx.initializer(name)?.iter().any(|value| !value.is_finite()) => Role::Constant,
            None => Role::Trained,
        };
        let said = declared.is_some();
        let may_be_buffer = role == Role::Trained && !said && !is_parameter_name(name);
        // A factor that is learned looks like one that is not.
        let may_be_parameter = role == Role::Constant && !said && !shape.is_empty() && !named_settings.contains(name);
        tensors.push(ModelTensor { name: name.to_owned(), shape, role, may_be_buffer, may_be_parameter });
    }
    let names: Vec<_> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let frozen = matching_names(&names, freeze).map_err(ModelError::Freeze)?;
    let trained = matching_names(&names, train).map_err(ModelError::Train)?;
    for ((tensor, frozen), trained) in tensors.iter_mut().zip(frozen).zip(trained) {
        match (frozen, trained) {
            (true, true) => return Err(ModelError::FrozenAndTrained { name: tensor.name.clone() }),
            (true, false) if tensor.role == Role::Trained => tensor.role = Role::Frozen,
            (false, true) if tensor.role == Role::Statistic => {
                return Err(ModelError::TrainedStatistic { name: tensor.name.clone() });
            }
            (false, true) => tensor.role = Role::Trained,
            _ => continue,
        }
        (tensor.may_be_buffer, tensor.may_be_parameter) = (false, false);
    }
    Ok(tensors)
}

/// Whether PyTorch's own layers call parameters so: `conv.weight`, `in_proj_bias`, `weight_ih_l0`.
fn is_parameter_name(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    last.contains("weight") || last.contains("bias")
}
