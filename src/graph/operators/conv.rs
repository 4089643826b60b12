//! Convolutions over one or two spatial axes, without dilation or groups; differentiable without padding.

use super::super::autodiff::Adjoints;
use super::super::build::{attributes, ints};
use super::super::core::{Graph, Node, Value};
use super::super::tensor::TensorType;
use super::{Operator, fused, op, ty};

pub(super) static OPERATORS: &[Operator] = &[
    op("Conv", conv, Some(conv_gradient)),
    op("ConvTranspose", conv_transpose, None),
    fused("Frames", frames, Some(expand_frames)),
];

/// Attributes that only their default is supported of.
fn check_plain(node: &Node, spatial: usize) -> Result<(), String> {
    let ones = vec![1; spatial];
    if node.ints("dilations", &ones) != ones || node.int("group", 1) != 1 {
        return Err("dilations and groups are not supported".into());
    }
    Ok(())
}

/// Zeros around each spatial axis, both sides together.
fn padding(node: &Node, spatial: usize) -> Vec<usize> {
    let pads = node.ints("pads", &vec![0; 2 * spatial]);
    (0..spatial).map(|i| (pads[i] + pads[spatial + i]) as usize).collect()
}

fn strides(node: &Node, spatial: usize) -> Vec<usize> {
    node.ints("strides", &vec![1; spatial]).into_iter().map(|stride| stride as usize).collect()
}

fn conv(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let (x, weight) = (ty(graph, node, 0)?.shape, ty(graph, node, 1)?.shape);
    if x.len() != weight.len() || !(3..=4).contains(&x.len()) || x[1] != weight[1] {
        return Err("expected x [batch, in, spatial..] and weight [out, in, kernel..] of one or two axes".into());
    }
    check_plain(node, x.len() - 2)?;
    let mut shape = vec![x[0], weight[0]];
    let padding = padding(node, x.len() - 2);
    for (i, stride) in strides(node, x.len() - 2).into_iter().enumerate() {
        let slack = (x[i + 2] + padding[i]).checked_sub(weight[i + 2]).ok_or("the kernel is longer than its input")?;
        shape.push(slack / stride + 1);
    }
    Ok(vec![TensorType::f32(shape)])
}

fn conv_transpose(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let (x, weight) = (ty(graph, node, 0)?.shape, ty(graph, node, 1)?.shape);
    if x.len() != weight.len() || x.len() < 3 || x[1] != weight[0] {
        return Err("expected x [batch, in, spatial..] and weight [in, out, kernel..]".into());
    }
    check_plain(node, x.len() - 2)?;
    if padding(node, x.len() - 2).iter().any(|zeros| *zeros != 0) {
        return Err("pads are not supported".into());
    }
    let extra = node.ints("output_padding", &vec![0; x.len() - 2]);
    let mut shape = vec![x[0], weight[1]];
    for (i, stride) in strides(node, x.len() - 2).into_iter().enumerate() {
        shape.push((x[i + 2] - 1) * stride + weight[i + 2] + extra[i] as usize);
    }
    Ok(vec![TensorType::f32(shape)])
}

/// Frames of x [n, rows, width]: frame i of `count` is rows [i advance, i advance + length), with zeros beyond the
/// last row; all of them as [n count, length width].
fn frames(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, String> {
    let x = ty(graph, node, 0)?;
    let [n, _, width] = x.shape[..] else { return Err(format!("{x} is not [n, rows, width]")) };
    let (_, length, count) = framing(node);
    Ok(vec![TensorType::new(x.dtype, [n * count, length * width])])
}

/// Advance, length and count of frames.
fn framing(node: &Node) -> (usize, usize, usize) {
    let attribute = |name| node.int(name, 1) as usize;
    (attribute("advance"), attribute("length"), attribute("count"))
}

/// Frames put together from pieces of `advance` rows.
fn expand_frames(graph: &mut Graph, node: &Node) -> Vec<Value> {
    let (x, (advance, length, count)) = (node.input(0), framing(node));
    let [n, rows, width] = graph.shape(x)[..] else { unreachable!("checked by inference") };
    let pieces = length.div_ceil(advance);
    let needed = (count + pieces - 1) * advance;
    let x = if rows > needed { graph.slice(x, 1, 0, needed) } else { graph.pad(x, 1, 0, needed - rows) };
    let x = graph.reshape(x, &[n, count + pieces - 1, advance * width]);
    let parts: Vec<_> = (0..pieces)
        .map(|piece| {
            let shifted = graph.slice(x, 1, piece, piece + count);
            graph.slice(shifted, 2, 0, advance.min(length - piece * advance) * width)
        })
        .collect();
    let joined = graph.concat(&parts, 2);
    vec![graph.reshape(joined, &[n * count, length * width])]
}

fn conv_gradient(
    graph: &mut Graph,
    node: &Node,
    grads: &[Option<Value>],
    wanted: &dyn Fn(Value) -> bool,
    adjoints: &mut Adjoints,
) -> Result<(), String> {
    let (x, weight, dy) = (node.input(0), node.input(1), grads[0].expect("the only output was reached"));
    let (in_shape, out_shape) = (graph.shape(x).to_vec(), graph.shape(dy).to_vec());
    let kernel = graph.shape(weight)[2..].to_vec();
    let strides = strides(node, kernel.len());
    if padding(node, kernel.len()).iter().any(|zeros| *zeros != 0) {
        return Err("Conv: no gradient with pads".into());
    }
    if kernel[..kernel.len() - 1].iter().any(|taps| *taps != 1) {
        return Err("Conv: gradients are known for kernels along the last axis only".into());
    }
    if wanted(x) {
        let dx = if strides.iter().all(|stride| *stride == 1) {
            input_gradient(graph, weight, dy, &kernel)
        } else {
            // Input that no window reached, because the stride left a rest.
            let rest = (0..kernel.len()).map(|i| in_shape[i + 2] - ((out_shape[i + 2] - 1) * strides[i] + kernel[i]));
            let attributes = attributes([
                ("kernel_shape", ints(kernel.iter().copied())),
                ("strides", ints(strides.iter().copied())),
                ("output_padding", ints(rest)),
            ]);
            graph.apply1("ConvTranspose", &[dy, weight], attributes)
        };
        adjoints.add(x, dx);
    }
    if wanted(weight) {
        let gradient = weight_gradient(graph, x, dy, &kernel, &strides);
        adjoints.add(weight, gradient);
    }
    if let Some(bias) = node.inputs.get(2).copied().flatten().filter(|bias| wanted(*bias)) {
        let axes: Vec<_> = (0..out_shape.len()).filter(|i| *i != 1).collect();
        let gradient = graph.reduce_sum(dy, &axes, false);
        adjoints.add(bias, gradient);
    }
    Ok(())
}

/// dx of a convolution with stride 1: dy with zeros at both ends, convolved with the weight back to front. On the
/// CPU this takes half the time of ConvTranspose, which adds up its overlapping columns on one thread.
fn input_gradient(graph: &mut Graph, weight: Value, dy: Value, kernel: &[usize]) -> Value {
    let shape = graph.shape(weight).to_vec();
    let (out_channels, in_channels, spatial) = (shape[0], shape[1], kernel.len());
    let taps = kernel[spatial - 1];
    let mirror = (0..taps * taps).map(|i| f32::from(u8::from(i / taps + i % taps + 1 == taps))).collect();
    let mirror = graph.f32([taps, taps], mirror);
    let by_tap = graph.reshape(weight, &[out_channels, in_channels, taps]);
    let turned = graph.transpose(by_tap, &[1, 0, 2]);
    let mirrored = graph.matmul(turned, mirror);
    let shape: Vec<_> = [in_channels, out_channels].into_iter().chain(kernel.iter().copied()).collect();
    let mirrored = graph.reshape(mirrored, &shape);
    let mut pads = vec![0; 2 * spatial];
    (pads[spatial - 1], pads[2 * spatial - 1]) = (taps - 1, taps - 1);
    let attributes = attributes([("kernel_shape", ints(kernel.iter().copied())), ("pads", ints(pads))]);
    graph.apply1("Conv", &[dy, mirrored], attributes)
}

/// Convolutions with fewer output channels make matrices too narrow for a product to run at full speed.
const FEW_CHANNELS: usize = 32;

/// dW[o, i, k] = sum over batch and time of dy[t, o] x[stride t + k, i], as one matrix product over blocks of time.
///
/// With channels last, a block of L outputs is a row of dy, and the L + K - 1 inputs under it a row of x; the
/// product of the two holds at (l, o), (m, i) what output l and input m of a block have in common, and
/// dW[o, i, k] is the sum of its diagonals m - l = k. L = 1 is im2col. A larger L does (L + K - 1) / K times the
/// work, but copies each input 1 + (K - 1) / L times instead of K times, and where there are few channels its
/// products are large enough to run at full speed. A stride is first folded into the channels.
fn weight_gradient(graph: &mut Graph, x: Value, dy: Value, kernel: &[usize], strides: &[usize]) -> Value {
    let (in_channels, out_channels) = (graph.shape(x)[1], graph.shape(dy)[1]);
    let along = kernel.len() + 1;
    let (taps, stride) = (kernel[along - 2], strides[along - 2]);
    assert!(kernel[..along - 2].iter().all(|k| *k == 1), "kernels extend along the last axis only");
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
