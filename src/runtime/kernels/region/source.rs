//! A region as CUDA text, and how it is started.
//!
//! A thread has one point of the space, or four neighbours on its last axis. Rows, over which reductions run, belong to
//! some threads of one block, which go over a row once for each reduction that waits for another. Long rows of which
//! there are few are shared by many blocks: each leaves its part of the sums in scratch, and a second kernel adds them.

use std::fmt::Write;

use super::functions;
use crate::graph::{DType, Operation, Program, Reduction};

/// Threads of a warp.
const WARP: usize = 32;
/// Blocks below which a GPU is not busy.
const BUSY: usize = 528;
/// Whether a thread is the one that writes what its row has once.
const FIRST: &str = "lane == 0 && there";
/// Columns that each part of a shared row has at least.
const LEAST_PART: usize = 256;

/// One start of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) entry: String,
    pub(super) blocks: [usize; 2],
    pub(super) threads: usize,
}

/// A region's text and its starts, one after the other, all with the same arguments: inputs, outputs, scratch.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) text: String,
    pub(super) starts: Vec<Start>,
    /// Elements of the scratch array (float32).
    pub(super) scratch: usize,
}

/// How rows are shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Nothing is reduced.
    Points,
    /// Neighbouring threads have neighbouring columns; so many threads to a row.
    AlongColumns { threads: usize },
    /// Neighbouring threads have neighbouring rows, each column of threads one row.
    AlongRows { deep: usize },
}

/// Writes one region; `name` is that of its first kernel.
pub(super) fn source(program: &Program, name: &str) -> Source {
    Writer::new(program, name).write()
}

struct Writer<'a> {
    program: &'a Program,
    name: &'a str,
    text: String,
    shape: Shape,
    /// Parts of a row that blocks share; 1: a block has whole rows.
    parts: usize,
    /// Neighbours on the last axis that a thread has: 4, 2 or 1.
    width: usize,
}

impl<'a> Writer<'a> {
    fn new(program: &'a Program, name: &'a str) -> Self {
        let (rows, columns) = (program.rows(), program.columns());
        let last = program.sizes.len() - 1;
        let neighbours = [4, 2, 1].into_iter().find(|width| program.sizes[last].is_multiple_of(*width)).unwrap_or(1);
        let along_columns = program.reduced[last];
        let (shape, width) = match program.has_reductions() {
            false => (Shape::Points, neighbours),
            true if along_columns => {
                let width = neighbours;
                let threads = (columns / width / 4).next_power_of_two().clamp(WARP, 512);
                (Shape::AlongColumns { threads }, width)
            }
            true => (Shape::AlongRows { deep: columns.div_ceil(4).next_power_of_two().clamp(4, 16) }, 1),
        };
        let blocks = match shape {
            Shape::Points => 1,
            Shape::AlongColumns { threads } => rows.div_ceil((128 / threads).max(1)),
            Shape::AlongRows { .. } => rows.div_ceil(WARP),
        };
        // What is known only once a row is done is written by the block that has the row.
        let waits = program.steps.iter().any(|step| step.depth > 1 || (step.depth > 0 && !step.per_row))
            || program.outputs.iter().any(|output| !output.per_row && program.steps[output.step].depth > 0);
        let parts = match program.has_reductions() && !waits && blocks < BUSY {
            true => (BUSY / blocks).min(columns / LEAST_PART).max(1),
            false => 1,
        };
        // Blocks that share a row are whole.
        let shape = match shape {
            Shape::AlongColumns { .. } if parts > 1 => Shape::AlongColumns { threads: 256 },
            shape => shape,
        };
        Self { program, name, text: String::new(), shape, parts, width }
    }

    fn write(mut self) -> Source {
        let mut starts = vec![self.main()];
        let reductions = self.reductions(None).len();
        let shared = self.parts > 1;
        if shared {
            starts.push(self.finish());
        }
        let scratch = if shared { self.program.rows() * self.parts * reductions } else { 0 };
        Source { text: self.text, starts, scratch }
    }

    fn line(&mut self, line: &str) {
        let _ = writeln!(self.text, "{line}");
    }

    /// The reductions at one depth, or all.
    fn reductions(&self, depth: Option<usize>) -> Vec<usize> {
        let steps = self.program.steps.iter().enumerate();
        steps
            .filter(|(_, step)| matches!(step.operation, Operation::Reduce(..)))
            .filter(|(_, step)| depth.is_none_or(|depth| step.depth == depth))
            .map(|(i, _)| i)
            .collect()
    }

    fn head(&mut self, entry: &str, threads: usize) {
        let inputs = self.program.inputs.iter().enumerate();
        let mut parameters: Vec<_> =
            inputs.map(|(i, (dtype, _))| format!("const {} *__restrict__ in{i}", stored(*dtype))).collect();
        for (i, output) in self.program.outputs.iter().enumerate() {
            parameters.push(format!("{} *__restrict__ out{i}", stored(self.program.steps[output.step].dtype)));
        }
        parameters.push("float *__restrict__ scratch".to_owned());
        let parameters = parameters.join(", ");
        self.line(&format!("extern \"C\" __global__ void __launch_bounds__({threads}) {entry}({parameters}) {{"));
    }

    /// Declares the indices of the axes that are reduced or not, from a number that counts through them; `step`: how
    /// many neighbours the number counts as one.
    fn indices(&mut self, number: &str, reduced: Option<bool>, step: usize) {
        let axes: Vec<_> = self.axes(reduced);
        self.line(&format!("unsigned rest = {number};"));
        for (place, axis) in axes.iter().enumerate().rev() {
            let size = self.program.sizes[*axis];
            let inner = place == axes.len() - 1;
            let (size, scale) = if inner { (size / step, step) } else { (size, 1) };
            let index = if place == 0 { "rest".to_owned() } else { format!("rest % {size}u") };
            self.line(&format!("const unsigned a{axis} = ({index}) * {scale}u;"));
            if place > 0 {
                self.line(&format!("rest /= {size}u;"));
            }
        }
    }

    fn axes(&self, reduced: Option<bool>) -> Vec<usize> {
        (0..self.program.sizes.len())
            .filter(|axis| reduced.is_none_or(|is| self.program.reduced[*axis] == is))
            .collect()
    }

    /// The sum of index x stride over all axes, or those not reduced.
    fn offset(&self, start: usize, strides: &[usize], rows_only: bool) -> String {
        let mut terms = vec![format!("{start}u")];
        for (axis, stride) in strides.iter().enumerate() {
            if *stride > 0 && !(rows_only && self.program.reduced[axis]) {
                terms.push(format!("a{axis} * {stride}u"));
            }
        }
        terms.join(" + ")
    }

    fn main(&mut self) -> Start {
        let program = self.program;
        let (rows, columns) = (program.rows(), program.columns());
        let entry = self.name.to_owned();
        match self.shape {
            Shape::Points => {
                let count = program.elements() / self.width;
                self.head(&entry, 256);
                self.line("const unsigned number = blockIdx.x * 256u + threadIdx.x;");
                self.line(&format!("if (number >= {count}u) return;"));
                self.indices("number", None, self.width);
                let outputs: Vec<_> = (0..program.outputs.len()).collect();
                self.points(0, &outputs, &[]);
                self.line("}");
                Start { entry, blocks: [count.div_ceil(256), 1], threads: 256 }
            }
            Shape::AlongColumns { threads } => {
                let each = (128 / threads).max(1);
                let block = each * threads;
                self.head(&entry, block);
                self.line(&format!("const unsigned row = blockIdx.x * {each}u + threadIdx.x / {threads}u;"));
                self.line(&format!("const unsigned lane = threadIdx.x % {threads}u;"));
                self.line(&format!("const bool there = row < {rows}u;"));
                self.rows(columns / self.width, threads);
                Start { entry, blocks: [rows.div_ceil(each), self.parts], threads: block }
            }
            Shape::AlongRows { deep } => {
                self.head(&entry, WARP * deep);
                self.line(&format!("const unsigned row = blockIdx.x * {WARP}u + threadIdx.x % {WARP}u;"));
                self.line(&format!("const unsigned lane = threadIdx.x / {WARP}u;"));
                self.line(&format!("const bool there = row < {rows}u;"));
                self.rows(columns, deep);
                Start { entry, blocks: [rows.div_ceil(WARP), self.parts], threads: WARP * deep }
            }
        }
    }

    /// The body of a kernel that has rows: all depths, one after the other.
    fn rows(&mut self, groups: usize, threads: usize) {
        let program = self.program;
        let deepest = program.steps.iter().map(|step| step.depth).max().unwrap_or(0);
        // Threads without a row take part in what a block does together, on the last row.
        let last = program.rows() - 1;
        self.line(&format!("const unsigned own = there ? row : {last}u;"));
        self.indices("own", Some(false), 1);
        let chunk = groups.div_ceil(self.parts);
        for depth in 0..=deepest {
            self.row_steps(depth);
            let outputs: Vec<_> = (0..program.outputs.len())
                .filter(|i| {
                    let output = &program.outputs[*i];
                    !output.per_row && program.steps[output.step].depth == depth
                })
                .collect();
            let reductions = self.reductions(Some(depth + 1));
            if !outputs.is_empty() || !reductions.is_empty() {
                for reduction in &reductions {
                    let start = identity(self.kind(*reduction));
                    self.line(&format!("float s{reduction} = {start};"));
                }
                let (begin, end) = match self.parts {
                    1 => ("lane".to_owned(), format!("{groups}u")),
                    _ => {
                        self.line(&format!("const unsigned begin = blockIdx.y * {chunk}u;"));
                        self.line(&format!("const unsigned end = min(begin + {chunk}u, {groups}u);"));
                        ("begin + lane".to_owned(), "end".to_owned())
                    }
                };
                self.line(&format!("if (there) for (unsigned group = {begin}; group < {end}; group += {threads}u) {{"));
                self.indices("group", Some(true), self.width);
                self.points(depth, &outputs, &reductions);
                self.line("}");
                for reduction in reductions {
                    self.together(reduction, threads);
                }
            }
            if self.parts > 1 {
                self.leave_parts();
                self.line("}");
                return;
            }
        }
        self.row_outputs();
        self.line("}");
    }

    fn kind(&self, step: usize) -> Reduction {
        match self.program.steps[step].operation {
            Operation::Reduce(kind, _) => kind,
            _ => unreachable!("a reduction"),
        }
    }

    /// Combines what the threads of a row have.
    fn together(&mut self, step: usize, threads: usize) {
        let (kind, dtype) = (self.kind(step), self.program.steps[step].dtype);
        let name = combine(kind);
        let call = match self.shape {
            Shape::AlongRows { deep } => format!("down_{name}<{deep}>(s{step})"),
            _ if threads <= WARP => format!("warp_{name}(s{step})"),
            _ => format!("row_{name}<{threads}>(s{step})"),
        };
        let call = if self.parts > 1 { call } else { rounded(dtype, &call) };
        self.line(&format!("s{step} = {call};"));
    }

    fn leave_parts(&mut self) {
        let reductions = self.reductions(None);
        let count = reductions.len();
        for (place, step) in reductions.into_iter().enumerate() {
            let at = format!("(row * {}u + blockIdx.y) * {count}u + {place}u", self.parts);
            self.line(&format!("if ({FIRST}) scratch[{at}] = s{step};"));
        }
    }

    /// Adds up the parts, a warp for each row.
    fn finish(&mut self) -> Start {
        let rows = self.program.rows();
        let entry = format!("{}_sum", self.name);
        self.head(&entry, 128);
        self.line("const unsigned row = blockIdx.x * 4u + threadIdx.x / 32u, lane = threadIdx.x % 32u;");
        self.line(&format!("const bool there = row < {rows}u;"));
        self.line(&format!("const unsigned own = there ? row : {}u;", rows - 1));
        self.indices("own", Some(false), 1);
        let reductions = self.reductions(None);
        let (count, parts) = (reductions.len(), self.parts);
        self.row_steps(0);
        for (place, step) in reductions.into_iter().enumerate() {
            let (kind, dtype) = (self.kind(step), self.program.steps[step].dtype);
            let (start, name) = (identity(kind), combine(kind));
            self.line(&format!("float s{step} = {start};"));
            self.line(&format!("for (unsigned part = lane; part < {parts}u; part += 32u)"));
            let at = format!("scratch[(own * {parts}u + part) * {count}u + {place}u]");
            self.line(&format!("s{step} = {name}_of(s{step}, {at});"));
            let whole = rounded(dtype, &format!("warp_{name}(s{step})"));
            self.line(&format!("s{step} = {whole};"));
        }
        self.row_steps(1);
        self.row_outputs();
        self.line("}");
        Start { entry, blocks: [rows.div_ceil(4), 1], threads: 128 }
    }

    /// Steps of a row at one depth, as plain variables.
    fn row_steps(&mut self, depth: usize) {
        for (i, step) in self.program.steps.iter().enumerate() {
            if step.per_row && step.depth == depth && !matches!(step.operation, Operation::Reduce(..)) {
                let value = match &step.operation {
                    Operation::Load { input, offset, strides } => {
                        let at = self.offset(*offset, strides, true);
                        format!("load_{}(in{input}, {at})", step.dtype)
                    }
                    operation => self.value(operation, step.dtype, &|x| format!("s{x}")),
                };
                self.line(&format!("const {} s{i} = {value};", held(step.dtype)));
            }
        }
    }

    fn row_outputs(&mut self) {
        let outputs = self.program.outputs.iter().enumerate();
        for (i, output) in outputs.filter(|(_, output)| output.per_row) {
            let dtype = self.program.steps[output.step].dtype;
            let _ = writeln!(self.text, "if ({FIRST}) store_{dtype}(out{i}, row, s{});", output.step);
        }
    }

    /// Steps for a thread's points, the outputs among them, and what reductions gather of them.
    fn points(&mut self, depth: usize, outputs: &[usize], reductions: &[usize]) {
        let program = self.program;
        let argument = |step: &usize| match program.steps[*step].operation {
            Operation::Reduce(_, x) => x,
            _ => unreachable!("a reduction"),
        };
        let mut wanted: Vec<_> = outputs.iter().map(|i| program.outputs[*i].step).collect();
        wanted.extend(reductions.iter().map(argument));
        let mut live = vec![false; program.steps.len()];
        while let Some(step) = wanted.pop() {
            if !program.steps[step].per_row && !std::mem::replace(&mut live[step], true) {
                wanted.extend(program.steps[step].operation.arguments());
            }
        }
        debug_assert!(program.steps.iter().zip(&live).all(|(step, live)| !live || step.depth <= depth));
        // All loads first, so that they are under way together.
        for loads in [true, false] {
            for i in (0..live.len()).filter(|i| live[*i]) {
                if matches!(program.steps[i].operation, Operation::Load { .. }) == loads {
                    self.point(i);
                }
            }
        }
        let whole = crate::graph::row_major(&program.sizes);
        for i in outputs {
            let (step, at) = (program.outputs[*i].step, self.offset(0, &whole, false));
            let dtype = program.steps[step].dtype;
            let mut from = format!("s{step}");
            if program.steps[step].per_row {
                from = format!("o{i}");
                let (ty, width) = (held(dtype), self.width);
                self.line(&format!("{ty} {from}[{width}]; for (int k = 0; k < {width}; k++) {from}[k] = s{step};"));
            }
            self.line(&match self.width {
                1 => format!("store_{dtype}(out{i}, {at}, {from}[0]);"),
                width => format!("store{width}_{dtype}(out{i}, {at}, {from});"),
            });
        }
        for reduction in reductions {
            let (x, name, width) = (argument(reduction), combine(self.kind(*reduction)), self.width);
            let value = if program.steps[x].per_row { format!("s{x}") } else { format!("s{x}[k]") };
            self.line(&format!("for (int k = 0; k < {width}; k++) s{reduction} = {name}_of(s{reduction}, {value});"));
        }
    }

    fn point(&mut self, i: usize) {
        let (step, width) = (&self.program.steps[i], self.width);
        self.line(&format!("{} s{i}[{width}];", held(step.dtype)));
        let line = match &step.operation {
            Operation::Load { input, offset, strides } => {
                let at = self.offset(*offset, strides, false);
                let last = strides.len() - 1;
                let others = strides[..last].iter().chain([offset]);
                let (dtype, along) = (step.dtype, strides[last]);
                match along {
                    1 if width > 1 && others.clone().all(|stride| stride % width == 0) => {
                        format!("load{width}_{dtype}(in{input}, {at}, s{i});")
                    }
                    0 => {
                        let value = held(dtype);
                        format!(
                            "{{ const {value} x = load_{dtype}(in{input}, {at}); for (int k = 0; k < {width}; k++) s{i}[k] = x; }}"
                        )
                    }
                    _ => {
                        format!(
                            "for (int k = 0; k < {width}; k++) s{i}[k] = load_{dtype}(in{input}, {at} + k * {along}u);"
                        )
                    }
                }
            }
            operation => {
                let name = |x: usize| match self.program.steps[x].per_row {
                    true => format!("s{x}"),
                    false => format!("s{x}[k]"),
                };
                let value = self.value(operation, step.dtype, &name);
                format!("for (int k = 0; k < {width}; k++) s{i}[k] = {value};")
            }
        };
        self.line(&line);
    }

    /// The expression of a step.
    fn value(&self, operation: &Operation, dtype: DType, name: &dyn Fn(usize) -> String) -> String {
        let of = |x: usize| self.program.steps[x].dtype;
        match operation {
            Operation::Number(number) => literal(dtype, *number),
            Operation::Cast(x) => cast(of(*x), dtype, &name(*x)),
            Operation::Select(c, a, b) => format!("({} ? {} : {})", name(*c), name(*a), name(*b)),
            Operation::Unary(function, x) => rounded(dtype, &functions::unary_text(function, of(*x), &name(*x))),
            Operation::Binary(function, a, b) => {
                rounded(dtype, &functions::binary_text(function, of(*a), &name(*a), &name(*b)))
            }
            Operation::Load { .. } | Operation::Reduce(..) => unreachable!("written elsewhere"),
        }
    }
}

fn identity(kind: Reduction) -> &'static str {
    match kind {
        Reduction::Sum => "0.0f",
        Reduction::Max => "-INFINITE",
        Reduction::Min => "INFINITE",
    }
}

fn combine(kind: Reduction) -> &'static str {
    match kind {
        Reduction::Sum => "sum",
        Reduction::Max => "max",
        Reduction::Min => "min",
    }
}

/// The type of an array.
fn stored(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float",
        DType::F16 | DType::BF16 => "unsigned short",
        DType::I64 => "long long",
        DType::Bool => "unsigned char",
    }
}

/// The type of a variable.
fn held(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => "float",
        DType::I64 => "long long",
        DType::Bool => "bool",
    }
}

fn rounded(dtype: DType, value: &str) -> String {
    if dtype.is_half() { format!("round_{dtype}({value})") } else { value.to_owned() }
}

fn cast(from: DType, to: DType, value: &str) -> String {
    match to {
        DType::F32 | DType::F16 | DType::BF16 => rounded(to, &format!("(float)({value})")),
        DType::I64 => format!("(long long)({value})"),
        DType::Bool if from == DType::Bool => value.to_owned(),
        DType::Bool => format!("({value} != 0)"),
    }
}

fn literal(dtype: DType, number: f64) -> String {
    match dtype {
        DType::I64 => format!("{}ll", number as i64),
        DType::Bool => (number != 0.0).to_string(),
        _ => {
            let number = number as f32;
            if number.is_nan() {
                "NOT_A_NUMBER".to_owned()
            } else if number.is_infinite() {
                if number > 0.0 { "INFINITE".to_owned() } else { "(-INFINITE)".to_owned() }
            } else {
                format!("({number:?}f)")
            }
        }
    }
}
