//! Nodes that need not be: each rule looks at one node about to be made and, where it would do nothing or could be
//! done along with the node before it, gives what takes its place.

use super::build::{attributes, ints};
use super::core::{Attributes, Graph, Value};
use super::tensor::{Constant, TensorType};

type Inputs<'a> = &'a [Option<Value>];

/// What the node may be replaced by. `types`: those of its outputs.
pub(super) fn simplify(
    graph: &mut Graph,
    operator: &str,
    inputs: Inputs<'_>,
    given: &Attributes,
    types: &[TensorType],
) -> Option<Value> {
    let (x, ty) = (inputs.first().copied().flatten()?, types.first()?);
    match operator {
        "Transpose" => transpose(graph, x, given),
        "Reshape" => reshape(graph, x, inputs, ty),
        "Cast" | "Expand" | "Slice" | "Pad" => (graph.ty(x) == ty).then_some(x),
        "Neg" => producer_input(graph, x, "Neg"),
        "Add" => neutral(graph, inputs, ty, 0.0, true),
        "Sub" => neutral(graph, inputs, ty, 0.0, false),
        "Mul" => neutral(graph, inputs, ty, 1.0, true).or_else(|| scales(graph, inputs, ty)),
        "Div" => neutral(graph, inputs, ty, 1.0, false),
        _ => None,
    }
}

/// The first input of the node that made `x`, if it is of that operator.
fn producer_input(graph: &Graph, x: Value, operator: &str) -> Option<Value> {
    graph.producer(x).filter(|node| node.operator.name == operator).map(|node| node.input(0))
}

/// Two transposes are one; one that changes nothing is none.
fn transpose(graph: &mut Graph, x: Value, given: &Attributes) -> Option<Value> {
    let rank = graph.shape(x).len();
    let reversed: Vec<_> = (0..rank as i64).rev().collect();
    let order = given.ints("perm", &reversed);
    if order.is_sorted() {
        return Some(x);
    }
    let before = graph.producer(x).filter(|node| node.operator.name == "Transpose")?;
    let (source, first) = (before.input(0), before.ints("perm", &reversed));
    let both = order.iter().map(|axis| first[*axis as usize] as usize);
    Some(graph.apply1("Transpose", &[source], attributes([("perm", ints(both))])))
}

/// Of two reshapes, only the second counts.
fn reshape(graph: &mut Graph, x: Value, inputs: Inputs<'_>, ty: &TensorType) -> Option<Value> {
    if graph.ty(x) == ty {
        return Some(x);
    }
    let source = producer_input(graph, x, "Reshape")?;
    Some(graph.apply1("Reshape", &[source, inputs.get(1).copied().flatten()?], Attributes::new()))
}

/// The number that every element of a constant is.
fn number(graph: &Graph, value: Value) -> Option<f64> {
    let constant = graph.as_constant(value).filter(|_| !graph.names.contains_key(&value))?;
    // Looking through a large constant would cost more than it can save.
    let numbers = (constant.tensor_type().elements() == 1).then(|| constant.numbers())?;
    Some(numbers[0])
}

/// The other operand of a sum with 0 or a product with 1.
fn neutral(graph: &Graph, inputs: Inputs<'_>, ty: &TensorType, unit: f64, either: bool) -> Option<Value> {
    let (a, b) = (inputs[0]?, inputs.get(1).copied().flatten()?);
    if number(graph, b) == Some(unit) && graph.ty(a) == ty {
        return Some(a);
    }
    (either && number(graph, a) == Some(unit) && graph.ty(b) == ty).then_some(b)
}

/// x a b is x (a b).
fn scales(graph: &mut Graph, inputs: Inputs<'_>, ty: &TensorType) -> Option<Value> {
    let (x, b) = (inputs[0]?, inputs.get(1).copied().flatten()?);
    let b = number(graph, b).filter(|_| graph.ty(x) == ty)?;
    let before = graph.producer(x).filter(|node| node.operator.name == "Mul")?;
    let (source, a) = (before.input(0), before.input(1));
    let a = number(graph, a).filter(|_| graph.ty(source) == ty)?;
    let product = graph.constant(Constant::filled(ty.dtype, Vec::new(), a * b));
    Some(graph.apply1("Mul", &[source, product], Attributes::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph() -> (Graph, Value) {
        let mut graph = Graph::new();
        let x = graph.input("x", TensorType::f32([2, 3, 4]));
        (graph, x)
    }

    fn operators(graph: &Graph) -> Vec<&str> {
        graph.nodes().iter().map(|node| node.operator.name).collect()
    }

    #[test]
    fn transposes_cancel_and_join() {
        let (mut graph, x) = graph();
        let y = graph.transpose(x, &[1, 2, 0]);
        assert_eq!(graph.transpose(y, &[2, 0, 1]), x);
        let twice = graph.transpose(y, &[1, 0, 2]);
        assert_eq!(graph.producer(twice).unwrap().input(0), x);
        assert_eq!(graph.shape(twice), [4, 3, 2]);
        assert_eq!(graph.transpose(x, &[0, 1, 2]), x);
    }

    #[test]
    fn chains_of_reshapes_are_one() {
        let (mut graph, x) = graph();
        let y = graph.reshape(x, &[6, 4]);
        let z = graph.reshape(y, &[24]);
        assert_eq!(graph.producer(z).unwrap().input(0), x);
        assert_eq!(graph.reshape(z, &[2, 3, 4]), x);
    }

    #[test]
    fn neutral_operands_go_unless_they_broadcast() {
        let (mut graph, x) = graph();
        let (zero, one) = (graph.scalar(0.0), graph.scalar(1.0));
        assert_eq!([graph.add(x, zero), graph.add(zero, x), graph.sub(x, zero)], [x; 3]);
        assert_eq!([graph.mul(x, one), graph.mul(one, x), graph.div(x, one)], [x; 3]);
        assert!(graph.nodes().is_empty());
        let wide = graph.f32([1, 1, 1, 1], vec![0.0]);
        let sum = graph.add(x, wide);
        assert_eq!(graph.shape(sum), [1, 2, 3, 4]);
        graph.sub(zero, x);
        graph.div(one, x);
        assert_eq!(operators(&graph), ["Add", "Sub", "Div"]);
    }

    #[test]
    fn constant_factors_join_and_signs_cancel() {
        let (mut graph, x) = graph();
        let (two, three) = (graph.scalar(2.0), graph.scalar(3.0));
        let once = graph.mul(x, two);
        let twice = graph.mul(once, three);
        let node = graph.producer(twice).unwrap();
        assert_eq!(node.input(0), x);
        assert_eq!(graph.as_constant(node.input(1)), Some(&Constant::F32(Vec::new(), vec![6.0])));
        let negative = graph.neg(x);
        assert_eq!(graph.neg(negative), x);
    }

    #[test]
    fn what_changes_neither_type_nor_shape_goes() {
        let (mut graph, x) = graph();
        let shape = graph.i64s(&[2, 3, 4]);
        let expanded = graph.apply1("Expand", &[x, shape], Attributes::new());
        assert_eq!([expanded, graph.slice(x, 1, 0, 3), graph.pad(x, 0, 0, 0), graph.to_f32(x)], [x; 4]);
    }
}
