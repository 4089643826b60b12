//! A region on the CPU: tile by tile, so that what lies between its steps stays in the cache.
//!
//! A tile is some neighbours on the last axis that is not fixed: points where nothing is reduced, columns of one row, or
//! rows of one column, whichever lie together in memory.

mod lanes;
mod walk;

use half::{bf16, f16};

pub(super) use lanes::Elements;
use lanes::{Buffer, accumulate, binary, cast, load, round, select, unary};
use walk::Walk;

use super::super::layer_norm;
use super::super::operator::Workers;
use crate::graph::{DType, Operation, Program, Reduction, Step, row_major};

/// Lanes of a tile.
const TILE: usize = 1024;
/// Rows of a tile of rows: fewer, so that there are more tiles.
const ROWS: usize = 256;
/// Columns whose sum is taken in float32 before it goes to float64.
const RUN: usize = 128;
/// Points per piece of work.
const PIECE: usize = 1 << 16;
/// Pieces that keep a machine's threads busy.
const BUSY: usize = 16;

/// An output's elements; each is written by one piece of work.
#[derive(Clone, Copy)]
pub(super) enum Place {
    F32(*mut f32),
    F16(*mut f16),
    BF16(*mut bf16),
    I64(*mut i64),
    Bool(*mut bool),
}

/// Inputs and outputs of a run, of the types and sizes that the program says.
pub(super) struct Arrays<'a> {
    pub(super) inputs: Vec<Elements<'a>>,
    pub(super) outputs: Vec<Place>,
}

// SAFETY: pieces of work on other threads write other elements.
unsafe impl Sync for Arrays<'_> {}

/// What the lanes of a tile are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lanes {
    Points,
    Columns,
    Rows,
}

/// A program made ready.
pub(super) struct Prepared {
    program: Program,
    lanes: Lanes,
    /// Of each load, by step.
    loads: Vec<Option<Walk>>,
    /// Of each output that has all points.
    whole: Walk,
    phases: Vec<Phase>,
}

/// What is computed between two reductions that wait for each other.
#[derive(Default)]
struct Phase {
    /// Steps of a row before the sweep.
    row_steps: Vec<usize>,
    /// Steps of each point.
    steps: Vec<usize>,
    /// Steps of a row that those take.
    spread: Vec<usize>,
    outputs: Vec<usize>,
    reductions: Vec<usize>,
}

impl Prepared {
    pub(super) fn new(program: Program) -> Self {
        let last = program.sizes.len() - 1;
        let lanes = match (program.has_reductions(), program.reduced[last]) {
            (false, _) => Lanes::Points,
            (true, true) => Lanes::Columns,
            (true, false) => Lanes::Rows,
        };
        let is_lane = |axis: usize| match lanes {
            Lanes::Points => true,
            Lanes::Columns => program.reduced[axis],
            Lanes::Rows => !program.reduced[axis],
        };
        let walk = |offset, strides: &[usize]| Walk::new(&program.sizes, offset, strides, is_lane);
        let load = |step: &Step| match &step.operation {
            Operation::Load { offset, strides, .. } => Some(walk(*offset, strides)),
            _ => None,
        };
        let loads = program.steps.iter().map(load).collect();
        let whole = walk(0, &row_major(&program.sizes));
        let deepest = program.steps.iter().map(|step| step.depth).max().unwrap_or(0);
        let phases = (0..=deepest).map(|depth| Phase::new(&program, depth)).collect();
        Self { lanes, loads, whole, phases, program }
    }

    /// Lanes of a tile, and how many there are in all.
    fn extent(&self) -> (usize, usize) {
        let program = &self.program;
        match self.lanes {
            Lanes::Points => (TILE, program.elements()),
            Lanes::Columns => (TILE, program.columns()),
            Lanes::Rows => (ROWS, program.rows()),
        }
    }

    /// Fills the outputs.
    pub(super) fn run(&self, arrays: &Arrays<'_>, workers: &Workers<'_>) -> ort::Result<()> {
        let (tile, lanes) = self.extent();
        if self.lanes == Lanes::Points {
            let pieces = (0..lanes).step_by(PIECE).collect();
            return workers.each(pieces, |first: usize| {
                let mut work = Work::new(self, arrays);
                work.sweep(&self.phases[0], 0, first..(first + PIECE).min(lanes));
            });
        }
        // Rows for one piece of work; each is a lane, or all lanes.
        let (rows, columns) = (self.program.rows(), self.program.columns());
        let each = if self.lanes == Lanes::Rows { tile } else { (PIECE / columns).max(1) };
        let count = rows.div_ceil(each);
        let sweeps = |phase: &Phase| !phase.outputs.is_empty() || !phase.reductions.is_empty();
        let waits = self.phases[1..].iter().any(sweeps);
        let parts = match waits || count >= BUSY {
            true => 1,
            false => (BUSY.div_ceil(count)).min((each.min(rows) * columns).div_ceil(PIECE)).max(1),
        };
        let groups = (0..rows).step_by(each).map(|first| first..(first + each).min(rows));
        if parts == 1 {
            return workers.each(groups.collect(), |rows: std::ops::Range<usize>| {
                let mut work = Work::new(self, arrays);
                work.rows(rows, |work, rows| {
                    for phase in &self.phases {
                        work.row_steps(phase, &rows);
                        work.begin(phase, rows.len());
                        work.columns(phase, &rows, 0..columns);
                        work.end(phase, rows.len());
                    }
                    work.row_outputs(&rows);
                });
            });
        }
        self.run_parts(arrays, workers, groups.collect(), parts)
    }

    /// Rows that several pieces of work share: each leaves its part of the sums.
    fn run_parts(
        &self,
        arrays: &Arrays<'_>,
        workers: &Workers<'_>,
        groups: Vec<std::ops::Range<usize>>,
        parts: usize,
    ) -> ort::Result<()> {
        let (columns, first) = (self.program.columns(), &self.phases[0]);
        let each = columns.div_ceil(parts);
        let widest = groups.iter().map(|rows| rows.len()).max().unwrap_or(0);
        let share = first.reductions.len() * widest;
        let mut sums = vec![0.0f64; groups.len() * parts * share.max(1)];
        let pieces = sums.chunks_mut(share.max(1)).enumerate().collect();
        workers.each(pieces, |(number, sums): (usize, &mut [f64])| {
            let (group, part) = (groups[number / parts].clone(), number % parts);
            let own = (part * each).min(columns)..((part + 1) * each).min(columns);
            let mut work = Work::new(self, arrays);
            let start = group.start;
            work.rows(group, |work, rows| {
                work.row_steps(first, &rows);
                work.begin(first, rows.len());
                work.columns(first, &rows, own.clone());
                for (place, found) in work.gathered.iter().take(first.reductions.len()).enumerate() {
                    let at = place * widest + rows.start - start;
                    sums[at..at + rows.len()].copy_from_slice(&found[..rows.len()]);
                }
            });
        })?;
        let pieces = groups.iter().cloned().zip(sums.chunks(share.max(1) * parts)).collect();
        workers.each(pieces, |(group, sums): (std::ops::Range<usize>, &[f64])| {
            let mut work = Work::new(self, arrays);
            let start = group.start;
            work.rows(group, |work, rows| {
                work.row_steps(first, &rows);
                work.begin(first, rows.len());
                for part in sums.chunks(share.max(1)) {
                    for (place, reduction) in first.reductions.iter().enumerate() {
                        let at = place * widest + rows.start - start;
                        let kind = kind(&self.program, *reduction);
                        let own = work.gathered[place][..rows.len()].iter_mut();
                        own.zip(&part[at..]).for_each(|(sum, part)| *sum = combine(kind, *sum, *part));
                    }
                }
                work.end(first, rows.len());
                for phase in &self.phases[1..] {
                    work.row_steps(phase, &rows);
                }
                work.row_outputs(&rows);
            });
        })
    }
}

fn kind(program: &Program, step: usize) -> Reduction {
    match program.steps[step].operation {
        Operation::Reduce(kind, _) => kind,
        _ => unreachable!("a reduction"),
    }
}

fn identity(kind: Reduction) -> f64 {
    match kind {
        Reduction::Sum => 0.0,
        Reduction::Max => f64::NEG_INFINITY,
        Reduction::Min => f64::INFINITY,
    }
}

fn combine(kind: Reduction, a: f64, b: f64) -> f64 {
    match kind {
        Reduction::Sum => a + b,
        // What is not a number stays so.
        Reduction::Max => {
            if a > b || a.is_nan() {
                a
            } else {
                b
            }
        }
        Reduction::Min => {
            if a < b || a.is_nan() {
                a
            } else {
                b
            }
        }
    }
}

impl Phase {
    fn new(program: &Program, depth: usize) -> Self {
        let is_reduction = |i: usize| matches!(program.steps[i].operation, Operation::Reduce(..));
        let all = || 0..program.steps.len();
        let at = |i: &usize, depth| program.steps[*i].depth == depth;
        let row_steps = all().filter(|i| program.steps[*i].per_row && at(i, depth) && !is_reduction(*i)).collect();
        let reductions: Vec<_> = all().filter(|i| at(i, depth + 1) && is_reduction(*i)).collect();
        let outputs: Vec<_> = (0..program.outputs.len())
            .filter(|i| !program.outputs[*i].per_row && at(&program.outputs[*i].step, depth))
            .collect();
        let mut wanted: Vec<_> = outputs.iter().map(|i| program.outputs[*i].step).collect();
        wanted.extend(reductions.iter().flat_map(|i| program.steps[*i].operation.arguments()));
        let mut live = vec![false; program.steps.len()];
        while let Some(i) = wanted.pop() {
            if !std::mem::replace(&mut live[i], true) && !program.steps[i].per_row {
                wanted.extend(program.steps[i].operation.arguments());
            }
        }
        let live = |per_row: bool| all().filter(|i| live[*i] && program.steps[*i].per_row == per_row).collect();
        Self { row_steps, steps: live(false), spread: live(true), outputs, reductions }
    }
}

/// One piece of work.
struct Work<'a> {
    prepared: &'a Prepared,
    arrays: &'a Arrays<'a>,
    buffers: Vec<Buffer>,
    /// Sums of the phase's reductions, by lane.
    gathered: Vec<Vec<f64>>,
    /// The same in float32, not yet in `gathered`.
    recent: Vec<Vec<f32>>,
}

impl<'a> Work<'a> {
    fn new(prepared: &'a Prepared, arrays: &'a Arrays<'a>) -> Self {
        let (tile, lanes) = prepared.extent();
        let lanes = tile.min(lanes);
        let buffer = |step: &Step| match (step.dtype, &step.operation) {
            (DType::I64, Operation::Number(number)) => Buffer::Integer(vec![*number as i64; lanes]),
            (DType::Bool, Operation::Number(number)) => Buffer::Truth(vec![*number != 0.0; lanes]),
            (_, Operation::Number(number)) => Buffer::Float(vec![*number as f32; lanes]),
            (DType::I64, _) => Buffer::Integer(vec![0; lanes]),
            (DType::Bool, _) => Buffer::Truth(vec![false; lanes]),
            _ => Buffer::Float(vec![0.0; lanes]),
        };
        let program = &prepared.program;
        let most = prepared.phases.iter().map(|phase| phase.reductions.len()).max().unwrap_or(0);
        let rows = if prepared.lanes == Lanes::Rows { lanes } else { 1 };
        Self {
            prepared,
            arrays,
            buffers: program.steps.iter().map(buffer).collect(),
            gathered: vec![vec![0.0; rows]; most],
            recent: vec![vec![0.0; rows]; most],
        }
    }

    /// Does `work` for rows that are one tile's lanes, or for one row.
    fn rows(&mut self, rows: std::ops::Range<usize>, mut work: impl FnMut(&mut Self, std::ops::Range<usize>)) {
        match self.prepared.lanes {
            Lanes::Rows => work(self, rows),
            _ => rows.for_each(|row| work(self, row..row + 1)),
        }
    }

    fn row_steps(&mut self, phase: &Phase, rows: &std::ops::Range<usize>) {
        for step in &phase.row_steps {
            match self.prepared.lanes {
                Lanes::Rows => self.step(*step, 0, rows.start, rows.len()),
                _ => self.step(*step, rows.start, 0, 1),
            }
        }
    }

    fn begin(&mut self, phase: &Phase, lanes: usize) {
        let program = &self.prepared.program;
        for (place, reduction) in phase.reductions.iter().enumerate() {
            let start = identity(kind(program, *reduction));
            self.gathered[place][..lanes].fill(start);
            self.recent[place][..lanes].fill(start as f32);
        }
    }

    /// Goes over some columns of the rows.
    fn columns(&mut self, phase: &Phase, rows: &std::ops::Range<usize>, columns: std::ops::Range<usize>) {
        if phase.outputs.is_empty() && phase.reductions.is_empty() {
            return;
        }
        if self.prepared.lanes == Lanes::Rows {
            let length = columns.len();
            for (done, column) in columns.enumerate() {
                self.tile(phase, column, rows.start, rows.len());
                if done % RUN == RUN - 1 || done + 1 == length {
                    self.gather(phase, rows.len());
                }
            }
            return;
        }
        let lanes = columns.len().min(TILE);
        for step in &phase.spread {
            match &mut self.buffers[*step] {
                Buffer::Float(x) => {
                    let value = x[0];
                    x[..lanes].fill(value);
                }
                Buffer::Integer(x) => {
                    let value = x[0];
                    x[..lanes].fill(value);
                }
                Buffer::Truth(x) => {
                    let value = x[0];
                    x[..lanes].fill(value);
                }
            }
        }
        self.sweep(phase, rows.start, columns);
    }

    /// Goes over lanes, tile by tile.
    fn sweep(&mut self, phase: &Phase, fixed: usize, lanes: std::ops::Range<usize>) {
        for first in lanes.clone().step_by(TILE) {
            self.tile(phase, fixed, first, TILE.min(lanes.end - first));
            self.gather(phase, 1);
        }
    }

    /// Moves what the last tiles gave to the sums.
    fn gather(&mut self, phase: &Phase, lanes: usize) {
        let program = &self.prepared.program;
        for (place, reduction) in phase.reductions.iter().enumerate() {
            let kind = kind(program, *reduction);
            for (sum, recent) in self.gathered[place][..lanes].iter_mut().zip(&mut self.recent[place]) {
                *sum = combine(kind, *sum, f64::from(*recent));
                *recent = identity(kind) as f32;
            }
        }
    }

    fn end(&mut self, phase: &Phase, lanes: usize) {
        for (place, reduction) in phase.reductions.iter().enumerate() {
            let dtype = self.prepared.program.steps[*reduction].dtype;
            let Buffer::Float(to) = &mut self.buffers[*reduction] else { unreachable!("reductions are of floats") };
            to[..lanes].iter_mut().zip(&self.gathered[place]).for_each(|(to, sum)| *to = *sum as f32);
            round(dtype, &mut to[..lanes]);
        }
    }

    fn tile(&mut self, phase: &Phase, fixed: usize, first: usize, count: usize) {
        for step in &phase.steps {
            self.step(*step, fixed, first, count);
        }
        for output in &phase.outputs {
            let step = self.prepared.program.outputs[*output].step;
            self.store(*output, step, &self.prepared.whole, fixed, first, count);
        }
        let program = &self.prepared.program;
        for (place, reduction) in phase.reductions.iter().enumerate() {
            let Operation::Reduce(kind, x) = &program.steps[*reduction].operation else { continue };
            let Buffer::Float(x) = &self.buffers[*x] else { unreachable!("reductions are of floats") };
            let (x, recent) = (&x[..count], &mut self.recent[place]);
            match (self.prepared.lanes, kind) {
                (Lanes::Rows, kind) => accumulate(*kind, &mut recent[..count], x),
                (_, Reduction::Sum) => recent[0] += layer_norm::sum([x], |[x]| x),
                (_, kind) => {
                    let start = f64::from(recent[0]);
                    recent[0] = x.iter().fold(start, |a, b| combine(*kind, a, f64::from(*b))) as f32;
                }
            }
        }
    }

    fn row_outputs(&mut self, rows: &std::ops::Range<usize>) {
        let program = &self.prepared.program;
        let line = Walk { offset: 0, lanes: vec![(program.rows(), 1)], fixed: Vec::new() };
        for (i, output) in program.outputs.iter().enumerate().filter(|(_, output)| output.per_row) {
            self.store(i, output.step, &line, 0, rows.start, rows.len());
        }
    }

    fn store(&self, output: usize, step: usize, walk: &Walk, fixed: usize, first: usize, count: usize) {
        /// Writes a run of lanes.
        fn write<A: Copy, B>(from: &[A], to: *mut B, stride: usize, convert: impl Fn(A) -> B) {
            // SAFETY: the caller's.
            unsafe {
                if stride == 1 {
                    from.iter().enumerate().for_each(|(k, x)| *to.add(k) = convert(*x));
                } else {
                    from.iter().enumerate().for_each(|(k, x)| *to.add(k * stride) = convert(*x));
                }
            }
        }
        walk.runs(fixed, first, count, |lane, at, stride, length| {
            let lanes = lane..lane + length;
            // SAFETY: `at` and what follows it are elements of the output, since its walk is that of the whole space or of
            // its rows, which the output has an element for each of; no other piece of work has these points or rows.
            unsafe {
                match (self.arrays.outputs[output], &self.buffers[step]) {
                    (Place::F32(to), Buffer::Float(x)) => write(&x[lanes], to.add(at), stride, |x| x),
                    (Place::F16(to), Buffer::Float(x)) => write(&x[lanes], to.add(at), stride, f16::from_f32),
                    (Place::BF16(to), Buffer::Float(x)) => write(&x[lanes], to.add(at), stride, bf16::from_f32),
                    (Place::I64(to), Buffer::Integer(x)) => write(&x[lanes], to.add(at), stride, |x| x),
                    (Place::Bool(to), Buffer::Truth(x)) => write(&x[lanes], to.add(at), stride, |x| x),
                    _ => unreachable!("outputs have their steps' types"),
                }
            }
        });
    }

    /// Computes one step's lanes.
    fn step(&mut self, i: usize, fixed: usize, first: usize, count: usize) {
        let step = &self.prepared.program.steps[i];
        let (before, rest) = self.buffers.split_at_mut(i);
        let to = &mut rest[0];
        match &step.operation {
            Operation::Number(_) | Operation::Reduce(..) => {}
            Operation::Load { input, .. } => {
                let walk = self.prepared.loads[i].as_ref().expect("a load has a walk");
                load(self.arrays.inputs[*input], walk, fixed, first, count, to);
            }
            Operation::Unary(name, x) => unary(name, &before[*x], to, count),
            Operation::Binary(name, a, b) => binary(name, &before[*a], &before[*b], to, count),
            Operation::Select(c, a, b) => select(&before[*c], &before[*a], &before[*b], to, count),
            Operation::Cast(x) => cast(&before[*x], to, count),
        }
        if let (true, Buffer::Float(to)) = (step.dtype.is_half(), to) {
            round(step.dtype, &mut to[..count]);
        }
    }
}
