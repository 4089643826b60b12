//! The cell of a long short-term memory (Hochreiter and Schmidhuber 1997) at one time step, without its products:
//! those belong to the layer, whose weights' gradients are pooled over time.

use std::collections::HashMap;

use super::super::attributes::Attributes;
use super::super::autodiff::Backward;
use super::super::core::{Graph, Node, Value};
use super::super::error::GraphError;
use super::super::tensor::TensorType;
use super::{Family, fused, ty};

pub(super) static FAMILY: Family = Family {
    operators: &[
        fused("LstmCell", cell).gradient(cell_gradient).expand(expand_cell).on_cuda(),
        fused("LstmCellGradient", gradient_types).on_cuda(),
    ],
    imports: &[],
};

/// Inputs: the gates [batch, 4 hidden] before their activations, in the order input, forget, output, candidate; the
/// cell state before [batch, hidden]; perhaps up to two more parts of the gates, [batch, 4 hidden] or [4 hidden], which
/// are added to the first. Outputs: hidden state, cell state, the three sigmoids [batch, 3 hidden], the
/// candidate's tanh, and the tanh of the cell state.
fn cell(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let (gates, before) = (ty(graph, node, 0)?, ty(graph, node, 1)?);
    let [batch, hidden] = before.shape[..] else { return Err(format!("{before} is not [batch, hidden]").into()) };
    if gates != TensorType::new(before.dtype, [batch, 4 * hidden]) || hidden == 0 {
        return Err(format!("gates {gates} do not fit the state {before}").into());
    }
    for part in (2..node.inputs.len()).map(|i| ty(graph, node, i)) {
        let part = part?;
        if part.dtype != gates.dtype || ![&gates.shape[..], &gates.shape[1..]].contains(&part.shape.as_slice()) {
            return Err(format!("a part {part} of gates {gates}").into());
        }
    }
    let sigmoids = TensorType::new(before.dtype, [batch, 3 * hidden]);
    Ok(vec![before.clone(), before.clone(), sigmoids, before.clone(), before])
}

/// Inputs: dh, dc, then sigmoids, candidate, tanh of the cell state, and the cell state before; perhaps a second part
/// of dh, which is added to the first. Outputs: gradients of
/// the gates and of the cell state before.
fn gradient_types(graph: &Graph, node: &Node) -> Result<Vec<TensorType>, GraphError> {
    let state = ty(graph, node, 0)?;
    let [batch, hidden] = state.shape[..] else { return Err(format!("{state} is not [batch, hidden]").into()) };
    for i in 1..node.inputs.len() {
        let expected = if i == 2 { TensorType::new(state.dtype, [batch, 3 * hidden]) } else { state.clone() };
        let given = ty(graph, node, i)?;
        if given != expected {
            return Err(format!("input {i} is {given}, expected {expected}").into());
        }
    }
    Ok(vec![TensorType::new(state.dtype, [batch, 4 * hidden]), state])
}

fn cell_gradient(back: &mut Backward<'_>) -> Result<(), GraphError> {
    let node = back.node;
    if node.inputs.len() > 2 {
        return Err("a cell that has taken in sums is not differentiated any more".into());
    }
    let zeros = |graph: &mut Graph| {
        let shape = graph.shape(node.outputs[0]).to_vec();
        graph.zeros(node.outputs[0], &shape)
    };
    let [dh, dc] = [0, 1].map(|i| back.gradient(i).unwrap_or_else(|| zeros(back.graph)));
    let [_, _, sigmoids, candidate, squashed] = node.outputs[..] else { unreachable!("a cell has five outputs") };
    let inputs = [dh, dc, sigmoids, candidate, squashed, node.input(1)];
    let gradients = back.graph.apply("LstmCellGradient", &inputs, Attributes::new());
    for (i, gradient) in gradients.into_iter().enumerate() {
        if back.wanted(i) {
            back.add(i, gradient);
        }
    }
    Ok(())
}

fn expand_cell(graph: &mut Graph, node: &Node) -> Vec<Value> {
    let (mut gates, before) = (node.input(0), node.input(1));
    for part in node.inputs[2..].iter().flatten() {
        gates = graph.add(gates, *part);
    }
    let hidden = graph.shape(before)[1];
    let parts = graph.split(gates, 1, &[3 * hidden, hidden]);
    let (sigmoids, candidate) = (graph.sigmoid(parts[0]), graph.tanh(parts[1]));
    let [input, forget, output] = gates_of(graph, sigmoids);
    let (new, kept) = (graph.mul(input, candidate), graph.mul(forget, before));
    let cell = graph.add(kept, new);
    let squashed = graph.tanh(cell);
    vec![graph.mul(output, squashed), cell, sigmoids, candidate, squashed]
}

fn gates_of(graph: &mut Graph, sigmoids: Value) -> [Value; 3] {
    let hidden = graph.shape(sigmoids)[1] / 3;
    graph.split(sigmoids, 1, &[hidden; 3]).try_into().expect("three gates")
}

/// What a cell's gradient needs of its forward pass.
#[derive(Clone, Copy)]
struct Slopes {
    /// d hidden / d cell.
    cell: Value,
    /// d cell / d gates, but d hidden / d output gate [batch, 4 hidden].
    gates: Value,
}

/// Writes cells and their gradients as standard operators. What gradients need of the forward pass is computed for
/// all cells of one size at once, which are many steps and layers: some kernels instead of a dozen for each cell.
pub(in super::super) fn expand_cells(graph: &mut Graph) {
    let is_gradient = |node: &&Node| node.operator.name == "LstmCellGradient";
    let mut alike: HashMap<TensorType, Vec<[Value; 4]>> = HashMap::new();
    for node in graph.nodes().iter().filter(is_gradient) {
        let forward = [2, 3, 4, 5].map(|i| node.input(i));
        alike.entry(graph.ty(node.outputs[1]).clone()).or_default().push(forward);
    }
    let mut slopes: HashMap<Value, Slopes> = HashMap::new();
    graph.rewrite(|graph, node, moved| {
        match node.operator.name {
            "LstmCell" => return Some(expand_cell(graph, node)),
            "LstmCellGradient" => {}
            _ => return None,
        }
        // The first gradient comes after the whole forward pass.
        if let Some(cells) = alike.remove(graph.ty(node.outputs[1])) {
            let now = |value: Value| moved.get(&value).copied().unwrap_or(value);
            let cells: Vec<_> = cells.into_iter().map(|cell| cell.map(now)).collect();
            let found = all_slopes(graph, &cells);
            slopes.extend(cells.iter().map(|cell| cell[0]).zip(found));
        }
        let (mut dh, dc, sigmoids) = (node.input(0), node.input(1), node.input(2));
        if let Some(second) = node.optional(6) {
            dh = graph.add(dh, second);
        }
        let Slopes { cell, gates } = slopes[&sigmoids];
        let through = graph.mul(dh, cell);
        let dcell = graph.add(dc, through);
        let drivers = graph.concat(&[dcell, dcell, dh, dcell], 1);
        let dgates = graph.mul(drivers, gates);
        let [_, forget, _] = gates_of(graph, sigmoids);
        Some(vec![dgates, graph.mul(dcell, forget)])
    });
}

fn all_slopes(graph: &mut Graph, cells: &[[Value; 4]]) -> Vec<Slopes> {
    let [batch, hidden] = graph.shape(cells[0][1])[..] else { unreachable!("checked by inference") };
    let column = |i: usize| cells.iter().map(|cell| cell[i]).collect::<Vec<_>>();
    let [sigmoids, candidate, squashed, before] = [0, 1, 2, 3].map(|i| graph.concat(&column(i), 0));
    let one = graph.scalar_like(sigmoids, 1.0);
    let complement = |graph: &mut Graph, x: Value| graph.sub(one, x);
    let one_less_square = |graph: &mut Graph, x: Value| {
        let square = graph.mul(x, x);
        graph.sub(one, square)
    };
    let [input, _, output] = gates_of(graph, sigmoids);
    let rest = complement(graph, sigmoids);
    let sigmoid_slope = graph.mul(sigmoids, rest);
    let factors = graph.concat(&[candidate, before, squashed], 1);
    let of_sigmoids = graph.mul(sigmoid_slope, factors);
    let tanh_slope = one_less_square(graph, candidate);
    let of_candidate = graph.mul(input, tanh_slope);
    let gates = graph.concat(&[of_sigmoids, of_candidate], 1);
    let tanh_slope = one_less_square(graph, squashed);
    let cell = graph.mul(output, tanh_slope);
    debug_assert_eq!(graph.shape(gates)[1], 4 * hidden);
    let sizes = vec![batch; cells.len()];
    let (gates, cell) = (graph.split(gates, 0, &sizes), graph.split(cell, 0, &sizes));
    gates.into_iter().zip(cell).map(|(gates, cell)| Slopes { cell, gates }).collect()
}

/// Whether the node is a cell or its gradient.
pub(in super::super) fn is_cell(node: &Node) -> bool {
    ["LstmCell", "LstmCellGradient"].contains(&node.operator.name)
}

/// Takes sums into the kernels that need them: what is added to a product on its way to a cell's gates, which would be
/// copied first, and the two parts of a hidden state's gradient.
pub(in super::super) fn absorb_sums(graph: &mut Graph) {
    let mut uses: HashMap<Value, usize> = HashMap::new();
    let mut producers = HashMap::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        node.inputs.iter().flatten().for_each(|x| *uses.entry(*x).or_default() += 1);
        producers.extend(node.outputs.iter().map(|y| (*y, i)));
    }
    graph.outputs.iter().for_each(|(_, y)| *uses.entry(*y).or_default() += 1);
    // The node that makes `x` for one node alone.
    let maker = |x: Value| producers.get(&x).copied().filter(|_| uses[&x] == 1);
    for i in 0..graph.nodes.len() {
        let name = graph.nodes[i].operator.name;
        let Some(mut sum) = graph.nodes[i].optional(0).filter(|_| is_cell(&graph.nodes[i])) else { continue };
        if name == "LstmCell" {
            while let Some(j) = maker(sum).filter(|_| graph.nodes[i].inputs.len() < 4) {
                let whole = graph.shape(graph.nodes[j].outputs[0]).to_vec();
                let added = graph.nodes[j].inputs.get(2).copied().flatten();
                let fits = |c: &Value| [&whole[..], &whole[1..]].contains(&graph.shape(*c));
                let Some(c) = added.filter(|c| graph.nodes[j].operator.name == "Gemm" && fits(c)) else { break };
                graph.nodes[j].inputs.truncate(2);
                graph.nodes[i].inputs.push(Some(c));
                sum = c;
            }
        } else if let Some(j) = maker(sum).filter(|j| graph.nodes[*j].operator.name == "Add") {
            let [a, b] = [0, 1].map(|k| graph.nodes[j].inputs[k].expect("a sum of two"));
            if graph.shape(a) == graph.shape(b) {
                graph.nodes[i].inputs[0] = Some(a);
                graph.nodes[i].inputs.push(Some(b));
            }
        }
    }
    // Products without their sums are no longer what the same inputs once made.
    graph.made.clear();
}
