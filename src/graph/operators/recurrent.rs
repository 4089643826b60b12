//! LSTM, GRU and RNN: one operator over time where there is a kernel of it, else unrolled.

use super::super::attributes::Attribute;
use super::super::core::Value;
use super::super::error::GraphError;
use super::super::tensor::TensorType;
use super::Family;
use super::call::Call;
use super::recurrence::{self, Cell};

pub(super) static FAMILY: Family = Family { operators: &[], imports: &[("GRU", gru), ("LSTM", lstm), ("RNN", rnn)] };

/// Steps x directions of one recurrent node that are unrolled; beyond them the graph would take minutes to load.
const LONGEST: usize = 512;

/// A recurrent node's inputs, brought into one form.
struct Layer {
    /// [steps, batch, inputs]
    x: Value,
    steps: usize,
    hidden: usize,
    directions: usize,
    /// [directions, gates hidden, inputs], [directions, gates hidden, hidden] and [directions, 2 gates hidden].
    weights: [Value; 3],
    gates: usize,
    /// Input and output are [batch, steps, ..].
    batch_first: bool,
    /// Whether one operator takes all steps.
    is_fused: bool,
}

/// What a direction gives.
struct Direction {
    /// [steps, batch, hidden]
    y: Value,
    /// Final states [batch, hidden].
    last: Vec<Value>,
}

impl Layer {
    fn new(call: &mut Call<'_>, cell: Cell) -> Result<Self, GraphError> {
        let gates = cell.gates();
        let (mut x, w, r) = (call.float(0)?, call.float(1)?, call.float(2)?);
        let [directions, width, hidden] = call.shape(r)[..] else { return Err("R must have three axes".into()) };
        let inputs = call.shape(x).get(2).copied().unwrap_or(0);
        if width != gates * hidden || !(1..=2).contains(&directions) || hidden == 0 || call.shape(x).len() != 3 {
            return Err(format!("X {:?} and R {:?} do not fit {gates} gates", call.shape(x), call.shape(r)).into());
        }
        if call.shape(w) != [directions, width, inputs] {
            return Err(format!("W {:?}, expected [{directions}, {width}, {inputs}]", call.shape(w)).into());
        }
        let batch_first = call.attributes.int("layout", 0) != 0;
        if batch_first {
            x = call.graph.transpose(x, &[1, 0, 2]);
        }
        let steps = call.shape(x)[0];
        let is_fused = call.training.most_unrolled(cell, hidden).is_some_and(|most| steps > most);
        if steps * directions > LONGEST && !is_fused {
            return Err(format!(
                "{steps} time steps in {directions} directions: in standard operators, recurrences are unrolled up to {LONGEST} \
                 steps x directions; reduce the steps before it, e.g. with a strided convolution or a pool, or set \
                 training.device: cpu, or training.cuda_kernels: true"
            )
            .into());
        }
        // PyTorch gives no lengths; other exporters give one that is the whole sequence.
        if let Some(lengths) = call.integers(4)?
            && lengths.iter().any(|length| *length != steps as i64)
        {
            return Err("sequences of different lengths are not supported".into());
        }
        if call.attributes.contains_key("clip") {
            return Err("clip is not supported".into());
        }
        if steps == 0 {
            return Err("the sequence has no steps".into());
        }
        let bias = match call.optional(3) {
            Some(bias) => bias,
            None => call.graph.zeros(r, &[directions, 2 * width]),
        };
        let batch = call.shape(x)[1];
        let state = if batch_first { [batch, directions, hidden] } else { [directions, batch, hidden] };
        for (i, expected) in [(3, [directions, 2 * width].as_slice()), (5, &state), (6, &state)] {
            let expected = TensorType::f32(expected);
            if let Some(given) = call.optional(i).filter(|value| *call.graph.ty(*value) != expected) {
                return Err(format!("input {i} is {}, expected {expected}", call.graph.ty(given)).into());
            }
        }
        Ok(Self { x, steps, hidden, directions, weights: [w, r, bias], gates, batch_first, is_fused })
    }

    /// Fails unless each direction's activations are the usual ones.
    fn check_activations(&self, call: &Call<'_>, usual: &[&str]) -> Result<(), GraphError> {
        let Some(Attribute::Texts(given)) = call.attributes.get("activations") else { return Ok(()) };
        let expected = usual.iter().cycle().take(usual.len() * self.directions);
        if given.iter().map(|name| name.to_lowercase()).eq(expected.map(|name| (*name).to_owned())) {
            return Ok(());
        }
        Err(format!("activations {given:?}, expected {usual:?}").into())
    }

    /// Whether direction `d` runs backwards in time.
    fn reverse(&self, call: &Call<'_>, d: usize) -> bool {
        d == 1 || call.attributes.text("direction", "forward") == "reverse"
    }

    /// One direction's input weights, recurrent weights, and biases of both.
    fn direction(&self, call: &mut Call<'_>, d: usize) -> [Value; 4] {
        let [w, r, b] = self.weights.map(|value| {
            let part = call.graph.slice(value, 0, d, d + 1);
            let shape = call.shape(part)[1..].to_vec();
            call.graph.reshape(part, &shape)
        });
        let width = self.gates * self.hidden;
        let biases = call.graph.split(b, 0, &[width, width]);
        [w, r, biases[0], biases[1]]
    }

    /// Gates of a weight or bias in another order.
    fn reorder(&self, call: &mut Call<'_>, value: Value, order: &[usize]) -> Value {
        let parts = call.graph.split(value, 0, &vec![self.hidden; self.gates]);
        let parts: Vec<_> = order.iter().map(|i| parts[*i]).collect();
        call.graph.concat(&parts, 0)
    }

    /// One direction of an initial state [directions, batch, hidden] (batch first: [batch, directions, hidden]).
    fn initial(&self, call: &mut Call<'_>, i: usize, d: usize) -> Option<Value> {
        let state = call.optional(i)?;
        let axis = usize::from(self.batch_first);
        let part = call.graph.slice(state, axis, d, d + 1);
        let shape = call.shape(part);
        Some(call.graph.reshape(part, &[shape[1 - axis], shape[2]]))
    }

    /// One direction's initial state, zeros where none is given.
    fn initial_or_zeros(&self, call: &mut Call<'_>, i: usize, d: usize) -> Value {
        self.initial(call, i, d).unwrap_or_else(|| {
            let batch = call.shape(self.x)[1];
            call.graph.zeros(self.x, &[batch, self.hidden])
        })
    }

    /// One direction as one operator. `weights`: of the input and of the state, and the bias of all gates; `fourth`: see
    /// [`Cell::has_fourth`].
    fn fused(
        &self,
        call: &mut Call<'_>,
        cell: Cell,
        d: usize,
        weights: [Value; 3],
        fourth: Option<Value>,
    ) -> Result<Direction, GraphError> {
        let [w, r, bias] = weights;
        let shares = call.graph.linear(self.x, w, Some(bias));
        let before = self.initial_or_zeros(call, 5, d);
        let inputs: Vec<_> = [shares, r, before].into_iter().chain(fourth).collect();
        let reverse = self.reverse(call, d);
        let [y, last, last_cell] = recurrence::apply(call.graph, cell, &inputs, reverse)?;
        let last = if cell == Cell::Lstm { vec![last, last_cell] } else { vec![last] };
        Ok(Direction { y, last })
    }

    /// One direction's steps put together.
    fn stacked(call: &mut Call<'_>, steps: &[Value], last: Vec<Value>) -> Direction {
        Direction { y: call.graph.stack(steps), last }
    }

    /// Y [steps, directions, batch, hidden] and final states [directions, batch, hidden] from those of each direction.
    fn finish(&self, call: &mut Call<'_>, directions: &[Direction]) -> Vec<Value> {
        let batch = call.shape(self.x)[1];
        let stacked: Vec<_> = directions
            .iter()
            .map(|direction| call.graph.reshape(direction.y, &[self.steps, 1, batch, self.hidden]))
            .collect();
        let mut y = call.graph.concat(&stacked, 1);
        if self.batch_first {
            y = call.graph.transpose(y, &[2, 0, 1, 3]);
        }
        let states = (0..directions[0].last.len()).map(|i| {
            let states: Vec<_> = directions.iter().map(|direction| direction.last[i]).collect();
            let state = call.graph.stack(&states);
            if self.batch_first { call.graph.transpose(state, &[1, 0, 2]) } else { state }
        });
        std::iter::once(y).chain(states.collect::<Vec<_>>()).collect()
    }
}

/// ONNX's gates are input, output, forget, candidate.
fn lstm(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let layer = Layer::new(call, Cell::Lstm)?;
    layer.check_activations(call, &["sigmoid", "tanh", "tanh"])?;
    if call.optional(7).is_some() || call.attributes.int("input_forget", 0) != 0 {
        return Err("peepholes and input_forget are not supported".into());
    }
    let mut directions = Vec::new();
    for d in 0..layer.directions {
        let [w, r, input_bias, recurrent_bias] = layer.direction(call, d);
        let bias = call.graph.add(input_bias, recurrent_bias);
        let [w, r, bias] = [w, r, bias].map(|value| layer.reorder(call, value, &[0, 2, 1, 3]));
        if layer.is_fused {
            let before = layer.initial_or_zeros(call, 6, d);
            directions.push(layer.fused(call, Cell::Lstm, d, [w, r, bias], Some(before))?);
            continue;
        }
        let shares = call.graph.input_projections(layer.x, w, Some(bias));
        let states = [5, 6].map(|i| layer.initial(call, i, d));
        let initial = match states {
            [None, None] => None,
            states => {
                let shape = [call.shape(shares[0])[0], layer.hidden];
                let [h, c] = states.map(|state| state.unwrap_or_else(|| call.graph.zeros(shares[0], &shape)));
                Some((h, c))
            }
        };
        let reverse = layer.reverse(call, d);
        let (steps, (h, c)) = call.graph.lstm(&shares, r, initial, reverse);
        directions.push(Layer::stacked(call, &steps, vec![h, c]));
    }
    Ok(layer.finish(call, &directions))
}

/// ONNX's gates are update, reset, candidate.
fn gru(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let layer = Layer::new(call, Cell::Gru)?;
    layer.check_activations(call, &["sigmoid", "tanh"])?;
    let before_reset = call.attributes.int("linear_before_reset", 0) == 0;
    let mut directions = Vec::new();
    for d in 0..layer.directions {
        let [w, r, input_bias, recurrent_bias] = layer.direction(call, d);
        if before_reset {
            return Err("a GRU that resets before its product (linear_before_reset = 0) is not supported".into());
        }
        let n = layer.hidden;
        let [own, others] =
            [call.graph.split(input_bias, 0, &[2 * n, n]), call.graph.split(recurrent_bias, 0, &[2 * n, n])];
        let gates = call.graph.add(own[0], others[0]);
        let bias = call.graph.concat(&[gates, own[1]], 0);
        if layer.is_fused {
            directions.push(layer.fused(call, Cell::Gru, d, [w, r, bias], Some(others[1]))?);
            continue;
        }
        let shares = call.graph.input_projections(layer.x, w, Some(bias));
        let initial = layer.initial(call, 5, d);
        let reverse = layer.reverse(call, d);
        let (steps, last) = call.graph.gru(&shares, r, others[1], initial, reverse);
        directions.push(Layer::stacked(call, &steps, vec![last]));
    }
    Ok(layer.finish(call, &directions))
}

fn rnn(call: &mut Call<'_>) -> Result<Vec<Value>, GraphError> {
    let layer = Layer::new(call, Cell::Tanh)?;
    let activation = match call.attributes.get("activations") {
        Some(Attribute::Texts(names)) if names.iter().all(|name| name.eq_ignore_ascii_case("relu")) => "Relu",
        _ => {
            layer.check_activations(call, &["tanh"])?;
            "Tanh"
        }
    };
    let mut directions = Vec::new();
    for d in 0..layer.directions {
        let [w, r, input_bias, recurrent_bias] = layer.direction(call, d);
        let bias = call.graph.add(input_bias, recurrent_bias);
        if layer.is_fused {
            let cell = if activation == "Relu" { Cell::Relu } else { Cell::Tanh };
            directions.push(layer.fused(call, cell, d, [w, r, bias], None)?);
            continue;
        }
        let mut shares = call.graph.input_projections(layer.x, w, Some(bias));
        let reverse = layer.reverse(call, d);
        if reverse {
            shares.reverse();
        }
        let mut state = layer.initial(call, 5, d);
        let mut steps = Vec::with_capacity(shares.len());
        for share in shares {
            let sum = match state {
                Some(state) => call.graph.gemm(state, r, Some(share), false, true),
                None => share,
            };
            let next = call.apply1(activation, &[sum])?;
            state = Some(next);
            steps.push(next);
        }
        let last = state.expect("at least one step");
        if reverse {
            steps.reverse();
        }
        directions.push(Layer::stacked(call, &steps, vec![last]));
    }
    Ok(layer.finish(call, &directions))
}
