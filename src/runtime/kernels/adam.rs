//! The update of Adam and AdamW, in one pass over parameters, moments and gradient.

use super::operator::{Input, Settings, Workers};

/// Elements per piece of work.
const PIECE: usize = 1 << 14;

/// Numbers of the update that do not change.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Adam {
    pub(super) keep: [f32; 2],
    pub(super) take: [f32; 2],
    pub(super) decoupled: bool,
}

pub(super) fn shapes(inputs: &[Vec<usize>], _: &Settings) -> Result<Vec<Vec<usize>>, String> {
    let ([parameters, vectors @ ..], step) = inputs.split_at(inputs.len().min(4)) else {
        return Err("expected eight inputs".into());
    };
    let [rate, first, second, decay] = step else { return Err("expected eight inputs".into()) };
    let numbers = [rate, first, second].iter().all(|shape| ***shape == [1]) && (*decay == [1] || decay == parameters);
    if vectors.iter().any(|vector| vector != parameters) || parameters.len() != 1 || !numbers {
        return Err(format!("{inputs:?} do not fit together"));
    }
    Ok(vec![parameters.clone(); 3])
}

pub(super) fn update(
    inputs: &[Input<'_>],
    settings: &Settings,
    outputs: &mut [&mut [f32]],
    workers: &Workers<'_>,
) -> Result<(), String> {
    let given: [&[f32]; 8] = std::array::from_fn(|i| inputs[i].values);
    let [parameters, first, second] = outputs else { return Err("expected three outputs".into()) };
    let step = Step {
        adam: settings.adam,
        epsilon: settings.epsilon,
        rate: given[4][0],
        corrections: [given[5][0], given[6][0]],
    };
    let decay = given[7];
    let results = parameters.chunks_mut(PIECE).zip(first.chunks_mut(PIECE)).zip(second.chunks_mut(PIECE));
    let pieces = results
        .enumerate()
        .map(|(i, ((parameters, first), second))| {
            let own = i * PIECE..i * PIECE + parameters.len();
            let before: [&[f32]; 4] = std::array::from_fn(|i| &given[i][own.clone()]);
            let decay = if decay.len() == 1 { decay } else { &decay[own] };
            Piece { before, decay, after: [parameters, first, second] }
        })
        .collect();
    workers.each(pieces, |piece: Piece<'_>| step.run(piece))
}

/// What is the same for all elements.
#[derive(Clone, Copy)]
struct Step {
    adam: Adam,
    epsilon: f32,
    rate: f32,
    corrections: [f32; 2],
}

/// Some elements: parameters, moments and gradient before; decay, one number or one each; parameters and moments after.
struct Piece<'a> {
    before: [&'a [f32]; 4],
    decay: &'a [f32],
    after: [&'a mut [f32]; 3],
}

impl Step {
    fn run(self, piece: Piece<'_>) {
        if let [decay] = *piece.decay {
            elements(self, piece, |_| decay);
        } else {
            let all = piece.decay;
            elements(self, piece, |i| all[i]);
        }
    }
}

#[inline(always)]
fn elements(step: Step, piece: Piece<'_>, decay: impl Fn(usize) -> f32) {
    let Step { adam, epsilon, rate, corrections } = step;
    let [parameters, first, second, gradient] = piece.before;
    let [new_parameters, new_first, new_second] = piece.after;
    let n = gradient.len();
    let (parameters, first, second) = (&parameters[..n], &first[..n], &second[..n]);
    let (new_parameters, new_first, new_second) = (&mut new_parameters[..n], &mut new_first[..n], &mut new_second[..n]);
    let step_rate = rate / corrections[0];
    for i in 0..n {
        let (mut p, mut g) = (parameters[i], gradient[i]);
        if adam.decoupled {
            p -= p * (rate * decay(i));
        } else {
            g += p * decay(i);
        }
        let m = first[i] * adam.keep[0] + g * adam.take[0];
        let v = second[i] * adam.keep[1] + g * g * adam.take[1];
        (new_first[i], new_second[i]) = (m, v);
        new_parameters[i] = p - m / (v.sqrt() / corrections[1] + epsilon) * step_rate;
    }
}
