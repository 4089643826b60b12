//! Gradients of convolutions over any number of spatial axes, with respect to input and weight.

use super::operator::{Attributes, Input, Kernel, Workers};

/// How the kernel slides.
pub(super) struct Geometry {
    pub(super) kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    /// Before each axis, and after it.
    pads: [Vec<usize>; 2],
    pub(super) groups: usize,
}

/// One tap of the kernel over one line of the last axis: outputs `first..end` of the line that begins at `output`, and
/// the first one's input, from where the others are a stride apart.
struct Line {
    tap: usize,
    output: usize,
    first: usize,
    end: usize,
    input: usize,
}

impl Geometry {
    pub(super) fn new(attributes: &Attributes) -> Self {
        let kernel = sizes_of(attributes, "kernel_shape");
        let axes = kernel.len();
        let or = |name, default: usize, count: usize| {
            let sizes = sizes_of(attributes, name);
            if sizes.is_empty() { vec![default; count] } else { sizes }
        };
        let (strides, dilations, mut pads) =
            (or("strides", 1, axes), or("dilations", 1, axes), or("pads", 0, 2 * axes));
        let after = pads.split_off(axes);
        let groups = attributes.int("group", 1).max(1) as usize;
        Self { kernel, strides, dilations, pads: [pads, after], groups }
    }

    /// Spatial sizes of the output.
    pub(super) fn output(&self, input: &[usize]) -> Vec<usize> {
        let size = |i: usize| {
            let span = (self.kernel[i] - 1) * self.dilations[i] + 1;
            (input[i] + self.pads[0][i] + self.pads[1][i] - span) / self.strides[i] + 1
        };
        (0..input.len()).map(size).collect()
    }

    /// The element of an input of these sizes that lies under a tap of the window at `place`, along as many axes as
    /// `place` has; `None`: padding.
    pub(super) fn under(&self, place: &[usize], tap: &[usize], input: &[usize]) -> Option<usize> {
        (0..place.len()).try_fold(0, |row, axis| {
            let padded = place[axis] * self.strides[axis] + tap[axis] * self.dilations[axis];
            let index = padded.checked_sub(self.pads[0][axis]).filter(|index| *index < input[axis])?;
            Some(row * input[axis] + index)
        })
    }

    /// All lines that a channel's input of these spatial sizes has in common with its output.
    fn lines(&self, input: &[usize], output: &[usize]) -> Vec<Line> {
        let last = self.kernel.len() - 1;
        let outer: usize = output[..last].iter().product();
        let pad = self.pads[0][last];
        let mut lines = Vec::with_capacity(self.taps() * outer);
        for tap in 0..self.taps() {
            let at = unravel(tap, &self.kernel);
            // The first output whose input is not padding, and the one behind the last.
            let offset = at[last] * self.dilations[last];
            let first = pad.saturating_sub(offset).div_ceil(self.strides[last]);
            let room = (input[last] + pad).saturating_sub(offset);
            let end = room.div_ceil(self.strides[last]).min(output[last]);
            if first >= end {
                continue;
            }
            for line in 0..outer {
                let place = unravel(line, &output[..last]);
                let Some(row) = self.under(&place, &at, input) else { continue };
                let input = row * input[last] + first * self.strides[last] + offset - pad;
                lines.push(Line { tap, output: line * output[last], first, end, input });
            }
        }
        lines
    }

    fn stride(&self) -> usize {
        self.strides[self.kernel.len() - 1]
    }

    pub(super) fn taps(&self) -> usize {
        self.kernel.iter().product()
    }
}

/// Sizes that an attribute lists.
pub(super) fn sizes_of(attributes: &Attributes, name: &str) -> Vec<usize> {
    attributes.ints(name, &[]).iter().map(|size| *size as usize).collect()
}

/// The index along each axis of element `number`.
pub(super) fn unravel(mut number: usize, sizes: &[usize]) -> Vec<usize> {
    let mut index = vec![0; sizes.len()];
    for axis in (0..sizes.len()).rev() {
        index[axis] = number % sizes[axis];
        number /= sizes[axis];
    }
    index
}

/// x += w y, x a stride apart.
#[multiversion::multiversion(targets = "simd")]
fn add_back(x: &mut [f32], y: &[f32], stride: usize, w: f32) {
    if stride == 1 {
        x.iter_mut().zip(y).for_each(|(x, y)| *x += w * y);
    } else {
        x.iter_mut().step_by(stride).zip(y).for_each(|(x, y)| *x += w * y);
    }
}

/// The sum of products of y and x, x a stride apart.
#[multiversion::multiversion(targets = "simd")]
fn product(y: &[f32], x: &[f32], stride: usize) -> f32 {
    const LANES: usize = 16;
    if stride != 1 {
        return y.iter().zip(x.iter().step_by(stride)).map(|(y, x)| y * x).sum();
    }
    let (blocks, rest) = y.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for (y, x) in blocks.iter().zip(x.as_chunks::<LANES>().0) {
        for lane in 0..LANES {
            sums[lane] += y[lane] * x[lane];
        }
    }
    let tail = blocks.len() * LANES;
    sums.iter().sum::<f32>() + rest.iter().zip(&x[tail..]).map(|(y, x)| y * x).sum::<f32>()
}

/// dx from dy and the weight.
pub(super) struct InputGradient {
    geometry: Geometry,
    sizes: Vec<usize>,
}

/// dW from x and dy.
pub(super) struct WeightGradient(Geometry);

impl InputGradient {
    pub(super) fn new(attributes: &Attributes) -> Self {
        Self { geometry: Geometry::new(attributes), sizes: sizes_of(attributes, "sizes") }
    }
}

impl WeightGradient {
    pub(super) fn new(attributes: &Attributes) -> Self {
        Self(Geometry::new(attributes))
    }
}

impl Kernel for InputGradient {
    fn compute(&self, inputs: &[Input<'_>], outputs: &mut [&mut [f32]], workers: &Workers<'_>) -> ort::Result<()> {
        let (dy, w, geometry) = (inputs[0], inputs[1], &self.geometry);
        let (channels, own) = (w.shape[0], w.shape[1]);
        let output = &dy.shape[2..];
        let (plane, wide) = (output.iter().product::<usize>(), self.sizes.iter().product::<usize>());
        let lines = geometry.lines(&self.sizes, output);
        let taps = geometry.taps();
        let (from, each) = (own * geometry.groups, channels / geometry.groups);
        if wide == 0 {
            return Ok(());
        }
        let pieces = outputs[0].chunks_mut(wide).enumerate().collect();
        workers.each(pieces, |(number, dx): (usize, &mut [f32])| {
            let (example, i) = (number / from, number % from);
            dx.fill(0.0);
            for channel in i / own * each..(i / own + 1) * each {
                let dy = &dy.values[(example * channels + channel) * plane..][..plane];
                let w = &w.values[(channel * own + i % own) * taps..][..taps];
                for line in &lines {
                    let dy = &dy[line.output + line.first..line.output + line.end];
                    add_back(&mut dx[line.input..], dy, geometry.stride(), w[line.tap]);
                }
            }
        })
    }
}

impl Kernel for WeightGradient {
    fn compute(&self, inputs: &[Input<'_>], outputs: &mut [&mut [f32]], workers: &Workers<'_>) -> ort::Result<()> {
        let (x, dy, geometry) = (inputs[0], inputs[1], &self.0);
        let (channels, own) = (dy.shape[1], x.shape[1] / geometry.groups);
        let (input, output) = (&x.shape[2..], &dy.shape[2..]);
        let (plane, wide) = (output.iter().product::<usize>(), input.iter().product::<usize>());
        let lines = geometry.lines(input, output);
        let taps = geometry.taps();
        let pieces = outputs[0].chunks_mut(own * taps).enumerate().collect();
        workers.each(pieces, |(channel, dw): (usize, &mut [f32])| {
            let group = channel / (channels / geometry.groups);
            for (i, dw) in dw.chunks_mut(taps).enumerate() {
                let mut sums = vec![0.0f64; taps];
                for example in 0..dy.shape[0] {
                    let dy = &dy.values[(example * channels + channel) * plane..][..plane];
                    let x = &x.values[(example * x.shape[1] + group * own + i) * wide..][..wide];
                    for line in &lines {
                        let dy = &dy[line.output + line.first..line.output + line.end];
                        sums[line.tap] += f64::from(product(dy, &x[line.input..], geometry.stride()));
                    }
                }
                dw.iter_mut().zip(sums).for_each(|(dw, sum)| *dw = sum as f32);
            }
        })
    }
}
