//! Elementwise functions that are made of others.

use super::super::core::Value;
use super::super::tensor::DType;
use super::call::{Call, Lower};

pub(super) static OPERATORS: &[(&str, Lower)] = &[
    ("Cast", cast),
    ("CastLike", cast),
    ("Celu", celu),
    ("Clip", clip),
    ("Elu", elu),
    ("Gelu", gelu),
    ("HardSigmoid", hard_sigmoid),
    ("HardSwish", hard_swish),
    ("Max", fold_pairs),
    ("Mean", mean),
    ("Min", fold_pairs),
    ("Mish", mish),
    ("PRelu", prelu),
    ("Pow", pow),
    ("Selu", selu),
    ("Shrink", shrink),
    ("Softsign", softsign),
    ("Sum", sum),
    ("ThresholdedRelu", thresholded_relu),
];

/// All floats are float32 here, all integers int64.
fn cast(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let x = call.input(0)?;
    if call.operator == "CastLike" {
        let to = call.graph.dtype(call.input(1)?);
        return Ok(vec![call.graph.cast(x, to)]);
    }
    let to = match call.attributes.int("to", 0) {
        1 | 11 => DType::F32,
        2..=7 | 12 | 13 => DType::I64,
        9 => DType::Bool,
        other => return Err(format!("element type {other}: models compute in float32")),
    };
    Ok(vec![call.graph.cast(x, to)])
}

/// x where x > 0, else alpha (e^(x / scale) - 1).
fn exponential_below(call: &mut Call<'_>, alpha: f32, scale: f32) -> Result<Value, String> {
    let x = call.float(0)?;
    let zero = call.scalar(x, 0.0);
    // The exponential of large x would be infinite, and its gradient undefined where it is not chosen.
    let below = call.graph.min(x, zero);
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

fn elu(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let alpha = call.attributes.float("alpha", 1.0);
    Ok(vec![exponential_below(call, alpha, 1.0)?])
}

fn celu(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let alpha = call.attributes.float("alpha", 1.0);
    Ok(vec![exponential_below(call, alpha, alpha)?])
}

fn selu(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let (alpha, gamma) = (call.attributes.float("alpha", 1.673_263_2), call.attributes.float("gamma", 1.050_701));
    let y = exponential_below(call, alpha, 1.0)?;
    let gamma = call.scalar(y, gamma);
    Ok(vec![call.graph.mul(y, gamma)])
}

/// min(max(x, low), high); either may be missing. At the bounds themselves no gradient flows, as in PyTorch.
fn clip(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let x = call.input(0)?;
    let (low, high) = (call.optional(1), call.optional(2));
    Ok(vec![between(call, x, low, high)?])
}

fn between(call: &mut Call<'_>, mut x: Value, low: Option<Value>, high: Option<Value>) -> Result<Value, String> {
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

fn gelu(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
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
fn hard_sigmoid_of(call: &mut Call<'_>, alpha: f32, beta: f32) -> Result<Value, String> {
    let x = call.float(0)?;
    let [alpha, beta, zero, one] = [alpha, beta, 0.0, 1.0].map(|value| call.scalar(x, value));
    let scaled = call.graph.mul(x, alpha);
    let line = call.graph.add(scaled, beta);
    between(call, line, Some(zero), Some(one))
}

fn hard_sigmoid(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let (alpha, beta) = (call.attributes.float("alpha", 0.2), call.attributes.float("beta", 0.5));
    Ok(vec![hard_sigmoid_of(call, alpha, beta)?])
}

fn hard_swish(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let gate = hard_sigmoid_of(call, 1.0 / 6.0, 0.5)?;
    let x = call.float(0)?;
    Ok(vec![call.graph.mul(x, gate)])
}

fn mish(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let x = call.float(0)?;
    let soft = call.graph.softplus(x);
    let gate = call.graph.tanh(soft);
    Ok(vec![call.graph.mul(x, gate)])
}

fn softsign(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let x = call.float(0)?;
    let (size, one) = (call.graph.abs(x), call.scalar(x, 1.0));
    let below = call.graph.add(size, one);
    Ok(vec![call.graph.div(x, below)])
}

/// x where x > 0, else slope x; the slope broadcasts against x from the last axis, as ONNX says.
fn prelu(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let (x, slope) = (call.float(0)?, call.float(1)?);
    let zero = call.scalar(x, 0.0);
    let below = call.apply1("Mul", &[x, slope])?;
    let positive = call.graph.greater(x, zero);
    Ok(vec![call.graph.select(positive, x, below)])
}

fn thresholded_relu(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let x = call.float(0)?;
    let alpha = call.attributes.float("alpha", 1.0);
    let (alpha, zero) = (call.scalar(x, alpha), call.scalar(x, 0.0));
    let above = call.graph.greater(x, alpha);
    Ok(vec![call.graph.select(above, x, zero)])
}

/// x + bias below -lambda, x - bias above lambda, 0 between.
fn shrink(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let x = call.float(0)?;
    let (bias, lambda) = (call.attributes.float("bias", 0.0), call.attributes.float("lambd", 0.5));
    let [bias, low, high, zero] = [bias, -lambda, lambda, 0.0].map(|value| call.scalar(x, value));
    let (raised, lowered) = (call.graph.add(x, bias), call.graph.sub(x, bias));
    let (below, above) = (call.graph.less(x, low), call.graph.greater(x, high));
    let rest = call.graph.select(below, raised, zero);
    Ok(vec![call.graph.select(above, lowered, rest)])
}

/// Of many inputs, two at a time.
fn pairs(call: &mut Call<'_>, operator: &str) -> Result<Value, String> {
    let mut result = call.input(0)?;
    for i in 1..call.inputs.len() {
        let next = call.input(i)?;
        result = call.apply1(operator, &[result, next])?;
    }
    Ok(result)
}

fn fold_pairs(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let operator = call.operator;
    Ok(vec![pairs(call, operator)?])
}

fn sum(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    Ok(vec![pairs(call, "Add")?])
}

fn mean(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let total = pairs(call, "Add")?;
    let count = call.scalar(total, call.inputs.len() as f32);
    Ok(vec![call.graph.div(total, count)])
}

/// A small whole exponent becomes products: a power's gradient by logarithms is undefined at and below 0.
fn pow(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
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
