//! Operators about shapes: known once the batch and the window are, so most of them become constants.

use super::super::build::attributes;
use super::super::core::{Attribute, Value};
use super::super::operators::axis;
use super::super::tensor::Constant;
use super::call::{Call, Lower};

pub(super) static OPERATORS: &[(&str, Lower)] = &[
    ("Concat", concat),
    ("ConstantOfShape", constant_of_shape),
    ("DepthToSpace", depth_to_space),
    ("Expand", expand),
    ("Flatten", flatten),
    ("Gather", gather),
    ("Identity", identity),
    ("Pad", pad),
    ("Range", range),
    ("Reshape", reshape),
    ("Resize", resize),
    ("Shape", shape),
    ("Size", size),
    ("Slice", slice),
    ("SpaceToDepth", space_to_depth),
    ("Split", split),
    ("Squeeze", squeeze),
    ("Tile", tile),
    ("Transpose", transpose),
    ("Unsqueeze", unsqueeze),
    ("Upsample", resize),
];

fn identity(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    Ok(vec![call.input(0)?])
}

fn shape(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let shape = call.shape(call.input(0)?);
    let rank = shape.len() as i64;
    let clip = |at: i64| (if at < 0 { at + rank } else { at }).clamp(0, rank) as usize;
    let (start, end) = (clip(call.attributes.int("start", 0)), clip(call.attributes.int("end", rank)));
    let dims: Vec<_> = shape[start..end.max(start)].iter().map(|dim| *dim as i64).collect();
    Ok(vec![call.graph.i64s(&dims)])
}

fn size(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let elements = call.graph.ty(call.input(0)?).elements();
    Ok(vec![call.graph.constant(Constant::I64(Vec::new(), vec![elements as i64]))])
}

fn constant_of_shape(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let shape = call.integers(0)?.ok_or("the shape is missing")?;
    let shape = shape.iter().map(|size| usize::try_from(*size).map_err(|_| format!("size {size}")));
    let shape = shape.collect::<Result<Vec<_>, _>>()?;
    let filling = match call.attributes.get("value") {
        Some(Attribute::Tensor(value)) if value.numbers().len() == 1 => value.clone(),
        None => Constant::F32(vec![1], vec![0.0]),
        Some(_) => return Err("the value must be one element".into()),
    };
    let scalar = Constant::filled(filling.dtype(), Vec::new(), filling.numbers()[0]);
    let scalar = call.graph.constant(scalar);
    Ok(vec![call.graph.expand(scalar, &shape)])
}

fn range(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let mut ends = [0.0; 3];
    for (i, end) in ends.iter_mut().enumerate() {
        let numbers = call.numbers(i)?.filter(|numbers| numbers.len() == 1);
        *end = numbers.ok_or("start, limit and step must be single numbers")?[0];
    }
    let [start, limit, step] = ends;
    let count = ((limit - start) / step).ceil().max(0.0);
    if step == 0.0 || count > 1e7 {
        return Err(format!("from {start} to {limit} by {step}"));
    }
    let numbers: Vec<_> = (0..count as usize).map(|i| start + i as f64 * step).collect();
    let dtype = call.graph.dtype(call.input(0)?);
    Ok(vec![call.graph.constant(Constant::from_numbers(dtype, [numbers.len()], &numbers))])
}

/// 0 keeps a size, -1 stands for what is left.
fn reshape(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let x = call.input(0)?;
    let (from, wanted) = (call.shape(x), call.integers(1)?.ok_or("the shape is missing")?);
    let keep_zero = call.attributes.int("allowzero", 0) != 0;
    let mut dims = Vec::with_capacity(wanted.len());
    for (i, size) in wanted.iter().enumerate() {
        dims.push(match size {
            -1 => None,
            0 if !keep_zero => Some(*from.get(i).ok_or("a size to keep that is not there")?),
            size => Some(usize::try_from(*size).map_err(|_| format!("size {size}"))?),
        });
    }
    let elements: usize = from.iter().product();
    let known: usize = dims.iter().flatten().product();
    let rest = elements.checked_div(known).unwrap_or(0);
    let dims: Vec<_> = dims.into_iter().map(|dim| dim.unwrap_or(rest)).collect();
    if dims.iter().product::<usize>() != elements {
        return Err(format!(
            "{from:?} does not become {wanted:?}; a batch or window size may be fixed in the model (export it with \
             dynamic axes)"
        ));
    }
    Ok(vec![call.graph.reshape(x, &dims)])
}

fn flatten(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let x = call.input(0)?;
    let shape = call.shape(x);
    let at = call.attributes.int("axis", 1);
    let at = if at == shape.len() as i64 { shape.len() } else { axis(at, shape.len())? };
    let flat = [shape[..at].iter().product(), shape[at..].iter().product()];
    Ok(vec![call.graph.reshape(x, &flat)])
}

fn squeeze(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let x = call.input(0)?;
    let shape = call.shape(x);
    let axes = call.axes(1, shape.len())?;
    let goes = |i: usize| axes.as_ref().map_or(shape[i] == 1, |axes| axes.contains(&i));
    if (0..shape.len()).any(|i| goes(i) && shape[i] != 1) {
        return Err(format!("axes {axes:?} of {shape:?} are not 1"));
    }
    let kept: Vec<_> = (0..shape.len()).filter(|i| !goes(*i)).map(|i| shape[i]).collect();
    Ok(vec![call.graph.reshape(x, &kept)])
}

fn unsqueeze(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let x = call.input(0)?;
    let shape = call.shape(x);
    let count = call.integers(1)?.map_or_else(|| call.attributes.ints("axes", &[]).len(), |axes| axes.len());
    let rank = shape.len() + count;
    let mut axes = call.axes(1, rank)?.ok_or("the axes are missing")?;
    axes.sort_unstable();
    let mut wide = shape;
    for at in axes {
        if at > wide.len() {
            return Err("an axis is named twice".into());
        }
        wide.insert(at, 1);
    }
    Ok(vec![call.graph.reshape(x, &wide)])
}

fn transpose(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let x = call.input(0)?;
    let rank = call.shape(x).len();
    let reversed: Vec<_> = (0..rank as i64).rev().collect();
    let order = call.attributes.ints("perm", &reversed);
    let order = order.into_iter().map(|a| axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
    let mut sorted = order.clone();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..rank) {
        return Err(format!("{order:?} is no order of {rank} axes"));
    }
    Ok(vec![call.graph.transpose(x, &order)])
}

fn concat(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let parts = (0..call.inputs.len()).map(|i| call.input(i)).collect::<Result<Vec<_>, _>>()?;
    let rank = call.shape(parts[0]).len();
    let along = axis(call.attributes.int("axis", 0), rank)?;
    let first = call.shape(parts[0]);
    for part in &parts {
        let shape = call.shape(*part);
        if shape.len() != rank || (0..rank).any(|i| i != along && shape[i] != first[i]) {
            return Err(format!("{shape:?} does not fit {first:?} along axis {along}"));
        }
    }
    Ok(vec![call.graph.concat(&parts, along)])
}

/// Sizes from an input, or equal parts, the last one smaller.
fn split(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let x = call.input(0)?;
    let shape = call.shape(x);
    let along = axis(call.attributes.int("axis", 0), shape.len())?;
    let sizes: Vec<usize> = match call.integers(1)? {
        Some(sizes) => sizes.into_iter().map(|size| size.max(0) as usize).collect(),
        None => {
            let parts = call.outputs.max(1);
            let size = shape[along].div_ceil(parts);
            (0..parts).map(|i| size.min(shape[along].saturating_sub(i * size))).collect()
        }
    };
    if sizes.iter().sum::<usize>() != shape[along] || sizes.len() != call.outputs {
        return Err(format!("parts {sizes:?} of {}", shape[along]));
    }
    Ok(call.graph.split(x, along, &sizes))
}

fn expand(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let x = call.input(0)?;
    let from = call.shape(x);
    let wanted = call.integers(1)?.ok_or("the shape is missing")?;
    let rank = from.len().max(wanted.len());
    let of = |i: usize, sizes: &dyn Fn(usize) -> usize, len: usize| (i + len).checked_sub(rank).map_or(1, sizes);
    // Either side may be the 1 that is repeated.
    let shape: Vec<_> = (0..rank)
        .map(|i| of(i, &|i| from[i], from.len()).max(of(i, &|i| wanted[i].max(1) as usize, wanted.len())))
        .collect();
    let sizes: Vec<_> = shape.iter().map(|size| *size as i64).collect();
    let sizes = call.graph.i64s(&sizes);
    if from == shape { Ok(vec![x]) } else { Ok(vec![call.apply1("Expand", &[x, sizes])?]) }
}

fn tile(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let x = call.input(0)?;
    let shape = call.shape(x);
    let repeats = call.integers(1)?.ok_or("the repeats are missing")?;
    if repeats.len() != shape.len() || repeats.iter().any(|count| !(1..=1 << 24).contains(count)) {
        return Err(format!("repeats {repeats:?} of {} axes", shape.len()));
    }
    // [1, n] repeated as [count, n] is [count n].
    let mut apart = Vec::new();
    let mut wide = Vec::new();
    for (size, count) in shape.iter().zip(&repeats) {
        apart.extend([1, *size]);
        wide.extend([*count as usize, *size]);
    }
    let tiled: Vec<_> = shape.iter().zip(&repeats).map(|(size, count)| size * *count as usize).collect();
    let y = call.graph.reshape(x, &apart);
    let y = call.graph.expand(y, &wide);
    Ok(vec![call.graph.reshape(y, &tiled)])
}

/// One index is a slice; a whole list of neighbours, too.
fn gather(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let (x, indices) = (call.input(0)?, call.input(1)?);
    let shape = call.shape(x);
    let along = axis(call.attributes.int("axis", 0), shape.len())?;
    let Some(Constant::I64(dims, values)) = call.graph.as_constant(indices).cloned() else {
        return call.unchanged();
    };
    let values = values.into_iter().map(|at| axis(at, shape[along])).collect::<Result<Vec<_>, _>>()?;
    let neighbours = !values.is_empty() && values.windows(2).all(|pair| pair[1] == pair[0] + 1);
    if neighbours {
        let part = call.graph.slice(x, along, values[0], values[0] + values.len());
        let result = [&shape[..along], &dims, &shape[along + 1..]].concat();
        return Ok(vec![call.graph.reshape(part, &result)]);
    }
    let values: Vec<_> = values.into_iter().map(|at| at as i64).collect();
    let indices = call.graph.constant(Constant::I64(dims, values));
    call.inputs[1] = Some(indices);
    call.unchanged()
}

/// Forward slices as they are; a backward one turns its axis around by picking rows.
fn slice(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let mut x = call.input(0)?;
    let rank = call.shape(x).len();
    let list = |call: &Call<'_>, i: usize| call.integers(i);
    let (starts, ends) = (list(call, 1)?.ok_or("starts are missing")?, list(call, 2)?.ok_or("ends are missing")?);
    let axes = list(call, 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = list(call, 4)?.unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return Err("starts, ends, axes and steps of different lengths".into());
    }
    for (((start, end), along), step) in starts.into_iter().zip(ends).zip(axes).zip(steps) {
        let along = axis(along, rank)?;
        let size = call.shape(x)[along] as i64;
        let wrap = |at: i64| if at < 0 { at.saturating_add(size) } else { at };
        if step > 0 {
            let (start, end) = (wrap(start).clamp(0, size) as usize, wrap(end).clamp(0, size) as usize);
            x = call.graph.strided_slice(x, along, start, end.max(start), step as usize);
        } else if step < 0 {
            let (start, end) = (wrap(start).clamp(-1, size - 1), wrap(end).clamp(-1, size - 1));
            let picked: Vec<_> = (0..).map(|i| start + i * step).take_while(|at| *at > end).collect();
            let indices = call.graph.i64s(&picked);
            let attributes = attributes([("axis", Attribute::Int(along as i64))]);
            x = call.apply("Gather", &[x, indices], attributes)?[0];
        } else {
            return Err("a step of 0".into());
        }
    }
    Ok(vec![x])
}

/// Constant padding as it is, cropping where pads are negative; reflected and repeated edges by picking rows.
fn pad(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let mut x = call.input(0)?;
    let rank = call.shape(x).len();
    let pads = call.integers(1)?.ok_or("pads are missing")?;
    let axes = match call.integers(3)? {
        Some(axes) => axes.into_iter().map(|a| axis(a, rank)).collect::<Result<Vec<_>, _>>()?,
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() || pads.iter().any(|pad| pad.abs() > 1 << 24) {
        return Err(format!("pads {pads:?} for {} axes", axes.len()));
    }
    let fill = call.optional(2).and_then(|value| call.graph.as_constant(value)).map(|c| c.numbers());
    let mode = call.attributes.text("mode", "constant").to_owned();
    for (i, along) in axes.iter().enumerate() {
        let (before, after) = (pads[i], pads[axes.len() + i]);
        let size = call.shape(x)[*along] as i64;
        if before < 0 || after < 0 {
            let (from, to) = ((-before).max(0), size - (-after).max(0));
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

fn blocks(call: &Call<'_>) -> Result<([usize; 4], usize), String> {
    let shape: [usize; 4] = call.shape(call.input(0)?).try_into().map_err(|_| "expected four axes")?;
    let block = call.attributes.int("blocksize", 0);
    Ok((shape, usize::try_from(block).ok().filter(|block| *block > 0).ok_or("a block size of 0")?))
}

fn depth_to_space(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let (x, ([n, c, h, w], b)) = (call.input(0)?, blocks(call)?);
    if c % (b * b) != 0 {
        return Err(format!("{c} channels in blocks of {b} x {b}"));
    }
    let depth = c / (b * b);
    let (apart, order): ([usize; 6], [usize; 6]) = match call.attributes.text("mode", "DCR") {
        "DCR" => ([n, b, b, depth, h, w], [0, 3, 4, 1, 5, 2]),
        _ => ([n, depth, b, b, h, w], [0, 1, 4, 2, 5, 3]),
    };
    let y = call.graph.reshape(x, &apart);
    let y = call.graph.transpose(y, &order);
    Ok(vec![call.graph.reshape(y, &[n, depth, h * b, w * b])])
}

fn space_to_depth(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let (x, ([n, c, h, w], b)) = (call.input(0)?, blocks(call)?);
    if h % b != 0 || w % b != 0 {
        return Err(format!("{h} x {w} in blocks of {b} x {b}"));
    }
    let y = call.graph.reshape(x, &[n, c, h / b, b, w / b, b]);
    let y = call.graph.transpose(y, &[0, 3, 5, 1, 2, 4]);
    Ok(vec![call.graph.reshape(y, &[n, c * b * b, h / b, w / b])])
}

/// Linear and nearest interpolation: along each axis that changes, a product with a constant matrix.
fn resize(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let mut x = call.float(0)?;
    let shape = call.shape(x);
    let scales_at = if call.operator == "Upsample" { 1 } else { 2 };
    let scales = call.numbers(scales_at)?.filter(|scales| scales.len() == shape.len());
    let sizes = if call.operator == "Upsample" { None } else { call.integers(3)? };
    if call.attributes.contains_key("axes") || call.attributes.text("keep_aspect_ratio_policy", "stretch") != "stretch"
    {
        return Err("axes and keep_aspect_ratio_policy are not supported".into());
    }
    let target: Vec<usize> = match (&sizes, &scales) {
        (Some(sizes), _) if sizes.len() == shape.len() => sizes.iter().map(|size| (*size).max(0) as usize).collect(),
        (_, Some(scales)) => shape.iter().zip(scales).map(|(n, scale)| (*n as f64 * scale).floor() as usize).collect(),
        _ => return Err("neither sizes nor scales for every axis".into()),
    };
    let coordinates = call.attributes.text("coordinate_transformation_mode", "half_pixel").to_owned();
    let mode = call.attributes.text("mode", "nearest").to_owned();
    let rounding = call.attributes.text("nearest_mode", "round_prefer_floor").to_owned();
    let coordinates = if call.operator == "Upsample" { "asymmetric".to_owned() } else { coordinates };
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
