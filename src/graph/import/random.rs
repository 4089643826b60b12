//! Random operators of a model: how exporters write `bernoulli`, and what takes their place in inference.

use std::collections::HashMap;

use super::super::core::Attribute;
use super::super::onnx::attribute;
use super::super::proto::{GraphProto, NodeProto};
use super::super::tensor::Constant;

/// A node named after its output.
pub(super) fn node(operator: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        name: Some(output.to_owned()),
        op_type: Some(operator.to_owned()),
        input: inputs.iter().map(|name| (*name).to_owned()).collect(),
        output: vec![output.to_owned()],
        ..Default::default()
    }
}

/// Writes what exporters make of `bernoulli(p)`, `rand(..) < p` and `floor(rand(..) + p)`, as the operator of that name,
/// whose mean is known: stochastic depth does nothing in evaluation.
pub(super) fn name_bernoullis(graph: &mut GraphProto) {
    let mut takers: HashMap<&str, Vec<usize>> = HashMap::new();
    for (i, node) in graph.node.iter().enumerate() {
        node.input.iter().for_each(|name| takers.entry(name).or_default().push(i));
    }
    let only_taker = |at: usize| {
        let output = graph.node[at].output.first()?;
        let [taker] = takers.get(output.as_str())?[..] else { return None };
        graph.output.iter().all(|port| port.name() != output).then_some((taker, output))
    };
    let is = |at: usize, operators: &[&str]| operators.contains(&graph.node[at].op_type());
    let mut found: HashMap<usize, [String; 2]> = HashMap::new();
    for (i, random) in graph.node.iter().enumerate() {
        let numbers = |name: &str, default: f32| {
            let given = random.attribute.iter().find(|attribute| attribute.name() == name);
            given.map_or(default, |attribute| attribute.f.unwrap_or(default))
        };
        let unit = numbers("low", 0.0) == 0.0 && numbers("high", 1.0) == 1.0;
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
        let [shape, spread, float] = ["shape", "probability", "float"].map(|part| format!("{output}/{part}"));
        let mut cast = node("Cast", &[&probability], &float);
        cast.attribute.push(attribute("to", &Attribute::Int(1)));
        nodes.extend([cast, node("Shape", &[&like], &shape), node("Expand", &[&float, &shape], &spread)]);
        nodes.push(node("Bernoulli", &[&spread], &output));
    }
    graph.node = nodes;
}

/// Whether a node makes floats of truth values, as far as it says.
fn is_float_cast(node: &NodeProto) -> bool {
    let to = node.attribute.iter().find(|attribute| attribute.name() == "to").and_then(|attribute| attribute.i);
    node.op_type() == "CastLike" || (node.op_type() == "Cast" && to == Some(1))
}

/// What takes a random node's place in inference: its mean. `None`: it is not random.
pub(super) fn mean_of(random: &NodeProto) -> Option<Vec<NodeProto>> {
    let number = |name: &str, default: f32| {
        let given = random.attribute.iter().find(|attribute| attribute.name() == name);
        given.map_or(default, |attribute| attribute.f.unwrap_or(default))
    };
    let output = random.output.first()?;
    let mean = match random.op_type() {
        "Bernoulli" => return Some(vec![node("Identity", &[random.input.first()?], output)]),
        "RandomNormal" | "RandomNormalLike" => number("mean", 0.0),
        "RandomUniform" | "RandomUniformLike" => (number("low", 0.0) + number("high", 1.0)) / 2.0,
        _ => return None,
    };
    let shape = format!("{output}/shape");
    let first = if random.op_type().ends_with("Like") {
        node("Shape", &[random.input.first()?], &shape)
    } else {
        let given = random.attribute.iter().find(|attribute| attribute.name() == "shape");
        let sizes = given.map(|attribute| attribute.ints.clone()).unwrap_or_default();
        let mut constant = node("Constant", &[], &shape);
        constant.attribute.push(attribute("value", &Attribute::Tensor(Constant::I64(vec![sizes.len()], sizes))));
        constant
    };
    let mut filled = node("ConstantOfShape", &[&shape], output);
    filled.attribute.push(attribute("value", &Attribute::Tensor(Constant::F32(vec![1], vec![mean]))));
    Some(vec![first, filled])
}
