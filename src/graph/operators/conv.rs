//! Convolutions over one or more spatial axes, and their transposes.

mod expand;
mod regions;

use expand::{FEW_CHANNELS, expand_input_gradient, expand_weight_gradient, is_not_mirrored, is_wide};
use regions::{channels_last, conv_parts, conv_transpose_parts, input_gradient_parts, weight_gradient_parts};

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
