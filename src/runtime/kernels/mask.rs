//! Random masks from numbers that are spread over rows and columns.

use super::operator::{Attributes, Input, Kernel, Workers};

/// Elements per piece of work; a piece is a part of one row.
const PIECE: usize = 1 << 14;

/// Which elements a mask drops, and what the others are.
pub(super) struct Mask {
    modulus: i64,
    threshold: i64,
    scale: f32,
}

impl Mask {
    pub(super) fn new(attributes: &Attributes) -> Self {
        Self {
            modulus: attributes.int("modulus", 0),
            threshold: attributes.int("threshold", 0),
            scale: attributes.float("scale", 1.0),
        }
    }
}

const MODULUS: i64 = (1 << 31) - 1;

impl Kernel for Mask {
    /// `scale` where (a r + b) mod 2^31 - 1 > `threshold`, else 0.
    fn compute(&self, inputs: &[Input<'_>], outputs: &mut [&mut [f32]], workers: &Workers<'_>) -> ort::Result<()> {
        if self.modulus != MODULUS {
            return Err(ort::Error::new(format!("modulus {}, expected {MODULUS}", self.modulus)));
        }
        let [r, a, b] = std::array::from_fn(|i| inputs[i].integers);
        if [r, a, b].iter().any(|list| list.iter().any(|x| !(0..MODULUS).contains(x))) {
            return Err(ort::Error::new("numbers must lie in 0..2^31 - 1"));
        }
        let columns = a.len();
        if columns == 0 {
            return Ok(());
        }
        let rows = outputs[0].chunks_exact_mut(columns).zip(r);
        let pieces = rows.flat_map(|(row, r)| {
            let parts = a.chunks(PIECE).zip(b.chunks(PIECE));
            row.chunks_mut(PIECE).zip(parts).map(move |(out, (a, b))| Part { out, r: *r as u64, a, b })
        });
        let (threshold, scale) = (self.threshold as u64, self.scale);
        workers.each(pieces.collect(), |part: Part<'_>| fill(part, threshold, scale))
    }
}

struct Part<'a> {
    out: &'a mut [f32],
    r: u64,
    a: &'a [i64],
    b: &'a [i64],
}

#[multiversion::multiversion(targets = "simd")]
fn fill(part: Part<'_>, threshold: u64, scale: f32) {
    const P: u64 = MODULUS as u64;
    for ((out, a), b) in part.out.iter_mut().zip(part.a).zip(part.b) {
        let x = *a as u64 * part.r + *b as u64;
        // 2^31 is 1 modulo P, so the high bits add to the low ones; twice leaves less than 2 P.
        let x = (x & P) + (x >> 31);
        let x = (x & P) + (x >> 31);
        let x = if x >= P { x - P } else { x };
        *out = if x > threshold { scale } else { 0.0 };
    }
}
