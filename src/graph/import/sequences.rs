//! Sequences of tensors: known lists, so that nothing is left of them in the graph.

use std::collections::HashMap;

use super::super::attributes::Attribute;
use super::super::core::Value;
use super::super::error::GraphError;
use super::super::operators::{Call, axis, import_concat};

/// Operators on sequences.
pub(super) const OPERATORS: [&str; 4] = ["ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SplitToSequence"];

/// Sequences by name.
pub(super) type Sequences = HashMap<String, Vec<Value>>;

/// Output of a node on sequences.
pub(super) enum Made {
    Tensor(Value),
    Sequence(Vec<Value>),
}

/// Applies one of [`OPERATORS`].
pub(super) fn apply(call: &mut Call<'_>, sequences: &Sequences) -> Result<Made, GraphError> {
    let sequence = |call: &Call<'_>| {
        let name = call.names.first().map(String::as_str).unwrap_or_default();
        sequences.get(name).cloned().ok_or_else(|| format!("{name} is not a known sequence"))
    };
    match call.operator {
        "SequenceConstruct" => {
            Ok(Made::Sequence((0..call.inputs.len()).map(|i| call.input(i)).collect::<Result<_, _>>()?))
        }
        "SequenceAt" => {
            let parts = sequence(call)?;
            let at = call.integers(1)?.and_then(|at| at.first().copied()).ok_or("the position is missing")?;
            Ok(Made::Tensor(parts[axis(at, parts.len())?]))
        }
        "SplitToSequence" => Ok(Made::Sequence(split(call)?)),
        _ => {
            let mut parts = sequence(call)?;
            let first = *parts.first().ok_or("the sequence is empty")?;
            let shape = call.shape(first);
            let stacks = call.attributes.int("new_axis", 0) != 0;
            let along = axis(call.attributes.int("axis", 0), shape.len() + usize::from(stacks))?;
            if parts
                .iter()
                .any(|part| call.graph.ty(*part).rank() != shape.len() || (stacks && call.shape(*part) != shape))
            {
                return Err("the tensors have different shapes".into());
            }
            if stacks {
                let mut wide = shape;
                wide.insert(along, 1);
                parts.iter_mut().for_each(|part| *part = call.graph.reshape(*part, &wide));
            }
            call.inputs = parts.into_iter().map(Some).collect();
            call.attributes.insert("axis".into(), Attribute::Int(along as i64));
            Ok(Made::Tensor(import_concat(call)?[0]))
        }
    }
}

/// Parts of sizes that are given, of one size (the last may be smaller), or of one row each.
fn split(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let x = call.input(0)?;
    let shape = call.shape(x);
    let along = axis(call.attributes.int("axis", 0), shape.len())?;
    let scalar = call.optional(1).is_some_and(|sizes| call.graph.shape(sizes).is_empty());
    let (sizes, drops) = match call.integers(1)? {
        None => (vec![1; shape[along]], call.attributes.int("keepdims", 1) == 0),
        Some(size) if scalar => {
            let size = usize::try_from(size[0])
                .ok()
                .filter(|size| *size > 0)
                .ok_or("the size of the parts must be positive")?;
            let count = shape[along].div_ceil(size);
            ((0..count).map(|i| size.min(shape[along] - i * size)).collect(), false)
        }
        Some(sizes) => (sizes.into_iter().map(|size| size.max(0) as usize).collect(), false),
    };
    let total = sizes.iter().try_fold(0usize, |sum, size| sum.checked_add(*size));
    if total != Some(shape[along]) || sizes.is_empty() {
        return Err(format!("the parts {sizes:?} do not add up to {}", shape[along]).into());
    }
    let mut parts = call.graph.split(x, along, &sizes);
    if drops {
        let mut kept = shape;
        kept.remove(along);
        parts.iter_mut().for_each(|part| *part = call.graph.reshape(*part, &kept));
    }
    Ok(parts)
}
