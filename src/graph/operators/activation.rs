//! Activations: rectifiers, and functions that are made of others.

use super::super::attributes::{Attribute, Attributes};
use super::super::autodiff::Backward;
use super::super::build::attributes;
use super::super::core::{Graph, Node, Value};
use super::super::error::GraphError;
use super::super::tensor::TensorType;
use super::call::Call;
use super::math::{unary, unary_gradient};
use super::{Family, Precision, fused, op, ty};

pub(super) static FAMILY: Family = Family {
    operators: &[
        op("LeakyRelu", unary).pointwise().gradient(leaky_relu).no_bf16(),
        op("Relu", unary).pointwise().gradient(relu).precision(Precision::Follow),
        fused("ReluGradient", alike).expand(expand_relu_gradient),
    ],
    imports: &[
        ("Celu", celu),
        ("Clip", clip),
        ("Elu", elu),
        ("Gelu", gelu),
        ("HardSigmoid", hard_sigmoid),
        ("HardSwish", hard_swish),
        ("Mish", mish),
        ("PRelu", prelu),
        ("Selu", selu),
        ("Shrink", shrink),
        ("Softsign", softsign),
        ("ThresholdedRelu", thresholded_relu),
    ],
};

unary_gradient!(leaky_relu, |g, node, x, y, dy| {
    let slope = attributes([("slope", Attribute::Float(node.float("alpha", 0.01)))]);
    g.apply1("ReluGradient", &[dy, x], slope)
});

// y > 0 exactly where x > 0, and y is alive anyway where it feeds the next layer's weight gradient.
unary_gradient!(relu, |g, node, x, y, dy| g.apply1("ReluGradient", &[dy, y], Attributes::new()));

/// Inputs: dy, and y or x, of the same type. Output: dx.
fn alike(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (dy, y) = (ty(graph, node, 0)?, ty(graph, node, 1)?);
    if dy != y {
        return Err(format!("the gradient {dy} is not of the output's type {y}").into());
    }
    Ok(vec![dy])
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

/// x where x > 0, else alpha (e^(x / scale) - 1).
fn exponential_below(call: &mut Call<'_>, alpha: f32, scale: f32) -> Result<Value, GraphError> {
    let x = call.float(0)?;
    let zero = call.scalar(x, 0.0);
    // The exponential of large x would be infinite, and its gradient undefined where it is not chosen.
    let above = call.graph.greater(x, zero);
    let below = call.graph.select(above, zero, x);
    let scaled = if scale == 1.0 {
        below
    } else {
        let scale = call.scalar(x, scale);
        call.graph.div(below, scale)
    };
    let (power, one, alpha) = (call.graph.exp(scaled), call.scalar(x, 1.0), call.scalar(x, alpha));
    let less = call.graph.sub(power, one);
    let curve = call.graph.mul(less, alpha);
    let positive = call.graph.greater(x, zero);
    Ok(call.graph.select(positive, x, curve))
}

fn elu(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let alpha = call.attributes.float("alpha", 1.0);
    Ok(vec![exponential_below(call, alpha, 1.0)?])
}

fn celu(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let alpha = call.attributes.float("alpha", 1.0);
    Ok(vec![exponential_below(call, alpha, alpha)?])
}

fn selu(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let (alpha, gamma) = (call.attributes.float("alpha", 1.673_263_2), call.attributes.float("gamma", 1.050_701));
    let y = exponential_below(call, alpha, 1.0)?;
    let gamma = call.scalar(y, gamma);
    Ok(vec![call.graph.mul(y, gamma)])
}

/// min(max(x, low), high); either may be missing. At the bounds themselves no gradient flows, as in PyTorch.
fn clip(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let x = call.input(0)?;
    let (low, high) = (call.optional(1), call.optional(2));
    Ok(vec![between(call, x, low, high)?])
}

fn between(call: &mut Call<'_>, mut x: Value, low: Option<Value>, high: Option<Value>) -> Result<Value, GraphError> {
    if let Some(low) = low {
        let above = call.apply1("Greater", &[x, low])?;
        x = call.apply1("Where", &[above, x, low])?;
    }
    if let Some(high) = high {
        let below = call.apply1("Less", &[x, high])?;
        x = call.apply1("Where", &[below, x, high])?;
    }
    Ok(x)
}

fn gelu(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let x = call.float(0)?;
    let (one, half) = (call.scalar(x, 1.0), call.scalar(x, 0.5));
    let bent = if call.attributes.text("approximate", "none") == "tanh" {
        let (cubic, root) = (call.scalar(x, 0.044_715), call.scalar(x, (2.0 / std::f32::consts::PI).sqrt()));
        let square = call.graph.mul(x, x);
        let cube = call.graph.mul(square, x);
        let cube = call.graph.mul(cube, cubic);
        let sum = call.graph.add(x, cube);
        let scaled = call.graph.mul(sum, root);
        call.graph.tanh(scaled)
    } else {
        let root = call.scalar(x, std::f32::consts::FRAC_1_SQRT_2);
        let scaled = call.graph.mul(x, root);
        call.graph.erf(scaled)
    };
    let share = call.graph.add(bent, one);
    let half = call.graph.mul(x, half);
    Ok(vec![call.graph.mul(half, share)])
}

/// max(0, min(1, alpha x + beta)).
fn hard_sigmoid_of(call: &mut Call<'_>, alpha: f32, beta: f32) -> Result<Value, GraphError> {
    let x = call.float(0)?;
    let [alpha, beta, zero, one] = [alpha, beta, 0.0, 1.0].map(|value| call.scalar(x, value));
    let scaled = call.graph.mul(x, alpha);
    let line = call.graph.add(scaled, beta);
    between(call, line, Some(zero), Some(one))
}

fn hard_sigmoid(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let (alpha, beta) = (call.attributes.float("alpha", 0.2), call.attributes.float("beta", 0.5));
    Ok(vec![hard_sigmoid_of(call, alpha, beta)?])
}

fn hard_swish(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let gate = hard_sigmoid_of(call, 1.0 / 6.0, 0.5)?;
    let x = call.float(0)?;
    Ok(vec![call.graph.mul(x, gate)])
}

fn mish(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let x = call.float(0)?;
    let soft = call.graph.softplus(x);
    let gate = call.graph.tanh(soft);
    Ok(vec![call.graph.mul(x, gate)])
}

fn softsign(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let x = call.float(0)?;
    let (size, one) = (call.graph.abs(x), call.scalar(x, 1.0));
    let below = call.graph.add(size, one);
    Ok(vec![call.graph.div(x, below)])
}

/// x where x > 0, else slope x; the slope broadcasts against x from the last axis, as ONNX says.
fn prelu(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let (x, slope) = (call.float(0)?, call.float(1)?);
    let zero = call.scalar(x, 0.0);
    let below = call.apply1("Mul", &[x, slope])?;
    let positive = call.graph.greater(x, zero);
    Ok(vec![call.graph.select(positive, x, below)])
}

fn thresholded_relu(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let x = call.float(0)?;
    let alpha = call.attributes.float("alpha", 1.0);
    let (alpha, zero) = (call.scalar(x, alpha), call.scalar(x, 0.0));
    let above = call.graph.greater(x, alpha);
    Ok(vec![call.graph.select(above, x, zero)])
}

/// x + bias below -lambda, x - bias above lambda, 0 between.
fn shrink(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let x = call.float(0)?;
    let (bias, lambda) = (call.attributes.float("bias", 0.0), call.attributes.float("lambd", 0.5));
    let [bias, low, high, zero] = [bias, -lambda, lambda, 0.0].map(|value| call.scalar(x, value));
    let (raised, lowered) = (call.graph.add(x, bias), call.graph.sub(x, bias));
    let (below, above) = (call.graph.less(x, low), call.graph.greater(x, high));
    let rest = call.graph.select(below, raised, zero);
    Ok(vec![call.graph.select(above, lowered, rest)])
}
