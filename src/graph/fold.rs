//! Constant folding: an operator on constants is computed at once, where its result is small. What models compute
//! about shapes and masks is gone before a session sees it.

use super::core::{Attributes, Node};
use super::operators::{Ranges, axis};
use super::tensor::{Constant, DType, TensorType};

/// Floats beyond this are better computed where they are needed than carried in the file.
const MOST_FLOATS: usize = 1024;
const MOST_OTHERS: usize = 1 << 20;

/// The node's outputs, of these types, if its inputs are constants and it is worthwhile.
pub(super) fn fold(node: &Node, inputs: &[&Constant], types: &[TensorType]) -> Option<Vec<Constant>> {
    let most = if types.iter().any(|ty| ty.dtype.is_float()) { MOST_FLOATS } else { MOST_OTHERS };
    let large = |shape: &[usize]| shape.iter().product::<usize>() > most;
    if inputs.is_empty() || types.iter().any(|ty| large(&ty.shape)) || inputs.iter().any(|c| large(c.shape())) {
        return None;
    }
    if node.operator.name == "Mod" && node.int("fmod", 0) != 0 {
        return None;
    }
    if node.operator.name == "Split" {
        return split(node, inputs[0], types);
    }
    let [ty] = types else { return None };
    let numbers = elementwise(node.operator.name, inputs, ty).or_else(|| moved(node, inputs, ty))?;
    Some(vec![Constant::from_numbers(ty.dtype, ty.shape.clone(), &numbers)])
}

/// The position in a row-major tensor of `shape` of element `index` of one it broadcasts to.
fn broadcast(shape: &[usize], index: &[usize]) -> usize {
    let lead = index.len() - shape.len();
    shape.iter().enumerate().fold(0, |at, (i, size)| at * size + if *size == 1 { 0 } else { index[lead + i] })
}

/// Each element of a tensor of `shape`, from its index.
fn each(shape: &[usize], mut f: impl FnMut(&[usize]) -> Option<f64>) -> Option<Vec<f64>> {
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

fn elementwise(operator: &str, inputs: &[&Constant], ty: &TensorType) -> Option<Vec<f64>> {
    let numbers: Vec<_> = inputs.iter().map(|constant| constant.numbers()).collect();
    let at = |i: usize, index: &[usize]| numbers[i][broadcast(inputs[i].shape(), index)];
    if operator == "Where" {
        return each(&ty.shape, |index| Some(at(usize::from(at(0, index) == 0.0) + 1, index)));
    }
    let integers = inputs[0].dtype() == DType::I64;
    if let Some(f) = binary(operator, integers).filter(|_| inputs.len() == 2) {
        return each(&ty.shape, |index| f(at(0, index), at(1, index)));
    }
    let f = unary(operator, ty.dtype).filter(|_| inputs.len() == 1)?;
    Some(numbers[0].iter().map(|x| f(*x)).collect())
}

fn unary(operator: &str, to: DType) -> Option<fn(f64) -> f64> {
    Some(match operator {
        "Abs" => f64::abs,
        "Cast" if to == DType::I64 => f64::trunc,
        "Cast" | "Identity" => |x| x,
        "Ceil" => f64::ceil,
        "Cos" => f64::cos,
        "Exp" => f64::exp,
        "Floor" => f64::floor,
        "Log" => f64::ln,
        "Neg" => |x| -x,
        "Not" => |x| f64::from(u8::from(x == 0.0)),
        "Reciprocal" => |x| 1.0 / x,
        "Sin" => f64::sin,
        "Sqrt" => f64::sqrt,
        _ => return None,
    })
}

type Binary = fn(f64, f64) -> Option<f64>;

fn binary(operator: &str, integers: bool) -> Option<Binary> {
    let truth: Binary = match operator {
        "And" => |a, b| Some(f64::from(u8::from(a != 0.0 && b != 0.0))),
        "Equal" => |a, b| Some(f64::from(u8::from(a == b))),
        "Greater" => |a, b| Some(f64::from(u8::from(a > b))),
        "GreaterOrEqual" => |a, b| Some(f64::from(u8::from(a >= b))),
        "Less" => |a, b| Some(f64::from(u8::from(a < b))),
        "LessOrEqual" => |a, b| Some(f64::from(u8::from(a <= b))),
        "Or" => |a, b| Some(f64::from(u8::from(a != 0.0 || b != 0.0))),
        "Xor" => |a, b| Some(f64::from(u8::from((a != 0.0) != (b != 0.0)))),
        "Add" => |a, b| Some(a + b),
        "Sub" => |a, b| Some(a - b),
        "Mul" => |a, b| Some(a * b),
        "Div" if integers => |a, b| (b != 0.0).then(|| (a / b).trunc()),
        "Div" => |a, b| Some(a / b),
        "Max" => |a, b| Some(a.max(b)),
        "Min" => |a, b| Some(a.min(b)),
        "Mod" if integers => |a, b| (b != 0.0).then(|| a - b * (a / b).floor()),
        "Pow" => |a, b| Some(a.powf(b)),
        _ => return None,
    };
    Some(truth)
}

/// Operators that only move elements.
fn moved(node: &Node, inputs: &[&Constant], ty: &TensorType) -> Option<Vec<f64>> {
    let (x, shape) = (inputs[0].numbers(), inputs[0].shape());
    match node.operator.name {
        "Reshape" => Some(x),
        "Expand" => each(&ty.shape, |index| Some(x[broadcast(shape, index)])),
        "Transpose" => {
            let reversed: Vec<_> = (0..shape.len() as i64).rev().collect();
            let order = node.ints("perm", &reversed);
            each(&ty.shape, |index| {
                let mut from = vec![0; index.len()];
                order.iter().zip(index).for_each(|(axis, at)| from[*axis as usize] = *at);
                x.get(broadcast(shape, &from)).copied()
            })
        }
        "Slice" => {
            let lists = inputs[1..].iter().map(|c| integers(c)).collect::<Option<Vec<_>>>()?;
            let ranges = Ranges::new(shape, &lists).ok()?;
            each(&ty.shape, |index| Some(x[position(shape, &ranges.source(index))]))
        }
        "Concat" => concat(inputs, &node.attributes, ty),
        "Gather" => {
            let along = axis(node.int("axis", 0), shape.len()).ok()?;
            let (indices, picked) = (integers(inputs[1])?, inputs[1].shape().len());
            each(&ty.shape, |index| {
                let at = *indices.get(position(inputs[1].shape(), &index[along..along + picked]))?;
                let at = if at < 0 { at + shape[along] as i64 } else { at } as usize;
                let from = [&index[..along], &[at], &index[along + picked..]].concat();
                (at < shape[along]).then(|| x[position(shape, &from)])
            })
        }
        "Trilu" => {
            let k = inputs.get(1).map_or(Some(0), |k| integers(k)?.first().copied())?;
            let upper = node.int("upper", 1) != 0;
            each(&ty.shape, |index| {
                let [.., row, column] = index else { return None };
                let above = *column as i64 - *row as i64;
                let kept = if upper { above >= k } else { above <= k };
                Some(if kept { x[position(shape, index)] } else { 0.0 })
            })
        }
        _ => None,
    }
}

fn integers(constant: &Constant) -> Option<Vec<i64>> {
    match constant {
        Constant::I64(_, values) => Some(values.clone()),
        _ => None,
    }
}

fn position(shape: &[usize], index: &[usize]) -> usize {
    shape.iter().zip(index).fold(0, |at, (size, i)| at * size + i)
}

fn concat(inputs: &[&Constant], attributes: &Attributes, ty: &TensorType) -> Option<Vec<f64>> {
    let along = axis(attributes.int("axis", 0), ty.rank()).ok()?;
    let parts: Vec<_> = inputs.iter().map(|part| part.numbers()).collect();
    each(&ty.shape, |index| {
        let mut from = index.to_vec();
        for (part, values) in inputs.iter().zip(&parts) {
            let size = part.shape()[along];
            if from[along] < size {
                return Some(values[position(part.shape(), &from)]);
            }
            from[along] -= size;
        }
        None
    })
}

fn split(node: &Node, x: &Constant, types: &[TensorType]) -> Option<Vec<Constant>> {
    let along = axis(node.int("axis", 0), x.shape().len()).ok()?;
    let values = x.numbers();
    let mut start = 0;
    types
        .iter()
        .map(|ty| {
            let numbers = each(&ty.shape, |index| {
                let mut from = index.to_vec();
                from[along] += start;
                Some(values[position(x.shape(), &from)])
            });
            start += ty.shape[along];
            Some(Constant::from_numbers(ty.dtype, ty.shape.clone(), &numbers?))
        })
        .collect()
}
