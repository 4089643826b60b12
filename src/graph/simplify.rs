//! Local simplification: before a node is made, its operator's rule may replace it, if the node would do nothing or can
//! be merged with the node before it.

use super::attributes::Attributes;
use super::core::{Graph, Value};
use super::tensor::TensorType;

/// A node about to be made.
pub(super) struct Given<'a> {
    pub(super) inputs: &'a [Option<Value>],
    pub(super) attributes: &'a Attributes,
    /// Of the first output.
    pub(super) ty: &'a TensorType,
}

impl Given<'_> {
    pub(super) fn input(&self, i: usize) -> Option<Value> {
        self.inputs.get(i).copied().flatten()
    }

    /// The first input of the node that made the first input, if that is of this operator.
    pub(super) fn producer_input(&self, graph: &Graph, operator: &str) -> Option<Value> {
        graph.simplifiable(self.input(0)?).filter(|node| node.operator.name == operator).map(|node| node.input(0))
    }

    /// The first input, if the output would be of its type: of operators that then change nothing.
    pub(super) fn unchanged(&self, graph: &Graph) -> Option<Value> {
        self.input(0).filter(|x| graph.ty(*x) == self.ty)
    }

    /// The other operand of a sum with 0 or a product with 1; `either`: whichever of the two that is, else the second.
    pub(super) fn other_than(&self, graph: &Graph, unit: f64, either: bool) -> Option<Value> {
        let (a, b) = (self.input(0)?, self.input(1)?);
        if graph.number(b) == Some(unit) && graph.ty(a) == self.ty {
            return Some(a);
        }
        (either && graph.number(a) == Some(unit) && graph.ty(b) == self.ty).then_some(b)
    }
}

impl Graph {
    /// The number that a constant of one element is.
    pub(super) fn number(&self, value: Value) -> Option<f64> {
        let constant = self.as_constant(value).filter(|_| !self.names.contains_key(&value))?;
        (constant.tensor_type().elements() == 1).then(|| constant.numbers()[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::tensor::Constant;

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
