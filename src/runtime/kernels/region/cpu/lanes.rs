//! One step of a region over the lanes of a tile.

use half::{bf16, f16};

use super::super::functions;
use super::walk::Walk;
use crate::graph::{DType, Reduction};

/// An input's elements.
#[derive(Clone, Copy)]
pub(in super::super) enum Elements<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    BF16(&'a [bf16]),
    I64(&'a [i64]),
    Bool(&'a [bool]),
}

/// A step's lanes.
pub(super) enum Buffer {
    Float(Vec<f32>),
    Integer(Vec<i64>),
    Truth(Vec<bool>),
}

pub(super) fn round(dtype: DType, values: &mut [f32]) {
    match dtype {
        DType::F16 => values.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32()),
        DType::BF16 => values.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32()),
        _ => {}
    }
}

#[multiversion::multiversion(targets = "simd")]
pub(super) fn accumulate(kind: Reduction, sums: &mut [f32], x: &[f32]) {
    match kind {
        Reduction::Sum => sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x),
        Reduction::Max => sums.iter_mut().zip(x).for_each(|(m, x)| *m = if *m > *x || m.is_nan() { *m } else { *x }),
        Reduction::Min => sums.iter_mut().zip(x).for_each(|(m, x)| *m = if *m < *x || m.is_nan() { *m } else { *x }),
    }
}

pub(super) fn load(from: Elements<'_>, walk: &Walk, fixed: usize, first: usize, count: usize, to: &mut Buffer) {
    fn copy<A: Copy, B: Copy>(from: &[A], to: &mut [B], at: usize, stride: usize, convert: impl Fn(A) -> B) {
        match stride {
            0 => to.fill(convert(from[at])),
            1 => to.iter_mut().zip(&from[at..]).for_each(|(to, from)| *to = convert(*from)),
            _ => to.iter_mut().zip(from[at..].iter().step_by(stride)).for_each(|(to, from)| *to = convert(*from)),
        }
    }
    walk.runs(fixed, first, count, |lane, at, stride, length| match (from, &mut *to) {
        (Elements::F32(from), Buffer::Float(to)) => copy(from, &mut to[lane..lane + length], at, stride, |x| x),
        (Elements::F16(from), Buffer::Float(to)) => copy(from, &mut to[lane..lane + length], at, stride, f16::to_f32),
        (Elements::BF16(from), Buffer::Float(to)) => copy(from, &mut to[lane..lane + length], at, stride, bf16::to_f32),
        (Elements::I64(from), Buffer::Integer(to)) => copy(from, &mut to[lane..lane + length], at, stride, |x| x),
        (Elements::Bool(from), Buffer::Truth(to)) => copy(from, &mut to[lane..lane + length], at, stride, |x| x),
        _ => unreachable!("loads have their inputs' types"),
    });
}

pub(super) fn unary(name: &str, x: &Buffer, to: &mut Buffer, count: usize) {
    match (x, to) {
        (Buffer::Float(x), Buffer::Float(to)) => functions::unary(name, &x[..count], &mut to[..count]),
        (Buffer::Float(x), Buffer::Truth(to)) => {
            let test = if name == "IsInf" { f32::is_infinite } else { f32::is_nan };
            to[..count].iter_mut().zip(x).for_each(|(to, x)| *to = test(*x));
        }
        (Buffer::Integer(x), Buffer::Integer(to)) => {
            let f = match name {
                "Neg" => i64::wrapping_neg,
                "Sign" => i64::signum,
                _ => i64::wrapping_abs,
            };
            to[..count].iter_mut().zip(x).for_each(|(to, x)| *to = f(*x));
        }
        (Buffer::Truth(x), Buffer::Truth(to)) => to[..count].iter_mut().zip(x).for_each(|(to, x)| *to = !x),
        _ => unreachable!("{name} of other types"),
    }
}

pub(super) fn binary(name: &str, a: &Buffer, b: &Buffer, to: &mut Buffer, count: usize) {
    match (a, b, to) {
        (Buffer::Float(a), Buffer::Float(b), Buffer::Float(to)) => {
            functions::binary(name, &a[..count], &b[..count], &mut to[..count]);
        }
        (Buffer::Float(a), Buffer::Float(b), Buffer::Truth(to)) => {
            functions::compare(name, &a[..count], &b[..count], &mut to[..count]);
        }
        (Buffer::Integer(a), Buffer::Integer(b), Buffer::Integer(to)) => {
            let f = functions::of_integers(name);
            to[..count].iter_mut().zip(a).zip(b).for_each(|((to, a), b)| *to = f(*a, *b));
        }
        (Buffer::Integer(a), Buffer::Integer(b), Buffer::Truth(to)) => {
            let f = functions::compare_integers(name);
            to[..count].iter_mut().zip(a).zip(b).for_each(|((to, a), b)| *to = f(a, b));
        }
        (Buffer::Truth(a), Buffer::Truth(b), Buffer::Truth(to)) => {
            let f = functions::of_truths(name);
            to[..count].iter_mut().zip(a).zip(b).for_each(|((to, a), b)| *to = f(*a, *b));
        }
        _ => unreachable!("{name} of other types"),
    }
}

pub(super) fn select(condition: &Buffer, a: &Buffer, b: &Buffer, to: &mut Buffer, count: usize) {
    fn choose<T: Copy>(condition: &[bool], a: &[T], b: &[T], to: &mut [T]) {
        let given = a.iter().zip(b).zip(condition);
        to.iter_mut().zip(given).for_each(|(to, ((a, b), condition))| *to = if *condition { *a } else { *b });
    }
    let Buffer::Truth(condition) = condition else { unreachable!("a condition is a truth value") };
    match (a, b, to) {
        (Buffer::Float(a), Buffer::Float(b), Buffer::Float(to)) => {
            functions::select(&condition[..count], &a[..count], &b[..count], &mut to[..count]);
        }
        (Buffer::Integer(a), Buffer::Integer(b), Buffer::Integer(to)) => choose(condition, a, b, &mut to[..count]),
        (Buffer::Truth(a), Buffer::Truth(b), Buffer::Truth(to)) => choose(condition, a, b, &mut to[..count]),
        _ => unreachable!("a choice between other types"),
    }
}

pub(super) fn cast(x: &Buffer, to: &mut Buffer, count: usize) {
    fn each<A: Copy, B>(x: &[A], to: &mut [B], f: impl Fn(A) -> B) {
        to.iter_mut().zip(x).for_each(|(to, x)| *to = f(*x));
    }
    match (x, to) {
        (Buffer::Float(x), Buffer::Float(to)) => each(x, &mut to[..count], |x| x),
        (Buffer::Float(x), Buffer::Integer(to)) => each(x, &mut to[..count], |x| x as i64),
        (Buffer::Float(x), Buffer::Truth(to)) => each(x, &mut to[..count], |x| x != 0.0),
        (Buffer::Integer(x), Buffer::Float(to)) => each(x, &mut to[..count], |x| x as f32),
        (Buffer::Integer(x), Buffer::Integer(to)) => each(x, &mut to[..count], |x| x),
        (Buffer::Integer(x), Buffer::Truth(to)) => each(x, &mut to[..count], |x| x != 0),
        (Buffer::Truth(x), Buffer::Float(to)) => each(x, &mut to[..count], |x| f32::from(u8::from(x))),
        (Buffer::Truth(x), Buffer::Integer(to)) => each(x, &mut to[..count], i64::from),
        (Buffer::Truth(x), Buffer::Truth(to)) => each(x, &mut to[..count], |x| x),
    }
}
