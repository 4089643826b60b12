//! Recurrent layers over time, and their gradients. Rows of a batch are independent, so each piece of work takes a few of
//! them through all steps, with the recurrent weights packed once for products of few rows.

use super::launch::{BLOCK, Launch, Room};
use super::lstm::{sigmoid, tanh};
use super::operator::{Attributes, Input, Kernel, Workers};
use crate::graph::RecurrentCell as Cell;

/// Rows of a batch per block of threads: ROWS of cuda.cu.
const CUDA_ROWS: usize = 2;
/// Rows of a batch per piece of work, which stay in registers during a product.
const ROWS: usize = 4;
/// Columns of a packed panel.
const COLUMNS: usize = 16;

/// A matrix [inner, outer] in panels of [`COLUMNS`] columns: [panel][inner][column], the last one filled up with zeros.
struct Packed {
    panels: Vec<f32>,
    inner: usize,
    outer: usize,
}

impl Packed {
    /// The element at (inner, outer) is `at(inner, outer)`.
    fn new(inner: usize, outer: usize, at: impl Fn(usize, usize) -> f32) -> Self {
        let count = outer.div_ceil(COLUMNS);
        let mut panels = vec![0.0; count * inner * COLUMNS];
        for (panel, part) in panels.chunks_exact_mut((inner * COLUMNS).max(1)).enumerate() {
            for (k, row) in part.chunks_exact_mut(COLUMNS).enumerate() {
                for (j, value) in row.iter_mut().enumerate().take(outer.saturating_sub(panel * COLUMNS)) {
                    *value = at(k, panel * COLUMNS + j);
                }
            }
        }
        Self { panels, inner, outer }
    }

    /// Adds a b to `c`: a [rows, inner], c [rows, outer], for up to [`ROWS`] rows.
    fn add_product(&self, a: &[f32], c: &mut [f32]) {
        add_product(&self.panels, self.inner, self.outer, a, c);
    }
}

#[multiversion::multiversion(targets = "simd")]
fn add_product(panels: &[f32], inner: usize, outer: usize, a: &[f32], c: &mut [f32]) {
    let rows = a.len() / inner;
    for (panel, part) in panels.chunks_exact(inner * COLUMNS).enumerate() {
        let first = panel * COLUMNS;
        let width = COLUMNS.min(outer - first);
        let mut sums = [[0.0f32; COLUMNS]; ROWS];
        if rows == ROWS {
            let (a0, rest) = a.split_at(inner);
            let (a1, rest) = rest.split_at(inner);
            let (a2, a3) = rest.split_at(inner);
            for (k, b) in part.chunks_exact(COLUMNS).enumerate() {
                let x = [a0[k], a1[k], a2[k], a3[k]];
                for r in 0..ROWS {
                    for j in 0..COLUMNS {
                        sums[r][j] += x[r] * b[j];
                    }
                }
            }
        } else {
            for (sums, a) in sums.iter_mut().zip(a.chunks_exact(inner)) {
                for (x, b) in a.iter().zip(part.chunks_exact(COLUMNS)) {
                    for j in 0..COLUMNS {
                        sums[j] += x * b[j];
                    }
                }
            }
        }
        for (c, sums) in c.chunks_exact_mut(outer).zip(&sums) {
            c[first..first + width].iter_mut().zip(sums).for_each(|(c, sum)| *c += sum);
        }
    }
}

/// The steps of a tensor [steps, batch, width], cut into pieces of [`ROWS`] rows: for each piece, its part of every step.
fn pieces(values: &[f32], steps: usize, width: usize) -> Vec<Vec<&[f32]>> {
    let step = (values.len() / steps).max(1);
    let mut pieces: Vec<Vec<_>> = Vec::new();
    for step in values.chunks_exact(step) {
        for (i, part) in step.chunks(ROWS * width).enumerate() {
            if pieces.len() == i {
                pieces.push(Vec::with_capacity(steps));
            }
            pieces[i].push(part);
        }
    }
    pieces
}

/// As [`pieces`], to be written.
fn pieces_mut(values: &mut [f32], steps: usize, width: usize) -> Vec<Vec<&mut [f32]>> {
    let step = (values.len() / steps).max(1);
    let mut pieces: Vec<Vec<_>> = Vec::new();
    for step in values.chunks_exact_mut(step) {
        for (i, part) in step.chunks_mut(ROWS * width).enumerate() {
            if pieces.len() == i {
                pieces.push(Vec::with_capacity(steps));
            }
            pieces[i].push(part);
        }
    }
    pieces
}

/// Steps in the order in which a pass takes them.
fn order(steps: usize, reverse: bool) -> impl DoubleEndedIterator<Item = usize> {
    (0..steps).map(move |t| if reverse { steps - 1 - t } else { t })
}

/// Cell and direction of a node.
#[derive(Clone, Copy)]
struct Settings {
    cell: Cell,
    reverse: bool,
}

impl Settings {
    fn new(attributes: &Attributes) -> Self {
        // The graph's rule has refused other kinds.
        let cell = Cell::numbered(attributes.int("kind", 0)).unwrap_or(Cell::Tanh);
        Self { cell, reverse: attributes.int("reverse", 0) != 0 }
    }

    fn numbers(self, [steps, batch, hidden]: [usize; 3], [units, tile, at_once]: [usize; 3]) -> Vec<u32> {
        let numbers = [steps, batch, hidden, self.cell as usize, usize::from(self.reverse), units, tile, at_once];
        numbers.map(|number| number as u32).to_vec()
    }

    /// Kernels of which the last takes [`CUDA_ROWS`] rows of the batch per block through all steps.
    fn alone(
        self,
        mut kernels: Vec<(&'static str, [usize; 2])>,
        last: &'static str,
        sizes: [usize; 3],
        scratch: usize,
    ) -> Launch {
        kernels.push((last, [sizes[1].div_ceil(CUDA_ROWS), 1]));
        Launch { kernels, numbers: self.numbers(sizes, [0; 3]), scratch, together: None }
    }

    /// A kernel whose blocks share units and rows, where the device has room for all of them at once.
    fn together(self, names: [&'static str; 2], sizes: [usize; 3], scratch: usize, room: Room) -> Option<Launch> {
        /// Counters of the blocks that wait for each other: one for each row of the grid.
        const COUNTERS: usize = 256;
        /// Rows of which a thread has the products.
        const MEMBERS: usize = 4;
        let (gates, [_, batch, hidden]) = (self.cell.gates(), sizes);
        let pool = |units: usize, tile: usize, at_once: usize| {
            let splits = BLOCK / (tile / MEMBERS * units);
            4 * (gates * hidden * units + at_once * tile * (hidden + 1) + splits * tile * gates * units)
        };
        let blocks = |units: usize, tile: usize| [hidden.div_ceil(units), batch.div_ceil(tile)];
        let shapes = [4, 8, 16, 32].into_iter().flat_map(|units| [4, 8, 16, 32, 64].map(|tile| [units, tile]));
        let fits = |[units, tile]: &[usize; 2]| {
            let [x, y] = blocks(*units, *tile);
            tile / MEMBERS * units <= BLOCK
                && pool(*units, *tile, 1) <= room.shared
                && x * y <= room.processors
                && y <= COUNTERS
        };
        // The least work for each block; of equals, those that read fewer rows.
        let [units, tile] = shapes.filter(fits).min_by_key(|[units, tile]| (units * tile, *tile))?;
        let at_once = (1..=gates).rev().find(|at_once| pool(units, tile, *at_once) <= room.shared)?;
        let grid = blocks(units, tile);
        let kernels = vec![(names[0], [1, 1]), (names[1], grid)];
        let numbers = self.numbers(sizes, [units, tile, at_once]);
        Some(Launch { kernels, numbers, scratch: COUNTERS + scratch, together: Some(pool(units, tile, at_once)) })
    }
}

/// The forward pass.
pub(super) struct Recurrence(Settings);

impl Recurrence {
    pub(super) fn new(attributes: &Attributes) -> Self {
        Self(Settings::new(attributes))
    }
}

/// Some rows of a batch on their way forward.
struct Forward<'a> {
    shares: Vec<&'a [f32]>,
    before: &'a [f32],
    fourth: &'a [f32],
    states: Vec<&'a mut [f32]>,
    last: &'a mut [f32],
    last_cell: &'a mut [f32],
    kept: Vec<&'a mut [f32]>,
}

impl Kernel for Recurrence {
    fn compute(&self, inputs: &[Input<'_>], outputs: &mut [&mut [f32]], workers: &Workers<'_>) -> ort::Result<()> {
        let Settings { cell, reverse } = self.0;
        let [steps, _, width] = inputs[0].shape[..] else { return Err(ort::Error::new("expected three axes")) };
        let n = width / cell.gates();
        let [states, last, last_cell, kept] = outputs else { return Err(ort::Error::new("expected four outputs")) };
        let weights = inputs[1].values;
        // Gates as columns: what a row's state gives to all of them.
        let packed = Packed::new(n, width, |k, j| weights[j * n + k]);
        let fourth = |piece: usize, length: usize| match cell {
            Cell::Lstm => &inputs[3].values[piece * ROWS * n..][..length],
            Cell::Gru => inputs[3].values,
            Cell::Tanh | Cell::Relu => &[][..],
        };
        let given = pieces(inputs[0].values, steps, width).into_iter().zip(inputs[2].values.chunks(ROWS * n));
        let over_time = pieces_mut(states, steps, n).into_iter().zip(pieces_mut(kept, steps, cell.kept() * n));
        let ends = last.chunks_mut(ROWS * n).zip(last_cell.chunks_mut(ROWS * n));
        let work = given
            .zip(over_time)
            .zip(ends)
            .enumerate()
            .map(|(piece, (((shares, before), (states, kept)), (last, last_cell)))| Forward {
                shares,
                before,
                fourth: fourth(piece, before.len()),
                states,
                last,
                last_cell,
                kept,
            })
            .collect();
        workers.each(work, |rows: Forward<'_>| forward(rows, cell, reverse, n, &packed))
    }

    fn launch(&self, shapes: &[Vec<usize>], room: Room) -> Option<Launch> {
        let [steps, batch, width] = shapes[0][..] else { return None };
        let Settings { cell, .. } = self.0;
        let hidden = width / cell.gates();
        let sizes = [steps, batch, hidden];
        let together = ["recurrence_clear", "recurrence_together"];
        self.0.together(together, sizes, 3 * batch * hidden, room).or_else(|| {
            let turning = ("recurrence_weights", [(width * hidden).div_ceil(BLOCK), 1]);
            Some(self.0.alone(vec![turning], "recurrence", sizes, width * hidden + 3 * batch * hidden))
        })
    }
}

fn forward(mut rows: Forward<'_>, cell: Cell, reverse: bool, n: usize, packed: &Packed) {
    let width = cell.gates() * n;
    let mut state = rows.before.to_vec();
    let mut cells = if cell == Cell::Lstm { rows.fourth.to_vec() } else { vec![0.0; state.len()] };
    let mut gates = vec![0.0; state.len() / n * width];
    for t in order(rows.shares.len(), reverse) {
        match cell {
            Cell::Gru => gates.fill(0.0),
            _ => gates.copy_from_slice(rows.shares[t]),
        }
        packed.add_product(&state, &mut gates);
        let kept = &mut *rows.kept[t];
        match cell {
            Cell::Lstm => lstm(&gates, &mut cells, &mut state, kept, n),
            Cell::Gru => gru(&gates, rows.shares[t], rows.fourth, &mut state, kept, n),
            Cell::Tanh => state.iter_mut().zip(&gates).for_each(|(y, x)| *y = tanh(*x)),
            Cell::Relu => state.iter_mut().zip(&gates).for_each(|(y, x)| *y = if *x < 0.0 { 0.0 } else { *x }),
        }
        rows.states[t].copy_from_slice(&state);
    }
    rows.last.copy_from_slice(&state);
    rows.last_cell.copy_from_slice(&cells);
}

#[multiversion::multiversion(targets = "simd")]
fn lstm(gates: &[f32], cells: &mut [f32], state: &mut [f32], kept: &mut [f32], n: usize) {
    let rows = gates.chunks_exact(4 * n).zip(kept.chunks_exact_mut(6 * n));
    for ((gates, kept), (cells, state)) in rows.zip(cells.chunks_exact_mut(n).zip(state.chunks_exact_mut(n))) {
        let (sigmoids, rest) = kept.split_at_mut(3 * n);
        let (candidate, rest) = rest.split_at_mut(n);
        let (kept_cells, squashed) = rest.split_at_mut(n);
        sigmoids.iter_mut().zip(gates).for_each(|(y, x)| *y = sigmoid(*x));
        candidate.iter_mut().zip(&gates[3 * n..]).for_each(|(y, x)| *y = tanh(*x));
        let (input, rest) = sigmoids.split_at(n);
        let (forget, output) = rest.split_at(n);
        // The backward pass takes the cell state before.
        kept_cells.copy_from_slice(cells);
        for i in 0..n {
            cells[i] = forget[i] * cells[i] + input[i] * candidate[i];
            squashed[i] = tanh(cells[i]);
            state[i] = output[i] * squashed[i];
        }
    }
}

/// `products`: of the state with the recurrent weights; `shares`: of the input, with biases; `bias`: of the candidate's
/// product.
#[multiversion::multiversion(targets = "simd")]
fn gru(products: &[f32], shares: &[f32], bias: &[f32], state: &mut [f32], kept: &mut [f32], n: usize) {
    let rows = products.chunks_exact(3 * n).zip(shares.chunks_exact(3 * n));
    for (((products, shares), kept), state) in rows.zip(kept.chunks_exact_mut(4 * n)).zip(state.chunks_exact_mut(n)) {
        let (gates, rest) = kept.split_at_mut(2 * n);
        let (candidate, remembered) = rest.split_at_mut(n);
        for i in 0..2 * n {
            gates[i] = sigmoid(products[i] + shares[i]);
        }
        let (update, reset) = gates.split_at(n);
        for i in 0..n {
            remembered[i] = products[2 * n + i] + bias[i];
            candidate[i] = tanh(shares[2 * n + i] + reset[i] * remembered[i]);
            state[i] = (1.0 - update[i]) * candidate[i] + update[i] * state[i];
        }
    }
}

/// The backward pass.
pub(super) struct RecurrenceGradient(Settings);

impl RecurrenceGradient {
    pub(super) fn new(attributes: &Attributes) -> Self {
        Self(Settings::new(attributes))
    }
}

/// Some rows of a batch on their way back.
struct Back<'a> {
    dy: Vec<&'a [f32]>,
    dlast: &'a [f32],
    dcell: &'a [f32],
    kept: Vec<&'a [f32]>,
    states: Vec<&'a [f32]>,
    before: &'a [f32],
    dshares: Vec<&'a mut [f32]>,
    dproducts: Vec<&'a mut [f32]>,
    dbefore: &'a mut [f32],
    dcell_before: &'a mut [f32],
}

impl Kernel for RecurrenceGradient {
    fn compute(&self, inputs: &[Input<'_>], outputs: &mut [&mut [f32]], workers: &Workers<'_>) -> ort::Result<()> {
        let Settings { cell, reverse } = self.0;
        let [steps, _, n] = inputs[0].shape[..] else { return Err(ort::Error::new("expected three axes")) };
        let width = cell.gates() * n;
        let [dshares, dproducts, dbefore, dcell_before] = outputs else {
            return Err(ort::Error::new("expected four outputs"));
        };
        let weights = inputs[3].values;
        let packed = Packed::new(width, n, |j, k| weights[j * n + k]);
        let some = ROWS * n;
        let given = pieces(inputs[0].values, steps, n)
            .into_iter()
            .zip(inputs[1].values.chunks(some).zip(inputs[2].values.chunks(some)));
        let forward =
            pieces(inputs[4].values, steps, cell.kept() * n).into_iter().zip(pieces(inputs[5].values, steps, n));
        let forward = forward.zip(inputs[6].values.chunks(some));
        let over_time = pieces_mut(dshares, steps, width).into_iter().zip(pieces_mut(dproducts, steps, width));
        let ends = dbefore.chunks_mut(some).zip(dcell_before.chunks_mut(some));
        let work = given
            .zip(forward)
            .zip(over_time.zip(ends))
            .map(
                |(
                    ((dy, (dlast, dcell)), ((kept, states), before)),
                    ((dshares, dproducts), (dbefore, dcell_before)),
                )| {
                    Back { dy, dlast, dcell, kept, states, before, dshares, dproducts, dbefore, dcell_before }
                },
            )
            .collect();
        workers.each(work, |rows: Back<'_>| backward(rows, cell, reverse, n, &packed))
    }

    fn launch(&self, shapes: &[Vec<usize>], room: Room) -> Option<Launch> {
        let [steps, batch, hidden] = shapes[0][..] else { return None };
        let (sizes, gates) = ([steps, batch, hidden], self.0.cell.gates());
        let together = ["recurrence_gradient_clear", "recurrence_together_gradient"];
        self.0
            .together(together, sizes, (2 + 2 * gates) * batch * hidden, room)
            .or_else(|| Some(self.0.alone(Vec::new(), "recurrence_gradient", sizes, (2 + gates) * batch * hidden)))
    }
}

fn backward(mut rows: Back<'_>, cell: Cell, reverse: bool, n: usize, packed: &Packed) {
    let steps = rows.dy.len();
    let mut dstate = rows.dlast.to_vec();
    let mut dcell = rows.dcell.to_vec();
    for t in order(steps, reverse).rev() {
        dstate.iter_mut().zip(rows.dy[t]).for_each(|(sum, dy)| *sum += dy);
        let earlier = match reverse {
            false => t.checked_sub(1).map_or(rows.before, |t| rows.states[t]),
            true => rows.states.get(t + 1).copied().unwrap_or(rows.before),
        };
        let (dshares, dproducts) = (&mut *rows.dshares[t], &mut *rows.dproducts[t]);
        match cell {
            Cell::Lstm => lstm_back(&mut dstate, &mut dcell, rows.kept[t], dshares, n),
            Cell::Gru => gru_back(&mut dstate, rows.kept[t], earlier, dshares, dproducts, n),
            Cell::Tanh | Cell::Relu => {
                for ((dx, dy), y) in dshares.iter_mut().zip(&mut dstate).zip(rows.states[t]) {
                    let slope = if cell == Cell::Tanh { 1.0 - y * y } else { f32::from(u8::from(*y > 0.0)) };
                    *dx = *dy * slope;
                    *dy = 0.0;
                }
            }
        }
        packed.add_product(if cell == Cell::Gru { dproducts } else { dshares }, &mut dstate);
    }
    rows.dbefore.copy_from_slice(&dstate);
    rows.dcell_before.copy_from_slice(&dcell);
}

/// Leaves in `dstate` what the state before gets beside the product, and in `dcell` the cell state before's.
#[multiversion::multiversion(targets = "simd")]
fn lstm_back(dstate: &mut [f32], dcell: &mut [f32], kept: &[f32], dgates: &mut [f32], n: usize) {
    let rows = dstate.chunks_exact_mut(n).zip(dcell.chunks_exact_mut(n));
    for (((dstate, dcell), kept), dgates) in rows.zip(kept.chunks_exact(6 * n)).zip(dgates.chunks_exact_mut(4 * n)) {
        let (input, rest) = kept.split_at(n);
        let (forget, rest) = rest.split_at(n);
        let (output, rest) = rest.split_at(n);
        let (candidate, rest) = rest.split_at(n);
        let (before, squashed) = rest.split_at(n);
        let (dinput, rest) = dgates.split_at_mut(n);
        let (dforget, rest) = rest.split_at_mut(n);
        let (doutput, dcandidate) = rest.split_at_mut(n);
        for i in 0..n {
            let cell = dcell[i] + dstate[i] * output[i] * (1.0 - squashed[i] * squashed[i]);
            dinput[i] = cell * candidate[i] * input[i] * (1.0 - input[i]);
            dforget[i] = cell * before[i] * forget[i] * (1.0 - forget[i]);
            doutput[i] = dstate[i] * squashed[i] * output[i] * (1.0 - output[i]);
            dcandidate[i] = cell * input[i] * (1.0 - candidate[i] * candidate[i]);
            dcell[i] = cell * forget[i];
            dstate[i] = 0.0;
        }
    }
}

#[multiversion::multiversion(targets = "simd")]
fn gru_back(dstate: &mut [f32], kept: &[f32], earlier: &[f32], dshares: &mut [f32], dproducts: &mut [f32], n: usize) {
    let rows = dstate.chunks_exact_mut(n).zip(kept.chunks_exact(4 * n)).zip(earlier.chunks_exact(n));
    let gradients = dshares.chunks_exact_mut(3 * n).zip(dproducts.chunks_exact_mut(3 * n));
    for (((dstate, kept), earlier), (dshares, dproducts)) in rows.zip(gradients) {
        let (update, rest) = kept.split_at(n);
        let (reset, rest) = rest.split_at(n);
        let (candidate, remembered) = rest.split_at(n);
        for i in 0..n {
            let dcandidate = dstate[i] * (1.0 - update[i]) * (1.0 - candidate[i] * candidate[i]);
            let dupdate = dstate[i] * (earlier[i] - candidate[i]) * update[i] * (1.0 - update[i]);
            let dreset = dcandidate * remembered[i] * reset[i] * (1.0 - reset[i]);
            dshares[i] = dupdate;
            dshares[n + i] = dreset;
            dshares[2 * n + i] = dcandidate;
            dproducts[i] = dupdate;
            dproducts[n + i] = dreset;
            dproducts[2 * n + i] = dcandidate * reset[i];
            dstate[i] *= update[i];
        }
    }
}
