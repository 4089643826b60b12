//! Linear interpolation along time, as a product with a constant matrix: its gradient is the transposed product.

use crate::graph::{Graph, Value};

/// x [batch, rows, features] at `n` evenly spaced points that include both ends
/// (PyTorch's `interpolate(mode="linear", align_corners=True)`).
pub fn align_corners(graph: &mut Graph, x: Value, n: usize) -> Value {
    let rows = graph.shape(x)[1];
    let scale = if n > 1 { (rows - 1) as f64 / (n - 1) as f64 } else { 0.0 };
    resample(graph, x, n, |i| i as f64 * scale)
}

/// x [batch, rows, features] at `n` points spaced as pixel centres (`align_corners=False`).
pub fn half_pixel(graph: &mut Graph, x: Value, n: usize) -> Value {
    let scale = graph.shape(x)[1] as f64 / n as f64;
    resample(graph, x, n, |i| ((i as f64 + 0.5) * scale - 0.5).max(0.0))
}

fn resample(graph: &mut Graph, x: Value, n: usize, position: impl Fn(usize) -> f64) -> Value {
    let rows = graph.shape(x)[1];
    if n == rows {
        return x;
    }
    let mut matrix = vec![0.0; n * rows];
    for i in 0..n {
        let at = position(i);
        let low = (at as usize).min(rows - 1);
        let high = (low + 1).min(rows - 1);
        let share = at - low as f64;
        matrix[i * rows + low] += (1.0 - share) as f32;
        matrix[i * rows + high] += share as f32;
    }
    let matrix = graph.f32([n, rows], matrix);
    graph.matmul(matrix, x)
}
