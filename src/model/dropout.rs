//! Dropout masks from (seed, step, element): repeatable, and fresh at every step of one fixed graph.
//!
//! Arithmetic is modulo the prime p = 2^31 - 1 in int64, with operators that every provider has. Two numbers per
//! step, drawn by the host from (seed, step), are spread over rows and columns of a mask by x -> x^5 + s, a
//! permutation of the field (5 does not divide p - 1); an element is a_j r_i + b_j, which is uniform and
//! pairwise independent (Carter and Wegman 1979).

use crate::graph::DType;
use crate::graph::{Graph, TensorType, Value};

const P: i64 = (1 << 31) - 1;

/// Makes the masks of one training graph.
#[derive(Debug)]
pub struct Dropout {
    probability: f64,
    /// Input [2]: this step's random numbers, each in 0..p.
    seeds: Value,
    /// Masks made so far, so that no two are alike.
    sites: i64,
}

impl Dropout {
    /// Numbers at the `random` input must lie below this.
    pub const MODULUS: u64 = P as u64;
    /// Elements of the `random` input.
    pub const SEEDS: usize = 2;

    /// Adds the graph's input `name` for this step's random numbers.
    pub fn new(graph: &mut Graph, name: &str, probability: f64) -> Self {
        let seeds = graph.input(name, TensorType::new(DType::I64, [Self::SEEDS]));
        Self { probability, seeds, sites: 0 }
    }

    /// The share that is dropped.
    pub fn probability(&self) -> f64 {
        self.probability
    }

    /// `count` independent masks of `rows` x `columns`, already scaled by 1 / (1 - probability).
    pub fn masks(&mut self, graph: &mut Graph, count: usize, rows: usize, columns: usize) -> Vec<Value> {
        self.masks_of(graph, self.probability, count, rows, columns)
    }

    /// [`masks`](Self::masks) that drop another share.
    pub fn masks_of(
        &mut self,
        graph: &mut Graph,
        probability: f64,
        count: usize,
        rows: usize,
        columns: usize,
    ) -> Vec<Value> {
        let elements = rows * columns;
        let spread = self.spread(graph, count + 2 * elements);
        let parts = graph.split(spread, 0, &[count, elements, elements]);
        let r = graph.reshape(parts[0], &[count, 1]);
        let product = graph.mul(r, parts[1]);
        let sum = graph.add(product, parts[2]);
        let uniform = modulo_p(graph, sum);
        let threshold = int(graph, (probability * P as f64) as i64);
        let kept = graph.greater(uniform, threshold);
        let kept = graph.to_f32(kept);
        let scale = graph.scalar((1.0 / (1.0 - probability)) as f32);
        let scaled = graph.mul(kept, scale);
        let scaled = graph.reshape(scaled, &[count * rows, columns]);
        graph.split(scaled, 0, &vec![rows; count])
    }

    /// `n` numbers in 0..p, different at each site and step.
    fn spread(&mut self, graph: &mut Graph, n: usize) -> Value {
        // Numbers that no other site uses, spread out before the seeds come in.
        let first = self.sites;
        self.sites += n as i64;
        let indices: Vec<_> = (first..first + n as i64).map(|i| (i + 1) * 1_103_515_245 % P).collect();
        let mut x = graph.i64s(&indices);
        for seed in graph.split(self.seeds, 0, &[1, 1]) {
            let shifted = graph.add(x, seed);
            x = modulo_p(graph, shifted);
            x = fifth_power(graph, x);
        }
        x
    }
}

fn int(graph: &mut Graph, value: i64) -> Value {
    graph.i64s(&[value])
}

fn modulo_p(graph: &mut Graph, x: Value) -> Value {
    let p = int(graph, P);
    graph.modulo(x, p)
}

fn fifth_power(graph: &mut Graph, x: Value) -> Value {
    let mut times = |a: Value, b: Value| {
        let product = graph.mul(a, b);
        modulo_p(graph, product)
    };
    let square = times(x, x);
    let fourth = times(square, square);
    times(fourth, x)
}
