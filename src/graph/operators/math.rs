//! Functions of one input, element by element.

use super::super::attributes::Attributes;
use super::super::autodiff::Backward;
use super::super::core::{Graph, Node, Value};
use super::super::error::GraphError;
use super::super::fold::Fold;
use super::super::tensor::TensorType;
use super::call::Call;
use super::{Family, Given, Precision, op, ty};

pub(super) static FAMILY: Family = Family {
    operators: &[
        op("Abs", unary).exact().gradient(abs).fold(Fold::Unary(|x, _| x.abs())),
        op("Acos", unary).pointwise().gradient(acos),
        op("Acosh", unary).pointwise().gradient(acosh),
        op("Asin", unary).pointwise().gradient(asin),
        op("Asinh", unary).pointwise().gradient(asinh),
        op("Atan", unary).pointwise().gradient(atan),
        op("Atanh", unary).pointwise().gradient(atanh),
        op("Ceil", unary).pointwise().gradient(constant).fold(Fold::Unary(|x, _| x.ceil())),
        op("Cos", unary).pointwise().gradient(cos).fold(Fold::Unary(|x, _| x.cos())),
        op("Cosh", unary).pointwise().gradient(cosh),
        op("Erf", unary).pointwise().gradient(erf),
        op("Exp", unary).pointwise().gradient(exp).fold(Fold::Unary(|x, _| x.exp())),
        op("Floor", unary).pointwise().gradient(constant).fold(Fold::Unary(|x, _| x.floor())),
        op("Identity", unary).exact().gradient(identity).precision(Precision::Follow).fold(Fold::Unary(|x, _| x)),
        op("Log", unary).pointwise().gradient(log).fold(Fold::Unary(|x, _| x.ln())),
        op("Neg", unary).exact().gradient(neg).fold(Fold::Unary(|x, _| -x)).simplify(twice_negative),
        op("Reciprocal", unary).pointwise().gradient(reciprocal).fold(Fold::Unary(|x, _| 1.0 / x)),
        op("Round", unary).pointwise().gradient(constant),
        op("Sigmoid", unary).pointwise().gradient(sigmoid),
        op("Sign", unary).exact().gradient(constant),
        op("Sin", unary).pointwise().gradient(sin).fold(Fold::Unary(|x, _| x.sin())),
        op("Sinh", unary).pointwise().gradient(sinh),
        op("Softplus", unary).pointwise().gradient(softplus),
        op("Sqrt", unary).pointwise().gradient(sqrt).fold(Fold::Unary(|x, _| x.sqrt())),
        op("Tan", unary).pointwise().gradient(tan),
        op("Tanh", unary).pointwise().gradient(tanh),
    ],
    imports: &[("Identity", import_identity)],
};

/// The type of the first input.
pub(super) fn unary(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    Ok(vec![ty(graph, node, 0)?])
}

/// Of functions that are constant between their steps.
pub(super) fn constant(_: &mut Backward<'_>) -> Result<(), GraphError> {
    Ok(())
}

/// A sign changed twice is as it was.
fn twice_negative(graph: &mut Graph, given: &Given<'_>) -> Option<Value> {
    given.producer_input(graph, "Neg")
}

fn import_identity(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    Ok(vec![call.input(0)?])
}

/// Defines the gradient of a function of one input: (graph, node, x, y, dy) -> dx.
macro_rules! unary_gradient {
    ($name:ident, |$g:ident, $node:ident, $x:ident, $y:ident, $dy:ident| $body:expr) => {
        fn $name(back: &mut Backward<'_>) -> Result<(), GraphError> {
            let ($node, $dy) = (back.node, back.dy()?);
            let ($x, $y) = ($node.input(0), $node.outputs[0]);
            let _ = ($x, $y);
            let $g = &mut *back.graph;
            let dx = $body;
            let dx = back.of_taken($dy, dx);
            back.add(0, dx);
            Ok(())
        }
    };
}
pub(super) use unary_gradient;

unary_gradient!(abs, |g, node, x, y, dy| {
    let sign = g.sign(x);
    g.mul(dy, sign)
});

unary_gradient!(identity, |_g, node, x, y, dy| dy);

unary_gradient!(neg, |g, node, x, y, dy| g.neg(dy));

unary_gradient!(sigmoid, |g, node, x, y, dy| {
    let one = g.scalar_like(y, 1.0);
    let rest = g.sub(one, y);
    let slope = g.mul(y, rest);
    g.mul(dy, slope)
});

unary_gradient!(sqrt, |g, node, x, y, dy| {
    let two = g.scalar_like(y, 2.0);
    let twice = g.mul(y, two);
    g.div(dy, twice)
});

unary_gradient!(tanh, |g, node, x, y, dy| {
    let one = g.scalar_like(y, 1.0);
    let square = g.mul(y, y);
    let slope = g.sub(one, square);
    g.mul(dy, slope)
});

unary_gradient!(exp, |g, node, x, y, dy| g.mul(dy, y));

unary_gradient!(log, |g, node, x, y, dy| g.div(dy, x));

unary_gradient!(sin, |g, node, x, y, dy| {
    let slope = g.cos(x);
    g.mul(dy, slope)
});

unary_gradient!(cos, |g, node, x, y, dy| {
    let slope = g.sin(x);
    let product = g.mul(dy, slope);
    g.neg(product)
});

unary_gradient!(tan, |g, node, x, y, dy| {
    let square = g.mul(y, y);
    let share = g.mul(dy, square);
    g.add(dy, share)
});

unary_gradient!(sinh, |g, node, x, y, dy| {
    let slope = g.apply1("Cosh", &[x], Attributes::new());
    g.mul(dy, slope)
});

unary_gradient!(cosh, |g, node, x, y, dy| {
    let slope = g.apply1("Sinh", &[x], Attributes::new());
    g.mul(dy, slope)
});

unary_gradient!(reciprocal, |g, node, x, y, dy| {
    let square = g.mul(y, y);
    let product = g.mul(dy, square);
    g.neg(product)
});

unary_gradient!(softplus, |g, node, x, y, dy| {
    let slope = g.sigmoid(x);
    g.mul(dy, slope)
});

unary_gradient!(erf, |g, node, x, y, dy| {
    let square = g.mul(x, x);
    let exponent = g.neg(square);
    let bell = g.exp(exponent);
    let factor = g.scalar_like(x, std::f32::consts::FRAC_2_SQRT_PI);
    let slope = g.mul(bell, factor);
    g.mul(dy, slope)
});

// Derivatives with a square root below: of x^2 + 1, x^2 - 1 and 1 - x^2.
unary_gradient!(asinh, |g, node, x, y, dy| over_root(g, x, dy, 1.0, 1.0));

unary_gradient!(acosh, |g, node, x, y, dy| over_root(g, x, dy, 1.0, -1.0));

unary_gradient!(asin, |g, node, x, y, dy| over_root(g, x, dy, -1.0, 1.0));

unary_gradient!(acos, |g, node, x, y, dy| {
    let gradient = over_root(g, x, dy, -1.0, 1.0);
    g.neg(gradient)
});

unary_gradient!(atan, |g, node, x, y, dy| {
    let below = quadratic(g, x, 1.0, 1.0);
    g.div(dy, below)
});

unary_gradient!(atanh, |g, node, x, y, dy| {
    let below = quadratic(g, x, -1.0, 1.0);
    g.div(dy, below)
});

/// a x^2 + b.
fn quadratic(g: &mut Graph, x: Value, a: f32, b: f32) -> Value {
    let (square, a, b) = (g.mul(x, x), g.scalar_like(x, a), g.scalar_like(x, b));
    let scaled = g.mul(square, a);
    g.add(scaled, b)
}

/// dy / sqrt(a x^2 + b).
fn over_root(g: &mut Graph, x: Value, dy: Value, a: f32, b: f32) -> Value {
    let below = quadratic(g, x, a, b);
    let root = g.sqrt(below);
    g.div(dy, root)
}
