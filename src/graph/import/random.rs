//! Random operators of a model: how exporters write `bernoulli`, and what takes their place in inference.

use std::collections::HashMap;

use super::super::attributes::Attribute;
use super::super::onnx::attribute;
use super::super::proto::{GraphProto, NodeProto};
use super::super::tensor::Constant;
use super::nodes::{find_attribute, float, int, node, takers};

/// Writes what exporters make of `bernoulli(p)`, `rand(..) < p` and `floor(rand(..) + p)`, as the operator of that name,
/// whose mean is known: stochastic depth does nothing in evaluation.
pub(super) fn name_bernoullis(graph: &mut GraphProto) {
    let takers = takers(graph);
    let only_taker = |at: usize| {
        let output = graph.node[at].output.first()?;
        let [taker] = takers.get(output.as_str())?[..] else { return None };
        graph.output.iter().all(|port| port.name() != output).then_some((taker, output))
    };
    let is = |at: usize, operators: &[&str]| operators.contains(&graph.node[at].op_type());
    let mut found: HashMap<usize, [String; 2]> = HashMap::new();
    for (i, random) in graph.node.iter().enumerate() {
        let unit = float(random, "low", 0.0) == 0.0 && float(random, "high", 1.0) == 1.0;
        let (true, true, Some(like)) = (is(i, &["RandomUniformLike"]), unit, random.input.first()) else { continue };
        let Some((second, output)) = only_taker(i) else { continue };
        let Some((last, _)) = only_taker(second) else { continue };
        let inputs = &graph.node[second].input;
        let other = inputs.iter().find(|name| *name != output).cloned();
        let less = is(second, &["Less"]) && inputs.first() == Some(output) && is_float_cast(&graph.node[last]);
        let floor = is(second, &["Add"]) && is(last, &["Floor"]);
        if let (true, Some(probability)) = (less || floor, other) {
            found.insert(last, [like.clone(), probability]);
        }
    }
    let mut nodes = Vec::with_capacity(graph.node.len());
    for (i, old) in std::mem::take(&mut graph.node).into_iter().enumerate() {
        let Some([like, probability]) = found.remove(&i) else {
            nodes.push(old);
            continue;
        };
        let output = old.output[0].clone();
        let [shape, spread, number] = ["shape", "probability", "float"].map(|part| format!("{output}/{part}"));
        let mut cast = node("Cast", &[&probability], &number);
        cast.attribute.push(attribute("to", &Attribute::Int(1)));
        nodes.extend([cast, node("Shape", &[&like], &shape), node("Expand", &[&number, &shape], &spread)]);
        nodes.push(node("Bernoulli", &[&spread], &output));
    }
    graph.node = nodes;
}

/// Whether a node makes floats of truth values, as far as it says.
fn is_float_cast(node: &NodeProto) -> bool {
    node.op_type() == "CastLike" || (node.op_type() == "Cast" && int(node, "to", 0) == 1)
}

/// What takes a random node's place in inference: its mean. `None`: it is not random.
pub(super) fn mean_of(random: &NodeProto) -> Option<Vec<NodeProto>> {
    let output = random.output.first()?;
    let mean = match random.op_type() {
        "Bernoulli" => return Some(vec![node("Identity", &[random.input.first()?], output)]),
        "RandomNormal" | "RandomNormalLike" => float(random, "mean", 0.0),
        "RandomUniform" | "RandomUniformLike" => (float(random, "low", 0.0) + float(random, "high", 1.0)) / 2.0,
        _ => return None,
    };
    let shape = format!("{output}/shape");
    let first = if random.op_type().ends_with("Like") {
        node("Shape", &[random.input.first()?], &shape)
    } else {
        let sizes = find_attribute(random, "shape").map(|attribute| attribute.ints.clone()).unwrap_or_default();
        let mut constant = node("Constant", &[], &shape);
        constant.attribute.push(attribute("value", &Attribute::Tensor(Constant::I64(vec![sizes.len()], sizes))));
        constant
    };
    let mut filled = node("ConstantOfShape", &[&shape], output);
    filled.attribute.push(attribute("value", &Attribute::Tensor(Constant::F32(vec![1], vec![mean]))));
    Some(vec![first, filled])
}
