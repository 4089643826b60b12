//! The gradient of max pooling.

use super::operator::{Attributes, Input, Kernel, Workers};

/// How windows lie along each axis.
pub(super) struct MaxPoolGradient {
    window: Vec<Axis>,
}

impl MaxPoolGradient {
    pub(super) fn new(attributes: &Attributes) -> Self {
        let sizes = |name| attributes.ints(name, &[]).into_iter().map(|size| size.max(0) as usize);
        let steps = sizes("strides").zip(sizes("dilations")).zip(sizes("pads"));
        let window = sizes("kernel_shape")
            .zip(steps)
            .map(|(kernel, ((stride, dilation), before))| Axis { kernel, stride, dilation, before })
            .collect();
        Self { window }
    }
}

impl Kernel for MaxPoolGradient {
    /// Each window's gradient goes to its first element that equals its greatest.
    fn compute(&self, inputs: &[Input<'_>], outputs: &mut [&mut [f32]], workers: &Workers<'_>) -> ort::Result<()> {
        let [dy, x, y] = std::array::from_fn(|i| inputs[i].values);
        let (axes, shape) = (self.window.len(), inputs[1].shape);
        if !(1..=3).contains(&axes) || shape.len() != axes + 2 || x.is_empty() {
            return Err(ort::Error::new(format!("windows of {axes} axes over {shape:?}")));
        }
        let (from, to) = (&inputs[1].shape[2..], &inputs[2].shape[2..]);
        let (plane, windows) = (from.iter().product::<usize>(), to.iter().product::<usize>());
        // Three axes in all, the missing ones of one element.
        let missing = 3 - from.len();
        let three =
            |sizes: &[usize]| -> [usize; 3] { std::array::from_fn(|i| i.checked_sub(missing).map_or(1, |i| sizes[i])) };
        let (sizes, counts) = (three(from), three(to));
        let along = std::array::from_fn(|i| i.checked_sub(missing).map_or_else(Axis::default, |i| self.window[i]));
        let pieces = outputs[0].chunks_exact_mut(plane).zip(x.chunks_exact(plane));
        let pieces = pieces.zip(dy.chunks_exact(windows).zip(y.chunks_exact(windows)));
        workers.each(pieces.collect(), |((dx, x), (dy, y)): Plane<'_>| {
            dx.fill(0.0);
            let mut given = dy.iter().zip(y);
            for a in 0..counts[0] {
                for b in 0..counts[1] {
                    for c in 0..counts[2] {
                        let Some((dy, y)) = given.next() else { return };
                        if let Some(at) = first(x, *y, [a, b, c], sizes, &along) {
                            dx[at] += dy;
                        }
                    }
                }
            }
        })
    }
}

/// One channel of one example: dx and x, then dy and y.
type Plane<'a> = ((&'a mut [f32], &'a [f32]), (&'a [f32], &'a [f32]));

/// How windows lie along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Axis {
    kernel: usize,
    stride: usize,
    dilation: usize,
    before: usize,
}

impl Default for Axis {
    fn default() -> Self {
        Self { kernel: 1, stride: 1, dilation: 1, before: 0 }
    }
}

impl Axis {
    /// Where the taps of a window lie, but for those in the padding.
    #[inline(always)]
    fn taps(self, window: usize, size: usize) -> impl Iterator<Item = usize> {
        let start = window * self.stride;
        let at = (0..self.kernel).map(move |tap| (start + tap * self.dilation).wrapping_sub(self.before));
        at.filter(move |at| *at < size)
    }
}

#[inline(always)]
fn first(x: &[f32], y: f32, window: [usize; 3], sizes: [usize; 3], along: &[Axis; 3]) -> Option<usize> {
    for a in along[0].taps(window[0], sizes[0]) {
        for b in along[1].taps(window[1], sizes[1]) {
            for c in along[2].taps(window[2], sizes[2]) {
                let at = (a * sizes[1] + b) * sizes[2] + c;
                if x[at] == y {
                    return Some(at);
                }
            }
        }
    }
    None
}
