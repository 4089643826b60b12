//! Other shapes of the same elements, repetition, and what models compute about shapes: known once the batch and the
//! window are, so most of it becomes constants.

use super::super::attributes::{Attribute, Attributes};
use super::super::autodiff::Backward;
use super::super::core::{Graph, Node, Value};
use super::super::dim::Dim;
use super::super::error::GraphError;
use super::super::fold::{self, Fold};
use super::super::tensor::{Constant, TensorType};
use super::call::Call;
use super::{Family, Given, Precision, axis, broadcast, constant_ints, op, ty};

pub(super) static FAMILY: Family = Family {
    operators: &[
        op("Expand", expand)
            .view()
            .gradient(expand_gradient)
            .precision(Precision::Follow)
            .fold(Fold::Node(repeated))
            .simplify(|graph, given| given.unchanged(graph)),
        op("Reshape", reshape)
            .view()
            .gradient(reshape_gradient)
            .precision(Precision::Follow)
            .fold(Fold::Node(|_, inputs, _| Some(inputs[0].numbers())))
            .simplify(joined),
    ],
    imports: &[
        ("ConstantOfShape", constant_of_shape),
        ("DepthToSpace", depth_to_space),
        ("Expand", import_expand),
        ("Flatten", flatten),
        ("Range", range),
        ("Reshape", import_reshape),
        ("Shape", shape),
        ("Size", size),
        ("SpaceToDepth", space_to_depth),
        ("Squeeze", squeeze),
        ("Tile", tile),
        ("Unsqueeze", unsqueeze),
    ],
};

/// Sizes as they are written in a list of integers.
pub(super) fn to_shape(dims: &[i64]) -> Result<Vec<usize>, GraphError> {
    dims.iter().map(|dim| usize::try_from(*dim).map_err(|_| format!("dimension {dim} is invalid").into())).collect()
}

fn reshape(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (x, shape) = (ty(graph, node, 0)?, to_shape(&constant_ints(graph, node, 1)?)?);
    if shape.iter().product::<usize>() != x.elements() {
        return Err(format!("{x} and {shape:?} have different numbers of elements").into());
    }
    if shape.iter().filter(|dim| Dim::of(**dim).is_batch()).count() > 1 {
        return Err("two dimensions depend on the batch".into());
    }
    Ok(vec![TensorType::new(x.dtype, shape)])
}

fn reshape_gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
    let shape = back.graph.shape(back.node.input(0)).to_vec();
    let gradient = back.graph.reshape(back.dy()?, &shape);
    back.add(0, gradient);
    Ok(())
}

/// Of two reshapes, only the second counts.
fn joined(graph: &mut Graph, given: &Given<'_>) -> Option<Value> {
    given.unchanged(graph).or_else(|| {
        let source = given.producer_input(graph, "Reshape")?;
        Some(graph.apply1("Reshape", &[source, given.input(1)?], Attributes::new()))
    })
}

fn expand(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (x, shape) = (ty(graph, node, 0)?, to_shape(&constant_ints(graph, node, 1)?)?);
    Ok(vec![TensorType::new(x.dtype, broadcast(&x.shape, &shape)?)])
}

fn expand_gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
    let dy = back.dy()?;
    back.add_broadcast(0, dy);
    Ok(())
}

fn repeated(_: &Node, inputs: &[&Constant], ty: &TensorType) -> Option<Vec<f64>> {
    let x = inputs[0].numbers();
    fold::each(&ty.shape, |index| Some(x[fold::broadcast(inputs[0].shape(), index)]))
}

/// Sizes whose product is one that a machine could hold.
fn checked(sizes: Vec<usize>) -> Result<Vec<usize>, GraphError> {
    let elements = sizes.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
    elements
        .filter(|elements| *elements <= 1 << 40)
        .map(|_| ())
        .ok_or_else(|| format!("sizes {sizes:?} are too large"))?;
    Ok(sizes)
}

fn shape(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let shape = call.shape(call.input(0)?);
    let rank = shape.len() as i64;
    let clip = |at: i64| (if at < 0 { at + rank } else { at }).clamp(0, rank) as usize;
    let (start, end) = (clip(call.attributes.int("start", 0)), clip(call.attributes.int("end", rank)));
    let dims: Vec<_> = shape[start..end.max(start)].iter().map(|dim| *dim as i64).collect();
    Ok(vec![call.graph.i64s(&dims)])
}

fn size(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let elements = call.graph.ty(call.input(0)?).elements();
    Ok(vec![call.graph.constant(Constant::I64(Vec::new(), vec![elements as i64]))])
}

fn constant_of_shape(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let shape = call.integers(0)?.ok_or("the shape is missing")?;
    let shape = shape.iter().map(|size| usize::try_from(*size).map_err(|_| format!("size {size}")));
    let shape = checked(shape.collect::<Result<Vec<_>, _>>()?)?;
    let filling = match call.attributes.get("value") {
        Some(Attribute::Tensor(value)) if value.numbers().len() == 1 => value.clone(),
        None => Constant::F32(vec![1], vec![0.0]),
        Some(_) => return Err("the value must be one element".into()),
    };
    let scalar = Constant::filled(filling.dtype(), Vec::new(), filling.numbers()[0]);
    let scalar = call.graph.constant(scalar);
    Ok(vec![call.graph.expand(scalar, &shape)])
}

fn range(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let mut ends = [0.0; 3];
    for (i, end) in ends.iter_mut().enumerate() {
        let numbers = call.numbers(i)?.filter(|numbers| numbers.len() == 1);
        *end = numbers.ok_or("start, limit and step must be single numbers")?[0];
    }
    let [start, limit, step] = ends;
    let count = ((limit - start) / step).ceil().max(0.0);
    if step == 0.0 || count > 1e7 {
        return Err(format!("the range from {start} to {limit} by {step} is invalid").into());
    }
    let numbers: Vec<_> = (0..count as usize).map(|i| start + i as f64 * step).collect();
    let dtype = call.graph.dtype(call.input(0)?);
    Ok(vec![call.graph.constant(Constant::from_numbers(dtype, [numbers.len()], &numbers))])
}

/// 0 keeps a size, -1 stands for what is left.
fn import_reshape(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let x = call.input(0)?;
    let (from, wanted) = (call.shape(x), call.integers(1)?.ok_or("the shape is missing")?);
    let keep_zero = call.attributes.int("allowzero", 0) != 0;
    let mut dims = Vec::with_capacity(wanted.len());
    for (i, size) in wanted.iter().enumerate() {
        dims.push(match size {
            -1 => None,
            0 if !keep_zero => Some(*from.get(i).ok_or("a size of 0 keeps an axis that the input does not have")?),
            size => Some(usize::try_from(*size).map_err(|_| format!("size {size}"))?),
        });
    }
    let elements: usize = from.iter().product();
    let known: usize = checked(dims.iter().flatten().copied().collect())?.iter().product();
    let rest = elements.checked_div(known).unwrap_or(0);
    let dims = checked(dims.into_iter().map(|dim| dim.unwrap_or(rest)).collect())?;
    if dims.iter().product::<usize>() != elements {
        return Err(format!(
            "{from:?} cannot be reshaped to {wanted:?}; a batch or window size may be fixed in the model (export it with \
             dynamic axes)"
        )
        .into());
    }
    Ok(vec![call.graph.reshape(x, &dims)])
}

fn flatten(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let x = call.input(0)?;
    let shape = call.shape(x);
    let at = call.attributes.int("axis", 1);
    let at = if at == shape.len() as i64 { shape.len() } else { axis(at, shape.len())? };
    let flat = [shape[..at].iter().product(), shape[at..].iter().product()];
    Ok(vec![call.graph.reshape(x, &flat)])
}

fn squeeze(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let x = call.input(0)?;
    let shape = call.shape(x);
    let axes = call.axes(1, shape.len())?;
    let goes = |i: usize| axes.as_ref().map_or(shape[i] == 1, |axes| axes.contains(&i));
    if (0..shape.len()).any(|i| goes(i) && shape[i] != 1) {
        return Err(format!("the axes {axes:?} of {shape:?} do not all have size 1").into());
    }
    let kept: Vec<_> = (0..shape.len()).filter(|i| !goes(*i)).map(|i| shape[i]).collect();
    Ok(vec![call.graph.reshape(x, &kept)])
}

fn unsqueeze(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
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

fn import_expand(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let x = call.input(0)?;
    let from = call.shape(x);
    let wanted = call.integers(1)?.ok_or("the shape is missing")?;
    let rank = from.len().max(wanted.len());
    let of = |i: usize, sizes: &dyn Fn(usize) -> usize, len: usize| (i + len).checked_sub(rank).map_or(1, sizes);
    // Either side may be the 1 that is repeated, also no times.
    let size = |i: usize| {
        let (from, wanted) = (of(i, &|i| from[i], from.len()), of(i, &|i| wanted[i].max(0) as usize, wanted.len()));
        if from == 1 { wanted } else { from }
    };
    if let Some(negative) = wanted.iter().find(|size| **size < 0) {
        return Err(format!("size {negative}").into());
    }
    let shape: Vec<_> = (0..rank).map(size).collect();
    let sizes: Vec<_> = shape.iter().map(|size| *size as i64).collect();
    let sizes = call.graph.i64s(&sizes);
    if from == shape { Ok(vec![x]) } else { Ok(vec![call.apply1("Expand", &[x, sizes])?]) }
}

fn tile(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let x = call.input(0)?;
    let shape = call.shape(x);
    let repeats = call.integers(1)?.ok_or("the repeats are missing")?;
    if repeats.len() != shape.len() || repeats.iter().any(|count| !(1..=1 << 24).contains(count)) {
        return Err(format!("repeats {repeats:?} do not fit {} axes", shape.len()).into());
    }
    // [1, n] repeated as [count, n] is [count n].
    let mut apart = Vec::new();
    let mut wide = Vec::new();
    for (size, count) in shape.iter().zip(&repeats) {
        apart.extend([1, *size]);
        wide.extend([*count as usize, *size]);
    }
    let tiled: Vec<_> = shape.iter().zip(&repeats).map(|(size, count)| size.saturating_mul(*count as usize)).collect();
    let (wide, tiled) = (checked(wide)?, checked(tiled)?);
    let y = call.graph.reshape(x, &apart);
    let y = call.graph.expand(y, &wide);
    Ok(vec![call.graph.reshape(y, &tiled)])
}

fn blocks(call: &Call<'_>) -> Result<([usize; 4], usize), GraphError> {
    let shape: [usize; 4] = call.shape(call.input(0)?).try_into().map_err(|_| "expected four axes")?;
    let block = call.attributes.int("blocksize", 0);
    let block = usize::try_from(block).ok().filter(|block| (1..1 << 16).contains(block));
    Ok((shape, block.ok_or("the block size must be positive")?))
}

fn depth_to_space(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let (x, ([n, c, h, w], b)) = (call.input(0)?, blocks(call)?);
    if c % (b * b) != 0 {
        return Err(format!("{c} channels cannot be divided into blocks of {b} x {b}").into());
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

fn space_to_depth(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let (x, ([n, c, h, w], b)) = (call.input(0)?, blocks(call)?);
    if h % b != 0 || w % b != 0 {
        return Err(format!("{h} x {w} cannot be divided into blocks of {b} x {b}").into());
    }
    let y = call.graph.reshape(x, &[n, c, h / b, b, w / b, b]);
    let y = call.graph.transpose(y, &[0, 3, 5, 1, 2, 4]);
    Ok(vec![call.graph.reshape(y, &[n, c * b * b, h / b, w / b])])
}
