//! Convolutions' gradients by products of matrices, a tile of the output at a time: what lies under a tile, a row for
//! each tap of each channel, stays in the processor's cache.

use std::ops::Range;

use super::geometry::{Geometry, Line, Parted};
use super::{Channels, Input, Workers};
use crate::runtime::kernels::product::{Matrix, multiply};

/// Elements of the output that a tile has at most.
const TILE: usize = 520;
/// Rows under a tile: wide enough for products, and with [`TILE`] half of a usual second-level cache.
const UNDER: usize = 256;
/// Output channels of a piece of work.
const CHANNELS: usize = 128;
/// Pieces that keep a machine's threads busy.
const BUSY: usize = 16;

/// The lines of every tap.
struct Lines {
    all: Vec<Line>,
    /// Where each tap's begin.
    starts: Vec<usize>,
}

impl Lines {
    fn new(geometry: &Geometry, input: &[usize], output: &[usize]) -> Self {
        let all = geometry.lines(input, output);
        let starts = (0..=geometry.taps()).map(|tap| all.partition_point(|line| line.tap < tap)).collect();
        Self { all, starts }
    }

    /// What a tap's lines have in common with a tile: outputs, counted from the tile's first, and the first one's input.
    fn within(&self, tap: usize, tile: &Range<usize>) -> impl Iterator<Item = (Range<usize>, usize)> {
        let lines = &self.all[self.starts[tap]..self.starts[tap + 1]];
        let first = lines.partition_point(|line| line.outputs.end <= tile.start);
        let (start, end) = (tile.start, tile.end);
        lines[first..].iter().take_while(move |line| line.outputs.start < end).map(move |line| {
            let outputs = line.outputs.start.max(start)..line.outputs.end.min(end);
            let input = line.input + (outputs.start - line.outputs.start);
            (outputs.start - start..outputs.end - start, input)
        })
    }

    /// What lies under a tile for a tap: of each channel of x, `wide` elements each, from `start` on of every `step`-th row
    /// of `size` elements.
    fn gather(&self, under: &mut [f32], rows: Rows, tap: usize, tile: &Range<usize>, x: &[f32], wide: usize) {
        let Rows { size, step, start } = rows;
        let covered: usize = self.within(tap, tile).map(|(outputs, _)| outputs.len()).sum();
        if covered < tile.len() {
            let rows = under.chunks_exact_mut(size).step_by(step);
            rows.for_each(|under| under[start..start + tile.len()].fill(0.0));
        }
        for (outputs, input) in self.within(tap, tile) {
            let places = start + outputs.start..start + outputs.end;
            for (under, x) in under.chunks_exact_mut(size).step_by(step).zip(x.chunks_exact(wide)) {
                under[places.clone()].copy_from_slice(&x[input..input + outputs.len()]);
            }
        }
    }

    /// Adds what lies under a tile for a tap back to a channel of x.
    fn add_back(&self, under: &[f32], tap: usize, tile: &Range<usize>, x: &mut [f32]) {
        for (outputs, input) in self.within(tap, tile) {
            let under = &under[outputs];
            x[input..input + under.len()].iter_mut().zip(under).for_each(|(x, under)| *x += under);
        }
    }
}

/// Where what is gathered goes.
#[derive(Clone, Copy)]
struct Rows {
    size: usize,
    step: usize,
    start: usize,
}

fn tiles(plane: usize) -> impl Iterator<Item = Range<usize>> {
    (0..plane).step_by(TILE).map(move |start| start..(start + TILE).min(plane))
}

/// The output, [batch, groups x each, output..].
pub(super) fn output(
    geometry: &Geometry,
    channels: Channels,
    x: Input<'_>,
    w: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
    workers: &Workers<'_>,
) -> ort::Result<()> {
    let Channels { groups, own, each } = channels;
    let input = &x.shape[2..];
    let output = geometry.output(input);
    let (plane, taps) = (output.iter().product::<usize>(), geometry.taps());
    if plane == 0 {
        return Ok(());
    }
    let (lines, parted) = (Lines::new(geometry, input, &output), Parted::new(geometry, input));
    let (x, wide) = (parted.parts(x.values, workers)?, parted.len());
    let some = (UNDER / taps).clamp(1, own);
    let of_groups = y.chunks_mut(each * plane).enumerate();
    let pieces = of_groups.flat_map(|(number, y)| {
        let pieces = y.chunks_mut(CHANNELS * plane).enumerate();
        pieces.map(move |(i, y)| (number, i * CHANNELS, y))
    });
    workers.each(pieces.collect(), |(number, first, y): (usize, usize, &mut [f32])| {
        let (rows, first) = (y.len() / plane, number % groups * each + first);
        let x = &x[number * own * wide..][..own * wide];
        let mut under = vec![0.0; some * taps * TILE.min(plane)];
        let mut made = vec![0.0; rows * TILE.min(plane)];
        for tile in tiles(plane) {
            let size = tile.len();
            let made = &mut made[..rows * size];
            for (row, made) in made.chunks_exact_mut(size).enumerate() {
                made.fill(bias.map_or(0.0, |bias| bias[first + row]));
            }
            for channel in (0..own).step_by(some) {
                let columns = some.min(own - channel) * taps;
                let under = &mut under[..columns * size];
                for tap in 0..taps {
                    let rows = Rows { size, step: taps, start: 0 };
                    lines.gather(&mut under[tap * size..], rows, tap, &tile, &x[channel * wide..], wide);
                }
                let w = &w[(first * own + channel) * taps..];
                let w = Matrix { values: w, rows, columns, apart: [own * taps, 1] };
                multiply(made, w, Matrix { values: under, rows: columns, columns: size, apart: [size, 1] }, true);
            }
            for (y, made) in y.chunks_exact_mut(plane).zip(made.chunks_exact(size)) {
                y[tile.clone()].copy_from_slice(made);
            }
        }
    })
}

/// Output channels from `first` on and taps of a weight's gradient, [channels, taps, own], of some examples.
struct Piece<'a> {
    group: usize,
    taps: Range<usize>,
    first: usize,
    examples: Range<usize>,
    sums: &'a mut [f32],
}

/// Cuts sums of some examples, [groups, taps / at_once, each, at_once, own], into pieces.
fn pieces(
    mut sums: &mut [f32],
    channels: Channels,
    taps: usize,
    at_once: usize,
    examples: Range<usize>,
) -> Vec<Piece<'_>> {
    let Channels { groups, own, each } = channels;
    let mut pieces = Vec::new();
    for group in 0..groups {
        for start in (0..taps).step_by(at_once) {
            let taps = start..(start + at_once).min(taps);
            let row = taps.len() * own;
            let (some, rest) = sums.split_at_mut(each * row);
            sums = rest;
            for (i, sums) in some.chunks_mut(CHANNELS * row).enumerate() {
                let (taps, examples) = (taps.clone(), examples.clone());
                pieces.push(Piece { group, taps, first: i * CHANNELS, examples, sums });
            }
        }
    }
    pieces
}

/// What a weight's gradient is made of.
struct Given<'a> {
    lines: &'a Lines,
    channels: Channels,
    /// Planes in parts, `wide` elements each.
    x: &'a [f32],
    wide: usize,
    dy: &'a [f32],
    plane: usize,
}

impl Given<'_> {
    /// Adds the products of a piece to its sums, of several examples at once where they are short.
    fn add_up(&self, piece: Piece<'_>) {
        let (wide, plane, Channels { groups, own, each }) = (self.wide, self.plane, self.channels);
        let columns = piece.taps.len() * own;
        let rows = piece.sums.len() / columns;
        let together = (TILE / plane).clamp(1, piece.examples.len().max(1));
        let most = if together > 1 { together * plane } else { TILE.min(plane) };
        let (mut under, mut over) = (vec![0.0; columns * most], vec![0.0; rows * most]);
        for first in piece.examples.clone().step_by(together) {
            let examples = first..(first + together).min(piece.examples.end);
            for tile in tiles(plane) {
                let size = examples.len() * tile.len();
                for (i, example) in examples.clone().enumerate() {
                    let (start, number) = (i * tile.len(), example * groups + piece.group);
                    let x = &self.x[number * own * wide..][..own * wide];
                    for (tap, under) in piece.taps.clone().zip(under.chunks_exact_mut(own * size)) {
                        self.lines.gather(under, Rows { size, step: 1, start }, tap, &tile, x, wide);
                    }
                    let dy = &self.dy[(number * each + piece.first) * plane..][..rows * plane];
                    for (over, dy) in over.chunks_exact_mut(size).zip(dy.chunks_exact(plane)) {
                        over[start..start + tile.len()].copy_from_slice(&dy[tile.clone()]);
                    }
                }
                let over = Matrix { values: &over, rows, columns: size, apart: [size, 1] };
                let under = Matrix { values: &under, rows: size, columns, apart: [1, size] };
                multiply(piece.sums, over, under, true);
            }
        }
    }
}

/// dW, [groups x each, own, kernel..].
pub(super) fn weight_gradient(
    geometry: &Geometry,
    channels: Channels,
    x: Input<'_>,
    dy: Input<'_>,
    dw: &mut [f32],
    workers: &Workers<'_>,
) -> ort::Result<()> {
    let Channels { groups, own, each } = channels;
    let (input, output) = (&x.shape[2..], &dy.shape[2..]);
    let (plane, whole, taps) = (output.iter().product::<usize>(), input.iter().product::<usize>(), geometry.taps());
    if whole == 0 || plane == 0 || dw.is_empty() {
        dw.fill(0.0);
        return Ok(());
    }
    let (lines, parted) = (Lines::new(geometry, input, output), Parted::new(geometry, input));
    let (x, wide) = (parted.parts(x.values, workers)?, parted.len());
    let at_once = (UNDER / own).clamp(1, taps);
    // Few pieces are shared: each part of the examples has sums of its own.
    let (batch, least) = (dy.shape[0], groups * taps.div_ceil(at_once) * each.div_ceil(CHANNELS));
    let parts = BUSY.div_ceil(least).clamp(1, batch.max(1));
    let mut sums = vec![0.0; parts * dw.len()];
    let of_parts = sums.chunks_mut(dw.len()).enumerate().flat_map(|(part, sums)| {
        let examples = part * batch / parts..(part + 1) * batch / parts;
        pieces(sums, channels, taps, at_once, examples)
    });
    let given = Given { lines: &lines, channels, x: &x, wide, dy: dy.values, plane };
    workers.each(of_parts.collect(), |piece: Piece<'_>| given.add_up(piece))?;
    let whole_weight = dw.len();
    workers.each(dw.chunks_mut(own * taps).enumerate().collect(), |(channel, dw): (usize, &mut [f32])| {
        dw.fill(0.0);
        let (group, row) = (channel / each, channel % each);
        for start in (0..taps).step_by(at_once) {
            let count = at_once.min(taps - start);
            let at = (group * taps + start) * each * own + row * count * own;
            for part in sums.chunks(whole_weight) {
                for (at, sum) in part[at..][..count * own].iter().enumerate() {
                    dw[at % own * taps + start + at / own] += *sum;
                }
            }
        }
    })
}

/// dx, [batch, groups x own, sizes..].
pub(super) fn input_gradient(
    geometry: &Geometry,
    channels: Channels,
    sizes: &[usize],
    dy: Input<'_>,
    w: &[f32],
    dx: &mut [f32],
    workers: &Workers<'_>,
) -> ort::Result<()> {
    let Channels { groups, own, each } = channels;
    let output = &dy.shape[2..];
    let (plane, whole, taps) = (output.iter().product::<usize>(), sizes.iter().product::<usize>(), geometry.taps());
    if whole == 0 {
        return Ok(());
    }
    let (lines, parted) = (Lines::new(geometry, sizes, output), Parted::new(geometry, sizes));
    let some = (UNDER / taps).clamp(1, own);
    let of_groups = dx.chunks_mut(own * whole).enumerate();
    let pieces = of_groups.flat_map(|(number, dx)| {
        let pieces = dx.chunks_mut(some * whole).enumerate();
        pieces.map(move |(i, dx)| (number, i * some, dx))
    });
    workers.each(pieces.collect(), |(number, first, dx): (usize, usize, &mut [f32])| {
        let (rows, group) = (dx.len() / whole * taps, number % groups);
        let dy = &dy.values[number * each * plane..][..each * plane];
        let w = &w[group * each * own * taps..][..each * own * taps];
        let w = Matrix { values: &w[first * taps..], rows, columns: each, apart: [1, own * taps] };
        let mut under = vec![0.0; rows * TILE.min(plane)];
        let add_up = |dx: &mut [f32]| {
            dx.fill(0.0);
            for tile in tiles(plane) {
                let under = &mut under[..rows * tile.len()];
                let dy = Matrix { values: &dy[tile.start..], rows: each, columns: tile.len(), apart: [plane, 1] };
                multiply(under, w, dy, false);
                for (dx, under) in dx.chunks_exact_mut(parted.len()).zip(under.chunks_exact(taps * tile.len())) {
                    for (tap, under) in under.chunks_exact(tile.len()).enumerate() {
                        lines.add_back(under, tap, &tile, dx);
                    }
                }
            }
        };
        parted.made(dx, add_up);
    })
}
