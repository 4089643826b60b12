//! Convolutions over one or more spatial axes, and their transposes.

use super::super::attributes::{Attribute, Attributes};
use super::super::autodiff::Backward;
use super::super::build::ints;
use super::super::core::{Graph, Node, Value};
use super::super::error::GraphError;
use super::super::tensor::TensorType;
use super::call::Call;
use super::geometry::{Geometry, resolve_auto_pad, spatial_sizes};
use super::{Family, Precision, fused, op, ty};

pub(super) static FAMILY: Family = Family {
    operators: &[
        op("Conv", conv)
            .gradient(conv_gradient)
            .precision(CONVOLUTION)
            .for_cpu("Convolution", has_narrow_parts)
            .for_regions(conv_parts),
        fused("Convolution", conv),
        op("ConvTranspose", conv_transpose)
            .gradient(conv_transpose_gradient)
            .precision(CONVOLUTION)
            .for_regions(conv_transpose_parts),
        fused("ConvolutionInputGradient", input_gradient_type)
            .expand(expand_input_gradient)
            .on_cpu_if(is_not_mirrored)
            .for_regions(input_gradient_parts),
        fused("ConvolutionWeightGradient", weight_gradient_type)
            .expand(expand_weight_gradient)
            .on_cpu_if(is_wide)
            .for_regions(weight_gradient_parts),
        fused("LastConv", |graph, node| channels_last(graph, node, conv)).on_cuda().halves(),
        fused("LastConvInputGradient", |graph, node| channels_last(graph, node, input_gradient_type))
            .on_cuda()
            .halves(),
        fused("LastConvWeightGradient", |graph, node| channels_last(graph, node, weight_gradient_type))
            .on_cuda()
            .halves(),
    ],
    imports: &[("Conv", import_conv), ("ConvTranspose", import_conv_transpose)],
};

/// ONNX Runtime's CUDA provider has no bfloat16 kernels of convolutions before opset 22; ours does.
const CONVOLUTION: Precision = Precision::Product { bf16: false, weights: true };

/// ONNX Runtime's own convolution computes groups one after the other by products of matrices, however small; and of an
/// example with fewer positions than channels, it gathers the windows on one thread.
fn has_narrow_parts(graph: &Graph, node: &Node) -> bool {
    let (weight, output) = (graph.shape(node.input(1)), graph.shape(node.outputs[0]));
    let (positions, taps): (usize, usize) = (output[2..].iter().product(), weight[2..].iter().product());
    match node.int("group", 1) {
        1 => taps > 1 && positions < weight[0] && weight[1] >= FEW_CHANNELS,
        _ => weight[1] < 4,
    }
}

/// A convolution with the weight back to front is faster where it gives the gradient.
fn is_not_mirrored(_: &Graph, node: &Node) -> bool {
    !of_gradient(node).is_ok_and(|(geometry, groups)| mirrors(&geometry, groups))
}

/// Of few channels, products of larger blocks are faster.
fn is_wide(graph: &Graph, node: &Node) -> bool {
    let of_blocks = |(geometry, groups): (Geometry, usize)| groups == 1 && geometry.is_plain();
    graph.shape(node.input(1))[1] >= FEW_CHANNELS || !of_gradient(node).is_ok_and(of_blocks)
}

fn groups(node: &Node) -> Result<usize, GraphError> {
    usize::try_from(node.int("group", 1))
        .ok()
        .filter(|groups| *groups > 0)
        .ok_or_else(|| "group must be positive".into())
}

fn conv(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (x, weight, groups) = (ty(graph, node, 0)?, ty(graph, node, 1)?.shape, groups(node)?);
    if x.rank() != weight.len()
        || x.rank() < 3
        || weight[1].checked_mul(groups) != Some(x.shape[1])
        || weight[0] % groups != 0
    {
        return Err("expected x [batch, in, spatial..] and weight [out, in / group, kernel..]".into());
    }
    check_bias(graph, node, weight[0])?;
    let output = Geometry::new(node, &weight[2..])?.output(&x.shape[2..])?;
    let shape: Vec<_> = [x.shape[0], weight[0]].into_iter().chain(output).collect();
    Ok(vec![TensorType::new(x.dtype, shape)])
}

fn check_bias(graph: &Graph, node: &Node, channels: usize) -> Result<(), GraphError> {
    match node.optional(2).map(|bias| graph.shape(bias)) {
        Some(shape) if shape != [channels] => Err(format!("bias {shape:?} does not fit {channels} channels").into()),
        _ => Ok(()),
    }
}

fn output_padding(node: &Node, spatial: usize) -> Vec<usize> {
    node.ints("output_padding", &vec![0; spatial]).into_iter().map(|size| size.clamp(0, 1 << 24) as usize).collect()
}

fn conv_transpose(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (x, weight, groups) = (ty(graph, node, 0)?, ty(graph, node, 1)?.shape, groups(node)?);
    if x.rank() != weight.len() || x.rank() < 3 || x.shape[1] != weight[0] || weight[0] % groups != 0 {
        return Err("expected x [batch, in, spatial..] and weight [in, out / group, kernel..]".into());
    }
    if node.attributes.contains_key("output_shape") {
        return Err("output_shape is not supported: use pads and output_padding".into());
    }
    let channels = weight[1].checked_mul(groups).ok_or("the number of groups is too large")?;
    check_bias(graph, node, channels)?;
    let geometry = Geometry::new(node, &weight[2..])?;
    let output = geometry.transposed_output(&x.shape[2..])?;
    let extra = output_padding(node, output.len());
    if extra.len() != output.len() {
        return Err("output_padding must have a number for each spatial axis".into());
    }
    let output = output.into_iter().zip(extra).map(|(size, extra)| size + extra);
    let shape: Vec<_> = [x.shape[0], channels].into_iter().chain(output).collect();
    Ok(vec![TensorType::new(x.dtype, shape)])
}

fn conv_gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
    let (x, weight, dy) = (back.node.input(0), back.node.input(1), back.dy()?);
    let geometry = Geometry::new(back.node, &back.graph.shape(weight)[2..])?;
    let groups = groups(back.node)?;
    if back.wanted(0) {
        let sizes = back.graph.shape(x)[2..].to_vec();
        let dx = input_gradient(back.graph, dy, weight, &geometry, groups, &sizes);
        back.add(0, dx);
    }
    if back.wanted(1) {
        let dw = weight_gradient(back.graph, x, dy, &geometry, groups);
        back.add(1, dw);
    }
    bias_gradient(back, dy);
    Ok(())
}

fn with_groups(geometry: &Geometry, groups: usize) -> Attributes {
    let mut attributes = geometry.attributes();
    attributes.insert("group".into(), Attribute::Int(groups as i64));
    attributes
}

/// dx, of these spatial sizes, of a convolution with this weight and the gradient dy of its output.
fn input_gradient(
    graph: &mut Graph,
    dy: Value,
    weight: Value,
    geometry: &Geometry,
    groups: usize,
    sizes: &[usize],
) -> Value {
    let mut attributes = with_groups(geometry, groups);
    attributes.insert(SIZES.into(), ints(sizes.iter().copied()));
    graph.apply1("ConvolutionInputGradient", &[dy, weight], attributes)
}

/// dW of a convolution of x with the gradient dy of its output.
fn weight_gradient(graph: &mut Graph, x: Value, dy: Value, geometry: &Geometry, groups: usize) -> Value {
    graph.apply1("ConvolutionWeightGradient", &[x, dy], with_groups(geometry, groups))
}

/// Attribute of [`input_gradient`]: what the output's sizes do not say where a stride leaves a rest.
const SIZES: &str = "sizes";

/// How a gradient's node slides, and its groups; its `kernel_shape` has the kernel.
fn of_gradient(node: &Node) -> Result<(Geometry, usize), GraphError> {
    let kernel = node.ints("kernel_shape", &[]);
    let kernel: Option<Vec<_>> = kernel.iter().map(|size| usize::try_from(*size).ok()).collect();
    let kernel = kernel.filter(|kernel| !kernel.is_empty()).ok_or("kernel_shape is missing")?;
    Ok((Geometry::new(node, &kernel)?, groups(node)?))
}

/// Inputs: dy and the weight. Output: dx.
fn input_gradient_type(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (dy, weight, (geometry, groups)) = (ty(graph, node, 0)?, ty(graph, node, 1)?.shape, of_gradient(node)?);
    let sizes: Vec<_> = node.ints(SIZES, &[]).into_iter().map(|size| size.clamp(0, 1 << 40) as usize).collect();
    let fits = dy.rank() == weight.len()
        && weight.get(2..) == Some(&geometry.kernel)
        && sizes.len() == geometry.kernel.len()
        && dy.shape[1] == weight[0]
        && weight[0] % groups == 0
        && geometry.output(&sizes)? == dy.shape[2..];
    let channels = weight.get(1).and_then(|channels| channels.checked_mul(groups)).filter(|_| fits);
    let channels = channels.ok_or_else(|| format!("the gradient {dy} does not fit a weight {weight:?}"))?;
    let shape: Vec<_> = [dy.shape[0], channels].into_iter().chain(sizes).collect();
    Ok(vec![TensorType::new(dy.dtype, shape)])
}

/// Inputs: x and dy. Output: dW.
fn weight_gradient_type(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (x, dy, (geometry, groups)) = (ty(graph, node, 0)?, ty(graph, node, 1)?, of_gradient(node)?);
    let fits = x.rank() == geometry.kernel.len() + 2
        && dy.rank() == x.rank()
        && x.dtype == dy.dtype
        && x.shape[0] == dy.shape[0]
        && x.shape[1] % groups == 0
        && dy.shape[1] % groups == 0
        && geometry.output(&x.shape[2..])? == dy.shape[2..];
    if !fits {
        return Err(format!("the gradient {dy} does not fit {x}").into());
    }
    let shape: Vec<_> = [dy.shape[1], x.shape[1] / groups].into_iter().chain(geometry.kernel).collect();
    Ok(vec![TensorType::new(x.dtype, shape)])
}

fn expand_input_gradient(graph: &mut Graph, node: &Node) -> Vec<Value> {
    let (dy, weight) = (node.input(0), node.input(1));
    let (geometry, groups) = of_gradient(node).expect("checked by inference");
    let sizes = graph.shape(node.outputs[0])[2..].to_vec();
    vec![if mirrors(&geometry, groups) {
        mirrored(graph, weight, dy, &geometry)
    } else {
        transposed(graph, &sizes, weight, dy, &geometry, groups)
    }]
}

/// Taps at most: a matrix of as many rows and columns turns the weight.
const MOST_MIRRORED: usize = 1024;

/// Whether the input's gradient is a convolution of dy with the weight back to front.
fn mirrors(geometry: &Geometry, groups: usize) -> bool {
    let within = (0..geometry.kernel.len()).all(|i| geometry.pads[i].0.max(geometry.pads[i].1) < geometry.span(i));
    let moves_by_one = geometry.strides.iter().all(|stride| *stride == 1);
    groups == 1 && moves_by_one && within && geometry.taps() <= MOST_MIRRORED
}

fn expand_weight_gradient(graph: &mut Graph, node: &Node) -> Vec<Value> {
    let (x, dy) = (node.input(0), node.input(1));
    let (geometry, groups) = of_gradient(node).expect("checked by inference");
    let x = geometry.pad(graph, x, 2, 0.0);
    vec![if groups > 1 {
        grouped_weight_gradient(graph, x, dy, &geometry.unpadded(), groups)
    } else if geometry.is_plain() {
        blocked_weight_gradient(graph, x, dy, &geometry.kernel, &geometry.strides)
    } else {
        dense_weight_gradient(graph, x, dy, &geometry.unpadded())
    }]
}

/// Spatial axes that cuDNN has convolutions over.
const MOST_AXES: usize = 3;

/// The types of an operator whose inputs and output have their channels last, weights those of the input: from the rule
/// of the one that has them second.
fn channels_last(
    graph: &Graph,
    node: &Node,
    rule: fn(&Graph, &Node) -> Result<Vec<TensorType>, GraphError>,
) -> Result<Vec<TensorType>, GraphError> {
    let mut second = Graph::new();
    let mut inputs = Vec::with_capacity(2);
    for i in 0..2 {
        let mut given = ty(graph, node, i)?;
        if given.rank() < 3 {
            return Err(format!("{given} has no spatial axes").into());
        }
        let channels = given.shape.pop().expect("it has axes");
        given.shape.insert(1, channels);
        inputs.push(Some(second.input("", given)));
    }
    let node = Node { inputs, ..node.clone() };
    let mut types = rule(&second, &node)?;
    for ty in &mut types {
        let channels = ty.shape.remove(1);
        ty.shape.push(channels);
    }
    Ok(types)
}

/// Applies an operator to tensors with their channels second that wants them last: cuDNN's fastest kernels do, and
/// would turn each tensor for themselves.
fn apply_last(graph: &mut Graph, operator: &str, inputs: [Value; 2], attributes: Attributes) -> Value {
    let turned = inputs.map(|x| graph.channels_last(x));
    let y = graph.apply1(operator, &turned, attributes);
    graph.channels_second(y)
}

/// What a kernel's own convolution does not do is taken out: different pads before and after, and the bias, which costs
/// nothing where the region that takes the output adds it.
fn conv_parts(graph: &mut Graph, node: &Node) -> Option<Vec<Value>> {
    let (mut x, weight) = (node.input(0), node.input(1));
    let mut geometry = Geometry::new(node, &graph.shape(weight)[2..]).ok()?;
    if geometry.kernel.len() > MOST_AXES {
        return None;
    }
    if geometry.is_uneven() {
        x = geometry.pad(graph, x, 2, 0.0);
        geometry = geometry.unpadded();
    }
    let y = apply_last(graph, "LastConv", [x, weight], with_groups(&geometry, groups(node).ok()?));
    Some(vec![biased(graph, y, node.optional(2))])
}

fn biased(graph: &mut Graph, y: Value, bias: Option<Value>) -> Value {
    let Some(bias) = bias else { return y };
    let bias = graph.per_channel(bias, graph.shape(y).len());
    graph.add(y, bias)
}

/// A transposed convolution is the gradient of a convolution.
fn conv_transpose_parts(graph: &mut Graph, node: &Node) -> Option<Vec<Value>> {
    let (x, weight) = (node.input(0), node.input(1));
    let geometry = Geometry::new(node, &graph.shape(weight)[2..]).ok()?;
    let sizes = graph.shape(node.outputs[0])[2..].to_vec();
    // Output padding of a stride or more makes windows that no input belongs to.
    let fits = geometry.output(&sizes).is_ok_and(|output| output == graph.shape(x)[2..]);
    if geometry.kernel.len() > MOST_AXES || geometry.is_uneven() || !fits {
        return None;
    }
    let y = input_gradient(graph, x, weight, &geometry, groups(node).ok()?, &sizes);
    Some(vec![biased(graph, y, node.optional(2))])
}

fn input_gradient_parts(graph: &mut Graph, node: &Node) -> Option<Vec<Value>> {
    let (dy, weight, sizes) = (node.input(0), node.input(1), graph.shape(node.outputs[0])[2..].to_vec());
    let (geometry, groups) = of_gradient(node).ok()?;
    if geometry.kernel.len() > MOST_AXES {
        return None;
    }
    if !geometry.is_uneven() {
        let attributes = node.attributes.clone();
        return Some(vec![apply_last(graph, "LastConvInputGradient", [dy, weight], attributes)]);
    }
    let padded: Vec<_> = sizes.iter().zip(&geometry.pads).map(|(size, pads)| size + pads.0 + pads.1).collect();
    let whole = input_gradient(graph, dy, weight, &geometry.unpadded(), groups, &padded);
    Some(vec![geometry.crop(graph, whole, &sizes)])
}

fn weight_gradient_parts(graph: &mut Graph, node: &Node) -> Option<Vec<Value>> {
    let (x, dy) = (node.input(0), node.input(1));
    let (geometry, groups) = of_gradient(node).ok()?;
    if geometry.kernel.len() > MOST_AXES {
        return None;
    }
    if !geometry.is_uneven() {
        let attributes = node.attributes.clone();
        return Some(vec![apply_last(graph, "LastConvWeightGradient", [x, dy], attributes)]);
    }
    let x = geometry.pad(graph, x, 2, 0.0);
    Some(vec![weight_gradient(graph, x, dy, &geometry.unpadded(), groups)])
}

fn bias_gradient(back: &mut Backward<'_>, dy: Value) {
    if back.wanted(2) {
        let gradient = back.graph.channel_sums(dy);
        back.add(2, gradient);
    }
}

/// The transpose of a convolution is a convolution with the same weight, and the other way round.
fn conv_transpose_gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
    let (x, weight, dy) = (back.node.input(0), back.node.input(1), back.dy()?);
    let geometry = Geometry::new(back.node, &back.graph.shape(weight)[2..])?;
    let groups = groups(back.node)?;
    if back.wanted(0) {
        let dx = back.graph.apply1("Conv", &[dy, weight], with_groups(&geometry, groups));
        // Output padding of a stride or more makes windows that no input belongs to.
        let sizes = back.graph.shape(x)[2..].to_vec();
        let dx = sizes.iter().enumerate().fold(dx, |dx, (i, size)| back.graph.slice(dx, 2 + i, 0, *size));
        back.add(0, dx);
    }
    if back.wanted(1) {
        let gradient = weight_gradient(back.graph, dy, x, &geometry, groups);
        back.add(1, gradient);
    }
    bias_gradient(back, dy);
    Ok(())
}

/// dx of a convolution by ConvTranspose.
fn transposed(
    graph: &mut Graph,
    sizes: &[usize],
    weight: Value,
    dy: Value,
    geometry: &Geometry,
    groups: usize,
) -> Value {
    let uneven = geometry.pads.iter().any(|(before, after)| before != after);
    if uneven || geometry.transposed_output(&graph.shape(dy)[2..]).is_err() {
        // Not every provider's transposed convolution has uneven padding, and none has more than the windows span, so
        // it is cut off afterwards.
        let padded: Vec<_> = sizes.iter().zip(&geometry.pads).map(|(size, pads)| size + pads.0 + pads.1).collect();
        let whole = by_transpose(graph, &padded, weight, dy, &geometry.unpadded(), groups);
        return geometry.crop(graph, whole, sizes);
    }
    by_transpose(graph, sizes, weight, dy, geometry, groups)
}

fn by_transpose(
    graph: &mut Graph,
    shape: &[usize],
    weight: Value,
    dy: Value,
    geometry: &Geometry,
    groups: usize,
) -> Value {
    let reached = geometry.transposed_output(&graph.shape(dy)[2..]).expect("checked by inference");
    // Input that no window reached, because the stride left a rest.
    let rest: Vec<_> = shape.iter().zip(reached).map(|(size, reached)| size - reached).collect();
    let mut attributes = with_groups(geometry, groups);
    attributes.insert("output_padding".into(), ints(rest));
    graph.apply1("ConvTranspose", &[dy, weight], attributes)
}

/// dx of a convolution with stride 1: dy with zeros at both ends, convolved with the weight back to front. On the
/// CPU this takes half the time of ConvTranspose, which adds up its overlapping columns on one thread.
fn mirrored(graph: &mut Graph, weight: Value, dy: Value, geometry: &Geometry) -> Value {
    let shape = graph.shape(weight).to_vec();
    let (out_channels, in_channels, taps) = (shape[0], shape[1], geometry.taps());
    let by_tap = graph.reshape(weight, &[out_channels, in_channels, taps]);
    let mut mirrored = graph.transpose(by_tap, &[1, 0, 2]);
    if taps > 1 {
        // The last tap in row-major order is the last one along every axis.
        let mirror = (0..taps * taps).map(|i| f32::from(u8::from(i / taps + i % taps + 1 == taps))).collect();
        let mirror = graph.f32([taps, taps], mirror);
        let mirror = graph.cast(mirror, graph.dtype(weight));
        mirrored = graph.matmul(mirrored, mirror);
    }
    let shape: Vec<_> = [in_channels, out_channels].into_iter().chain(geometry.kernel.iter().copied()).collect();
    let mirrored = graph.reshape(mirrored, &shape);
    let (before, after): (Vec<_>, Vec<_>) = geometry.pads.iter().copied().unzip();
    let pads = before.into_iter().chain(after).enumerate();
    let pads = pads.map(|(i, pad)| geometry.span(i % geometry.kernel.len()) - 1 - pad);
    let mut attributes = geometry.attributes();
    attributes.insert("pads".into(), ints(pads));
    graph.apply1("Conv", &[dy, mirrored], attributes)
}

/// Convolutions with fewer output channels make matrices too narrow for a product to run at full speed.
const FEW_CHANNELS: usize = 32;

/// For each group, one product of [out, batch x positions] and [batch x positions, in x taps].
fn grouped_weight_gradient(graph: &mut Graph, x: Value, dy: Value, geometry: &Geometry, groups: usize) -> Value {
    let (batch, inputs, outputs) = (graph.shape(dy)[0], graph.shape(x)[1] / groups, graph.shape(dy)[1] / groups);
    let spatial = graph.shape(dy)[2..].to_vec();
    let (positions, taps) = (spatial.iter().product::<usize>(), geometry.taps());
    let slices = geometry.slices(graph, x, 2, &spatial);
    let slices: Vec<_> =
        slices.into_iter().map(|slice| graph.reshape(slice, &[batch, groups, inputs, 1, positions])).collect();
    let under = graph.concat(&slices, 3);
    let under = graph.transpose(under, &[1, 0, 4, 2, 3]);
    let under = graph.reshape(under, &[groups, batch * positions, inputs * taps]);
    let dy = graph.reshape(dy, &[batch, groups, outputs, positions]);
    let dy = graph.transpose(dy, &[1, 2, 0, 3]);
    let dy = graph.reshape(dy, &[groups, outputs, batch * positions]);
    let gradient = graph.matmul(dy, under);
    let shape: Vec<_> = [groups * outputs, inputs].into_iter().chain(geometry.kernel.iter().copied()).collect();
    graph.reshape(gradient, &shape)
}

/// One product of [batch x positions, out] transposed and [batch x positions, taps x in], channels last.
fn dense_weight_gradient(graph: &mut Graph, x: Value, dy: Value, geometry: &Geometry) -> Value {
    let (inputs, outputs) = (graph.shape(x)[1], graph.shape(dy)[1]);
    let spatial = graph.shape(dy)[2..].to_vec();
    let rows = graph.shape(dy)[0] * spatial.iter().product::<usize>();
    let last: Vec<_> = std::iter::once(0).chain(2..spatial.len() + 2).chain([1]).collect();
    let (x, dy) = (graph.transpose(x, &last), graph.transpose(dy, &last));
    let slices = geometry.slices(graph, x, 1, &spatial);
    let under = graph.concat(&slices, spatial.len() + 1);
    let under = graph.reshape(under, &[rows, geometry.taps() * inputs]);
    let dy = graph.reshape(dy, &[rows, outputs]);
    let gradient = graph.gemm(dy, under, None, true, false);
    let gradient = graph.reshape(gradient, &[outputs, geometry.taps(), inputs]);
    let gradient = graph.transpose(gradient, &[0, 2, 1]);
    let shape: Vec<_> = [outputs, inputs].into_iter().chain(geometry.kernel.iter().copied()).collect();
    graph.reshape(gradient, &shape)
}

/// dW[o, i, k] = sum over batch and time of dy[t, o] x[stride t + k, i], as one matrix product over blocks of time.
///
/// With channels last, a block of L outputs is a row of dy, and the L + K - 1 inputs under it a row of x; the
/// product of the two holds at (l, o), (m, i) what output l and input m of a block have in common, and
/// dW[o, i, k] is the sum of its diagonals m - l = k. L = 1 is im2col. A larger L does (L + K - 1) / K times the
/// work, but copies each input 1 + (K - 1) / L times instead of K times, and where there are few channels its
/// products are large enough to run at full speed. A stride is first folded into the channels.
fn blocked_weight_gradient(graph: &mut Graph, x: Value, dy: Value, kernel: &[usize], strides: &[usize]) -> Value {
    let (in_channels, out_channels) = (graph.shape(x)[1], graph.shape(dy)[1]);
    let along = kernel.len() + 1;
    let (taps, stride) = (kernel[along - 2], strides[along - 2]);
    let channels_last: Vec<_> = std::iter::once(0).chain(2..=along).chain([1]).collect();
    let (x, dy) = (graph.transpose(x, &channels_last), graph.transpose(dy, &channels_last));
    let others = graph.shape(dy)[..along - 1].iter().product::<usize>();
    let (rows_in, rows_out) = (graph.shape(x)[along - 1], graph.shape(dy)[along - 1]);

    // Time in steps of the stride: K taps over C channels are ceil(K / stride) taps over stride x C channels.
    let steps = taps.div_ceil(stride);
    let block = if out_channels >= FEW_CHANNELS { 1 } else { steps };
    let blocks = rows_out.div_ceil(block);
    let wide = stride * in_channels;
    let reach = block + steps - 1;
    let x = graph.reshape(x, &[others, rows_in, in_channels]);
    let under = graph.frames(x, block * stride, reach * stride, blocks);
    let dy = graph.reshape(dy, &[others, rows_out, out_channels]);
    let dy = graph.frames(dy, block, block, blocks);

    let product = graph.gemm(dy, under, None, true, false);
    let product = graph.reshape(product, &[block, out_channels, reach, wide]);
    let product = graph.transpose(product, &[1, 0, 2, 3]);
    // Rows one element longer shift row l left by l, so that diagonals become columns.
    let flat = graph.reshape(product, &[out_channels, block * reach * wide]);
    let padded = graph.pad(flat, 1, 0, block * wide);
    let skewed = graph.reshape(padded, &[out_channels, block, reach + 1, wide]);
    let diagonals = graph.slice(skewed, 2, 0, steps);
    let by_tap = graph.reduce_sum(diagonals, &[1], false);
    let by_tap = graph.reshape(by_tap, &[out_channels, steps * stride, in_channels]);
    let by_tap = graph.slice(by_tap, 1, 0, taps);
    let by_channel = graph.transpose(by_tap, &[0, 2, 1]);
    let shape: Vec<_> = [out_channels, in_channels].into_iter().chain(kernel.iter().copied()).collect();
    graph.reshape(by_channel, &shape)
}

/// Different padding before and after is taken out: not every provider's convolution has it.
fn import_conv(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let (x, weight) = (call.float(0)?, call.float(1)?);
    let kernel = call.shape(weight).get(2..).unwrap_or_default().to_vec();
    let input = spatial_sizes(call, x, &kernel)?;
    // The weight's gradient needs every window whole.
    let windows = kernel.iter().try_fold(call.graph.ty(x).elements(), |n, size| n.checked_mul(*size));
    if windows.is_none_or(|elements| elements > 1 << 50) {
        return Err(format!("a kernel of {kernel:?} over {input:?} is too large").into());
    }
    resolve_auto_pad(call, &input, &kernel);
    call.attributes.insert("kernel_shape".into(), ints(kernel.iter().copied()));
    let pads = call.attributes.ints("pads", &vec![0; 2 * kernel.len()]);
    let uneven = pads.len() == 2 * kernel.len() && (0..kernel.len()).any(|i| pads[i] != pads[kernel.len() + i]);
    if uneven && pads.iter().all(|pad| (0..1 << 24).contains(pad)) {
        let axes = kernel.len();
        let padded = (0..axes).fold(x, |x, i| call.graph.pad(x, 2 + i, pads[i] as usize, pads[axes + i] as usize));
        call.inputs[0] = Some(padded);
        call.attributes.insert("pads".into(), ints(vec![0; 2 * axes]));
    }
    call.unchanged()
}

fn import_conv_transpose(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let (x, weight) = (call.float(0)?, call.float(1)?);
    let kernel = call.shape(weight).get(2..).unwrap_or_default().to_vec();
    spatial_sizes(call, x, &kernel)?;
    if !matches!(call.attributes.text("auto_pad", "NOTSET"), "NOTSET" | "VALID") {
        return Err("auto_pad of a transposed convolution is not supported: use pads".into());
    }
    call.attributes.remove("auto_pad");
    call.unchanged()
}
