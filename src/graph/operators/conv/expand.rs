//! Gradients of convolutions, written as other operators.

use super::super::geometry::Geometry;
use super::{of_gradient, with_groups};
use crate::graph::build::ints;
use crate::graph::core::{Graph, Node, Value};

/// A convolution with the weight back to front is faster where it gives the gradient.
pub(super) fn is_not_mirrored(_: &Graph, node: &Node) -> bool {
    !of_gradient(node).is_ok_and(|(geometry, groups)| mirrors(&geometry, groups))
}

/// Of few channels, products of larger blocks are faster.
pub(super) fn is_wide(graph: &Graph, node: &Node) -> bool {
    let of_blocks = |(geometry, groups): (Geometry, usize)| groups == 1 && geometry.is_plain();
    graph.shape(node.input(1))[1] >= FEW_CHANNELS || !of_gradient(node).is_ok_and(of_blocks)
}

pub(super) fn expand_input_gradient(graph: &mut Graph, node: &Node) -> Vec<Value> {
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

pub(super) fn expand_weight_gradient(graph: &mut Graph, node: &Node) -> Vec<Value> {
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
pub(super) const FEW_CHANNELS: usize = 32;

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
