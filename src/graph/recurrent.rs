//! Recurrent layers, unrolled over time.

use super::attributes::Attributes;
use super::core::{Graph, Value};
use super::dim::Dim;

impl Graph {
    /// One step of an LSTM: `share` [batch, 4 hidden] is what the input gives to the gates, `recurrent`
    /// [4 hidden, hidden] makes the rest of the hidden state; both are in the order input, forget, output, candidate.
    /// Hidden and cell state before (`None` for zeros) become those after.
    pub fn lstm_step(&mut self, share: Value, recurrent: Value, state: Option<(Value, Value)>) -> (Value, Value) {
        let (gates, before) = match state {
            Some((hidden, cell)) => (self.gemm(hidden, recurrent, Some(share), false, true), cell),
            None => (share, self.first_state(share, self.shape(recurrent)[1])),
        };
        let outputs = self.apply("LstmCell", &[gates, before], Attributes::new());
        (outputs[0], outputs[1])
    }

    /// Zeros [batch, hidden] for shares [batch, ..].
    fn first_state(&mut self, share: Value, hidden: usize) -> Value {
        let batch = self.shape(share)[0];
        if !Dim::of(batch).is_batch() {
            return self.zeros(share, &[batch, hidden]);
        }
        // Only an operator that takes the shares themselves can learn the batch when it runs.
        let part = self.slice(share, 1, 0, hidden);
        let zero = self.scalar_like(share, 0.0);
        self.mul(part, zero)
    }

    /// A pass of an LSTM over time: [`lstm_step`](Self::lstm_step) for each of `shares`. Gives each step's hidden
    /// state, in order of time also where it runs in `reverse`, and the final hidden and cell state.
    pub fn lstm(
        &mut self,
        shares: &[Value],
        recurrent: Value,
        initial: Option<(Value, Value)>,
        reverse: bool,
    ) -> (Vec<Value>, (Value, Value)) {
        let mut state = initial;
        let mut step = |graph: &mut Self, share: Value| {
            let next = graph.lstm_step(share, recurrent, state);
            state = Some(next);
            next.0
        };
        let mut outputs: Vec<_> = if reverse {
            shares.iter().rev().map(|share| step(self, *share)).collect()
        } else {
            shares.iter().map(|share| step(self, *share)).collect()
        };
        if reverse {
            outputs.reverse();
        }
        (outputs, state.expect("at least one step"))
    }

    /// A pass of a GRU (Cho and others 2014, in ONNX's and PyTorch's form). `shares` [batch, 3 hidden] hold what
    /// each input gives to update gate, reset gate and candidate, with all biases but the candidate's recurrent one,
    /// which is `bias` [hidden]; `recurrent` [3 hidden, hidden] in the same order.
    pub fn gru(
        &mut self,
        shares: &[Value],
        recurrent: Value,
        bias: Value,
        initial: Option<Value>,
        reverse: bool,
    ) -> (Vec<Value>, Value) {
        let hidden = self.shape(recurrent)[1];
        let parts = self.split(recurrent, 0, &[2 * hidden, hidden]);
        let mut state = initial.unwrap_or_else(|| self.first_state(shares[0], hidden));
        let one = self.scalar_like(state, 1.0);
        let mut outputs = Vec::with_capacity(shares.len());
        let order: Vec<_> = if reverse { shares.iter().rev().collect() } else { shares.iter().collect() };
        for share in order {
            let share = self.split(*share, 1, &[2 * hidden, hidden]);
            let gates = self.gemm(state, parts[0], Some(share[0]), false, true);
            let gates = self.sigmoid(gates);
            let gates = self.split(gates, 1, &[hidden, hidden]);
            let remembered = self.gemm(state, parts[1], Some(bias), false, true);
            let reset = self.mul(gates[1], remembered);
            let candidate = self.add(share[1], reset);
            let candidate = self.tanh(candidate);
            let open = self.sub(one, gates[0]);
            let (new, kept) = (self.mul(open, candidate), self.mul(gates[0], state));
            state = self.add(new, kept);
            outputs.push(state);
        }
        if reverse {
            outputs.reverse();
        }
        (outputs, state)
    }

    /// x [steps, batch, inputs] times weight [out, inputs] transposed, plus bias, for all steps in one product; one
    /// [batch, out] per step.
    pub fn input_projections(&mut self, x: Value, weight: Value, bias: Option<Value>) -> Vec<Value> {
        let [steps, batch, _] = self.shape(x)[..] else { panic!("{} is not [steps, batch, inputs]", self.ty(x)) };
        let all = self.linear(x, weight, bias);
        let out = self.shape(weight)[0];
        let parts = self.split(all, 0, &vec![1; steps]);
        parts.into_iter().map(|part| self.reshape(part, &[batch, out])).collect()
    }

    /// [batch, n] values, one per step, as [steps, batch, n].
    pub fn stack(&mut self, steps: &[Value]) -> Value {
        let [batch, n] = self.shape(steps[0])[..] else { panic!("{} is not [batch, n]", self.ty(steps[0])) };
        let joined = self.concat(steps, 0);
        self.reshape(joined, &[steps.len(), batch, n])
    }
}
