//! Constant folding: an operator on constants is computed at once, where its result is small. What models compute
//! about shapes and masks is gone before a session sees it.

use super::core::Node;
use super::tensor::{Constant, DType, TensorType};

/// What an operator gives on constants.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fold {
    /// Each element by itself, for outputs of an element type.
    Unary(fn(f64, DType) -> f64),
    /// Two elements that broadcast; `true`: integers.
    Binary(fn(f64, f64, bool) -> Option<f64>),
    /// The elements of the only output.
    Node(fn(&Node, &[&Constant], &TensorType) -> Option<Vec<f64>>),
    /// All outputs.
    Nodes(Outputs),
}

type Outputs = fn(&Node, &[&Constant], &[TensorType]) -> Option<Vec<Constant>>;

/// Floats beyond this are better computed where they are needed than carried in the file.
const MOST_FLOATS: usize = 1024;
const MOST_OTHERS: usize = 1 << 20;

/// The node's outputs, of these types, if its inputs are constants and it is worthwhile.
pub(super) fn fold(node: &Node, inputs: &[&Constant], types: &[TensorType]) -> Option<Vec<Constant>> {
    let rule = node.operator.fold?;
    let most = if types.iter().any(|ty| ty.dtype.is_float()) { MOST_FLOATS } else { MOST_OTHERS };
    let large = |shape: &[usize]| shape.iter().product::<usize>() > most;
    if inputs.is_empty() || types.iter().any(|ty| large(&ty.shape)) || inputs.iter().any(|c| large(c.shape())) {
        return None;
    }
    if let Fold::Nodes(all) = rule {
        return all(node, inputs, types);
    }
    let [ty] = types else { return None };
    let numbers = match (rule, inputs) {
        (Fold::Unary(f), [x]) => Some(x.numbers().into_iter().map(|x| f(x, ty.dtype)).collect()),
        (Fold::Binary(f), [a, _]) => {
            let integers = a.dtype() == DType::I64;
            binary(inputs, ty, |a, b| f(a, b, integers))
        }
        (Fold::Node(elements), _) => elements(node, inputs, ty),
        _ => None,
    };
    Some(vec![Constant::from_numbers(ty.dtype, ty.shape.clone(), &numbers?)])
}

/// Elements of two tensors that broadcast, two by two.
pub(super) fn binary(inputs: &[&Constant], ty: &TensorType, f: impl Fn(f64, f64) -> Option<f64>) -> Option<Vec<f64>> {
    let [a, b] = inputs else { return None };
    let (x, y) = (a.numbers(), b.numbers());
    each(&ty.shape, |index| f(x[broadcast(a.shape(), index)], y[broadcast(b.shape(), index)]))
}

/// The position in a row-major tensor of `shape` of element `index` of one it broadcasts to.
pub(super) fn broadcast(shape: &[usize], index: &[usize]) -> usize {
    let lead = index.len() - shape.len();
    shape.iter().enumerate().fold(0, |at, (i, size)| at * size + if *size == 1 { 0 } else { index[lead + i] })
}

/// The position of element `index` in a row-major tensor.
pub(super) fn position(shape: &[usize], index: &[usize]) -> usize {
    shape.iter().zip(index).fold(0, |at, (size, i)| at * size + i)
}

/// The elements of an int64 constant.
pub(super) fn integers(constant: &Constant) -> Option<Vec<i64>> {
    match constant {
        Constant::I64(_, values) => Some(values.clone()),
        _ => None,
    }
}

/// Each element of a tensor of `shape`, from its index.
pub(super) fn each(shape: &[usize], mut f: impl FnMut(&[usize]) -> Option<f64>) -> Option<Vec<f64>> {
    let elements = shape.iter().product();
    let mut index = vec![0; shape.len()];
    (0..elements)
        .map(|_| {
            let value = f(&index);
            for i in (0..shape.len()).rev() {
                index[i] += 1;
                if index[i] < shape[i] {
                    break;
                }
                index[i] = 0;
            }
            value
        })
        .collect()
}
