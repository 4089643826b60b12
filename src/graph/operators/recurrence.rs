//! A recurrent layer's pass over time as one operator: LSTM (Hochreiter and Schmidhuber 1997), GRU (Cho and others 2014, in
//! ONNX's and PyTorch's form) and the plain recurrent network. Input projections and the weights' gradients are products
//! over all steps outside of it.

use super::super::attributes::Attribute;
use super::super::autodiff::Backward;
use super::super::build::attributes;
use super::super::core::{Graph, Node, Value};
use super::super::error::GraphError;
use super::super::tensor::TensorType;
use super::{Family, fused, ty};

pub(super) static FAMILY: Family = Family {
    operators: &[
        fused("Recurrence", recurrence).gradient(gradient).on_cuda(),
        fused("RecurrenceGradient", gradient_types).on_cuda(),
    ],
    imports: &[],
};

/// Kinds of cells, as the attribute `kind` numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// Gates input, forget, output, candidate.
    Lstm,
    /// Gates update, reset, candidate.
    Gru,
    Tanh,
    Relu,
}

impl Cell {
    /// The kind of that number.
    pub fn numbered(kind: i64) -> Option<Self> {
        [Self::Lstm, Self::Gru, Self::Tanh, Self::Relu].into_iter().find(|cell| *cell as i64 == kind)
    }

    pub fn gates(self) -> usize {
        match self {
            Self::Lstm => 4,
            Self::Gru => 3,
            Self::Tanh | Self::Relu => 1,
        }
    }

    /// Numbers that the backward pass needs of each unit and step: gates, then the cell state and its tanh (LSTM) or what
    /// the reset gate is applied to (GRU).
    pub fn kept(self) -> usize {
        match self {
            Self::Lstm => 6,
            Self::Gru => 4,
            Self::Tanh | Self::Relu => 1,
        }
    }

    /// Whether there is a fourth input: the LSTM's cell state before [batch, hidden], or the GRU's recurrent bias of the
    /// candidate [hidden].
    pub fn has_fourth(self) -> bool {
        matches!(self, Self::Lstm | Self::Gru)
    }
}

fn cell(node: &Node) -> Result<Cell, GraphError> {
    Cell::numbered(node.int("kind", 0)).ok_or_else(|| "unknown kind of recurrent cell".into())
}

/// Steps, batch and hidden units of `shares` [steps, batch, gates hidden].
fn sizes(shares: &TensorType, cell: Cell) -> Result<[usize; 3], GraphError> {
    match shares.shape[..] {
        [steps, batch, width] if width % cell.gates() == 0 && steps * batch * width > 0 => {
            Ok([steps, batch, width / cell.gates()])
        }
        _ => Err(format!("{shares} are not what inputs give to {} gates", cell.gates()).into()),
    }
}

/// Inputs: what inputs and biases give to the gates [steps, batch, gates hidden]; the recurrent weights [gates hidden,
/// hidden]; the hidden state before [batch, hidden]; the fourth ([`Cell::has_fourth`]). Outputs: hidden states [steps,
/// batch, hidden] in order of time, the last one [batch, hidden], the LSTM's last cell state, and what the backward pass
/// needs [steps, batch, kept hidden].
fn recurrence(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (cell, shares) = (cell(node)?, ty(graph, node, 0)?);
    let [steps, batch, hidden] = sizes(&shares, cell)?;
    let state = TensorType::new(shares.dtype, [batch, hidden]);
    let fourth = match cell {
        Cell::Gru => TensorType::new(shares.dtype, [hidden]),
        _ => state.clone(),
    };
    let weights = TensorType::new(shares.dtype, [cell.gates() * hidden, hidden]);
    let expected = [weights, state.clone(), fourth];
    let count = 2 + usize::from(cell.has_fourth());
    if node.inputs.len() != 1 + count {
        return Err(format!("expected {} inputs", 1 + count).into());
    }
    for (i, expected) in expected[..count].iter().enumerate() {
        let given = ty(graph, node, i + 1)?;
        if given != *expected {
            return Err(format!("input {} is {given}, expected {expected}", i + 1).into());
        }
    }
    let over_time = |width: usize| TensorType::new(shares.dtype, [steps, batch, width]);
    Ok(vec![over_time(hidden), state.clone(), state, over_time(cell.kept() * hidden)])
}

/// Inputs: gradients of the hidden states, of the last one and of the last cell state; the recurrent weights; what was kept;
/// the hidden states; the hidden state before; the fourth input. Outputs: gradients of `shares`; of the product with the
/// recurrent weights, where that differs (GRU), else zeros; of the hidden and the cell state before.
fn gradient_types(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (cell, states) = (cell(node)?, ty(graph, node, 0)?);
    let [steps, batch, hidden] = states.shape[..] else { return Err(format!("{states} are no hidden states").into()) };
    let gates = TensorType::new(states.dtype, [steps, batch, cell.gates() * hidden]);
    let state = TensorType::new(states.dtype, [batch, hidden]);
    Ok(vec![gates.clone(), gates, state.clone(), state])
}

fn gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
    let node = back.node;
    let cell = cell(node)?;
    let [states, _, _, kept] = node.outputs[..] else { unreachable!("a recurrence has four outputs") };
    let [steps, batch, hidden] = back.graph.shape(states)[..] else { unreachable!("hidden states") };
    if back.gradient(3).is_some() {
        return Err("no gradient of what a recurrence keeps".into());
    }
    let given: [Value; 3] = std::array::from_fn(|i| {
        back.gradient(i).unwrap_or_else(|| {
            let shape = back.graph.shape(node.outputs[i]).to_vec();
            back.graph.zeros(node.outputs[i], &shape)
        })
    });
    let (weights, before) = (node.input(1), node.input(2));
    let fourth = node.optional(3).unwrap_or(before);
    let inputs = [given[0], given[1], given[2], weights, kept, states, before, fourth];
    let found = back.graph.apply("RecurrenceGradient", &inputs, node.attributes.clone());
    let [shares, products, state, cell_state] = found[..] else { unreachable!("four gradients") };
    let products = if cell == Cell::Gru { products } else { shares };
    if back.wanted(0) {
        back.add(0, shares);
    }
    let rows = steps * batch;
    let flat = back.graph.reshape(products, &[rows, cell.gates() * hidden]);
    if back.wanted(1) {
        let first = back.graph.reshape(before, &[1, batch, hidden]);
        // The state that each step started from.
        let earlier = if node.int("reverse", 0) != 0 {
            let later = back.graph.slice(states, 0, 1, steps);
            if steps == 1 { first } else { back.graph.concat(&[later, first], 0) }
        } else {
            let others = back.graph.slice(states, 0, 0, steps - 1);
            if steps == 1 { first } else { back.graph.concat(&[first, others], 0) }
        };
        let earlier = back.graph.reshape(earlier, &[rows, hidden]);
        back.add_product(1, flat, earlier);
    }
    if back.wanted(2) {
        back.add(2, state);
    }
    if cell == Cell::Lstm && back.wanted(3) {
        back.add(3, cell_state);
    }
    if cell == Cell::Gru && back.wanted(3) {
        let candidate = back.graph.slice(flat, 1, 2 * hidden, 3 * hidden);
        back.add_row_sum(3, candidate);
    }
    Ok(())
}

/// What a pass over time gives: hidden states [steps, batch, hidden], and the last hidden and cell state.
pub(super) fn apply(graph: &mut Graph, cell: Cell, inputs: &[Value], reverse: bool) -> Result<[Value; 3], GraphError> {
    let attributes =
        attributes([("kind", Attribute::Int(cell as i64)), ("reverse", Attribute::Int(i64::from(reverse)))]);
    let outputs = graph.try_apply("Recurrence", inputs.iter().copied().map(Some).collect(), attributes)?;
    Ok([outputs[0], outputs[1], outputs[2]])
}
