//! Parameters: names, shapes, initial values, and their places in one flat vector.

use std::collections::HashMap;
use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wildmatch::WildMatch;

use super::error::UnmatchedPattern;
use crate::graph::{DType, Graph, TensorType, Value};

/// Initial value of a parameter; PyTorch's defaults for this project's own models.
#[derive(Debug, Clone, PartialEq)]
pub enum Init {
    /// Uniform in [-bound, bound].
    Uniform(f64),
    Constant(f32),
    /// As a user's model has it.
    Given(Arc<[f32]>),
}

/// One tensor of weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// As in the PyTorch model's state dict.
    pub name: String,
    pub shape: Vec<usize>,
    pub init: Init,
}

impl Parameter {
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Elements of all parameters together, also where they are too many to be counted in a `usize`.
pub fn total_elements_exact(parameters: &[Parameter]) -> u128 {
    let elements =
        |parameter: &Parameter| parameter.shape.iter().fold(1, |n: u128, size| n.saturating_mul(*size as u128));
    parameters.iter().map(elements).fold(0, u128::saturating_add)
}

/// Elements of all parameters together.
pub fn total_elements(parameters: &[Parameter]) -> usize {
    parameters.iter().map(Parameter::elements).sum()
}

/// Which parameters' names match any of `patterns`, where `*` stands for anything and `?` for one character.
///
/// # Errors
/// A pattern that matches none.
pub fn matching(parameters: &[Parameter], patterns: &[String]) -> Result<Vec<bool>, UnmatchedPattern> {
    let names: Vec<_> = parameters.iter().map(|parameter| parameter.name.as_str()).collect();
    matching_names(&names, patterns)
}

/// [`matching`] by names alone.
pub(super) fn matching_names(names: &[&str], patterns: &[String]) -> Result<Vec<bool>, UnmatchedPattern> {
    let patterns: Vec<_> = patterns.iter().map(|pattern| WildMatch::new(pattern)).collect();
    let unused = patterns.iter().find(|pattern| !names.iter().any(|name| pattern.matches(name)));
    if let Some(pattern) = unused {
        let names = names.iter().take(4).map(|name| (*name).to_owned()).collect();
        return Err(UnmatchedPattern { pattern: pattern.to_string(), names });
    }
    Ok(names.iter().map(|name| patterns.iter().any(|pattern| pattern.matches(name))).collect())
}

/// Initial values of all parameters end to end; a pure function of the seed.
pub fn initialize(parameters: &[Parameter], seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut values = Vec::with_capacity(total_elements(parameters));
    for parameter in parameters {
        let n = parameter.elements();
        match &parameter.init {
            Init::Given(given) => values.extend_from_slice(given),
            Init::Constant(value) => values.extend(std::iter::repeat_n(*value, n)),
            &Init::Uniform(bound) => values.extend((0..n).map(|_| rng.random_range(-bound..=bound) as f32)),
        }
    }
    values
}

/// The parameters as values of a graph.
#[derive(Debug, Clone, Default)]
pub struct Weights(HashMap<String, Value>);

impl Weights {
    /// Cuts `flat` [elements] into the parameters. Also gives them in order.
    pub fn split(graph: &mut Graph, flat: Value, parameters: &[Parameter]) -> (Self, Vec<Value>) {
        let sizes: Vec<_> = parameters.iter().map(Parameter::elements).collect();
        let parts = graph.split(flat, 0, &sizes);
        let values: Vec<_> =
            parts.into_iter().zip(parameters).map(|(part, parameter)| graph.reshape(part, &parameter.shape)).collect();
        values.iter().for_each(|value| graph.want_gradient(*value));
        let names = parameters.iter().map(|parameter| parameter.name.clone());
        (Self(names.zip(values.iter().copied()).collect()), values)
    }

    /// The parameters as named constants of type `dtype` with these values, end to end.
    pub fn constants(graph: &mut Graph, values: &[f32], parameters: &[Parameter], dtype: DType) -> Self {
        let mut rest = values;
        let mut weights = HashMap::new();
        for parameter in parameters {
            let (own, others) = rest.split_at(parameter.elements());
            rest = others;
            let value = graph.named_constant(&parameter.name, parameter.shape.clone(), own.to_vec(), dtype);
            weights.insert(parameter.name.clone(), value);
        }
        assert!(rest.is_empty(), "values beyond the parameters'");
        Self(weights)
    }

    /// The parameters as inputs of their names.
    pub(super) fn inputs<'a>(graph: &mut Graph, parameters: impl Iterator<Item = &'a Parameter>) -> Self {
        let input = |parameter: &Parameter| {
            let value = graph.input(&parameter.name, TensorType::f32(parameter.shape.clone()));
            (parameter.name.clone(), value)
        };
        Self(parameters.map(input).collect())
    }

    /// Adds weights of other names.
    pub fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// Input weights, recurrent weights and bias (the sum of PyTorch's two) of an LSTM layer, with PyTorch's gates
    /// input, forget, candidate, output in the order input, forget, output, candidate: the three sigmoids become one.
    pub(super) fn lstm(&self, graph: &mut Graph, name: &str, layer: &str) -> [Value; 3] {
        let [input, recurrent, bias_ih, bias_hh] =
            ["weight_ih", "weight_hh", "bias_ih", "bias_hh"].map(|own| self.get(&format!("{name}.{own}_{layer}")));
        let bias = graph.add(bias_ih, bias_hh);
        [input, recurrent, bias].map(|x| {
            let hidden = graph.shape(x)[0] / 4;
            let gates = graph.split(x, 0, &[hidden; 4]);
            graph.concat(&[gates[0], gates[1], gates[3], gates[2]], 0)
        })
    }

    /// Whether there is a parameter of that name.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The parameter of that name.
    ///
    /// # Panics
    /// There is none: builder and parameter list disagree.
    pub fn get(&self, name: &str) -> Value {
        *self.0.get(name).unwrap_or_else(|| panic!("the model has no parameter {name}"))
    }
}

/// Collects the parameters of layers with PyTorch's default initialization.
#[derive(Debug, Default)]
pub(super) struct ParameterList(pub(super) Vec<Parameter>);

impl ParameterList {
    pub(super) fn push(&mut self, name: String, shape: &[usize], init: Init) {
        self.0.push(Parameter { name, shape: shape.to_vec(), init });
    }

    /// Weight [out, in, kernel..] and bias [out], uniform within 1 / sqrt(inputs of one output).
    pub(super) fn affine(&mut self, name: &str, shape: &[usize]) {
        let bound = 1.0 / (shape[1..].iter().product::<usize>() as f64).sqrt();
        self.push(format!("{name}.weight"), shape, Init::Uniform(bound));
        self.push(format!("{name}.bias"), &shape[..1], Init::Uniform(bound));
    }

    /// Scale and offset of a normalization over features or channels.
    pub(super) fn layer_norm(&mut self, name: &str, features: usize) {
        self.push(format!("{name}.weight"), &[features], Init::Constant(1.0));
        self.push(format!("{name}.bias"), &[features], Init::Constant(0.0));
    }

    /// The running statistics of a batch normalization.
    pub(super) fn statistics(&mut self, name: &str, channels: usize) {
        self.push(format!("{name}.running_mean"), &[channels], Init::Constant(0.0));
        self.push(format!("{name}.running_var"), &[channels], Init::Constant(1.0));
    }

    /// One layer of an LSTM, e.g. `l0` or `l1_reverse`, with PyTorch's two biases.
    pub(super) fn lstm(&mut self, name: &str, layer: &str, inputs: usize, hidden: usize) {
        let init = Init::Uniform(1.0 / (hidden as f64).sqrt());
        let width = 4 * hidden;
        let shapes: [(&str, &[usize]); 4] = [
            ("weight_ih", &[width, inputs]),
            ("weight_hh", &[width, hidden]),
            ("bias_ih", &[width]),
            ("bias_hh", &[width]),
        ];
        for (own, shape) in shapes {
            self.push(format!("{name}.{own}_{layer}"), shape, init.clone());
        }
    }
}
