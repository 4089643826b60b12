//! The functions that regions are made of: as CUDA text, and over slices on the CPU.
//!
//! On the CPU the common ones are polynomials that the compiler turns into vector instructions. Sources: Cephes
//! Mathematical Library (Moshier 1992) for exp; Abramowitz and Stegun 1964, 7.1.5 and 7.1.26, for erf.

use super::super::lstm::{sigmoid, tanh};
use crate::graph::DType;

/// Functions of one float: names, CUDA text with `$` for the argument, and the same on the CPU.
macro_rules! functions {
    ($($name:literal $text:literal $f:expr;)+) => {
        const TEXTS: &[(&str, &str)] = &[$(($name, $text)),+];

        /// y = f(x) element by element; by vector instructions where the function is made of such.
        #[multiversion::multiversion(targets = "simd")]
        pub(super) fn unary(name: &str, x: &[f32], y: &mut [f32]) {
            match name {
                $($name => x.iter().zip(y).for_each(|(x, y)| *y = $f(*x)),)+
                _ => unreachable!("{name} is no function of regions"),
            }
        }
    };
}

functions! {
    "Abs" "fabsf($)" f32::abs;
    "Acos" "acosf($)" f32::acos;
    "Acosh" "acoshf($)" f32::acosh;
    "Asin" "asinf($)" f32::asin;
    "Asinh" "asinhf($)" f32::asinh;
    "Atan" "atanf($)" f32::atan;
    "Atanh" "atanhf($)" f32::atanh;
    "Ceil" "ceilf($)" f32::ceil;
    "Cos" "cosf($)" f32::cos;
    "Cosh" "coshf($)" f32::cosh;
    "Erf" "erff($)" erf;
    "Exp" "expf($)" exp;
    "Floor" "floorf($)" f32::floor;
    "Log" "logf($)" f32::ln;
    "Neg" "(-$)" std::ops::Neg::neg;
    "Reciprocal" "(1.0f / $)" f32::recip;
    "Relu" "max_of($, 0.0f)" relu;
    "Round" "rintf($)" f32::round_ties_even;
    "Sigmoid" "sigmoid_of($)" sigmoid;
    "Sign" "sign_of($)" sign;
    "Sin" "sinf($)" f32::sin;
    "Sinh" "sinhf($)" f32::sinh;
    "Softplus" "softplus_of($)" softplus;
    "Sqrt" "sqrtf($)" f32::sqrt;
    "Tan" "tanf($)" f32::tan;
    "Tanh" "tanhf($)" tanh;
}

/// The CUDA text of a function of one argument of that type.
pub(super) fn unary_text(name: &str, of: DType, x: &str) -> String {
    match (name, of) {
        ("Not", _) => format!("(!{x})"),
        ("IsNaN", _) => format!("({x} != {x})"),
        ("IsInf", _) => format!("(fabsf({x}) == INFINITE)"),
        ("Neg", DType::I64) => format!("(-{x})"),
        ("Abs", DType::I64) => format!("({x} < 0 ? -{x} : {x})"),
        ("Sign", DType::I64) => format!("(({x} > 0) - ({x} < 0))"),
        _ => {
            let text = TEXTS.iter().find(|(other, _)| *other == name).map_or("", |(_, text)| text);
            text.replace('$', x)
        }
    }
}

/// The CUDA text of a function of two arguments of that type.
pub(super) fn binary_text(name: &str, of: DType, a: &str, b: &str) -> String {
    let operator = match name {
        "Add" => "+",
        "Sub" => "-",
        "Mul" => "*",
        "Div" => "/",
        "Equal" => "==",
        "Greater" => ">",
        "GreaterOrEqual" => ">=",
        "Less" => "<",
        "LessOrEqual" => "<=",
        "And" => "&&",
        "Or" => "||",
        "Xor" => "!=",
        "Max" if of == DType::I64 => return format!("({a} > {b} ? {a} : {b})"),
        "Min" if of == DType::I64 => return format!("({a} < {b} ? {a} : {b})"),
        "Max" => return format!("max_of({a}, {b})"),
        "Min" => return format!("min_of({a}, {b})"),
        "Mod" => return format!("modulo_of({a}, {b})"),
        "Pow" => return format!("powf({a}, {b})"),
        _ => unreachable!("{name} is no function of regions"),
    };
    format!("({a} {operator} {b})")
}

/// Whether `name` is a function of floats here.
#[cfg(test)]
pub(super) fn is_known(name: &str) -> bool {
    TEXTS.iter().any(|(other, _)| *other == name) || ["IsNaN", "IsInf", "Not"].contains(&name)
}

/// Whether `name` is a function of two arguments here.
#[cfg(test)]
pub(super) fn is_known_of_two(name: &str) -> bool {
    let of_floats = ["Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Mod"];
    let to_truths = ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor"];
    of_floats.iter().chain(&to_truths).any(|other| *other == name)
}

/// z = f(x, y) element by element, of floats.
#[multiversion::multiversion(targets = "simd")]
pub(super) fn binary(name: &str, a: &[f32], b: &[f32], y: &mut [f32]) {
    macro_rules! each {
        ($f:expr) => {
            a.iter().zip(b).zip(y).for_each(|((a, b), y)| *y = $f(*a, *b))
        };
    }
    match name {
        "Add" => each!(|a: f32, b: f32| a + b),
        "Sub" => each!(|a: f32, b: f32| a - b),
        "Mul" => each!(|a: f32, b: f32| a * b),
        "Div" => each!(|a: f32, b: f32| a / b),
        "Max" => each!(|a: f32, b: f32| if a > b || a.is_nan() { a } else { b }),
        "Min" => each!(|a: f32, b: f32| if a < b || a.is_nan() { a } else { b }),
        "Pow" => each!(f32::powf),
        _ => unreachable!("{name} is no function of regions"),
    }
}

/// A comparison of floats.
#[multiversion::multiversion(targets = "simd")]
pub(super) fn compare(name: &str, a: &[f32], b: &[f32], y: &mut [bool]) {
    macro_rules! each {
        ($f:expr) => {
            a.iter().zip(b).zip(y).for_each(|((a, b), y)| *y = $f(a, b))
        };
    }
    match name {
        "Equal" => each!(|a: &f32, b: &f32| a == b),
        "Greater" => each!(|a: &f32, b: &f32| a > b),
        "GreaterOrEqual" => each!(|a: &f32, b: &f32| a >= b),
        "Less" => each!(|a: &f32, b: &f32| a < b),
        "LessOrEqual" => each!(|a: &f32, b: &f32| a <= b),
        _ => unreachable!("{name} is no comparison"),
    }
}

/// y = a where the condition holds, else b.
#[multiversion::multiversion(targets = "simd")]
pub(super) fn select(condition: &[bool], a: &[f32], b: &[f32], y: &mut [f32]) {
    for (((y, a), b), condition) in y.iter_mut().zip(a).zip(b).zip(condition) {
        *y = if *condition { *a } else { *b };
    }
}

/// A function of two integers. Division by 0 gives 0 rather than ending the process.
pub(super) fn of_integers(name: &str) -> fn(i64, i64) -> i64 {
    match name {
        "Add" => i64::wrapping_add,
        "Sub" => i64::wrapping_sub,
        "Mul" => i64::wrapping_mul,
        "Div" => |a, b| if b == 0 { 0 } else { a.wrapping_div(b) },
        "Max" => Ord::max,
        "Min" => Ord::min,
        "Mod" => modulo,
        _ => unreachable!("{name} is no function of integers"),
    }
}

pub(super) fn compare_integers(name: &str) -> fn(&i64, &i64) -> bool {
    match name {
        "Equal" => PartialEq::eq,
        "Greater" => PartialOrd::gt,
        "GreaterOrEqual" => PartialOrd::ge,
        "Less" => PartialOrd::lt,
        "LessOrEqual" => PartialOrd::le,
        _ => unreachable!("{name} is no comparison"),
    }
}

pub(super) fn of_truths(name: &str) -> fn(bool, bool) -> bool {
    match name {
        "And" => |a, b| a && b,
        "Or" => |a, b| a || b,
        "Xor" => |a, b| a != b,
        "Equal" => |a, b| a == b,
        _ => unreachable!("{name} is no function of truth values"),
    }
}

/// Remainders with the sign of the divisor.
fn modulo(a: i64, b: i64) -> i64 {
    if b == 0 {
        return 0;
    }
    let rest = a.wrapping_rem(b);
    if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }
}

#[inline(always)]
fn relu(x: f32) -> f32 {
    if x > 0.0 || x.is_nan() { x } else { 0.0 }
}

#[inline(always)]
fn sign(x: f32) -> f32 {
    if x > 0.0 {
        1.0
    } else if x < 0.0 {
        -1.0
    } else {
        x
    }
}

fn softplus(x: f32) -> f32 {
    x.max(0.0) + exp(-x.abs()).ln_1p()
}

/// e^x: 2^n e^r, with |r| at most half of ln 2. Unlike a cell's, it becomes 0 and infinite where float32 does.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const HIGH: f32 = 0.693_359_4;
    const LOW: f32 = -2.121_944_4e-4;
    // A sum with this number rounds to whole ones, which then are its lowest bits.
    const ROUNDER: f32 = 12_582_912.0;
    // Beyond these it is 0 or infinite.
    let bounded = x.clamp(-104.0, 89.0);
    let rounded = bounded * std::f32::consts::LOG2_E + ROUNDER;
    let n = rounded - ROUNDER;
    let r = bounded - n * HIGH - n * LOW;
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + c;
    }
    let power = p * r * r + r + 1.0;
    // In two steps, since 2^n alone may be no number of this type.
    let whole = rounded.to_bits().wrapping_sub(ROUNDER.to_bits()) as i32;
    let half = whole >> 1;
    let two_to = |n: i32| f32::from_bits(((n + 127) << 23) as u32);
    power * two_to(half) * two_to(whole - half)
}

#[inline(always)]
fn erf(x: f32) -> f32 {
    let (size, square) = (x.abs(), x * x);
    // 2 / sqrt(pi) times (-1)^k / (k! (2k + 1)), for |x| below 1.
    let mut p = 1.480_719_3e-8;
    for c in [
        -1.636_584_5e-7,
        1.646_211_5e-6,
        -1.492_565e-5,
        1.205_533_3e-4,
        -8.548_327e-4,
        5.223_977_6e-3,
        -2.686_617_1e-2,
        0.112_837_92,
        -0.376_126_4,
        std::f32::consts::FRAC_2_SQRT_PI,
    ] {
        p = p * square + c;
    }
    let near = p * x;
    let t = 1.0 / (1.0 + 0.327_591_1 * size);
    let mut q = 1.061_405_4;
    for c in [-1.453_152, 1.421_413_8, -0.284_496_74, 0.254_829_6] {
        q = q * t + c;
    }
    let far = (1.0 - q * t * exp(-square)).copysign(x);
    if size < 1.0 { near } else { far }
}
