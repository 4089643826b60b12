//! Convolutions by products of matrices, a tile of the output at a time: the windows of a tile, as columns of a matrix with
//! a row for each tap of each channel (im2col), stay in the processor's cache.

use std::ops::Range;

use super::{Plan, Workers};
use crate::runtime::kernels::product::{Matrix, multiply};

/// Positions of a tile at most.
const TILE: usize = 520;
/// Rows of the matrix of windows: many enough for products, and with [`TILE`] half of a usual second-level cache.
const ROWS: usize = 256;
/// Output channels of a piece of work.
const CHANNELS: usize = 128;
/// Pieces that keep a machine's threads busy.
const BUSY: usize = 16;

/// Where the windows of a tile go: `start` on in every `step`-th row of `size` elements.
#[derive(Clone, Copy)]
struct Destination {
    size: usize,
    step: usize,
    start: usize,
}

impl Plan {
    fn tiles(&self) -> impl Iterator<Item = Range<usize>> {
        let positions = self.positions;
        (0..positions).step_by(TILE).map(move |start| start..(start + TILE).min(positions))
    }

    /// Copies what a tap has under it in the windows of a tile, of as many channels of x as there are rows.
    fn gather(&self, windows: &mut [f32], to: Destination, tap: usize, tile: &Range<usize>, x: &[f32]) {
        let Destination { size, step, start } = to;
        let covered: usize = self.lines_within(tap, tile).map(|(outputs, _)| outputs.len()).sum();
        if covered < tile.len() {
            let rows = windows.chunks_exact_mut(size).step_by(step);
            rows.for_each(|row| row[start..start + tile.len()].fill(0.0));
        }
        for (outputs, input) in self.lines_within(tap, tile) {
            let columns = start + outputs.start..start + outputs.end;
            let rows = windows.chunks_exact_mut(size).step_by(step).zip(x.chunks_exact(self.phases.len()));
            rows.for_each(|(row, x)| row[columns.clone()].copy_from_slice(&x[input..input + outputs.len()]));
        }
    }

    /// Adds what a tap has under it in the windows of a tile back to a channel of x.
    fn scatter(&self, windows: &[f32], tap: usize, tile: &Range<usize>, x: &mut [f32]) {
        for (outputs, input) in self.lines_within(tap, tile) {
            let windows = &windows[outputs];
            x[input..input + windows.len()].iter_mut().zip(windows).for_each(|(x, window)| *x += window);
        }
    }
}

/// Cuts planes of `size` elements, [batch, groups, channels, size], into pieces of some channels of one group: the group's
/// number, counted over the batch, the first channel and the planes.
fn by_channels(planes: &mut [f32], channels: usize, size: usize, some: usize) -> Vec<(usize, usize, &mut [f32])> {
    let groups = planes.chunks_mut(channels * size).enumerate();
    let pieces = groups.flat_map(|(group, planes)| {
        let pieces = planes.chunks_mut(some * size).enumerate();
        pieces.map(move |(i, planes)| (group, i * some, planes))
    });
    pieces.collect()
}

/// y, [batch, groups x outputs, positions].
pub(super) fn output(
    plan: &Plan,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
    workers: &Workers<'_>,
) -> ort::Result<()> {
    let Plan { groups, inputs, outputs, taps, positions, .. } = *plan;
    if positions == 0 {
        return Ok(());
    }
    let (x, wide) = (plan.phases.split(x, workers)?, plan.phases.len());
    let channels = (ROWS / taps).clamp(1, inputs);
    workers.each(by_channels(y, outputs, positions, CHANNELS), |(number, first, y)| {
        let (rows, first) = (y.len() / positions, number % groups * outputs + first);
        let x = &x[number * inputs * wide..][..inputs * wide];
        let mut windows = vec![0.0; channels * taps * TILE.min(positions)];
        let mut sums = vec![0.0; rows * TILE.min(positions)];
        for tile in plan.tiles() {
            let size = tile.len();
            let sums = &mut sums[..rows * size];
            for (row, sums) in sums.chunks_exact_mut(size).enumerate() {
                sums.fill(bias.map_or(0.0, |bias| bias[first + row]));
            }
            for channel in (0..inputs).step_by(channels) {
                let inner = channels.min(inputs - channel) * taps;
                let windows = &mut windows[..inner * size];
                for tap in 0..taps {
                    let to = Destination { size, step: taps, start: 0 };
                    plan.gather(&mut windows[tap * size..], to, tap, &tile, &x[channel * wide..]);
                }
                let w = &w[(first * inputs + channel) * taps..];
                let w = Matrix { values: w, rows, columns: inner, apart: [inputs * taps, 1] };
                multiply(sums, w, Matrix { values: windows, rows: inner, columns: size, apart: [size, 1] }, true);
            }
            for (y, sums) in y.chunks_exact_mut(positions).zip(sums.chunks_exact(size)) {
                y[tile.clone()].copy_from_slice(sums);
            }
        }
    })
}

/// dx, [batch, groups x inputs, sizes..].
pub(super) fn input_gradient(
    plan: &Plan,
    dy: &[f32],
    w: &[f32],
    dx: &mut [f32],
    workers: &Workers<'_>,
) -> ort::Result<()> {
    let Plan { groups, inputs, outputs, taps, positions, .. } = *plan;
    let whole = plan.phases.whole();
    if whole == 0 {
        return Ok(());
    }
    let channels = (ROWS / taps).clamp(1, inputs);
    workers.each(by_channels(dx, inputs, whole, channels), |(number, first, dx)| {
        let rows = dx.len() / whole * taps;
        let dy = &dy[number * outputs * positions..][..outputs * positions];
        let w = &w[number % groups * outputs * inputs * taps..][..outputs * inputs * taps];
        let w = Matrix { values: &w[first * taps..], rows, columns: outputs, apart: [1, inputs * taps] };
        let mut windows = vec![0.0; rows * TILE.min(positions)];
        plan.phases.join(dx, |dx| {
            dx.fill(0.0);
            for tile in plan.tiles() {
                let size = tile.len();
                let windows = &mut windows[..rows * size];
                let dy = Matrix { values: &dy[tile.start..], rows: outputs, columns: size, apart: [positions, 1] };
                multiply(windows, w, dy, false);
                let channels = dx.chunks_exact_mut(plan.phases.len()).zip(windows.chunks_exact(taps * size));
                for (dx, windows) in channels {
                    for (tap, windows) in windows.chunks_exact(size).enumerate() {
                        plan.scatter(windows, tap, &tile, dx);
                    }
                }
            }
        });
    })
}

/// Output channels from `first` on and taps of a weight's gradient, [channels, taps, inputs], of some examples.
struct Piece<'a> {
    group: usize,
    taps: Range<usize>,
    first: usize,
    examples: Range<usize>,
    sums: &'a mut [f32],
}

impl Plan {
    /// Taps of a piece.
    fn taps_at_once(&self) -> usize {
        (ROWS / self.inputs).clamp(1, self.taps)
    }

    /// Cuts sums of some examples, [groups, taps / taps_at_once, outputs, taps_at_once, inputs], into pieces.
    fn pieces<'a>(&self, mut sums: &'a mut [f32], examples: &Range<usize>) -> Vec<Piece<'a>> {
        let mut pieces = Vec::new();
        for group in 0..self.groups {
            for start in (0..self.taps).step_by(self.taps_at_once()) {
                let taps = start..(start + self.taps_at_once()).min(self.taps);
                let row = taps.len() * self.inputs;
                let (these, rest) = sums.split_at_mut(self.outputs * row);
                sums = rest;
                for (i, sums) in these.chunks_mut(CHANNELS * row).enumerate() {
                    let (taps, examples) = (taps.clone(), examples.clone());
                    pieces.push(Piece { group, taps, first: i * CHANNELS, examples, sums });
                }
            }
        }
        pieces
    }

    /// Adds the products of a piece, of several examples at once where they are short. x lies by phases.
    fn add_up(&self, piece: Piece<'_>, x: &[f32], dy: &[f32]) {
        let Plan { groups, inputs, outputs, positions, .. } = *self;
        let (wide, columns) = (self.phases.len(), piece.taps.len() * inputs);
        let rows = piece.sums.len() / columns;
        let at_once = (TILE / positions).clamp(1, piece.examples.len().max(1));
        let most = at_once * TILE.min(positions);
        let (mut windows, mut tiles) = (vec![0.0; columns * most], vec![0.0; rows * most]);
        for first in piece.examples.clone().step_by(at_once) {
            let examples = first..(first + at_once).min(piece.examples.end);
            for tile in self.tiles() {
                let size = examples.len() * tile.len();
                for (i, example) in examples.clone().enumerate() {
                    let (start, number) = (i * tile.len(), example * groups + piece.group);
                    let x = &x[number * inputs * wide..][..inputs * wide];
                    for (tap, windows) in piece.taps.clone().zip(windows.chunks_exact_mut(inputs * size)) {
                        self.gather(windows, Destination { size, step: 1, start }, tap, &tile, x);
                    }
                    let dy = &dy[(number * outputs + piece.first) * positions..][..rows * positions];
                    for (row, dy) in tiles.chunks_exact_mut(size).zip(dy.chunks_exact(positions)) {
                        row[start..start + tile.len()].copy_from_slice(&dy[tile.clone()]);
                    }
                }
                let tiles = Matrix { values: &tiles, rows, columns: size, apart: [size, 1] };
                let windows = Matrix { values: &windows, rows: size, columns, apart: [1, size] };
                multiply(piece.sums, tiles, windows, true);
            }
        }
    }
}

/// dW, [groups x outputs, inputs, kernel..], from x and dy.
pub(super) fn weight_gradient(
    plan: &Plan,
    batch: usize,
    [x, dy]: [&[f32]; 2],
    dw: &mut [f32],
    workers: &Workers<'_>,
) -> ort::Result<()> {
    let Plan { groups, inputs, outputs, taps, positions, .. } = *plan;
    if plan.phases.whole() == 0 || positions == 0 || dw.is_empty() {
        dw.fill(0.0);
        return Ok(());
    }
    let x = plan.phases.split(x, workers)?;
    let at_once = plan.taps_at_once();
    // Few pieces are shared: each part of the examples has sums of its own.
    let least = groups * taps.div_ceil(at_once) * outputs.div_ceil(CHANNELS);
    let parts = BUSY.div_ceil(least).clamp(1, batch.max(1));
    let elements = dw.len();
    let mut sums = vec![0.0; parts * elements];
    let of_parts = sums.chunks_mut(elements).enumerate();
    let pieces =
        of_parts.flat_map(|(part, sums)| plan.pieces(sums, &(part * batch / parts..(part + 1) * batch / parts)));
    workers.each(pieces.collect(), |piece| plan.add_up(piece, &x, dy))?;
    workers.each(dw.chunks_mut(inputs * taps).enumerate().collect(), |(channel, dw): (usize, &mut [f32])| {
        dw.fill(0.0);
        let (group, row) = (channel / outputs, channel % outputs);
        for start in (0..taps).step_by(at_once) {
            let count = at_once.min(taps - start) * inputs;
            let at = (group * taps + start) * outputs * inputs + row * count;
            for part in sums.chunks(elements) {
                for (at, sum) in part[at..][..count].iter().enumerate() {
                    dw[at % inputs * taps + start + at / inputs] += *sum;
                }
            }
        }
    })
}
