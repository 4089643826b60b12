//! Interpolation.

use super::super::core::Value;
use super::super::error::GraphError;
use super::Family;
use super::call::Call;

pub(super) static FAMILY: Family = Family { operators: &[], imports: &[("Resize", resize)] };

/// Linear and nearest interpolation: along each axis that changes, a product with a constant matrix.
fn resize(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let mut x = call.float(0)?;
    let shape = call.shape(x);
    let scales = call.numbers(2)?.filter(|scales| scales.len() == shape.len());
    let sizes = call.integers(3)?;
    if call.attributes.contains_key("axes") || call.attributes.text("keep_aspect_ratio_policy", "stretch") != "stretch"
    {
        return Err("axes and keep_aspect_ratio_policy are not supported".into());
    }
    if call.attributes.int("antialias", 0) != 0 {
        return Err("antialias is not supported".into());
    }
    let target: Vec<usize> = match (&sizes, &scales) {
        (Some(sizes), _) if sizes.len() == shape.len() => sizes.iter().map(|size| (*size).max(0) as usize).collect(),
        (_, Some(scales)) => {
            shape.iter().zip(scales).map(|(n, scale)| (*n as f32 * *scale as f32).floor() as usize).collect()
        }
        _ => return Err("expected sizes or scales for every axis".into()),
    };
    let text = |name, default| call.attributes.text(name, default).to_owned();
    let coordinates = text("coordinate_transformation_mode", "half_pixel");
    let (mode, rounding) = (text("mode", "nearest"), text("nearest_mode", "round_prefer_floor"));
    for along in 0..shape.len() {
        let (from, to) = (shape[along], target[along]);
        if from == to {
            continue;
        }
        if to == 0 || from.saturating_mul(to) > 1 << 26 {
            return Err(format!("cannot resize {from} elements to {to}").into());
        }
        let scale = scales.as_ref().filter(|_| sizes.is_none()).map_or(to as f64 / from as f64, |scales| scales[along]);
        let axis = Axis { from, to, scale };
        let matrix = axis.matrix(&coordinates, &mode, &rounding)?;
        x = along_axis(call, x, along, matrix, to)?;
    }
    Ok(vec![x])
}

/// An axis of `from` elements that is to have `to`.
struct Axis {
    from: usize,
    to: usize,
    scale: f64,
}

impl Axis {
    /// Where element `i` of the result lies among those that there are.
    fn position(&self, coordinates: &str, i: usize) -> Result<f64, GraphError> {
        let Self { from, to, scale } = *self;
        let i = i as f64;
        Ok(match coordinates {
            "half_pixel" => (i + 0.5) / scale - 0.5,
            "pytorch_half_pixel" if to > 1 => (i + 0.5) / scale - 0.5,
            "pytorch_half_pixel" => 0.0,
            "align_corners" if to > 1 => i * (from as f64 - 1.0) / (to as f64 - 1.0),
            "align_corners" => 0.0,
            "asymmetric" => i / scale,
            other => return Err(format!("coordinate_transformation_mode {other} is not supported").into()),
        })
    }

    /// What each of the elements gives to each of the result's [to, from].
    fn matrix(&self, coordinates: &str, mode: &str, rounding: &str) -> Result<Vec<f32>, GraphError> {
        let Self { from, to, .. } = *self;
        let last = (from - 1) as f64;
        let mut matrix = vec![0.0f32; from * to];
        for (i, row) in matrix.chunks_exact_mut(from).enumerate() {
            let at = self.position(coordinates, i)?;
            match mode {
                "linear" => {
                    let at = at.clamp(0.0, last);
                    let low = at.floor() as usize;
                    let share = (at - low as f64) as f32;
                    row[low] += 1.0 - share;
                    row[(low + 1).min(from - 1)] += share;
                }
                "nearest" => {
                    let nearest = match rounding {
                        "floor" => at.floor(),
                        "ceil" => at.ceil(),
                        "round_prefer_ceil" => (at + 0.5).floor(),
                        _ => (at - 0.5).ceil(),
                    };
                    row[nearest.clamp(0.0, last) as usize] = 1.0;
                }
                other => return Err(format!("mode {other} is not supported, only linear and nearest").into()),
            }
        }
        Ok(matrix)
    }
}

/// Multiplies an axis of n elements by a matrix [to, n].
fn along_axis(call: &mut Call<'_>, x: Value, along: usize, matrix: Vec<f32>, to: usize) -> Result<Value, GraphError> {
    let shape = call.shape(x);
    let (n, after) = (shape[along], shape[along + 1..].iter().product::<usize>());
    let matrix = call.graph.f32([to, n], matrix);
    let before = shape[..along].iter().product::<usize>();
    let y = if after == 1 {
        let flat = call.graph.reshape(x, &[before, n]);
        call.graph.gemm(flat, matrix, None, false, true)
    } else {
        let flat = call.graph.reshape(x, &[before, n, after]);
        call.graph.matmul(matrix, flat)
    };
    let result = [&shape[..along], &[to], &shape[along + 1..]].concat();
    Ok(call.graph.reshape(y, &result))
}
