//! The cell of a long short-term memory, and its gradient.

use super::launch::{Launch, Room};
use super::operator::{Input, Kernel, Workers};

/// Elements of the state per piece of work; a piece is whole rows.
const PIECE: usize = 1 << 12;

/// The forward pass.
pub(super) struct Cell;

/// Its gradient.
pub(super) struct CellGradient;

/// Some rows of the forward pass.
struct Rows<'a> {
    gates: &'a [f32],
    /// What is added to the gates: as many rows, or one for all of them.
    more: Vec<&'a [f32]>,
    before: &'a [f32],
    hidden: &'a mut [f32],
    cell: &'a mut [f32],
    sigmoids: &'a mut [f32],
    candidate: &'a mut [f32],
    squashed: &'a mut [f32],
}

impl Kernel for Cell {
    fn compute(&self, inputs: &[Input<'_>], outputs: &mut [&mut [f32]], workers: &Workers<'_>) -> ort::Result<()> {
        let n = inputs[1].shape[1];
        let some = (PIECE / n).max(1) * n;
        let [hidden, cell, sigmoids, candidate, squashed] = outputs else {
            return Err(ort::Error::new("expected five outputs"));
        };
        let given = inputs[0].values.chunks(4 * some).zip(inputs[1].values.chunks(some));
        let states = hidden.chunks_mut(some).zip(cell.chunks_mut(some));
        let kept = sigmoids.chunks_mut(3 * some).zip(candidate.chunks_mut(some)).zip(squashed.chunks_mut(some));
        let whole = inputs[0].values.len();
        let part = |more: &'_ [f32], piece: usize, length: usize| -> std::ops::Range<usize> {
            if more.len() == whole { 4 * some * piece..4 * some * piece + length } else { 0..more.len() }
        };
        let pieces = given
            .zip(states)
            .zip(kept)
            .enumerate()
            .map(|(piece, (((gates, before), (hidden, cell)), ((sigmoids, candidate), squashed)))| Rows {
                gates,
                more: inputs[2..].iter().map(|more| &more.values[part(more.values, piece, gates.len())]).collect(),
                before,
                hidden,
                cell,
                sigmoids,
                candidate,
                squashed,
            })
            .collect();
        workers.each(pieces, |rows: Rows<'_>| step(rows, n))
    }

    fn launch(&self, shapes: &[Vec<usize>], _: Room) -> Option<Launch> {
        let (rows, columns) = (shapes[1][0], shapes[1][1]);
        // A part that is one row is that row for all.
        let stride = |i: usize| shapes.get(i).map_or(0, |part| if part.len() == 2 { 4 * columns as u32 } else { 0 });
        Some(Launch::by_row("lstm_cell", rows, columns, &[stride(2), stride(3)]))
    }
}

#[multiversion::multiversion(targets = "simd")]
fn step(rows: Rows<'_>, n: usize) {
    let given = rows.gates.chunks_exact(4 * n).zip(rows.before.chunks_exact(n));
    let states = rows.hidden.chunks_exact_mut(n).zip(rows.cell.chunks_exact_mut(n));
    let kept = rows.candidate.chunks_exact_mut(n).zip(rows.squashed.chunks_exact_mut(n));
    let kept = rows.sigmoids.chunks_exact_mut(3 * n).zip(kept);
    for (row, (((gates, before), (hidden, cell)), (sigmoids, (candidate, squashed)))) in
        given.zip(states).zip(kept).enumerate()
    {
        let (open, closed) = gates.split_at(3 * n);
        sigmoids.copy_from_slice(open);
        candidate.copy_from_slice(closed);
        for part in &rows.more {
            let (open, closed) = part[4 * n * row % part.len()..][..4 * n].split_at(3 * n);
            sigmoids.iter_mut().zip(open).for_each(|(y, x)| *y += x);
            candidate.iter_mut().zip(closed).for_each(|(y, x)| *y += x);
        }
        sigmoids.iter_mut().for_each(|y| *y = sigmoid(*y));
        candidate.iter_mut().for_each(|y| *y = tanh(*y));
        let (input, rest) = sigmoids.split_at(n);
        let (forget, output) = rest.split_at(n);
        for i in 0..n {
            let new = forget[i] * before[i] + input[i] * candidate[i];
            cell[i] = new;
            squashed[i] = tanh(new);
            hidden[i] = output[i] * squashed[i];
        }
    }
}

/// Some rows of the gradient.
struct Gradient<'a> {
    dh: &'a [f32],
    /// What is added to dh.
    second: Option<&'a [f32]>,
    dc: &'a [f32],
    sigmoids: &'a [f32],
    candidate: &'a [f32],
    squashed: &'a [f32],
    before: &'a [f32],
    gates: &'a mut [f32],
    state: &'a mut [f32],
}

impl Kernel for CellGradient {
    fn compute(&self, inputs: &[Input<'_>], outputs: &mut [&mut [f32]], workers: &Workers<'_>) -> ort::Result<()> {
        let n = inputs[0].shape[1];
        let some = (PIECE / n).max(1) * n;
        let [gates, state] = outputs else { return Err(ort::Error::new("expected two outputs")) };
        let [dh, dc, sigmoids, candidate, squashed, before] = std::array::from_fn(|i| inputs[i].values);
        let pieces = gates
            .chunks_mut(4 * some)
            .zip(state.chunks_mut(some))
            .enumerate()
            .map(|(piece, (gates, state))| {
                let (first, last) = (piece * some, piece * some + state.len());
                let [dh, dc, candidate, squashed, before] =
                    [dh, dc, candidate, squashed, before].map(|values| &values[first..last]);
                let second = inputs.get(6).map(|second| &second.values[first..last]);
                let sigmoids = &sigmoids[3 * first..3 * last];
                Gradient { dh, second, dc, sigmoids, candidate, squashed, before, gates, state }
            })
            .collect();
        workers.each(pieces, |rows: Gradient<'_>| step_back(rows, n))
    }

    fn launch(&self, shapes: &[Vec<usize>], _: Room) -> Option<Launch> {
        Some(Launch::by_row("lstm_cell_gradient", shapes[0][0], shapes[0][1], &[]))
    }
}

#[multiversion::multiversion(targets = "simd")]
fn step_back(rows: Gradient<'_>, n: usize) {
    for (row, (gates, state)) in rows.gates.chunks_exact_mut(4 * n).zip(rows.state.chunks_exact_mut(n)).enumerate() {
        let own = row * n..(row + 1) * n;
        let [dh, dc, candidate, squashed, before] =
            [rows.dh, rows.dc, rows.candidate, rows.squashed, rows.before].map(|values| &values[own.clone()]);
        let (input, rest) = rows.sigmoids[3 * row * n..3 * (row + 1) * n].split_at(n);
        let (forget, output) = rest.split_at(n);
        let (d_input, rest) = gates.split_at_mut(n);
        let (d_forget, rest) = rest.split_at_mut(n);
        let (d_output, d_candidate) = rest.split_at_mut(n);
        let mut element = |i: usize, dh: f32| {
            let cell = dc[i] + dh * output[i] * (1.0 - squashed[i] * squashed[i]);
            d_input[i] = cell * candidate[i] * input[i] * (1.0 - input[i]);
            d_forget[i] = cell * before[i] * forget[i] * (1.0 - forget[i]);
            d_output[i] = dh * squashed[i] * output[i] * (1.0 - output[i]);
            d_candidate[i] = cell * input[i] * (1.0 - candidate[i] * candidate[i]);
            state[i] = cell * forget[i];
        };
        match rows.second.map(|second| &second[own.clone()]) {
            Some(second) => (0..n).for_each(|i| element(i, dh[i] + second[i])),
            None => (0..n).for_each(|i| element(i, dh[i])),
        }
    }
}

/// e^x within 2 units in the last place; flushes to 0 and saturates where float32 would over- or underflow.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts, the first exact when multiplied by n.
    const HIGH: f32 = 0.693_359_4;
    const LOW: f32 = -2.121_944_4e-4;
    /// Added and taken off again, it rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (x - n * HIGH) - n * LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    // n stands in the low bits of what was rounded; 2^n is an exponent field alone.
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    p * f32::from_bits(exponent << 23)
}

#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// A ratio of polynomials within a few units in the last place (the one that Eigen uses).
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let x = x.clamp(-9.0, 9.0);
    let s = x * x;
    let p = -2.760_768_5e-16_f32;
    let p = p * s + 2.000_188e-13;
    let p = p * s + -8.604_672e-11;
    let p = p * s + 5.122_297e-8;
    let p = p * s + 1.485_722_4e-5;
    let p = p * s + 6.372_619_3e-4;
    let p = (p * s + 4.893_524_6e-3) * x;
    let q = 1.198_258_4e-6;
    let q = q * s + 1.185_347e-4;
    let q = q * s + 2.268_434_6e-3;
    let q = q * s + 4.893_525e-3;
    p / q
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_are_those_of_the_standard_library() {
        for i in -4000..=4000 {
            let x = i as f32 / 100.0;
            let (wide, close) = (f64::from(x), 4.0 * f64::from(f32::EPSILON));
            let (s, t) = (1.0 / (1.0 + (-wide).exp()), wide.tanh());
            assert!((f64::from(sigmoid(x)) - s).abs() <= close * s, "sigmoid of {x}");
            assert!((f64::from(tanh(x)) - t).abs() <= close * t.abs(), "tanh of {x}");
        }
        assert!(sigmoid(f32::NAN).is_nan() && tanh(f32::NAN).is_nan());
        assert_eq!((sigmoid(1e30), sigmoid(-100.0) < 1e-37), (1.0, true));
    }
}
