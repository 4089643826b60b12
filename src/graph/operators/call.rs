//! One node of a user's model, as its operator sees it.

use super::super::attributes::Attributes;
use super::super::core::{Graph, Value};
use super::super::error::GraphError;
use super::super::tensor::{Constant, DType};
use super::{RecurrentCell, axis};

/// What differs between training and evaluation, and belongs to who trains.
pub trait TrainingOperators {
    /// x with a share of `ratio` of its elements dropped; x itself in evaluation.
    fn dropout(&mut self, graph: &mut Graph, x: Value, ratio: f64) -> Value;

    /// A running statistic as it is by now, of a batch normalization that does not move it.
    fn running(&self, name: &str, value: Value) -> Value;

    /// Numbers of this shape, uniform in [0, 1), other ones each time; `None` in evaluation.
    fn uniform(&mut self, graph: &mut Graph, shape: &[usize]) -> Option<Value>;

    /// Steps up to which a pass over time, of so many hidden units, is unrolled although one operator could do it; `None` where no kernel can.
    fn most_unrolled(&self, cell: RecurrentCell, hidden: usize) -> Option<usize>;

    /// Batch normalization of x [batch, channels, ..] with scale and bias. `statistics`: names of the initializers
    /// that hold running mean and variance, and their values; `momentum`: the share that the old ones keep.
    fn batch_norm(
        &mut self,
        graph: &mut Graph,
        x: Value,
        affine: [Value; 2],
        statistics: [(&str, Value); 2],
        epsilon: f32,
        momentum: f32,
    ) -> Value;
}

/// Writes an operator as others: from the node's inputs and attributes to its outputs.
pub(in super::super) type Import = fn(&mut Call<'_>) -> Result<Vec<Value>, GraphError>;

/// A node under construction.
pub(in super::super) struct Call<'a> {
    pub(in super::super) graph: &'a mut Graph,
    pub(in super::super) training: &'a mut dyn TrainingOperators,
    pub(in super::super) operator: &'a str,
    pub(in super::super) inputs: Vec<Option<Value>>,
    /// Names of the inputs in the model.
    pub(in super::super) names: Vec<String>,
    pub(in super::super) attributes: Attributes,
    /// Outputs that the node names.
    pub(in super::super) outputs: usize,
    pub(in super::super) opset: i64,
}

impl Call<'_> {
    pub(in super::super) fn optional(&self, i: usize) -> Option<Value> {
        self.inputs.get(i).copied().flatten()
    }

    pub(in super::super) fn input(&self, i: usize) -> Result<Value, GraphError> {
        self.optional(i).ok_or_else(|| format!("input {i} is missing").into())
    }

    pub(in super::super) fn shape(&self, value: Value) -> Vec<usize> {
        self.graph.shape(value).to_vec()
    }

    /// The list of integers that input `i` holds, if it is given.
    pub(in super::super) fn integers(&self, i: usize) -> Result<Option<Vec<i64>>, GraphError> {
        let Some(value) = self.optional(i) else { return Ok(None) };
        match self.graph.as_constant(value) {
            Some(Constant::I64(_, values)) => Ok(Some(values.clone())),
            _ => Err(format!("input {i} must be integers that do not depend on the model's input").into()),
        }
    }

    /// The numbers that input `i` holds, if it is given.
    pub(in super::super) fn numbers(&self, i: usize) -> Result<Option<Vec<f64>>, GraphError> {
        let Some(value) = self.optional(i) else { return Ok(None) };
        let constant = self.graph.as_constant(value);
        constant
            .map(|constant| Some(constant.numbers()))
            .ok_or_else(|| format!("input {i} must not depend on the model's input").into())
    }

    /// A list of axes as indices, from the attribute of older opsets or from input `i`.
    pub(in super::super) fn axes(&self, i: usize, rank: usize) -> Result<Option<Vec<usize>>, GraphError> {
        let given = if self.attributes.contains_key("axes") {
            Some(self.attributes.ints("axes", &[]))
        } else {
            self.integers(i)?
        };
        given.map(|axes| axes.into_iter().map(|a| axis(a, rank)).collect()).transpose()
    }

    /// Applies an operator of the table of those with shape inference and gradients.
    pub(in super::super) fn apply(
        &mut self,
        name: &str,
        inputs: &[Value],
        attributes: Attributes,
    ) -> Result<Vec<Value>, GraphError> {
        self.graph.try_apply(name, inputs.iter().copied().map(Some).collect(), attributes)
    }

    pub(in super::super) fn apply1(&mut self, name: &str, inputs: &[Value]) -> Result<Value, GraphError> {
        Ok(self.apply(name, inputs, Attributes::new())?[0])
    }

    /// The node as it is.
    pub(in super::super) fn unchanged(&mut self) -> Result<Vec<Value>, GraphError> {
        self.graph.try_apply(self.operator, self.inputs.clone(), self.attributes.clone())
    }

    pub(in super::super) fn scalar(&mut self, like: Value, value: f32) -> Value {
        self.graph.scalar_like(like, value)
    }

    /// An error unless the value is a float tensor.
    pub(in super::super) fn float(&self, i: usize) -> Result<Value, GraphError> {
        let value = self.input(i)?;
        if self.graph.dtype(value).is_float() {
            return Ok(value);
        }
        Err(format!("input {i} is {}, expected floats", self.graph.dtype(value)).into())
    }

    pub(in super::super) fn is_integer(&self, value: Value) -> bool {
        self.graph.dtype(value) == DType::I64
    }
}
