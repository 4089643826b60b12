//! Where a value's elements lie, seen from a region's space: all accesses are linear in the space's indices.

/// The number of an element in a value's row-major order: offset + sum of index x stride over the space's axes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Access {
    pub(super) offset: usize,
    pub(super) strides: Vec<usize>,
}

/// An access by the axes of a shape: where it begins on each, and on which axis each axis of the space moves it, and
/// how far.
pub(super) struct ByAxis {
    pub(super) start: Vec<usize>,
    pub(super) moves: Vec<Option<(usize, usize)>>,
}

/// Why an access is not by axes: the axis of the space that crosses axes of the shape could be divided so that its
/// inner part has this size, or not at all.
pub(super) enum Crosses {
    Divide { axis: usize, inner: usize },
    Irregular,
}

/// Row-major strides.
pub(crate) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

impl Access {
    /// By the axes of the value's shape.
    pub(super) fn by_axis(&self, sizes: &[usize], shape: &[usize]) -> Result<ByAxis, Crosses> {
        let own = strides(shape);
        let mut rest = self.offset;
        let start: Vec<_> = own
            .iter()
            .map(|stride| {
                let at = rest / stride;
                rest %= stride;
                at
            })
            .collect();
        let mut moves = Vec::with_capacity(sizes.len());
        for (axis, (size, stride)) in sizes.iter().zip(&self.strides).enumerate() {
            if *stride == 0 || *size == 1 {
                moves.push(None);
                continue;
            }
            // The innermost axis whose steps are not longer; those of one element never move.
            let found =
                (0..shape.len()).rev().find(|j| shape[*j] > 1 && own[*j] <= *stride && *stride < own[*j] * shape[*j]);
            let j = found.ok_or(Crosses::Irregular)?;
            if stride % own[j] != 0 {
                return Err(Crosses::Irregular);
            }
            let room = own[j] * shape[j];
            if (size - 1) * stride >= room {
                let inner = room / stride;
                return Err(match room.is_multiple_of(*stride) && inner > 1 && size.is_multiple_of(inner) {
                    true => Crosses::Divide { axis, inner },
                    false => Crosses::Irregular,
                });
            }
            moves.push(Some((j, stride / own[j])));
        }
        let by_axis = ByAxis { start, moves };
        // An access that begins within an axis may carry into the next.
        let stays = (0..shape.len()).all(|axis| by_axis.end(sizes, axis) < shape[axis]);
        if stays { Ok(by_axis) } else { Err(Crosses::Irregular) }
    }

    /// With the space's axis divided in two, the inner of this size.
    pub(super) fn divided(&self, axis: usize, inner: usize) -> Self {
        let mut strides = self.strides.clone();
        strides.insert(axis, strides[axis] * inner);
        Self { offset: self.offset, strides }
    }
}

impl ByAxis {
    /// The last index on an axis.
    fn end(&self, sizes: &[usize], axis: usize) -> usize {
        let moved = self.moves.iter().zip(sizes).filter_map(|(moved, size)| Some(((*moved)?, size)));
        let own = moved.filter(|((on, _), _)| *on == axis);
        self.start[axis] + own.map(|((_, steps), size)| (size - 1) * steps).sum::<usize>()
    }

    /// The access to a value of strides `own` that is moved as this one is: `to` says which of its axes an axis is, and
    /// how many of its elements a step is; `None`: it does not move.
    pub(super) fn through(&self, own: &[usize], to: impl Fn(usize) -> Option<(usize, usize)>) -> Access {
        let stride = |axis: usize, steps: usize| to(axis).map_or(0, |(target, length)| own[target] * length * steps);
        Access {
            offset: self.start.iter().enumerate().map(|(axis, start)| stride(axis, *start)).sum(),
            strides: self.moves.iter().map(|moved| moved.map_or(0, |(axis, steps)| stride(axis, steps))).collect(),
        }
    }
}
