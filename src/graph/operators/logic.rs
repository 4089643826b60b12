//! Comparisons, truth values and the choice between two values.

use super::super::autodiff::Backward;
use super::super::core::{Graph, Node};
use super::super::error::GraphError;
use super::super::fold::{self, Fold};
use super::super::tensor::{Constant, DType, TensorType};
use super::arithmetic::binary;
use super::math::constant;
use super::{Family, broadcast, op, ty};

pub(super) static FAMILY: Family = Family {
    operators: &[
        op("And", compare)
            .exact()
            .gradient(constant)
            .fold(Fold::Binary(|a, b, _| Some(f64::from(u8::from(a != 0.0 && b != 0.0))))),
        op("Equal", compare)
            .exact()
            .gradient(constant)
            .no_bf16()
            .fold(Fold::Binary(|a, b, _| Some(f64::from(u8::from(a == b))))),
        op("Greater", compare)
            .exact()
            .gradient(constant)
            .no_bf16()
            .fold(Fold::Binary(|a, b, _| Some(f64::from(u8::from(a > b))))),
        op("GreaterOrEqual", compare)
            .exact()
            .gradient(constant)
            .fold(Fold::Binary(|a, b, _| Some(f64::from(u8::from(a >= b))))),
        op("IsInf", test).pointwise().gradient(constant),
        op("IsNaN", test).pointwise().gradient(constant),
        op("Less", compare)
            .exact()
            .gradient(constant)
            .no_bf16()
            .fold(Fold::Binary(|a, b, _| Some(f64::from(u8::from(a < b))))),
        op("LessOrEqual", compare)
            .exact()
            .gradient(constant)
            .fold(Fold::Binary(|a, b, _| Some(f64::from(u8::from(a <= b))))),
        op("Not", test).exact().gradient(constant).fold(Fold::Unary(|x, _| f64::from(u8::from(x == 0.0)))),
        op("Or", compare)
            .exact()
            .gradient(constant)
            .fold(Fold::Binary(|a, b, _| Some(f64::from(u8::from(a != 0.0 || b != 0.0))))),
        op("Where", select_type)
            .exact()
            .gradient(select)
            .no_bf16()
            .computes_in(|graph, node| vec![graph.dtype(node.input(1))])
            .fold(Fold::Node(chosen)),
        op("Xor", compare)
            .exact()
            .gradient(constant)
            .fold(Fold::Binary(|a, b, _| Some(f64::from(u8::from((a != 0.0) != (b != 0.0)))))),
    ],
    imports: &[],
};

fn compare(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    Ok(vec![TensorType::new(DType::Bool, binary(graph, node)?.remove(0).shape)])
}

/// A condition of one input.
fn test(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    Ok(vec![TensorType::new(DType::Bool, ty(graph, node, 0)?.shape)])
}

fn select_type(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (condition, a, b) = (ty(graph, node, 0)?, ty(graph, node, 1)?, ty(graph, node, 2)?);
    if condition.dtype != DType::Bool || a.dtype != b.dtype {
        return Err("expected a condition and two values of one type".into());
    }
    Ok(vec![TensorType::new(a.dtype, broadcast(&condition.shape, &broadcast(&a.shape, &b.shape)?)?)])
}

fn chosen(_: &Node, inputs: &[&Constant], ty: &TensorType) -> Option<Vec<f64>> {
    let numbers: Vec<_> = inputs.iter().map(|constant| constant.numbers()).collect();
    let at = |i: usize, index: &[usize]| numbers[i][fold::broadcast(inputs[i].shape(), index)];
    fold::each(&ty.shape, |index| Some(at(usize::from(at(0, index) == 0.0) + 1, index)))
}

fn select(back: &mut Backward<'_>) -> Result<(), GraphError> {
    let (condition, dy) = (back.node.input(0), back.dy()?);
    let zero = back.graph.scalar_like(dy, 0.0);
    for (i, keeps_true) in [(1, true), (2, false)] {
        if back.wanted(i) && back.graph.dtype(back.node.input(i)).is_float() {
            let (a, b) = if keeps_true { (dy, zero) } else { (zero, dy) };
            let gradient = back.graph.select(condition, a, b);
            back.add_broadcast(i, gradient);
        }
    }
    Ok(())
}
