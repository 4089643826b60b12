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
        let all = self.mask(graph, self.probability, count, rows * columns);
        let all = graph.reshape(all, &[count * rows, columns]);
        graph.split(all, 0, &vec![rows; count])
    }

    /// Numbers of this shape, uniform in [0, 1).
    pub fn uniform_like(&mut self, graph: &mut Graph, shape: &[usize]) -> Value {
        let (rows, columns) = Self::folded(shape);
        let spread = self.spread(graph, rows + 2 * columns);
        let parts = graph.split(spread, 0, &[rows, columns, columns]);
        let r = graph.reshape(parts[0], &[rows, 1]);
        let product = graph.mul(r, parts[1]);
        let sum = graph.add(product, parts[2]);
        let whole = modulo_p(graph, sum);
        // float32 has 24 bits: of the lower ones nothing is left, nor is 1 ever reached.
        let coarse = graph.i64s(&[128]);
        let whole = graph.div(whole, coarse);
        let whole = graph.to_f32(whole);
        let unit = graph.scalar(1.0 / (1 << 24) as f32);
        let uniform = graph.mul(whole, unit);
        graph.reshape(uniform, shape)
    }

    /// A mask of this shape that drops a share of `probability`, already scaled by 1 / (1 - probability).
    pub fn mask_like(&mut self, graph: &mut Graph, probability: f64, shape: &[usize]) -> Value {
        let (rows, columns) = Self::folded(shape);
        let mask = self.mask(graph, probability, rows, columns);
        graph.reshape(mask, shape)
    }

    /// Rows and columns of a matrix of as many elements: a number per row and two per column are drawn, which are least
    /// where there are about as many of the one as of the other.
    fn folded(shape: &[usize]) -> (usize, usize) {
        let elements: usize = shape.iter().product();
        let products = (0..=shape.len()).map(|i| shape[..i].iter().product::<usize>());
        let rows = products.min_by_key(|rows| rows.max(&1) + 2 * elements / rows.max(&1)).unwrap_or(1).max(1);
        (rows, elements / rows)
    }

    /// A mask [rows, columns].
    fn mask(&mut self, graph: &mut Graph, probability: f64, rows: usize, columns: usize) -> Value {
        let spread = self.spread(graph, rows + 2 * columns);
        let parts = graph.split(spread, 0, &[rows, columns, columns]);
        let [r, a, b] = [0, 1, 2].map(|i| parts[i]);
        graph.dropout_mask([r, a, b], P, (probability * P as f64) as i64, (1.0 / (1.0 - probability)) as f32)
    }

    /// `n` numbers in 0..p, different at each site and step.
    fn spread(&mut self, graph: &mut Graph, n: usize) -> Value {
        // Numbers that no other site uses, spread out before the seeds come in.
        let first = self.sites;
        self.sites += n as i64;
        let indices: Vec<_> = (first..first + n as i64).map(|i| (i + 1) % P * 1_103_515_245 % P).collect();
        let mut x = graph.i64s(&indices);
        for seed in graph.split(self.seeds, 0, &[1, 1]) {
            let shifted = graph.add(x, seed);
            x = modulo_p(graph, shifted);
            x = fifth_power(graph, x);
        }
        x
    }
}

fn modulo_p(graph: &mut Graph, x: Value) -> Value {
    let p = graph.i64s(&[P]);
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
