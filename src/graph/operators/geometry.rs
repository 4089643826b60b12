//! Sliding windows over spatial axes, as convolutions and pools have them.

use super::super::attributes::{Attribute, Attributes};
use super::super::build::{attributes, ints};
use super::super::core::{Graph, Node, Value};
use super::super::error::GraphError;
use super::super::tensor::Constant;
use super::call::Call;

/// How a kernel slides over the spatial axes of x [batch, channels, spatial..]; one entry per spatial axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Geometry {
    pub(super) kernel: Vec<usize>,
    pub(super) strides: Vec<usize>,
    pub(super) dilations: Vec<usize>,
    /// Elements added before and after each axis.
    pub(super) pads: Vec<(usize, usize)>,
    /// Count a window that begins inside but ends beyond the padded input, too.
    ceil: bool,
}

fn sizes(attributes: &Attributes, name: &str, default: usize, axes: usize) -> Result<Vec<usize>, GraphError> {
    let values = attributes.ints(name, &vec![default as i64; axes]);
    let sizes: Result<Vec<_>, _> = values.iter().map(|value| usize::try_from(*value)).collect();
    // A size beyond this could only overflow.
    sizes
        .ok()
        .filter(|sizes| sizes.len() == axes && sizes.iter().all(|size| *size <= 1 << 24))
        .ok_or_else(|| format!("{name} {values:?} does not fit {axes} spatial axes").into())
}

impl Geometry {
    /// Of a node whose kernel has this shape.
    pub(super) fn new(node: &Node, kernel: &[usize]) -> Result<Self, GraphError> {
        Self::of(&node.attributes, kernel)
    }

    /// Of attributes and a kernel of this shape.
    pub(super) fn of(given: &Attributes, kernel: &[usize]) -> Result<Self, GraphError> {
        let axes = kernel.len();
        let (strides, dilations) = (sizes(given, "strides", 1, axes)?, sizes(given, "dilations", 1, axes)?);
        let pads = given.ints("pads", &vec![0; 2 * axes]);
        let pads = pads.iter().map(|pad| usize::try_from(*pad).ok().filter(|pad| *pad <= 1 << 24));
        let pads = pads.collect::<Option<Vec<_>>>().filter(|pads| pads.len() == 2 * axes);
        let pads = pads.ok_or("pads must be two numbers of at least 0 for each spatial axis")?;
        if strides.contains(&0) || dilations.contains(&0) || kernel.contains(&0) {
            return Err("kernel, strides and dilations must be at least 1".into());
        }
        if !matches!(given.text("auto_pad", "NOTSET"), "NOTSET" | "VALID") {
            return Err("auto_pad must be resolved to pads".into());
        }
        let pads = (0..axes).map(|i| (pads[i], pads[axes + i])).collect();
        Ok(Self { kernel: kernel.to_vec(), strides, dilations, pads, ceil: given.int("ceil_mode", 0) != 0 })
    }

    /// Rows that a kernel spans along axis `i`.
    pub(super) fn span(&self, i: usize) -> usize {
        (self.kernel[i] - 1) * self.dilations[i] + 1
    }

    /// Spatial sizes of the output.
    pub(super) fn output(&self, input: &[usize]) -> Result<Vec<usize>, GraphError> {
        (0..self.kernel.len())
            .map(|i| {
                let (before, after) = self.pads[i];
                let slack = (input[i] + before + after).checked_sub(self.span(i));
                let slack = slack.ok_or_else(|| {
                    format!("a kernel of {} rows is longer than its input of {} rows", self.span(i), input[i])
                })?;
                let floor = slack / self.strides[i] + 1;
                let one_more = self.ceil && slack % self.strides[i] != 0 && floor * self.strides[i] < input[i] + before;
                Ok(floor + usize::from(one_more))
            })
            .collect()
    }

    /// Spatial sizes that the transposed operator gives, without output padding.
    pub(super) fn transposed_output(&self, input: &[usize]) -> Result<Vec<usize>, GraphError> {
        (0..self.kernel.len())
            .map(|i| {
                let (before, after) = self.pads[i];
                let size = (input[i].max(1) - 1) * self.strides[i] + self.span(i);
                size.checked_sub(before + after).ok_or_else(|| "the pads are larger than the output".into())
            })
            .collect()
    }

    pub(super) fn taps(&self) -> usize {
        self.kernel.iter().fold(1, |taps, size| taps.saturating_mul(*size))
    }

    /// Whether a window may lie in the padding alone.
    pub(super) fn has_empty_windows(&self) -> bool {
        self.pads.iter().enumerate().any(|(i, (before, after))| *before.max(after) >= self.span(i))
    }

    /// Whether the kernel, without gaps, extends and moves along the last axis only.
    pub(super) fn is_plain(&self) -> bool {
        let leading = self.kernel.len() - 1;
        let steps = self.kernel[..leading].iter().chain(&self.strides[..leading]);
        self.dilations.iter().chain(steps).all(|size| *size == 1)
    }

    /// Whether padding differs before and after, on any axis.
    pub(super) fn is_uneven(&self) -> bool {
        self.pads.iter().any(|(before, after)| before != after)
    }

    /// As node attributes.
    pub(super) fn attributes(&self) -> Attributes {
        let (before, after): (Vec<_>, Vec<_>) = self.pads.iter().copied().unzip();
        let mut attributes = attributes([
            ("kernel_shape", ints(self.kernel.iter().copied())),
            ("strides", ints(self.strides.iter().copied())),
            ("dilations", ints(self.dilations.iter().copied())),
            ("pads", ints(before.into_iter().chain(after))),
        ]);
        if self.ceil {
            attributes.insert("ceil_mode".into(), Attribute::Int(1));
        }
        attributes
    }

    /// The same windows without padding.
    pub(super) fn unpadded(&self) -> Self {
        Self { pads: vec![(0, 0); self.kernel.len()], ceil: false, ..self.clone() }
    }

    /// x with its pads filled with `value` (and beyond them what the last windows reach), spatial axes from `first`.
    pub(super) fn pad(&self, graph: &mut Graph, x: Value, first: usize, value: f32) -> Value {
        let shape = graph.shape(x).to_vec();
        let rank = shape.len();
        let mut pads = vec![0; 2 * rank];
        let output = self.output(&shape[first..first + self.kernel.len()]).expect("checked by inference");
        for (i, (before, after)) in self.pads.iter().enumerate() {
            let reached = (output[i] - 1) * self.strides[i] + self.span(i);
            let short = reached.saturating_sub(shape[first + i] + before);
            (pads[first + i], pads[rank + first + i]) = (*before as i64, (*after).max(short) as i64);
        }
        if pads.iter().all(|pad| *pad == 0) {
            return x;
        }
        let pads = graph.i64s(&pads);
        let fill = Constant::filled(graph.dtype(x), Vec::new(), f64::from(value));
        let fill = graph.constant(fill);
        graph.apply1("Pad", &[x, pads, fill], Attributes::new())
    }

    /// Takes the pads off x, whose spatial axes, from the third on, then have these sizes.
    pub(super) fn crop(&self, graph: &mut Graph, x: Value, sizes: &[usize]) -> Value {
        let kept = self.pads.iter().zip(sizes).map(|((before, _), size)| (*before as i64, (before + size) as i64));
        let (starts, ends): (Vec<_>, Vec<_>) = kept.unzip();
        let axes: Vec<_> = (2..2 + sizes.len() as i64).collect();
        let inputs = [starts, ends, axes].map(|list| graph.i64s(&list));
        graph.apply1("Slice", &[x, inputs[0], inputs[1], inputs[2]], Attributes::new())
    }

    /// For each tap of the kernel, in row-major order, what every window has under it: x, padded, spatial axes from
    /// `first`, becomes one value with spatial sizes `output` per tap.
    pub(super) fn slices(&self, graph: &mut Graph, x: Value, first: usize, output: &[usize]) -> Vec<Value> {
        self.positions()
            .into_iter()
            .map(|tap| {
                tap.iter().enumerate().fold(x, |x, (i, tap)| {
                    let start = tap * self.dilations[i];
                    let end = start + (output[i] - 1) * self.strides[i] + 1;
                    graph.strided_slice(x, first + i, start, end, self.strides[i])
                })
            })
            .collect()
    }

    /// How many elements of an input of these spatial sizes lie under each window; with `padding`, its pads count.
    pub(super) fn counts(&self, input: &[usize], output: &[usize], padding: bool) -> Vec<f32> {
        let along = |i: usize, window: usize| {
            let (before, after) = self.pads[i];
            let start = window * self.strides[i];
            let taps = (0..self.kernel[i]).map(|tap| start + tap * self.dilations[i]);
            let (low, high) = if padding { (0, before + input[i] + after) } else { (before, before + input[i]) };
            taps.filter(|at| (low..high).contains(at)).count()
        };
        let axes = (0..input.len()).map(|i| (0..output[i]).map(|window| along(i, window)).collect::<Vec<_>>());
        let products = axes.fold(vec![1], |all, own| all.iter().flat_map(|a| own.iter().map(move |b| a * b)).collect());
        products.into_iter().map(|count| count as f32).collect()
    }

    /// The taps, each as its index along every axis.
    pub(super) fn positions(&self) -> Vec<Vec<usize>> {
        self.kernel.iter().fold(vec![Vec::new()], |taps, size| {
            let longer = |tap: &Vec<usize>, i: usize| tap.iter().copied().chain([i]).collect();
            taps.iter().flat_map(|tap| (0..*size).map(move |i| longer(tap, i))).collect()
        })
    }
}

fn at_least_one(call: &Call<'_>, name: &str, axes: usize) -> Vec<usize> {
    let values = call.attributes.ints(name, &vec![1; axes]);
    let mut sizes: Vec<_> = values.into_iter().map(|value| value.clamp(1, 1 << 24) as usize).collect();
    sizes.resize(axes, 1);
    sizes
}

/// Writes `auto_pad` as `pads` in the node's attributes.
pub(super) fn resolve_auto_pad(call: &mut Call<'_>, input: &[usize], kernel: &[usize]) {
    let mode = call.attributes.text("auto_pad", "NOTSET").to_owned();
    let (strides, dilations) =
        (at_least_one(call, "strides", kernel.len()), at_least_one(call, "dilations", kernel.len()));
    if let Some(pads) = same_pads(&mode, input, kernel, &strides, &dilations) {
        call.attributes.insert("pads".into(), pads);
    }
    call.attributes.remove("auto_pad");
}

/// Spatial sizes of x for a kernel of these.
pub(super) fn spatial_sizes(call: &Call<'_>, x: Value, kernel: &[usize]) -> Result<Vec<usize>, GraphError> {
    let shape = call.shape(x);
    if kernel.is_empty() || shape.len() != kernel.len() + 2 {
        return Err(format!("a kernel of {} axes does not fit an input of {}", kernel.len(), shape.len()).into());
    }
    Ok(shape[2..].to_vec())
}

/// `pads` for a user's node that leaves them to `auto_pad`, or as they are given.
fn same_pads(
    mode: &str,
    input: &[usize],
    kernel: &[usize],
    strides: &[usize],
    dilations: &[usize],
) -> Option<Attribute> {
    if !mode.starts_with("SAME") {
        return None;
    }
    let axes = kernel.len();
    let mut pads = vec![0; 2 * axes];
    for i in 0..axes {
        let span = (kernel[i] - 1) * dilations[i] + 1;
        let total = ((input[i].div_ceil(strides[i]) - 1) * strides[i] + span).saturating_sub(input[i]);
        let small = total / 2;
        let (before, after) = if mode == "SAME_LOWER" { (total - small, small) } else { (small, total - small) };
        (pads[i], pads[axes + i]) = (before, after);
    }
    Some(ints(pads))
}
