//! Padding and interpolation.

use super::super::build::attributes;
use super::super::core::{Attribute, Value};
use super::super::operators::axis;
use super::call::{Call, Lower};

pub(super) static OPERATORS: &[(&str, Lower)] = &[("Pad", pad), ("Resize", resize)];

/// Constant padding as it is, cropping where pads are negative; reflected and repeated edges by picking rows.
fn pad(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let mut x = call.input(0)?;
    let rank = call.shape(x).len();
    let pads = call.integers(1)?.ok_or("pads are missing")?;
    let axes = match call.integers(3)? {
        Some(axes) => axes.into_iter().map(|a| axis(a, rank)).collect::<Result<Vec<_>, _>>()?,
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() || pads.iter().any(|pad| pad.unsigned_abs() > 1 << 24) {
        return Err(format!("pads {pads:?} for {} axes", axes.len()));
    }
    let fill = call.numbers(2)?;
    let mode = call.attributes.text("mode", "constant").to_owned();
    for (i, along) in axes.iter().enumerate() {
        let (before, after) = (pads[i], pads[axes.len() + i]);
        let size = call.shape(x)[*along] as i64;
        if before < 0 || after < 0 {
            let (from, to) = ((-before).max(0), (size - (-after).max(0)).max(0));
            x = call.graph.slice(x, *along, from.min(to) as usize, to as usize);
        }
        let (before, after) = (before.max(0), after.max(0));
        if before == 0 && after == 0 {
            continue;
        }
        x = if mode == "constant" {
            let value = fill.as_ref().and_then(|values| values.first()).copied().unwrap_or(0.0);
            filled(call, x, *along, (before, after), value as f32)?
        } else {
            picked(call, x, *along, (before, after), &mode)?
        };
    }
    Ok(vec![x])
}

fn filled(call: &mut Call<'_>, x: Value, along: usize, ends: (i64, i64), value: f32) -> Result<Value, String> {
    let rank = call.shape(x).len();
    let mut pads = vec![0; 2 * rank];
    (pads[along], pads[rank + along]) = ends;
    let (pads, value) = (call.graph.i64s(&pads), call.scalar(x, value));
    call.apply1("Pad", &[x, pads, value])
}

fn picked(call: &mut Call<'_>, x: Value, along: usize, ends: (i64, i64), mode: &str) -> Result<Value, String> {
    let size = call.shape(x)[along] as i64;
    if size == 0 {
        return Err("nothing is there to pad with".into());
    }
    let at = |i: i64| match mode {
        "edge" => Ok(i.clamp(0, size - 1)),
        "wrap" => Ok(i.rem_euclid(size)),
        "reflect" if size == 1 => Ok(0),
        "reflect" => {
            let period = 2 * (size - 1);
            let i = i.rem_euclid(period);
            Ok(if i < size { i } else { period - i })
        }
        other => Err(format!("mode {other}")),
    };
    let indices = (-ends.0..size + ends.1).map(at).collect::<Result<Vec<_>, _>>()?;
    let indices = call.graph.i64s(&indices);
    let attributes = attributes([("axis", Attribute::Int(along as i64))]);
    Ok(call.apply("Gather", &[x, indices], attributes)?[0])
}

/// Linear and nearest interpolation: along each axis that changes, a product with a constant matrix.
fn resize(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
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
        _ => return Err("neither sizes nor scales for every axis".into()),
    };
    let coordinates = call.attributes.text("coordinate_transformation_mode", "half_pixel").to_owned();
    let mode = call.attributes.text("mode", "nearest").to_owned();
    let rounding = call.attributes.text("nearest_mode", "round_prefer_floor").to_owned();
    for along in 0..shape.len() {
        let (from, to) = (shape[along], target[along]);
        if from == to {
            continue;
        }
        if to == 0 || from.saturating_mul(to) > 1 << 26 {
            return Err(format!("{from} to {to} elements"));
        }
        let scale = scales.as_ref().filter(|_| sizes.is_none()).map_or(to as f64 / from as f64, |scales| scales[along]);
        let position = |i: usize| -> Result<f64, String> {
            let i = i as f64;
            Ok(match coordinates.as_str() {
                "half_pixel" => (i + 0.5) / scale - 0.5,
                "pytorch_half_pixel" if to > 1 => (i + 0.5) / scale - 0.5,
                "pytorch_half_pixel" => 0.0,
                "align_corners" if to > 1 => i * (from as f64 - 1.0) / (to as f64 - 1.0),
                "align_corners" => 0.0,
                "asymmetric" => i / scale,
                other => return Err(format!("coordinates {other}")),
            })
        };
        let mut matrix = vec![0.0f32; from * to];
        for i in 0..to {
            let at = position(i)?;
            match mode.as_str() {
                "linear" => {
                    let at = at.clamp(0.0, (from - 1) as f64);
                    let low = at.floor() as usize;
                    let share = (at - low as f64) as f32;
                    matrix[i * from + low] += 1.0 - share;
                    matrix[i * from + (low + 1).min(from - 1)] += share;
                }
                "nearest" => {
                    let nearest = match rounding.as_str() {
                        "floor" => at.floor(),
                        "ceil" => at.ceil(),
                        "round_prefer_ceil" => (at + 0.5).floor(),
                        _ => (at - 0.5).ceil(),
                    };
                    matrix[i * from + nearest.clamp(0.0, (from - 1) as f64) as usize] = 1.0;
                }
                other => return Err(format!("mode {other}: linear and nearest are supported")),
            }
        }
        x = along_axis(call, x, along, matrix, to)?;
    }
    Ok(vec![x])
}

/// Multiplies an axis of n elements by a matrix [to, n].
fn along_axis(call: &mut Call<'_>, x: Value, along: usize, matrix: Vec<f32>, to: usize) -> Result<Value, String> {
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
