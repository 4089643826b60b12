//! The order in which a region reads and writes arrays.

/// How an array is walked: along the lanes, and along what is fixed for a tile.
#[derive(Debug, Clone)]
pub(super) struct Walk {
    pub(super) offset: usize,
    /// Sizes and strides, joined where they can be.
    pub(super) lanes: Vec<(usize, usize)>,
    pub(super) fixed: Vec<(usize, usize)>,
}

impl Walk {
    pub(super) fn new(sizes: &[usize], offset: usize, strides: &[usize], is_lane: impl Fn(usize) -> bool) -> Self {
        let (mut lanes, mut fixed): (Vec<(usize, usize)>, Vec<_>) = (Vec::new(), Vec::new());
        for (axis, (size, stride)) in sizes.iter().zip(strides).enumerate() {
            let list = if is_lane(axis) { &mut lanes } else { &mut fixed };
            match list.last_mut() {
                Some((outer, step)) if *step == size * stride => (*outer, *step) = (*outer * size, *stride),
                _ => list.push((*size, *stride)),
            }
        }
        Self { offset, lanes, fixed }
    }

    /// Where element `number` of an axis list lies.
    pub(super) fn at(axes: &[(usize, usize)], mut number: usize) -> usize {
        let mut at = 0;
        for (size, stride) in axes.iter().rev() {
            at += number % size * stride;
            number /= size;
        }
        at
    }

    /// Runs of neighbours in a tile: the first lane, the place in the array, the stride and the number of each.
    pub(super) fn runs(
        &self,
        fixed: usize,
        first: usize,
        count: usize,
        mut each: impl FnMut(usize, usize, usize, usize),
    ) {
        let base = self.offset + Self::at(&self.fixed, fixed);
        let (size, stride) = self.lanes.last().copied().unwrap_or((1, 0));
        let mut done = 0;
        while done < count {
            let length = (size - (first + done) % size).min(count - done);
            each(done, base + Self::at(&self.lanes, first + done), stride, length);
            done += length;
        }
    }
}
