//! Max and average pooling.

use super::super::autodiff::Backward;
use super::super::core::{Graph, Node, Value};
use super::super::error::GraphError;
use super::super::tensor::TensorType;
use super::call::Call;
use super::geometry::{Geometry, resolve_auto_pad, spatial_sizes};
use super::{Family, fused, op, ty};

pub(super) static FAMILY: Family = Family {
    operators: &[
        op("MaxPool", max_pool).gradient(max_pool_gradient).no_bf16(),
        fused("MaxPoolGradient", gradient_type).expand(expand_gradient),
    ],
    imports: &[("AveragePool", average_pool), ("MaxPool", import_max_pool)],
};

fn geometry(node: &Node) -> Result<Geometry, GraphError> {
    let kernel = node.ints("kernel_shape", &[]);
    let kernel: Option<Vec<_>> = kernel.into_iter().map(|size| usize::try_from(size).ok()).collect();
    let kernel = kernel.filter(|kernel| !kernel.is_empty()).ok_or("kernel_shape must be positive numbers")?;
    Geometry::new(node, &kernel)
}

fn max_pool(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (x, geometry) = (ty(graph, node, 0)?, geometry(node)?);
    if x.rank() != geometry.kernel.len() + 2 {
        return Err(format!("{x} is not [batch, channels, spatial..]").into());
    }
    let output = geometry.output(&x.shape[2..])?;
    Ok(vec![TensorType::new(x.dtype, [&x.shape[..2], &output].concat())])
}

/// Each window's gradient goes to its first greatest element, as in PyTorch.
fn max_pool_gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
    let inputs = [back.dy()?, back.node.input(0), back.node.outputs[0]];
    let attributes = geometry(back.node)?.attributes();
    let dx = back.graph.apply1("MaxPoolGradient", &inputs, attributes);
    back.add(0, dx);
    Ok(())
}

/// Inputs: dy, x, y. Output: dx.
fn gradient_type(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (dy, x, y) = (ty(graph, node, 0)?, ty(graph, node, 1)?, ty(graph, node, 2)?);
    if dy != y || x.rank() != y.rank() || x.rank() < 3 || x.shape[..2] != y.shape[..2] {
        return Err(format!("gradient {dy}, input {x} and output {y} do not fit").into());
    }
    Ok(vec![x])
}

fn expand_gradient(graph: &mut Graph, node: &Node) -> Vec<Value> {
    let [dy, x, y] = std::array::from_fn(|i| node.input(i));
    let geometry = geometry(node).expect("checked by inference");
    let (shape, output) = (graph.shape(x).to_vec(), graph.shape(y)[2..].to_vec());
    let padded = geometry.pad(graph, x, 2, f32::MIN);
    let windows = geometry.unpadded();

    // [.., taps]: where each window's elements equal its greatest, and of those the first.
    let slices = windows.slices(graph, padded, 2, &output);
    let column = [graph.shape(y), &[1]].concat();
    let slices: Vec<_> = slices.into_iter().map(|slice| graph.reshape(slice, &column)).collect();
    let elements = graph.concat(&slices, column.len() - 1);
    let (greatest, dy) = (graph.reshape(y, &column), graph.reshape(dy, &column));
    let hit = graph.equal(elements, greatest);
    let hit = graph.cast(hit, graph.dtype(x));
    let first = first_of_each_row(graph, hit, windows.taps());
    let parts = graph.mul(first, dy);

    let padded = graph.shape(padded).to_vec();
    let dx = overlap_add(graph, &windows, parts, &padded);
    vec![geometry.crop(graph, dx, &shape[2..])]
}

/// Of the ones along the last axis, of length `taps`, only the first.
fn first_of_each_row(graph: &mut Graph, hit: Value, taps: usize) -> Value {
    let earlier: Vec<_> = (0..taps * taps).map(|i| f32::from(u8::from(i / taps < i % taps))).collect();
    let earlier = graph.f32([taps, taps], earlier);
    let earlier = graph.cast(earlier, graph.dtype(hit));
    let before = graph.matmul(hit, earlier);
    let zero = graph.scalar_like(before, 0.0);
    let some_before = graph.greater(before, zero);
    graph.select(some_before, zero, hit)
}

/// Puts `parts` [batch, channels, windows.., taps] where the taps lie, summing where windows overlap.
fn overlap_add(graph: &mut Graph, windows: &Geometry, parts: Value, padded: &[usize]) -> Value {
    let output = graph.shape(parts)[2..padded.len()].to_vec();
    let axes = output.len();
    if windows.strides == windows.kernel && windows.dilations.iter().all(|d| *d == 1) {
        // Windows side by side: taps only have to be woven in.
        let split = [&padded[..2], &output, &windows.kernel].concat();
        let parts = graph.reshape(parts, &split);
        let woven: Vec<_> = [0, 1].into_iter().chain((0..axes).flat_map(|i| [2 + i, 2 + axes + i])).collect();
        let parts = graph.transpose(parts, &woven);
        let covered: Vec<_> = output.iter().zip(&windows.kernel).map(|(n, k)| n * k).collect();
        let joined = graph.reshape(parts, &[&padded[..2], &covered].concat());
        return (0..axes).fold(joined, |x, i| graph.pad(x, 2 + i, 0, padded[2 + i] - covered[i]));
    }
    let taps = graph.split(parts, axes + 2, &vec![1; windows.taps()]);
    let placed = taps.into_iter().zip(windows.positions()).map(|(part, tap)| {
        let part = graph.reshape(part, &[&padded[..2], &output].concat());
        tap.iter().enumerate().fold(part, |x, (i, tap)| {
            let x = graph.spread(x, 2 + i, windows.strides[i]);
            let start = tap * windows.dilations[i];
            let after = padded[2 + i] - start - graph.shape(x)[2 + i];
            graph.pad(x, 2 + i, start, after)
        })
    });
    let placed: Vec<_> = placed.collect();
    placed.into_iter().reduce(|sum, part| graph.add(sum, part)).expect("a kernel has taps")
}

/// Each tap of an average pool is a slice of its own.
const MOST_TAPS: usize = 1024;

fn kernel(call: &Call<'_>) -> Vec<usize> {
    call.attributes.ints("kernel_shape", &[]).into_iter().map(|size| size.clamp(0, 1 << 24) as usize).collect()
}

fn import_max_pool(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    if call.outputs > 1 {
        return Err("the indices of a max pool are not supported".into());
    }
    let (x, kernel) = (call.float(0)?, kernel(call));
    let input = spatial_sizes(call, x, &kernel)?;
    resolve_auto_pad(call, &input, &kernel);
    call.attributes.remove("storage_order");
    call.unchanged()
}

/// The mean over what each window covers, with or without the padding.
fn average_pool(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let (x, kernel) = (call.float(0)?, kernel(call));
    let input = spatial_sizes(call, x, &kernel)?;
    resolve_auto_pad(call, &input, &kernel);
    let counts_padding = call.attributes.int("count_include_pad", 0) != 0;
    let geometry = Geometry::of(&call.attributes, &kernel)?;
    let output = geometry.output(&input)?;
    if geometry.taps() > MOST_TAPS
        || output.iter().try_fold(1usize, |n, size| n.checked_mul(*size)).is_none_or(|n| n > 1 << 24)
    {
        return Err(format!("a window of {kernel:?} over {input:?} is too large").into());
    }
    if geometry.has_empty_windows() {
        return Err("the padding is as wide as the window".into());
    }
    let padded = geometry.pad(call.graph, x, 2, 0.0);
    let slices = geometry.unpadded().slices(call.graph, padded, 2, &output);
    let sum = slices.into_iter().reduce(|sum, slice| call.graph.add(sum, slice)).expect("a kernel has taps");
    // Elements of the input, or of the padded input, under each window.
    let counts = geometry.counts(&input, &output, counts_padding);
    let counts = call.graph.f32(output, counts);
    Ok(vec![call.graph.div(sum, counts)])
}
