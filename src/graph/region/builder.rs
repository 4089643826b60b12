//! Writing a value's computation as the steps of a program.

use std::collections::{HashMap, HashSet};

use super::super::core::{Graph, Node, Value};
use super::super::operators::{Part, order, ranges, reduced_axes};
use super::super::tensor::{Constant, DType};
use super::access::{Access, ByAxis, Crosses, strides};
use super::plan::part;
use super::program::{Operation, Output, Program, Reduction, Step};

/// Beyond these a kernel runs out of registers, or its source takes long to compile.
const MOST_STEPS: usize = 240;
const MOST_LOADS: usize = 28;
const MOST_OUTPUTS: usize = 16;

/// A program as it grows.
#[derive(Clone)]
pub(super) struct Builder {
    sizes: Vec<usize>,
    /// `None`: nothing is reduced yet.
    reduced: Option<Vec<bool>>,
    accesses: Vec<Access>,
    steps: Vec<Draft>,
    /// What is already there, by value and access.
    made: HashMap<(Value, usize), usize>,
    /// Values that it leaves in memory, with their steps.
    pub(super) roots: Vec<(Value, usize)>,
    /// Those of them that are reductions, or computed by row.
    by_row: HashSet<Value>,
    /// Pointwise nodes that it does the work of.
    pub(super) work: usize,
}

#[derive(Clone)]
struct Draft {
    dtype: DType,
    operation: Work,
}

#[derive(Clone, PartialEq)]
enum Work {
    Load(Value, usize),
    Other(Operation),
}

/// What the builder asks of the plan.
pub(super) struct Context<'a> {
    pub(super) graph: &'a Graph,
    /// The node that makes a value, if regions may compute it.
    pub(super) makers: &'a HashMap<Value, usize>,
    /// Whether a value lies in memory.
    pub(super) is_stored: &'a dyn Fn(Value) -> bool,
}

impl Context<'_> {
    fn maker(&self, value: Value) -> Option<&Node> {
        self.makers.get(&value).map(|i| &self.graph.nodes[*i])
    }
}

impl Builder {
    pub(super) fn new(shape: &[usize]) -> Self {
        let sizes: Vec<_> = shape.iter().copied().filter(|size| *size > 1).collect();
        Self {
            sizes,
            reduced: None,
            accesses: Vec::new(),
            steps: Vec::new(),
            made: HashMap::new(),
            roots: Vec::new(),
            by_row: HashSet::new(),
            work: 0,
        }
    }

    pub(super) fn elements(&self) -> usize {
        self.sizes.iter().product()
    }

    pub(super) fn rows(&self) -> Option<usize> {
        let reduced = self.reduced.as_ref()?;
        Some(self.sizes.iter().zip(reduced).filter(|(_, reduced)| !**reduced).map(|(size, _)| *size).product())
    }

    /// The number of an access, which stays that of the same access as axes are divided.
    fn intern(&mut self, access: Access) -> usize {
        let found = self.accesses.iter().position(|other| *other == access);
        found.unwrap_or_else(|| {
            self.accesses.push(access);
            self.accesses.len() - 1
        })
    }

    /// Every point of the space in row-major order.
    fn whole(&mut self) -> usize {
        let access = Access { offset: 0, strides: strides(&self.sizes) };
        self.intern(access)
    }

    /// Every row, in row-major order.
    fn row(&mut self) -> Option<usize> {
        let reduced = self.reduced.clone()?;
        let mut access = Access { offset: 0, strides: vec![0; self.sizes.len()] };
        let mut step = 1;
        for axis in (0..self.sizes.len()).rev().filter(|axis| !reduced[*axis]) {
            access.strides[axis] = step;
            step *= self.sizes[axis];
        }
        Some(self.intern(access))
    }

    /// Divides an axis of the space in two.
    fn divide(&mut self, axis: usize, inner: usize) {
        self.sizes[axis] /= inner;
        self.sizes.insert(axis + 1, inner);
        if let Some(reduced) = &mut self.reduced {
            reduced.insert(axis + 1, reduced[axis]);
        }
        for access in &mut self.accesses {
            *access = access.divided(axis, inner);
        }
    }

    /// The access by the axes of `shape`, dividing the space's as needed.
    fn by_axis(&mut self, access: usize, shape: &[usize]) -> Option<ByAxis> {
        loop {
            match self.accesses[access].by_axis(&self.sizes, shape) {
                Ok(by_axis) => return Some(by_axis),
                Err(Crosses::Divide { axis, inner }) => self.divide(axis, inner),
                Err(Crosses::Irregular) => return None,
            }
        }
    }

    fn push(&mut self, dtype: DType, operation: Operation) -> Option<usize> {
        self.add(dtype, Work::Other(operation))
    }

    fn add(&mut self, dtype: DType, operation: Work) -> Option<usize> {
        // 0 and -0 are equal, and not the same.
        let bits = |work: &Work| match work {
            Work::Other(Operation::Number(number)) => Some(number.to_bits()),
            _ => None,
        };
        let same = |step: &Draft| {
            step.dtype == dtype && step.operation == operation && bits(&step.operation) == bits(&operation)
        };
        if let Some(step) = self.steps.iter().position(same) {
            return Some(step);
        }
        if self.steps.len() == MOST_STEPS || self.loads() == MOST_LOADS {
            return None;
        }
        self.steps.push(Draft { dtype, operation });
        Some(self.steps.len() - 1)
    }

    fn loads(&self) -> usize {
        self.steps.iter().filter(|step| matches!(step.operation, Work::Load(..))).count()
    }

    /// Values that it reads.
    pub(super) fn inputs(&self) -> Vec<Value> {
        let mut inputs: Vec<_> = self
            .steps
            .iter()
            .filter_map(|step| match step.operation {
                Work::Load(value, _) => Some(value),
                Work::Other(_) => None,
            })
            .collect();
        inputs.sort_unstable();
        inputs.dedup();
        inputs
    }

    /// Adds a value that is to lie in memory, if it fits here; the builder is spoilt if not.
    pub(super) fn root(&mut self, context: &Context<'_>, value: Value) -> Option<()> {
        if self.roots.len() == MOST_OUTPUTS {
            return None;
        }
        let node = context.maker(value)?;
        let step = match part(context.graph, node) {
            Some(Part::Reduction) => {
                self.by_row.insert(value);
                self.reduction(context, node, value)?
            }
            _ if context.graph.ty(value).elements() == self.elements() => {
                let access = self.whole();
                self.compute(context, value, access)?
            }
            _ if self.rows() == Some(context.graph.ty(value).elements()) => {
                let access = self.row()?;
                self.by_row.insert(value);
                self.compute(context, value, access)?
            }
            _ => return None,
        };
        self.roots.push((value, step));
        Some(())
    }

    fn reduction(&mut self, context: &Context<'_>, node: &Node, value: Value) -> Option<usize> {
        let graph = context.graph;
        let x = node.input(0);
        if graph.ty(x).elements() != self.elements() {
            return None;
        }
        let shape = graph.shape(x).to_vec();
        let access = self.whole();
        let by_axis = self.by_axis(access, &shape)?;
        let axes = reduced_axes(graph, node).ok()?;
        let reduced: Vec<_> =
            by_axis.moves.iter().map(|moved| moved.is_some_and(|(axis, _)| axes.contains(&axis))).collect();
        match &self.reduced {
            Some(own) if *own != reduced => return None,
            _ => self.reduced = Some(reduced),
        }
        let access = self.whole();
        let inner = self.value(context, x, access)?;
        let dtype = graph.dtype(value);
        let kind = match node.operator.name {
            "ReduceMax" => Reduction::Max,
            "ReduceMin" => Reduction::Min,
            _ => Reduction::Sum,
        };
        let mut step;
        if node.operator.name == "ReduceMean" {
            // A sum may be beyond half precision where the mean is not.
            let wide = if dtype == DType::F32 { inner } else { self.push(DType::F32, Operation::Cast(inner))? };
            let count = (self.elements() / self.rows()?) as f64;
            let sum = self.push(DType::F32, Operation::Reduce(kind, wide))?;
            let count = self.push(DType::F32, Operation::Number(count))?;
            step = self.push(DType::F32, Operation::Binary("Div".into(), sum, count))?;
            if dtype != DType::F32 {
                step = self.push(dtype, Operation::Cast(step))?;
            }
        } else {
            step = self.push(dtype, Operation::Reduce(kind, inner))?;
        }
        let row = self.row()?;
        self.made.insert((value, row), step);
        Some(step)
    }

    /// The step that gives a value by an access.
    fn value(&mut self, context: &Context<'_>, value: Value, access: usize) -> Option<usize> {
        if let Some(step) = self.made.get(&(value, access)) {
            return Some(*step);
        }
        let graph = context.graph;
        let dtype = graph.dtype(value);
        // An integer that float64 has not is read from where it lies.
        let is_exact = |number: &f64| dtype != DType::I64 || number.abs() < (1u64 << 53) as f64;
        if let Some(number) = graph.number(value).filter(is_exact) {
            return self.push(dtype, Operation::Number(number));
        }
        if self.by_row.contains(&value) {
            // Of another row than the one at hand, or of all of them.
            return None;
        }
        if let Some((_, step)) = self.roots.iter().find(|(root, _)| *root == value) {
            let step = *step;
            let whole = self.whole();
            return (self.accesses[whole] == self.accesses[access]).then_some(step);
        }
        let step = if (context.is_stored)(value) {
            self.add(dtype, Work::Load(value, access))?
        } else {
            self.compute(context, value, access)?
        };
        self.made.insert((value, access), step);
        Some(step)
    }

    /// The steps that compute a value from its node's inputs.
    fn compute(&mut self, context: &Context<'_>, value: Value, access: usize) -> Option<usize> {
        let node = context.maker(value)?.clone();
        let graph = context.graph;
        let dtype = graph.dtype(value);
        let step = match part(graph, &node)? {
            Part::View => {
                let access = self.view(graph, &node, value, access)?;
                self.value(context, node.input(0), access)?
            }
            Part::Pointwise => {
                self.work += 1;
                let mut arguments = Vec::with_capacity(3);
                for input in node.inputs.iter().flatten() {
                    let access = self.broadcast(access, graph.shape(value), graph.shape(*input))?;
                    arguments.push(self.value(context, *input, access)?);
                }
                self.function(&node, dtype, &arguments)?
            }
            // Inside a program only as a root of it.
            Part::Reduction => return None,
        };
        self.made.insert((value, access), step);
        Some(step)
    }

    fn function(&mut self, node: &Node, dtype: DType, arguments: &[usize]) -> Option<usize> {
        let name = node.operator.name;
        let operation = match (name, arguments) {
            ("Identity", [x]) => return Some(*x),
            ("Cast", [x]) if self.steps[*x].dtype == dtype => return Some(*x),
            ("Cast", [x]) => Operation::Cast(*x),
            ("LeakyRelu", [x]) => {
                let zero = self.push(dtype, Operation::Number(0.0))?;
                let slope = Constant::filled(dtype, Vec::new(), f64::from(node.float("alpha", 0.01))).numbers()[0];
                let slope = self.push(dtype, Operation::Number(slope))?;
                let above = self.push(DType::Bool, Operation::Binary("Greater".into(), *x, zero))?;
                let below = self.push(dtype, Operation::Binary("Mul".into(), *x, slope))?;
                Operation::Select(above, *x, below)
            }
            ("Where", [c, a, b]) => Operation::Select(*c, *a, *b),
            (_, [x]) => Operation::Unary(name.into(), *x),
            (_, [a, b]) => Operation::Binary(name.into(), *a, *b),
            _ => return None,
        };
        self.push(dtype, operation)
    }

    /// The access to an operand of shape `of` that broadcasts to `shape`.
    fn broadcast(&mut self, access: usize, shape: &[usize], of: &[usize]) -> Option<usize> {
        if shape == of {
            return Some(access);
        }
        let by_axis = self.by_axis(access, shape)?;
        let lead = shape.len() - of.len();
        let to = |axis: usize| (axis >= lead && of[axis - lead] > 1).then(|| (axis - lead, 1));
        let access = by_axis.through(&strides(of), to);
        Some(self.intern(access))
    }

    /// The access to what a view is of.
    fn view(&mut self, graph: &Graph, node: &Node, value: Value, access: usize) -> Option<usize> {
        let (from, to) = (graph.shape(node.input(0)).to_vec(), graph.shape(value).to_vec());
        match node.operator.name {
            "Expand" => self.broadcast(access, &to, &from),
            "Transpose" => {
                let order = order(node, from.len()).ok()?;
                let by_axis = self.by_axis(access, &to)?;
                let access = by_axis.through(&strides(&from), |axis| Some((order[axis], 1)));
                Some(self.intern(access))
            }
            "Slice" => {
                let ranges = ranges(graph, node).ok()?;
                self.slice(access, &from, &to, |axis| (ranges[axis].0, ranges[axis].2))
            }
            "Split" => {
                let along = node.int("axis", 0).rem_euclid(from.len() as i64) as usize;
                let earlier = node.outputs.iter().take_while(|output| **output != value);
                let start = earlier.map(|output| graph.shape(*output)[along]).sum();
                self.slice(access, &from, &to, |axis| (if axis == along { start } else { 0 }, 1))
            }
            // Another shape of the same elements; so is a reduction over axes of one element.
            _ => Some(access),
        }
    }

    /// Of each axis, its start and its step.
    fn slice(
        &mut self,
        access: usize,
        from: &[usize],
        to: &[usize],
        range: impl Fn(usize) -> (usize, usize),
    ) -> Option<usize> {
        let by_axis = self.by_axis(access, to)?;
        let own = strides(from);
        let mut access = by_axis.through(&own, |axis| Some((axis, range(axis).1)));
        access.offset += own.iter().enumerate().map(|(axis, stride)| stride * range(axis).0).sum::<usize>();
        Some(self.intern(access))
    }

    /// Steps that are there for other reasons than numbers: what a new root would share with the program.
    pub(super) fn weight(&self) -> usize {
        self.steps.iter().filter(|step| !matches!(step.operation, Work::Other(Operation::Number(_)))).count()
    }

    /// Whether every reduction may run before anything that needs it without the whole grid being done: not so where
    /// rows are long and few, which many blocks share.
    pub(super) fn is_in_turn(&self) -> bool {
        /// Rows up to this length are read again from the cache by the block that has them.
        const SHORT: usize = 4096;
        const LONG: usize = 1 << 15;
        const MANY: usize = 128;
        let Some(rows) = self.rows() else { return true };
        let columns = self.elements() / rows.max(1);
        if columns <= SHORT || (columns <= LONG && rows >= MANY) {
            return true;
        }
        let levels = self.levels();
        let early = |step: &usize| levels[*step].0 == 0;
        levels.iter().all(|(depth, per_row)| *depth == 0 || (*depth == 1 && *per_row))
            && self.roots.iter().all(|(value, step)| self.by_row.contains(value) || early(step))
    }

    /// Depth of each step, and whether it is by row.
    fn levels(&self) -> Vec<(usize, bool)> {
        let mut levels: Vec<(usize, bool)> = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let level = match &step.operation {
                Work::Load(_, access) => (0, self.is_by_row(&self.accesses[*access])),
                Work::Other(Operation::Reduce(_, x)) => (levels[*x].0 + 1, true),
                Work::Other(operation) => {
                    let arguments = operation.arguments();
                    let depth = arguments.iter().map(|x| levels[*x].0).max().unwrap_or(0);
                    (depth, self.reduced.is_some() && arguments.iter().all(|x| levels[*x].1))
                }
            };
            levels.push(level);
        }
        levels
    }

    fn is_by_row(&self, access: &Access) -> bool {
        let Some(reduced) = &self.reduced else { return false };
        access.strides.iter().zip(reduced).all(|(stride, reduced)| !reduced || *stride == 0)
    }

    /// The finished program with its inputs, for those roots that something else needs.
    pub(super) fn finish(&self, graph: &Graph, wanted: impl Fn(Value) -> bool) -> (Program, Vec<Value>, Vec<Value>) {
        let levels = self.levels();
        let outputs: Vec<_> = self.roots.iter().filter(|(value, _)| wanted(*value)).copied().collect();
        let mut live = vec![false; self.steps.len()];
        outputs.iter().for_each(|(_, step)| live[*step] = true);
        for (i, draft) in self.steps.iter().enumerate().rev() {
            if let (true, Work::Other(operation)) = (live[i], &draft.operation) {
                operation.arguments().into_iter().for_each(|argument| live[argument] = true);
            }
        }
        let mut inputs: Vec<Value> = Vec::new();
        let mut places = vec![0; self.steps.len()];
        let mut steps = Vec::new();
        for (i, draft) in self.steps.iter().enumerate().filter(|(i, _)| live[*i]) {
            let operation = match &draft.operation {
                Work::Load(value, access) => {
                    let input = inputs.iter().position(|other| other == value).unwrap_or_else(|| {
                        inputs.push(*value);
                        inputs.len() - 1
                    });
                    let Access { offset, strides } = self.accesses[*access].clone();
                    Operation::Load { input, offset, strides }
                }
                Work::Other(operation) => {
                    let mut operation = operation.clone();
                    operation.arguments_mut().into_iter().for_each(|x| *x = places[*x]);
                    operation
                }
            };
            places[i] = steps.len();
            let (depth, per_row) = levels[i];
            steps.push(Step { dtype: draft.dtype, operation, depth, per_row });
        }
        let types = inputs.iter().map(|value| (graph.dtype(*value), graph.shape(*value).to_vec())).collect();
        let mut program = Program {
            sizes: self.sizes.clone(),
            reduced: self.reduced.clone().unwrap_or_else(|| vec![false; self.sizes.len()]),
            inputs: types,
            steps,
            outputs: outputs
                .iter()
                .map(|(value, step)| Output {
                    step: places[*step],
                    shape: graph.shape(*value).to_vec(),
                    per_row: self.by_row.contains(value),
                })
                .collect(),
        };
        program.join_axes();
        (program, inputs, outputs.into_iter().map(|(value, _)| value).collect())
    }
}

impl Program {
    /// Joins neighbouring axes that every access runs through as through one.
    fn join_axes(&mut self) {
        let mut axis = 0;
        while axis + 1 < self.sizes.len() {
            let inner = self.sizes[axis + 1];
            let joins = self.reduced[axis] == self.reduced[axis + 1]
                && self.steps.iter().all(|step| match &step.operation {
                    Operation::Load { strides, .. } => strides[axis] == strides[axis + 1] * inner,
                    _ => true,
                });
            if !joins {
                axis += 1;
                continue;
            }
            self.sizes[axis] *= inner;
            self.sizes.remove(axis + 1);
            self.reduced.remove(axis + 1);
            for step in &mut self.steps {
                if let Operation::Load { strides, .. } = &mut step.operation {
                    strides.remove(axis);
                }
            }
        }
        if self.sizes.is_empty() {
            (self.sizes, self.reduced) = (vec![1], vec![false]);
            for step in &mut self.steps {
                if let Operation::Load { strides, .. } = &mut step.operation {
                    strides.push(0);
                }
            }
        }
    }
}
