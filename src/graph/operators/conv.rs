//! Convolutions over one or two spatial axes, without padding, dilation or groups.

use super::super::autodiff::Adjoints;
use super::super::build::attributes;
use super::super::core::{Attribute, Graph, Node, Value};
use super::super::tensor::TensorType;
use super::{Operator, op, ty};

pub(super) static OPERATORS: &[Operator] =
    &[op("Conv", conv, Some(conv_gradient)), op("ConvTranspose", conv_transpose, None)];

/// Attributes that only their default is supported of.
fn check_plain(node: &Node, spatial: usize) -> Result<(), String> {
    let zeros = vec![0; 2 * spatial];
    let ones = vec![1; spatial];
    if node.ints("pads", &zeros) != zeros || node.ints("dilations", &ones) != ones || node.int("group", 1) != 1 {
        return Err("pads, dilations and groups are not supported".into());
    }
    Ok(())
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
    for (i, stride) in strides(node, x.len() - 2).into_iter().enumerate() {
        let slack = x[i + 2].checked_sub(weight[i + 2]).ok_or("the kernel is longer than its input")?;
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
    let extra = node.ints("output_padding", &vec![0; x.len() - 2]);
    let mut shape = vec![x[0], weight[1]];
    for (i, stride) in strides(node, x.len() - 2).into_iter().enumerate() {
        shape.push((x[i + 2] - 1) * stride + weight[i + 2] + extra[i] as usize);
    }
    Ok(vec![TensorType::f32(shape)])
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
    if wanted(x) {
        let ints = |values: Vec<usize>| Attribute::Ints(values.into_iter().map(|v| v as i64).collect());
        // Input that no window reached, because the stride left a rest.
        let rest = (0..kernel.len()).map(|i| in_shape[i + 2] - ((out_shape[i + 2] - 1) * strides[i] + kernel[i]));
        let rest: Vec<_> = rest.collect();
        let attributes = attributes([
            ("kernel_shape", ints(kernel.clone())),
            ("strides", ints(strides.clone())),
            ("output_padding", ints(rest)),
        ]);
        let dx = graph.apply1("ConvTranspose", &[dy, weight], attributes);
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

/// im2col and one product: with channels last, the taps of a window are slices of x side by side.
fn weight_gradient(graph: &mut Graph, x: Value, dy: Value, kernel: &[usize], strides: &[usize]) -> Value {
    let (in_channels, out_channels) = (graph.shape(x)[1], graph.shape(dy)[1]);
    let spatial = graph.shape(dy)[2..].to_vec();
    let rank = spatial.len() + 2;
    let channels_last: Vec<_> = std::iter::once(0).chain(2..rank).chain([1]).collect();
    let (x, dy) = (graph.transpose(x, &channels_last), graph.transpose(dy, &channels_last));
    let rows = graph.shape(dy)[..rank - 1].iter().product();
    let taps: Vec<_> = (0..kernel.iter().product())
        .map(|tap: usize| {
            let (mut offset, mut slice) = (tap, x);
            for axis in (0..kernel.len()).rev() {
                let start = offset % kernel[axis];
                offset /= kernel[axis];
                let end = start + (spatial[axis] - 1) * strides[axis] + 1;
                slice = graph.strided_slice(slice, axis + 1, start, end, strides[axis]);
            }
            slice
        })
        .collect();
    let columns = graph.concat(&taps, rank - 1);
    let columns = graph.reshape(columns, &[rows, taps.len() * in_channels]);
    let dy = graph.reshape(dy, &[rows, out_channels]);
    let product = graph.gemm(dy, columns, None, true, false);
    let by_tap = graph.reshape(product, &[out_channels, taps.len(), in_channels]);
    let by_channel = graph.transpose(by_tap, &[0, 2, 1]);
    let shape: Vec<_> = [out_channels, in_channels].into_iter().chain(kernel.iter().copied()).collect();
    graph.reshape(by_channel, &shape)
}
