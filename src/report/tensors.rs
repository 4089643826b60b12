//! The tensors of a user's own model as a table.

use crate::model::{ModelTensor, Role};

/// Lines of a table: what becomes of each tensor, its elements and shape, and totals. `unreached`: names of trained ones that
/// the loss does not depend on.
pub fn tensor_table(tensors: &[ModelTensor], unreached: &[String]) -> Vec<String> {
    const NOT_REACHED: &str = "not reached";
    let role = |tensor: &ModelTensor| match tensor.role {
        Role::Trained if unreached.contains(&tensor.name) => NOT_REACHED.to_owned(),
        role => role.to_string(),
    };
    let widest = tensors.iter().map(|tensor| tensor.name.chars().count()).max().unwrap_or(0);
    let row = |tensor: &ModelTensor| {
        let (name, role) = (&tensor.name, role(tensor));
        let shape = tensor.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ");
        let shape = if shape.is_empty() { "single number".to_owned() } else { shape };
        format!("{name:widest$}  {role:17}  {:>9}  {shape}", tensor.elements())
    };
    let mut lines: Vec<_> = tensors.iter().map(row).collect();
    let mut totals: Vec<(String, usize, usize)> = Vec::new();
    for tensor in tensors {
        let role = role(tensor);
        match totals.iter_mut().find(|(other, ..)| *other == role) {
            Some((_, count, elements)) => (*count, *elements) = (*count + 1, *elements + tensor.elements()),
            None => totals.push((role, 1, tensor.elements())),
        }
    }
    let total = |(role, count, elements): &(String, usize, usize)| format!("{role}: {elements} in {count}");
    lines.push(totals.iter().map(total).collect::<Vec<_>>().join("; "));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tensor_has_a_row() {
        let tensor = |name: &str, shape: &[usize], role| ModelTensor {
            name: name.to_owned(),
            shape: shape.to_vec(),
            role,
            may_be_buffer: false,
            may_be_parameter: false,
        };
        let tensors = [
            tensor("conv.weight", &[8, 4, 3], Role::Trained),
            tensor("unused", &[5], Role::Trained),
            tensor("scale", &[], Role::Buffer),
        ];
        assert_eq!(
            tensor_table(&tensors, &["unused".to_owned()]),
            [
                "conv.weight  trained                   96  8 x 4 x 3",
                "unused       not reached                5  5",
                "scale        buffer                     1  single number",
                "trained: 96 in 1; not reached: 5 in 1; buffer: 1 in 1",
            ]
        );
    }
}
