//! Linear interpolation along time: while training as a product with a constant matrix, whose gradient is the transposed
//! product, in exported models between rows picked by index.

use crate::graph::{Graph, Value};

/// x [batch, rows, features] at `n` evenly spaced points that include both ends
/// (PyTorch's `interpolate(mode="linear", align_corners=True)`).
pub fn align_corners(graph: &mut Graph, by: Interpolate, x: Value, n: usize) -> Value {
    let rows = graph.shape(x)[1];
    let scale = if n > 1 { (rows - 1) as f64 / (n - 1) as f64 } else { 0.0 };
    resample(graph, by, x, n, |i| i as f64 * scale)
}

/// x [batch, rows, features] at `n` points spaced as pixel centres (`align_corners=False`).
pub fn half_pixel(graph: &mut Graph, by: Interpolate, x: Value, n: usize) -> Value {
    let scale = graph.shape(x)[1] as f64 / n as f64;
    resample(graph, by, x, n, |i| ((i as f64 + 0.5) * scale - 0.5).max(0.0))
}

/// How rows are interpolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interpolate {
    /// As a product with a constant matrix.
    Product,
    /// Between rows picked by index: of a size that does not grow with the square of the window.
    Gather,
}

fn resample(graph: &mut Graph, by: Interpolate, x: Value, n: usize, position: impl Fn(usize) -> f64) -> Value {
    let rows = graph.shape(x)[1];
    if n == rows {
        return x;
    }
    let places = (0..n).map(|i| {
        let at = position(i);
        let low = (at as usize).min(rows - 1);
        (low, (low + 1).min(rows - 1), (at - low as f64) as f32)
    });
    if by == Interpolate::Gather {
        let (low, rest): (Vec<_>, Vec<_>) = places.map(|(low, high, share)| (low as i64, (high as i64, share))).unzip();
        let (high, share): (Vec<_>, Vec<_>) = rest.into_iter().unzip();
        let [low, high] = [low, high].map(|places| graph.i64s(&places));
        let share = graph.f32([n], share);
        return mix(graph, x, 1, [low, high], share);
    }
    let mut matrix = vec![0.0; n * rows];
    for (i, (low, high, share)) in places.enumerate() {
        matrix[i * rows + low] += 1.0 - share;
        matrix[i * rows + high] += share;
    }
    let matrix = graph.f32([n, rows], matrix);
    graph.matmul(matrix, x)
}

/// Rows of `x` along `axis`, `share` [n] of the way from `low` [n] to `high` [n].
pub(super) fn mix(graph: &mut Graph, x: Value, axis: usize, [low, high]: [Value; 2], share: Value) -> Value {
    let [from, to] = [low, high].map(|index| graph.gather(x, index, axis));
    let n = graph.shape(share)[0];
    let share = graph.reshape(share, &[n, 1]);
    let difference = graph.sub(to, from);
    let moved = graph.mul(difference, share);
    graph.add(from, moved)
}
