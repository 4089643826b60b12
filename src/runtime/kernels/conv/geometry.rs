//! How a kernel slides over the spatial axes.

use std::borrow::Cow;
use std::ops::Range;

use crate::runtime::kernels::operator::{Attributes, Workers};

/// A convolution's kernel, strides, dilations, pads and groups.
pub(in crate::runtime::kernels) struct Geometry {
    pub(in crate::runtime::kernels) kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    /// Before each axis, and after it.
    pads: [Vec<usize>; 2],
    pub(in crate::runtime::kernels) groups: usize,
}

/// One tap of the kernel over one line of the last axis: these outputs, and the first one's input in a plane by [`Phases`],
/// where the others' inputs follow.
pub(super) struct Line {
    pub(super) tap: usize,
    pub(super) outputs: Range<usize>,
    pub(super) input: usize,
}

impl Geometry {
    pub(in crate::runtime::kernels) fn new(attributes: &Attributes) -> Self {
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
    pub(in crate::runtime::kernels) fn output(&self, input: &[usize]) -> Vec<usize> {
        let size = |i: usize| {
            let span = (self.kernel[i] - 1) * self.dilations[i] + 1;
            (input[i] + self.pads[0][i] + self.pads[1][i] - span) / self.strides[i] + 1
        };
        (0..input.len()).map(size).collect()
    }

    /// The element of an input of these sizes that lies under a tap of the window at `place`, along as many axes as
    /// `place` has; `None`: padding.
    pub(in crate::runtime::kernels) fn under(&self, place: &[usize], tap: &[usize], input: &[usize]) -> Option<usize> {
        (0..place.len()).try_fold(0, |row, axis| {
            let padded = place[axis] * self.strides[axis] + tap[axis] * self.dilations[axis];
            let index = padded.checked_sub(self.pads[0][axis]).filter(|index| *index < input[axis])?;
            Some(row * input[axis] + index)
        })
    }

    /// All lines that a channel's input of these spatial sizes has in common with its output, by tap, then by output.
    pub(super) fn lines(&self, input: &[usize], output: &[usize]) -> Vec<Line> {
        let last = self.kernel.len() - 1;
        let outer: usize = output[..last].iter().product();
        let phases = Phases::new(self, input);
        let (pad, stride) = (self.pads[0][last], self.strides[last]);
        let mut lines: Vec<Line> = Vec::with_capacity(self.taps() * outer);
        for tap in 0..self.taps() {
            let at = unravel(tap, &self.kernel);
            // The first output whose input is not padding, and the one behind the last.
            let offset = at[last] * self.dilations[last];
            let first = pad.saturating_sub(offset).div_ceil(stride);
            let room = (input[last] + pad).saturating_sub(offset);
            let end = room.div_ceil(stride).min(output[last]);
            if first >= end {
                continue;
            }
            let column = first * stride + offset - pad;
            for line in 0..outer {
                let place = unravel(line, &output[..last]);
                let Some(row) = self.under(&place, &at, input) else { continue };
                let start = line * output[last];
                let (outputs, input) = (start + first..start + end, phases.place(row, column));
                match lines.last_mut() {
                    // Rows that follow each other on both sides are one line.
                    Some(before) if before.continues_at(tap, outputs.start, input) => before.outputs.end = outputs.end,
                    _ => lines.push(Line { tap, outputs, input }),
                }
            }
        }
        lines
    }

    pub(in crate::runtime::kernels) fn taps(&self) -> usize {
        self.kernel.iter().product()
    }
}

impl Line {
    fn continues_at(&self, tap: usize, output: usize, input: usize) -> bool {
        self.tap == tap && self.outputs.end == output && self.input + self.outputs.len() == input
    }
}

/// A channel's input by phases of the last axis' stride: of each row the elements `phase`, `phase + stride`, .. together,
/// so that those under the outputs of a line follow each other.
pub(super) struct Phases {
    rows: usize,
    row: usize,
    stride: usize,
}

impl Phases {
    pub(super) fn new(geometry: &Geometry, input: &[usize]) -> Self {
        let last = input.len() - 1;
        Self { rows: input[..last].iter().product(), row: input[last], stride: geometry.strides[last] }
    }

    /// Elements of a phase; the last ones may lie beyond the row.
    fn phase(&self) -> usize {
        self.row.div_ceil(self.stride)
    }

    /// Elements of a plane.
    pub(super) fn whole(&self) -> usize {
        self.rows * self.row
    }

    /// Elements of a plane by phases.
    pub(super) fn len(&self) -> usize {
        self.rows * self.stride * self.phase()
    }

    fn place(&self, row: usize, column: usize) -> usize {
        (row * self.stride + column % self.stride) * self.phase() + column / self.stride
    }

    fn are_rows(&self) -> bool {
        self.stride == 1 || self.whole() == 0
    }

    /// Planes that follow each other, by phases.
    pub(super) fn split<'a>(&self, planes: &'a [f32], workers: &Workers<'_>) -> ort::Result<Cow<'a, [f32]>> {
        if self.are_rows() {
            return Ok(Cow::Borrowed(planes));
        }
        let mut split = vec![0.0; planes.len() / self.whole() * self.len()];
        let pieces = split.chunks_mut(self.len()).zip(planes.chunks(self.whole())).collect();
        workers.each(pieces, |(split, plane): (&mut [f32], &[f32])| {
            let rows = split.chunks_exact_mut(self.stride * self.phase()).zip(plane.chunks_exact(self.row));
            for (split, row) in rows {
                for (first, phase) in split.chunks_exact_mut(self.phase()).enumerate() {
                    let elements = row.iter().skip(first).step_by(self.stride);
                    phase.iter_mut().zip(elements).for_each(|(to, from)| *to = *from);
                }
            }
        })?;
        Ok(Cow::Owned(split))
    }

    /// Lets planes that follow each other be filled by phases.
    pub(super) fn join(&self, planes: &mut [f32], fill: impl FnOnce(&mut [f32])) {
        if self.are_rows() {
            return fill(planes);
        }
        let mut split = vec![0.0; planes.len() / self.whole() * self.len()];
        fill(&mut split);
        let rows = split.chunks_exact(self.stride * self.phase()).zip(planes.chunks_exact_mut(self.row));
        for (split, row) in rows {
            for (first, phase) in split.chunks_exact(self.phase()).enumerate() {
                row.iter_mut().skip(first).step_by(self.stride).zip(phase).for_each(|(to, from)| *to = *from);
            }
        }
    }
}

/// Sizes that an attribute lists.
pub(in crate::runtime::kernels) fn sizes_of(attributes: &Attributes, name: &str) -> Vec<usize> {
    attributes.ints(name, &[]).iter().map(|size| *size as usize).collect()
}

/// The index along each axis of element `number`.
pub(in crate::runtime::kernels) fn unravel(mut number: usize, sizes: &[usize]) -> Vec<usize> {
    let mut index = vec![0; sizes.len()];
    for axis in (0..sizes.len()).rev() {
        index[axis] = number % sizes[axis];
        number /= sizes[axis];
    }
    index
}
