//! Convolutions with channels last, and their gradients: what CUDA computes, here for tests of its graphs.

use super::conv::{Geometry, sizes_of, unravel};
use super::operator::{Attributes, Input, Kernel, Workers};

/// Which of the three tensors is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Wanted {
    Output,
    Input,
    Weight,
}

pub(super) struct LastConv {
    wanted: Wanted,
    geometry: Geometry,
    /// Spatial sizes of the input whose gradient is computed.
    sizes: Vec<usize>,
}

impl LastConv {
    pub(super) fn new(wanted: Wanted, attributes: &Attributes) -> Self {
        Self { wanted, geometry: Geometry::new(attributes), sizes: sizes_of(attributes, "sizes") }
    }

    /// For each place of the output, each tap and the place of the input under it.
    fn under(&self, input: &[usize], output: &[usize]) -> Vec<(usize, usize, usize)> {
        let (geometry, places) = (&self.geometry, output.iter().product());
        let mut under = Vec::new();
        for place in 0..places {
            let at = unravel(place, output);
            for tap in 0..geometry.taps() {
                let offset = unravel(tap, &geometry.kernel);
                let from = geometry.under(&at, &offset, input);
                under.extend(from.map(|from| (place, tap, from)));
            }
        }
        under
    }
}

fn spatial(shape: &[usize]) -> &[usize] {
    &shape[1..shape.len() - 1]
}

impl Kernel for LastConv {
    fn compute(&self, inputs: &[Input<'_>], outputs: &mut [&mut [f32]], _: &Workers<'_>) -> ort::Result<()> {
        let (a, b) = (inputs[0], inputs[1]);
        let (geometry, taps) = (&self.geometry, self.geometry.taps());
        let batch = a.shape[0];
        // Channels of input and output, and the sizes of both.
        let ends = |shape: &[usize]| shape[shape.len() - 1];
        let [from, to] = match self.wanted {
            Wanted::Output => [ends(a.shape), b.shape[0]],
            Wanted::Input => [ends(b.shape) * geometry.groups, ends(a.shape)],
            Wanted::Weight => [ends(a.shape), ends(b.shape)],
        };
        let (input, output) = match self.wanted {
            Wanted::Output => (spatial(a.shape).to_vec(), geometry.output(spatial(a.shape))),
            Wanted::Input => (self.sizes.clone(), spatial(a.shape).to_vec()),
            Wanted::Weight => (spatial(a.shape).to_vec(), spatial(b.shape).to_vec()),
        };
        let under = self.under(&input, &output);
        let (wide, plane): (usize, usize) = (input.iter().product(), output.iter().product());
        let (own, each) = (from / geometry.groups, to / geometry.groups);
        // Long sums, as those of a weight's gradient over all places, in one order.
        let mut made = vec![0.0f64; outputs[0].len()];
        let product = |a: f32, b: f32| f64::from(a) * f64::from(b);
        for example in 0..batch {
            for (place, tap, under) in &under {
                let (x, y) = ((example * wide + under) * from, (example * plane + place) * to);
                for channel in 0..to {
                    let first = channel / each * own;
                    for i in 0..own {
                        let (x, y, w) = (x + first + i, y + channel, (channel * taps + tap) * own + i);
                        match self.wanted {
                            Wanted::Output => made[y] += product(a.values[x], b.values[w]),
                            Wanted::Input => made[x] += product(a.values[y], b.values[w]),
                            Wanted::Weight => made[w] += product(a.values[x], b.values[y]),
                        }
                    }
                }
            }
        }
        outputs[0].iter_mut().zip(made).for_each(|(to, sum)| *to = sum as f32);
        Ok(())
    }
}
