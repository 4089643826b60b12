//! Arithmetic of two inputs that broadcast, and sums and means of many.

use super::super::attributes::Attributes;
use super::super::autodiff::Backward;
use super::super::core::{Graph, Node, Value};
use super::super::error::GraphError;
use super::super::fold::Fold;
use super::super::tensor::{Constant, DType, TensorType};
use super::call::Call;
use super::{Family, Given, Precision, broadcast, op, ty};

pub(super) static FAMILY: Family = Family {
    operators: &[
        op("Add", binary)
            .exact()
            .gradient(add)
            .precision(Precision::Follow)
            .fold(Fold::Binary(|a, b, _| Some(a + b)))
            .simplify(|graph, given| given.other_than(graph, 0.0, true)),
        op("Div", binary)
            .exact()
            .gradient(div)
            .fold(Fold::Binary(quotient))
            .simplify(|graph, given| given.other_than(graph, 1.0, false)),
        op("Max", binary).exact().gradient(max).fold(Fold::Binary(|a, b, _| Some(a.max(b)))),
        op("Min", binary).exact().gradient(min).fold(Fold::Binary(|a, b, _| Some(a.min(b)))),
        op("Mod", binary).exact().fold(Fold::Node(modulo)),
        op("Mul", binary)
            .exact()
            .gradient(mul)
            .precision(Precision::Follow)
            .fold(Fold::Binary(|a, b, _| Some(a * b)))
            .simplify(|graph, given| given.other_than(graph, 1.0, true).or_else(|| scales(graph, given))),
        op("Pow", binary).pointwise().gradient(pow).fold(Fold::Binary(|a, b, _| Some(a.powf(b)))),
        op("Sub", binary)
            .exact()
            .gradient(sub)
            .precision(Precision::Follow)
            .fold(Fold::Binary(|a, b, _| Some(a - b)))
            .simplify(|graph, given| given.other_than(graph, 0.0, false)),
    ],
    imports: &[
        ("Max", fold_pairs),
        ("Mean", import_mean),
        ("Min", fold_pairs),
        ("Pow", import_pow),
        ("Sum", import_sum),
    ],
};

/// Two inputs of one type that broadcast.
pub(super) fn binary(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (a, b) = (ty(graph, node, 0)?, ty(graph, node, 1)?);
    if a.dtype != b.dtype {
        return Err("the inputs have different types".into());
    }
    Ok(vec![TensorType::new(a.dtype, broadcast(&a.shape, &b.shape)?)])
}

/// Integers are divided towards zero.
fn quotient(a: f64, b: f64, integers: bool) -> Option<f64> {
    if integers { (b != 0.0).then(|| (a / b).trunc()) } else { Some(a / b) }
}

/// Of integers, with the sign of the divisor.
fn modulo(node: &Node, inputs: &[&Constant], ty: &TensorType) -> Option<Vec<f64>> {
    if node.int("fmod", 0) != 0 || inputs[0].dtype() != DType::I64 {
        return None;
    }
    super::super::fold::binary(inputs, ty, |a, b| (b != 0.0).then(|| a - b * (a / b).floor()))
}

/// x a b is x (a b).
fn scales(graph: &mut Graph, given: &Given<'_>) -> Option<Value> {
    let (x, b) = (given.input(0)?, given.input(1)?);
    let b = graph.number(b).filter(|_| graph.ty(x) == given.ty)?;
    let before = graph.simplifiable(x).filter(|node| node.operator.name == "Mul")?;
    let (source, a) = (before.input(0), before.input(1));
    let a = graph.number(a).filter(|_| graph.ty(source) == given.ty)?;
    let product = graph.constant(Constant::filled(given.ty.dtype, Vec::new(), a * b));
    Some(graph.apply1("Mul", &[source, product], Attributes::new()))
}

/// Defines the gradient of a broadcasting function of two inputs: (graph, a, b, dy) -> da and -> db.
macro_rules! binary_gradient {
    ($name:ident, $guarded:literal, |$g:ident, $a:ident, $b:ident, $dy:ident| $da:expr, $db:expr) => {
        fn $name(back: &mut Backward<'_>) -> Result<(), GraphError> {
            let ($a, $b, $dy) = (back.node.input(0), back.node.input(1), back.dy()?);
            let _ = ($a, $b);
            for (i, of_a) in [(0, true), (1, false)] {
                if back.wanted(i) {
                    let $g = &mut *back.graph;
                    let gradient = if of_a { $da } else { $db };
                    let gradient = if $guarded { back.of_taken($dy, gradient) } else { gradient };
                    back.add_broadcast(i, gradient);
                }
            }
            Ok(())
        }
    };
}

binary_gradient!(add, false, |_g, a, b, dy| dy, dy);

binary_gradient!(sub, false, |g, a, b, dy| dy, g.neg(dy));

binary_gradient!(mul, true, |g, a, b, dy| g.mul(dy, b), g.mul(dy, a));

binary_gradient!(div, true, |g, a, b, dy| g.div(dy, b), {
    let (quotient, scaled) = (g.div(a, b), g.div(dy, b));
    let product = g.mul(quotient, scaled);
    g.neg(product)
});

binary_gradient!(
    pow,
    true,
    |g, a, b, dy| {
        let one = g.scalar_like(b, 1.0);
        let less = g.sub(b, one);
        let power = g.apply1("Pow", &[a, less], Attributes::new());
        let slope = g.mul(b, power);
        g.mul(dy, slope)
    },
    {
        let power = g.apply1("Pow", &[a, b], Attributes::new());
        let log = g.log(a);
        let slope = g.mul(power, log);
        g.mul(dy, slope)
    }
);

binary_gradient!(max, false, |g, a, b, dy| where_greater(g, a, b, dy), where_greater(g, b, a, dy));

binary_gradient!(min, false, |g, a, b, dy| where_greater(g, b, a, dy), where_greater(g, a, b, dy));

/// dy where a > b, half of it where they are equal (as PyTorch shares it), else 0.
fn where_greater(g: &mut Graph, a: Value, b: Value, dy: Value) -> Value {
    let difference = g.sub(a, b);
    let sign = g.sign(difference);
    let (one, half) = (g.scalar_like(a, 1.0), g.scalar_like(a, 0.5));
    let raised = g.add(sign, one);
    let share = g.mul(raised, half);
    g.mul(dy, share)
}

/// Of many inputs, two at a time.
fn pairs(call: &mut Call<'_>, operator: &str) -> Result<Value, GraphError> {
    let mut result = call.input(0)?;
    for i in 1..call.inputs.len() {
        let next = call.input(i)?;
        result = call.apply1(operator, &[result, next])?;
    }
    Ok(result)
}

fn fold_pairs(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let operator = call.operator;
    Ok(vec![pairs(call, operator)?])
}

fn import_sum(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    Ok(vec![pairs(call, "Add")?])
}

fn import_mean(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let total = pairs(call, "Add")?;
    let count = call.scalar(total, call.inputs.len() as f32);
    Ok(vec![call.graph.div(total, count)])
}

/// A small whole exponent becomes products: a power's gradient by logarithms is undefined at and below 0.
fn import_pow(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let (x, mut exponent) = (call.input(0)?, call.input(1)?);
    let known = call.graph.as_constant(exponent).map(|constant| constant.numbers());
    let plain = call.shape(exponent).len() <= call.shape(x).len() && call.graph.dtype(x).is_float();
    match known.as_deref().filter(|_| plain) {
        Some([power]) if *power == 0.5 => return Ok(vec![call.graph.sqrt(x)]),
        Some([power]) if [1.0, 2.0, 3.0, 4.0].contains(power) => {
            return Ok(vec![(1..*power as usize).fold(x, |y, _| call.graph.mul(y, x))]);
        }
        _ => {}
    }
    if call.is_integer(exponent) && !call.is_integer(x) {
        exponent = call.graph.to_f32(exponent);
    }
    Ok(vec![call.apply1("Pow", &[x, exponent])?])
}
