//! Elementwise arithmetic, activations, comparisons and selection.

use super::super::autodiff::Backward;
use super::super::build::attributes;
use super::super::core::{Attribute, Attributes, Graph, Node, Value};
use super::super::tensor::{DType, TensorType};
use super::{Operator, broadcast, fused, op, ty};

pub(super) static OPERATORS: &[Operator] = &[
    op("Abs", unary, Some(abs)),
    op("Acos", unary, Some(acos)),
    op("Acosh", unary, Some(acosh)),
    op("Asin", unary, Some(asin)),
    op("Asinh", unary, Some(asinh)),
    op("Atan", unary, Some(atan)),
    op("Atanh", unary, Some(atanh)),
    op("Ceil", unary, Some(nothing)),
    op("Cos", unary, Some(cos)),
    op("Cosh", unary, Some(cosh)),
    op("Erf", unary, Some(erf)),
    op("Exp", unary, Some(exp)),
    op("Floor", unary, Some(nothing)),
    op("Identity", unary, Some(identity)),
    op("LeakyRelu", unary, Some(leaky_relu)),
    op("Log", unary, Some(log)),
    op("Neg", unary, Some(neg)),
    op("Reciprocal", unary, Some(reciprocal)),
    op("Relu", unary, Some(relu)),
    op("Round", unary, Some(nothing)),
    op("Sigmoid", unary, Some(sigmoid)),
    op("Sign", unary, Some(nothing)),
    op("Sin", unary, Some(sin)),
    op("Sinh", unary, Some(sinh)),
    op("Softplus", unary, Some(softplus)),
    op("Sqrt", unary, Some(sqrt)),
    op("Tan", unary, Some(tan)),
    op("Tanh", unary, Some(tanh)),
    op("Add", binary, Some(add)),
    op("Sub", binary, Some(sub)),
    op("Mul", binary, Some(mul)),
    op("Div", binary, Some(div)),
    op("Max", binary, Some(max)),
    op("Min", binary, Some(min)),
    op("Pow", binary, Some(pow)),
    op("Mod", binary, None),
    op("And", compare, Some(nothing)),
    op("Equal", compare, Some(nothing)),
    op("Greater", compare, Some(nothing)),
    op("GreaterOrEqual", compare, Some(nothing)),
    op("IsInf", test, Some(nothing)),
    op("IsNaN", test, Some(nothing)),
    op("Less", compare, Some(nothing)),
    op("LessOrEqual", compare, Some(nothing)),
    op("Not", test, Some(nothing)),
    op("Or", compare, Some(nothing)),
    op("Xor", compare, Some(nothing)),
    op("Where", select_type, Some(select)),
    op("Cast", cast, Some(cast_gradient)),
    fused("ReluGradient", binary, Some(expand_relu_gradient)),
];

fn unary(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    Ok(vec![ty(graph, node, 0)?])
}

fn binary(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let (a, b) = (ty(graph, node, 0)?, ty(graph, node, 1)?);
    if a.dtype != b.dtype {
        return Err("the inputs have different types".into());
    }
    Ok(vec![TensorType::new(a.dtype, broadcast(&a.shape, &b.shape)?)])
}

fn compare(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    Ok(vec![TensorType::new(DType::Bool, binary(graph, node)?.remove(0).shape)])
}

/// A condition of one input.
fn test(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    Ok(vec![TensorType::new(DType::Bool, ty(graph, node, 0)?.shape)])
}

fn select_type(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let (condition, a, b) = (ty(graph, node, 0)?, ty(graph, node, 1)?, ty(graph, node, 2)?);
    if condition.dtype != DType::Bool || a.dtype != b.dtype {
        return Err("expected a condition and two values of one type".into());
    }
    Ok(vec![TensorType::new(a.dtype, broadcast(&condition.shape, &broadcast(&a.shape, &b.shape)?)?)])
}

fn cast(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let to = match node.int("to", 0) {
        1 => DType::F32,
        7 => DType::I64,
        9 => DType::Bool,
        10 => DType::F16,
        16 => DType::BF16,
        other => return Err(format!("element type {other} is not supported")),
    };
    Ok(vec![TensorType::new(to, ty(graph, node, 0)?.shape)])
}

fn cast_gradient(back: &mut Backward<'_>) -> Result<(), String> {
    // Only float to float carries a derivative; everything else is piecewise constant.
    let (from, to) = (back.graph.dtype(back.node.input(0)), back.graph.dtype(back.node.outputs[0]));
    if from.is_float() && to.is_float() {
        let gradient = back.graph.cast(back.dy()?, from);
        back.add(0, gradient);
    }
    Ok(())
}

fn nothing(_: &mut Backward<'_>) -> Result<(), String> {
    Ok(())
}

/// Defines the gradient of a function of one input: (graph, node, x, y, dy) -> dx.
macro_rules! unary_gradient {
    ($name:ident, |$g:ident, $node:ident, $x:ident, $y:ident, $dy:ident| $body:expr) => {
        fn $name(back: &mut Backward<'_>) -> Result<(), String> {
            let ($node, $dy) = (back.node, back.dy()?);
            let ($x, $y) = ($node.input(0), $node.outputs[0]);
            let _ = ($x, $y);
            let $g = &mut *back.graph;
            let dx = $body;
            back.add(0, dx);
            Ok(())
        }
    };
}

unary_gradient!(abs, |g, node, x, y, dy| {
    let sign = g.sign(x);
    g.mul(dy, sign)
});
unary_gradient!(identity, |_g, node, x, y, dy| dy);
unary_gradient!(leaky_relu, |g, node, x, y, dy| {
    let slope = attributes([("slope", Attribute::Float(node.float("alpha", 0.01)))]);
    g.apply1("ReluGradient", &[dy, x], slope)
});
unary_gradient!(neg, |g, node, x, y, dy| g.neg(dy));
// y > 0 exactly where x > 0, and y is alive anyway where it feeds the next layer's weight gradient.
unary_gradient!(relu, |g, node, x, y, dy| g.apply1("ReluGradient", &[dy, y], Attributes::new()));
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

/// dy where y > 0, else `slope` dy.
fn expand_relu_gradient(graph: &mut Graph, node: &Node) -> Vec<Value> {
    let (dy, slope) = (node.input(0), node.float("slope", 0.0));
    let zero = graph.scalar_like(node.input(1), 0.0);
    let positive = graph.greater(node.input(1), zero);
    let slope_of_rest = graph.scalar_like(dy, slope);
    // A product with 0 would keep what is not finite.
    let rest = if slope == 0.0 { slope_of_rest } else { graph.mul(dy, slope_of_rest) };
    vec![graph.select(positive, dy, rest)]
}

/// Defines the gradient of a broadcasting function of two inputs: (graph, a, b, dy) -> da and -> db.
macro_rules! binary_gradient {
    ($name:ident, |$g:ident, $a:ident, $b:ident, $dy:ident| $da:expr, $db:expr) => {
        fn $name(back: &mut Backward<'_>) -> Result<(), String> {
            let ($a, $b, $dy) = (back.node.input(0), back.node.input(1), back.dy()?);
            let _ = ($a, $b);
            for (i, of_a) in [(0, true), (1, false)] {
                if back.wanted(i) {
                    let $g = &mut *back.graph;
                    let gradient = if of_a { $da } else { $db };
                    back.add_broadcast(i, gradient);
                }
            }
            Ok(())
        }
    };
}

binary_gradient!(add, |_g, a, b, dy| dy, dy);
binary_gradient!(sub, |g, a, b, dy| dy, g.neg(dy));
binary_gradient!(mul, |g, a, b, dy| g.mul(dy, b), g.mul(dy, a));
binary_gradient!(div, |g, a, b, dy| g.div(dy, b), {
    let (quotient, scaled) = (g.div(a, b), g.div(dy, b));
    let product = g.mul(quotient, scaled);
    g.neg(product)
});
binary_gradient!(
    pow,
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
binary_gradient!(max, |g, a, b, dy| where_greater(g, a, b, dy), where_greater(g, b, a, dy));
binary_gradient!(min, |g, a, b, dy| where_greater(g, b, a, dy), where_greater(g, a, b, dy));

/// dy where a > b, half of it where they are equal (as PyTorch shares it), else 0.
fn where_greater(g: &mut Graph, a: Value, b: Value, dy: Value) -> Value {
    let difference = g.sub(a, b);
    let sign = g.sign(difference);
    let (one, half) = (g.scalar_like(a, 1.0), g.scalar_like(a, 0.5));
    let raised = g.add(sign, one);
    let share = g.mul(raised, half);
    g.mul(dy, share)
}

fn select(back: &mut Backward<'_>) -> Result<(), String> {
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
