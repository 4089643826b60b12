//! How versions before 2026-12 read models: runs that they trained have the parameters that follow from it.

use std::collections::{HashMap, HashSet};

use super::super::proto::tensor_proto::DataType;
use super::super::proto::{NodeProto, TensorProto};
use super::tensor::constant;

/// Gives layers weights of their own where an exporter may have merged equal ones: behind an `Identity`, in the four inputs
/// of batch normalizations, and where all elements are one number.
pub(super) fn untie(nodes: &mut Vec<NodeProto>, initializers: &mut Vec<TensorProto>) {
    let mut known: HashMap<String, usize> =
        initializers.iter().enumerate().map(|(i, tensor)| (tensor.name().to_owned(), i)).collect();
    let copy = |initializers: &mut Vec<TensorProto>, from: usize, name: &str| {
        let tensor = TensorProto { name: Some(name.to_owned()), ..initializers[from].clone() };
        initializers.push(tensor);
        initializers.len() - 1
    };
    nodes.retain(|node| {
        let source = node.input.first().and_then(|name| known.get(name)).copied();
        match (node.op_type(), source, node.output.first()) {
            ("Identity", Some(source), Some(output)) => {
                let made = copy(initializers, source, output);
                known.insert(output.clone(), made);
                false
            }
            _ => true,
        }
    });
    let uniform: HashSet<_> = initializers.iter().filter(|t| is_uniform(t)).map(|t| t.name().to_owned()).collect();
    let mut seen = HashSet::new();
    for node in nodes {
        let norm = node.op_type() == "BatchNormalization";
        for (i, name) in node.input.iter_mut().enumerate() {
            let Some(source) = known.get(name.as_str()).copied() else { continue };
            let merged = norm && i > 0 || uniform.contains(name.as_str());
            if merged && !seen.insert(name.clone()) {
                let own = format!("{name}/{}", initializers.len());
                copy(initializers, source, &own);
                *name = own;
            } else {
                seen.insert(name.clone());
            }
        }
    }
}

/// Whether a float tensor of more than one element holds one number.
fn is_uniform(tensor: &TensorProto) -> bool {
    if tensor.data_type() != DataType::Float as i32 || tensor.dims.is_empty() {
        return false;
    }
    let numbers = constant(tensor).map(|constant| constant.numbers()).unwrap_or_default();
    numbers.len() > 1 && numbers.windows(2).all(|pair| pair[0] == pair[1])
}
