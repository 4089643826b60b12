//! Convolutions and pools with padding left to them, and average pools.

use super::super::build::ints;
use super::super::core::Value;
use super::super::operators::{Geometry, resolve_auto_pad};
use super::call::{Call, Lower};

pub(super) static OPERATORS: &[(&str, Lower)] =
    &[("AveragePool", average_pool), ("Conv", conv), ("ConvTranspose", conv_transpose), ("MaxPool", max_pool)];

fn sizes(call: &Call<'_>, name: &str, axes: usize) -> Vec<usize> {
    let values = call.attributes.ints(name, &vec![1; axes]);
    let mut sizes: Vec<_> = values.into_iter().map(|value| value.clamp(1, 1 << 24) as usize).collect();
    sizes.resize(axes, 1);
    sizes
}

/// Writes `auto_pad` as `pads` in the node's attributes.
fn resolve(call: &mut Call<'_>, input: &[usize], kernel: &[usize]) {
    let mode = call.attributes.text("auto_pad", "NOTSET").to_owned();
    let (strides, dilations) = (sizes(call, "strides", kernel.len()), sizes(call, "dilations", kernel.len()));
    if let Some(pads) = resolve_auto_pad(&mode, input, kernel, &strides, &dilations) {
        call.attributes.insert("pads".into(), pads);
    }
    call.attributes.remove("auto_pad");
}

fn spatial(call: &Call<'_>, x: Value, kernel: &[usize]) -> Result<Vec<usize>, String> {
    let shape = call.shape(x);
    if kernel.is_empty() || shape.len() != kernel.len() + 2 {
        return Err(format!("a kernel of {} axes for an input of {}", kernel.len(), shape.len()));
    }
    Ok(shape[2..].to_vec())
}

/// Different padding before and after is taken out: not every provider's convolution has it.
fn conv(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let (x, weight) = (call.float(0)?, call.float(1)?);
    let kernel = call.shape(weight).get(2..).unwrap_or_default().to_vec();
    let input = spatial(call, x, &kernel)?;
    // The weight's gradient needs every window whole.
    let windows = kernel.iter().try_fold(call.graph.ty(x).elements(), |n, size| n.checked_mul(*size));
    if windows.is_none_or(|elements| elements > 1 << 50) {
        return Err(format!("a kernel of {kernel:?} over {input:?} is too large"));
    }
    resolve(call, &input, &kernel);
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

fn conv_transpose(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let (x, weight) = (call.float(0)?, call.float(1)?);
    let kernel = call.shape(weight).get(2..).unwrap_or_default().to_vec();
    spatial(call, x, &kernel)?;
    if !matches!(call.attributes.text("auto_pad", "NOTSET"), "NOTSET" | "VALID") {
        return Err("auto_pad of a transposed convolution is not supported: give pads".into());
    }
    call.attributes.remove("auto_pad");
    call.unchanged()
}

/// Each tap of an average pool is a slice of its own.
const MOST_TAPS: usize = 1024;

fn kernel(call: &Call<'_>) -> Vec<usize> {
    call.attributes.ints("kernel_shape", &[]).into_iter().map(|size| size.clamp(0, 1 << 24) as usize).collect()
}

fn max_pool(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    if call.outputs > 1 {
        return Err("the indices of a max pool are not supported".into());
    }
    let (x, kernel) = (call.float(0)?, kernel(call));
    let input = spatial(call, x, &kernel)?;
    resolve(call, &input, &kernel);
    call.attributes.remove("storage_order");
    call.unchanged()
}

/// The mean over what each window covers, with or without the padding.
fn average_pool(call: &mut Call<'_>) -> Result<Vec<Value>, String> {
    let (x, kernel) = (call.float(0)?, kernel(call));
    let input = spatial(call, x, &kernel)?;
    resolve(call, &input, &kernel);
    let counts_padding = call.attributes.int("count_include_pad", 0) != 0;
    let geometry = Geometry::of(&call.attributes, &kernel)?;
    let output = geometry.output(&input)?;
    if geometry.taps() > MOST_TAPS
        || output.iter().try_fold(1usize, |n, size| n.checked_mul(*size)).is_none_or(|n| n > 1 << 24)
    {
        return Err(format!("a window of {kernel:?} over {input:?} is too large"));
    }
    if geometry.has_empty_windows() {
        return Err("padding as wide as the window".into());
    }
    let padded = geometry.pad(call.graph, x, 2, 0.0);
    let slices = geometry.unpadded().slices(call.graph, padded, 2, &output);
    let sum = slices.into_iter().reduce(|sum, slice| call.graph.add(sum, slice)).expect("a kernel has taps");
    // Elements of the input, or of the padded input, under each window.
    let counts = geometry.counts(&input, &output, counts_padding);
    let counts = call.graph.f32(output, counts);
    Ok(vec![call.graph.div(sum, counts)])
}
