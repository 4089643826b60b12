//! The update of Adam and AdamW, in one pass over parameters, moments and gradient.

use super::operator::{Attributes, Input, Kernel, Workers};

/// Elements per piece of work.
const PIECE: usize = 1 << 14;

/// Numbers of the update that do not change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Adam {
    keep: [f32; 2],
    take: [f32; 2],
    epsilon: f32,
    decoupled: bool,
}

impl Adam {
    pub(super) fn new(attributes: &Attributes) -> Self {
        let pair = |names: [&str; 2]| names.map(|name| attributes.float(name, 0.0));
        Self {
            keep: pair(["keep1", "keep2"]),
            take: pair(["take1", "take2"]),
            epsilon: attributes.float("epsilon", 1e-5),
            decoupled: attributes.int("decoupled", 0) != 0,
        }
    }
}

impl Kernel for Adam {
    fn compute(&self, inputs: &[Input<'_>], outputs: &mut [&mut [f32]], workers: &Workers<'_>) -> ort::Result<()> {
        let given: [&[f32]; 8] = std::array::from_fn(|i| inputs[i].values);
        let [parameters, first, second] = outputs else { return Err(ort::Error::new("expected three outputs")) };
        let step = Step { adam: *self, rate: given[4][0], corrections: [given[5][0], given[6][0]] };
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
}

/// What is the same for all elements.
#[derive(Clone, Copy)]
struct Step {
    adam: Adam,
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
    let Step { adam, rate, corrections } = step;
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
        new_parameters[i] = p - m / (v.sqrt() / corrections[1] + adam.epsilon) * step_rate;
    }
}
