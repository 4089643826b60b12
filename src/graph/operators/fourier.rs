//! Discrete Fourier transforms, as products with a matrix of cosines and sines. (Source: the ONNX operator `DFT`.)

use super::super::core::Value;
use super::super::error::GraphError;
use super::super::tensor::Constant;
use super::call::Call;
use super::{Family, axis};

pub(super) static FAMILY: Family = Family { operators: &[], imports: &[("DFT", import_dft)] };

/// Elements of the matrix beyond which the transform is left to ONNX Runtime, if nothing above it is trained.
const LARGEST_MATRIX: usize = 1 << 24;

/// x [.., n, .., 1 or 2] (real, or real and imaginary parts) to [.., n or n / 2 + 1, .., 2]; of an inverse one that is
/// one-sided, x [.., n / 2 + 1, .., 2] to [.., n, .., 1].
fn import_dft(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let x = call.float(0)?;
    let shape = call.shape(x);
    let along = match call.numbers(2)? {
        Some(axis) => axis.first().map_or(-2, |axis| *axis as i64),
        None => call.attributes.int("axis", if call.opset < 20 { 1 } else { -2 }),
    };
    let along = axis(along, shape.len())?;
    let Some(parts @ (1 | 2)) = shape.last().copied().filter(|_| along + 1 < shape.len()) else {
        return Err(format!("{shape:?} does not end in one or two parts of a number").into());
    };
    let given = shape[along];
    let length = call.numbers(1)?.and_then(|length| length.first().copied()).map_or(given, |length| length as usize);
    let inverse = call.attributes.int("inverse", 0) != 0;
    let onesided = call.attributes.int("onesided", 0) != 0;
    let to_real = onesided && inverse;
    if to_real && parts == 1 {
        return Err("a one-sided inverse transform takes complex numbers".into());
    }
    let taken = given.min(if to_real { length / 2 + 1 } else { length });
    let (gives, parts_out) = match (onesided, inverse) {
        (true, true) => (length, 1),
        (true, false) => (length / 2 + 1, 2),
        (false, _) => (length, 2),
    };
    let (rows, columns) = (taken * parts, gives.saturating_mul(parts_out));
    if length == 0 || rows.saturating_mul(columns) > LARGEST_MATRIX {
        return Err(format!("a transform of {length} points is too large").into());
    }
    let matrix = match to_real {
        true => real_matrix(length, taken),
        false => matrix(length, [taken, parts], gives, inverse),
    };
    let matrix = call.graph.constant(Constant::F32(vec![rows, columns], matrix));
    let x = call.graph.slice(x, along, 0, taken);
    // The axis beside the parts, both as one.
    let last = shape.len() - 1;
    let order: Vec<_> = (0..last).filter(|i| *i != along).chain([along, last]).collect();
    let x = call.graph.transpose(x, &order);
    let before: Vec<_> = order[..last - 1].iter().map(|i| shape[*i]).collect();
    let x = call.graph.reshape(x, &[before.as_slice(), &[rows]].concat());
    let y = call.graph.matmul(x, matrix);
    let y = call.graph.reshape(y, &[before.as_slice(), &[gives, parts_out]].concat());
    let mut back = vec![0; order.len()];
    order.iter().enumerate().for_each(|(to, from)| back[*from] = to);
    Ok(vec![call.graph.transpose(y, &back)])
}

/// From (frequency, part) of half a spectrum, whose other half is its conjugate, to real rows.
fn real_matrix(length: usize, frequencies: usize) -> Vec<f32> {
    let mut matrix = Vec::with_capacity(frequencies * 2 * length);
    for frequency in 0..frequencies {
        let alone = frequency == 0 || 2 * frequency == length;
        let weight = if alone { 1.0 } else { 2.0 } / length as f64;
        let turn = |row: usize| (row * frequency % length) as f64 / length as f64 * std::f64::consts::TAU;
        matrix.extend((0..length).map(|row| (weight * turn(row).cos()) as f32));
        matrix.extend((0..length).map(|row| (-weight * turn(row).sin()) as f32));
    }
    matrix
}

/// From (row, part) to (frequency, part): multiplication with exp(-2 pi i row frequency / length), or its conjugate over
/// `length`.
fn matrix(length: usize, [rows, parts]: [usize; 2], frequencies: usize, inverse: bool) -> Vec<f32> {
    let (sign, scale) = if inverse { (1.0, 1.0 / length as f64) } else { (-1.0, 1.0) };
    let mut matrix = vec![0.0; rows * parts * frequencies * 2];
    for row in 0..rows {
        for frequency in 0..frequencies {
            // Reduced first, for the sake of large arguments.
            let turn = (row * frequency % length) as f64 / length as f64 * std::f64::consts::TAU;
            let (sin, cos) = ((sign * turn).sin() * scale, turn.cos() * scale);
            let mut put = |part: usize, to: usize, value: f64| {
                matrix[((row * parts + part) * frequencies + frequency) * 2 + to] = value as f32;
            };
            put(0, 0, cos);
            put(0, 1, sin);
            if parts == 2 {
                put(1, 0, -sin);
                put(1, 1, cos);
            }
        }
    }
    matrix
}
