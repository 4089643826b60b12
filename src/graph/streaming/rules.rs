//! What becomes of rows in each operator.

use super::super::attributes::Attribute;
use super::super::core::Node;
use super::super::error::GraphError;
use super::super::operators::{axis as axis_of, pads, ranges};
use super::walk::{Outputs, Rows, Streamed, WHOLE_WINDOW, Walk};

const PER_ROW: &str = "it has numbers for each row of the window";

impl Walk<'_> {
    /// What a node does with rows, which come together in time.
    pub(super) fn apply(&mut self, node: &Node, inputs: &[Option<Streamed>], rows: &[Rows]) -> Outputs {
        let first = rows[0];
        match node.operator.name {
            name if is_row_by_row(name) => self.broadcast(node, inputs, rows),
            "Transpose" => {
                let order = node.ints("perm", &[]);
                let axis = order.iter().position(|from| *from == first.axis as i64);
                self.same(node, inputs, first, axis.ok_or("the order of axes is missing")?)
            }
            "Reshape" => self.reshape(node, first),
            "Expand" => self.expand(node, first),
            "Slice" => self.slice(node, inputs, first),
            "Pad" => self.pad(node, inputs, first),
            "Conv" => self.convolution(node, inputs, first),
            "MatMul" => self.product(node, inputs, rows),
            "Gemm" if rows.len() == 1 && first.axis == 0 && node.int("transA", 0) == 0 && is_rows(inputs[0]) => {
                inputs.get(2).copied().flatten().map_or(Ok(()), |bias| self.check_still(bias, 2))?;
                self.same(node, inputs, first, 0)
            }
            "Concat" | "Split" | "Softmax" | "LogSoftmax" => {
                self.check_axis(node.int("axis", -1), node, first)?;
                self.check_alike(rows, node.operator.name != "Concat" || rows.len() == inputs.len())?;
                self.same(node, inputs, first, first.axis)
            }
            "LayerNormalization" | "LayerNorm" | "Standardize" => {
                let rank = self.shape(node.input(0)).len();
                let begin = axis_of(node.int("axis", -1), rank)?;
                if begin <= first.axis {
                    return Err(WHOLE_WINDOW.into());
                }
                self.same(node, inputs, first, first.axis)
            }
            "ReduceMax" | "ReduceMean" | "ReduceMin" | "ReduceSum" => self.reduce(node, inputs, first),
            "Gather" if rows.len() == 1 && is_rows(inputs[0]) => self.gather(node, inputs, first),
            _ => Err(WHOLE_WINDOW.into()),
        }
    }

    /// The node, which leaves the rows where they are in time.
    fn same(&mut self, node: &Node, inputs: &[Option<Streamed>], rows: Rows, axis: usize) -> Outputs {
        let values = self.copy_node(node, inputs)?;
        Ok(values.into_iter().map(|value| Streamed::Rows(Rows { value, axis, ..rows })).collect())
    }

    /// Fails where rows do not lie at the same axis and time.
    fn check_alike(&self, rows: &[Rows], all: bool) -> Result<(), GraphError> {
        if !all {
            return Err(PER_ROW.into());
        }
        if rows.iter().any(|other| other.axis != rows[0].axis) {
            return Err(WHOLE_WINDOW.into());
        }
        check_times(rows)
    }

    /// The axis of rows, counted from the end as broadcasting does.
    fn rows_from_end(&self, rows: &Rows) -> usize {
        self.graph.shape(rows.value).len() - rows.axis
    }

    fn check_all_still(&self, inputs: &[Option<Streamed>], from_end: usize) -> Result<(), GraphError> {
        inputs.iter().flatten().try_for_each(|input| self.check_still(*input, from_end))
    }

    /// Fails where a value that is the same for all rows has several numbers along their axis, `from_end` axes before the end.
    fn check_still(&self, input: Streamed, from_end: usize) -> Result<(), GraphError> {
        let Streamed::Still(value) = input else { return Ok(()) };
        let shape = self.graph.shape(value);
        match shape.len().checked_sub(from_end).map(|at| shape[at]) {
            None | Some(1) => Ok(()),
            Some(_) => Err(PER_ROW.into()),
        }
    }

    fn broadcast(&mut self, node: &Node, inputs: &[Option<Streamed>], rows: &[Rows]) -> Outputs {
        let own = self.rows_from_end(&rows[0]);
        if rows.iter().any(|other| self.rows_from_end(other) != own) {
            return Err(WHOLE_WINDOW.into());
        }
        check_times(rows)?;
        let rank = self.shape(node.outputs[0]).len();
        self.check_all_still(inputs, own)?;
        self.same(node, inputs, rows[0], rank - own)
    }

    fn reshape(&mut self, node: &Node, rows: Rows) -> Outputs {
        let (from, mut to) = (self.shape(node.input(0)), self.shape(node.outputs[0]));
        let before: usize = from[..rows.axis].iter().product();
        let fits = |at: &usize| to[*at] == from[rows.axis] && to[..*at].iter().product::<usize>() == before;
        let axis = (0..to.len()).find(fits).ok_or("it mixes rows with other axes")?;
        to[axis] = self.chunk;
        let value = self.graph.reshape(rows.value, &to);
        Ok(vec![Streamed::Rows(Rows { value, axis, ..rows })])
    }

    fn expand(&mut self, node: &Node, rows: Rows) -> Outputs {
        let (from, mut to) = (self.shape(node.input(0)), self.shape(node.outputs[0]));
        let axis = rows.axis + to.len() - from.len();
        to[axis] = self.chunk;
        let value = self.graph.expand(rows.value, &to);
        Ok(vec![Streamed::Rows(Rows { value, axis, ..rows })])
    }

    /// A slice in time only moves the first and the last row.
    fn slice(&mut self, node: &Node, inputs: &[Option<Streamed>], rows: Rows) -> Outputs {
        if !is_rows(inputs[0]) {
            return Err(WHOLE_WINDOW.into());
        }
        let (all, from) = (ranges(self.window, node)?, self.shape(node.input(0)));
        let (mut value, mut moved) = (rows.value, rows);
        for (axis, ((start, end, step), size)) in all.into_iter().zip(from).enumerate() {
            if axis == rows.axis {
                if step != 1 {
                    return Err("it leaves out rows".into());
                }
                moved.first += start as i64;
                moved.beyond -= (size - end) as i64;
            } else if (start, end, step) != (0, size, 1) {
                value = self.graph.strided_slice(value, axis, start, end, step);
            }
        }
        Ok(vec![Streamed::Rows(Rows { value, ..moved })])
    }

    fn pad(&mut self, node: &Node, inputs: &[Option<Streamed>], rows: Rows) -> Outputs {
        let mut all = pads(self.window, node)?;
        let (before, after) = std::mem::take(&mut all[rows.axis]);
        check_end(rows, after as i64)?;
        let mut moved = rows;
        if before > 0 || rows.first < 0 {
            let fill = inputs.get(2).copied().flatten().map_or(Some(0.0), |fill| self.number(fill));
            if fill != Some(0.0) {
                return Err("it pads rows with other numbers than 0".into());
            }
            moved = self.zero_before(rows);
        }
        let mut value = moved.value;
        if all.iter().any(|pads| *pads != (0, 0)) {
            let list: Vec<_> =
                all.iter().map(|pads| pads.0 as i64).chain(all.iter().map(|pads| pads.1 as i64)).collect();
            let list = self.graph.i64s(&list);
            let fill = inputs.get(2).copied().flatten().map(Streamed::value);
            value = self.graph.try_apply("Pad", vec![Some(value), Some(list), fill], node.attributes.clone())?[0];
        }
        let (first, beyond) = (moved.first - before as i64, moved.beyond + after as i64);
        Ok(vec![Streamed::Rows(Rows { value, first, beyond, ..moved })])
    }

    /// The number that a value is everywhere.
    fn number(&self, value: Streamed) -> Option<f64> {
        let numbers = self.graph.as_constant(value.value())?.numbers();
        numbers.first().copied().filter(|first| numbers.iter().all(|number| number == first))
    }

    /// The rows with zeros where the window's value has none yet.
    fn zero_before(&mut self, rows: Rows) -> Rows {
        if rows.first <= 0 {
            return rows;
        }
        let first = self.graph.i64s(&[rows.first]);
        let missing = self.graph.less(self.time, first);
        let mut shape = vec![1; self.graph.shape(rows.value).len()];
        shape[rows.axis] = self.chunk;
        let missing = self.graph.reshape(missing, &shape);
        let zero = self.graph.scalar_like(rows.value, 0.0);
        Rows { value: self.graph.select(missing, zero, rows.value), ..rows }
    }

    /// A convolution over time, of the rows before the chunk and the chunk's.
    fn convolution(&mut self, node: &Node, inputs: &[Option<Streamed>], rows: Rows) -> Outputs {
        let spatial = rows.axis.checked_sub(2).ok_or(WHOLE_WINDOW)?;
        if !is_rows(inputs[0]) || inputs[1..].iter().flatten().any(|input| input.rows().is_some()) {
            return Err(WHOLE_WINDOW.into());
        }
        let kernel = self.shape(node.input(1))[rows.axis] as i64;
        let axes = self.shape(node.input(1)).len() - 2;
        let at = |name: &str, default: i64| node.ints(name, &vec![default; axes])[spatial];
        if at("strides", 1) != 1 {
            return Err("it has a stride in time".into());
        }
        let span = (kernel - 1) * at("dilations", 1);
        let mut pads = node.ints("pads", &vec![0; 2 * axes]);
        let [before, after] = [spatial, axes + spatial].map(|at| std::mem::take(&mut pads[at]));
        check_end(rows, after)?;
        let padded = if before > 0 { self.zero_before(rows) } else { rows };
        let first = rows.first - before + span;
        if first < 0 {
            return Err("it is padded with more rows than it looks back".into());
        }
        let mut value = padded.value;
        if span > 0 {
            value = self.with_earlier(value, rows.axis, span as usize);
        }
        let mut attributes = node.attributes.clone();
        attributes.insert("pads".into(), Attribute::Ints(pads));
        let others = inputs[1..].iter().map(|input| input.map(Streamed::value));
        let inputs = std::iter::once(Some(value)).chain(others).collect();
        let value = self.graph.try_apply("Conv", inputs, attributes)?[0];
        Ok(vec![Streamed::Rows(Rows { value, axis: rows.axis, first, beyond: rows.beyond + after })])
    }

    fn product(&mut self, node: &Node, inputs: &[Option<Streamed>], rows: &[Rows]) -> Outputs {
        let rank = self.shape(node.outputs[0]).len();
        let own = self.rows_from_end(&rows[0]);
        let left = is_rows(inputs[0]);
        let is_batch = own > 2;
        let fits = match rows {
            [_] => is_batch || own == if left { 2 } else { 1 },
            _ => is_batch && rows.iter().all(|other| self.rows_from_end(other) == own),
        };
        if !fits {
            return Err(WHOLE_WINDOW.into());
        }
        check_times(rows)?;
        if is_batch {
            self.check_all_still(inputs, own)?;
        }
        self.same(node, inputs, rows[0], rank - own)
    }

    /// Fails where an operator works along the axis of rows.
    fn check_axis(&self, along: i64, node: &Node, rows: Rows) -> Result<(), GraphError> {
        let along = axis_of(along, self.shape(node.input(0)).len())?;
        if along == rows.axis { Err(WHOLE_WINDOW.into()) } else { Ok(()) }
    }

    fn reduce(&mut self, node: &Node, inputs: &[Option<Streamed>], rows: Rows) -> Outputs {
        let rank = self.shape(node.input(0)).len();
        let axes = node.optional(1).and_then(|axes| self.window.as_i64s(axes)).ok_or(WHOLE_WINDOW)?;
        let axes = axes.iter().map(|along| axis_of(*along, rank)).collect::<Result<Vec<_>, _>>()?;
        if axes.is_empty() || axes.contains(&rows.axis) {
            return Err(WHOLE_WINDOW.into());
        }
        let gone = if node.int("keepdims", 1) == 0 { axes.iter().filter(|axis| **axis < rows.axis).count() } else { 0 };
        self.same(node, inputs, rows, rows.axis - gone)
    }

    fn gather(&mut self, node: &Node, inputs: &[Option<Streamed>], rows: Rows) -> Outputs {
        self.check_axis(node.int("axis", 0), node, rows)?;
        let along = axis_of(node.int("axis", 0), self.shape(node.input(0)).len())?;
        let more = self.shape(node.input(1)).len();
        let axis = if along < rows.axis { rows.axis - 1 + more } else { rows.axis };
        self.same(node, inputs, rows, axis)
    }
}

/// Whether an input has rows.
fn is_rows(input: Option<Streamed>) -> bool {
    matches!(input, Some(Streamed::Rows(_)))
}

/// Fails where rows are padded in the place of some that were cropped at the end.
fn check_end(rows: Rows, after: i64) -> Result<(), GraphError> {
    if after > 0 && rows.beyond < 0 {
        return Err("it pads behind its rows after some of them were cropped".into());
    }
    Ok(())
}

/// Fails where rows are combined that end at different times.
fn check_times(rows: &[Rows]) -> Result<(), GraphError> {
    if rows.iter().any(|other| other.beyond != rows[0].beyond) {
        return Err("it combines values that end at different rows".into());
    }
    Ok(())
}

/// Whether an operator gives zeros for zeros.
pub(super) fn keeps_zeros(name: &str) -> bool {
    const NAMES: [&str; 12] = [
        "Concat",
        "Conv",
        "Expand",
        "Gather",
        "Identity",
        "MatMul",
        "Pad",
        "ReduceSum",
        "Reshape",
        "Slice",
        "Split",
        "Transpose",
    ];
    NAMES.contains(&name)
}

/// Whether an operator does the same at every place of its inputs, which are broadcast.
fn is_row_by_row(name: &str) -> bool {
    const NAMES: [&str; 48] = [
        "Abs",
        "Acos",
        "Acosh",
        "Add",
        "And",
        "Asin",
        "Asinh",
        "Atan",
        "Atanh",
        "Cast",
        "Ceil",
        "Cos",
        "Cosh",
        "Div",
        "Equal",
        "Erf",
        "Exp",
        "Floor",
        "Greater",
        "GreaterOrEqual",
        "Identity",
        "IsInf",
        "IsNaN",
        "LeakyRelu",
        "Less",
        "LessOrEqual",
        "Log",
        "Max",
        "Min",
        "Mod",
        "Mul",
        "Neg",
        "Not",
        "Or",
        "Pow",
        "Reciprocal",
        "Relu",
        "Round",
        "Sigmoid",
        "Sign",
        "Sin",
        "Sinh",
        "Softplus",
        "Sqrt",
        "Sub",
        "Tan",
        "Tanh",
        "Where",
    ];
    NAMES.contains(&name)
}
