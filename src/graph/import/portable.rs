//! Forms of a model's nodes that other programs' tools understand: quantizers trip over a transposed weight that several
//! products share, and converters to half precision over casts of constants and sequences of tensors.

use std::collections::{HashMap, HashSet};

use super::super::attributes::Attribute;
use super::super::onnx::{attribute, tensor};
use super::super::products::TRANSPOSED;
use super::super::proto::tensor_proto::DataType;
use super::super::proto::{GraphProto, NodeProto, TensorProto};
use super::super::tensor::Constant;
use super::nodes::{float, int, node, rename_taken, takers};
use super::tensor::constant;

/// Rewrites nodes of an inference model in place. `shapes`: of its values, for one window.
pub(super) fn make_portable(graph: &mut GraphProto, shapes: &HashMap<String, Vec<usize>>) {
    fold_casts(graph);
    fill_by_expanding(graph);
    split_without_sequences(graph, shapes);
    fold_transposes(graph);
    plain_products(graph);
    vectors_as_matrices(graph, shapes);
}

/// Products with a vector, as products with a matrix of one column: ONNX Runtime 1.31 computes something else where it merges
/// them with a transposition of the first factor.
fn vectors_as_matrices(graph: &mut GraphProto, shapes: &HashMap<String, Vec<usize>>) {
    let tensors = graph.initializer.iter().map(|tensor| (tensor.name().to_owned(), tensor.dims.len()));
    let mut axes: HashMap<String, usize> = shapes.iter().map(|(name, shape)| (name.clone(), shape.len())).collect();
    axes.extend(tensors);
    const LAST: &str = "vector/axis";
    let mut nodes = Vec::with_capacity(graph.node.len());
    let mut found = false;
    for mut product in std::mem::take(&mut graph.node) {
        let is_vector = |product: &NodeProto| axes.get(&product.input[1]) == Some(&1);
        if product.op_type() != "MatMul" || product.input.len() != 2 || !is_vector(&product) {
            nodes.push(product);
            continue;
        }
        found = true;
        let output = product.output[0].clone();
        let [column, wide] = ["column", "product"].map(|part| format!("{output}/{part}"));
        nodes.push(node("Unsqueeze", &[&product.input[1], LAST], &column));
        product.input[1] = column;
        product.output[0].clone_from(&wide);
        nodes.extend([product, node("Squeeze", &[&wide, LAST], &output)]);
    }
    graph.node = nodes;
    if found {
        graph.initializer.push(tensor(LAST, &Constant::I64(vec![1], vec![-1])));
    }
}

/// `Cast` of a tensor of the file to float32, or to the type of an input, which is that, as a tensor of the file.
fn fold_casts(graph: &mut GraphProto) {
    let mut tensors: HashMap<String, usize> =
        graph.initializer.iter().enumerate().map(|(i, tensor)| (tensor.name().to_owned(), i)).collect();
    let inputs: HashSet<_> = graph.input.iter().map(|input| input.name().to_owned()).collect();
    let outputs: HashSet<_> = graph.output.iter().map(|output| output.name().to_owned()).collect();
    let mut made: Vec<TensorProto> = Vec::new();
    let initializers = &graph.initializer;
    graph.node.retain(|node| {
        let (Some(source), [output]) = (node.input.first(), &node.output[..]) else { return true };
        let to_float = match node.op_type() {
            "Cast" => int(node, "to", 0) == i64::from(DataType::Float as i32),
            "CastLike" => node.input.get(1).is_some_and(|like| inputs.contains(like)),
            _ => false,
        };
        let found = tensors.get(source).copied().filter(|_| to_float && !inputs.contains(source));
        let Some(at) = found.filter(|_| !outputs.contains(output)) else { return true };
        let value = initializers.get(at).unwrap_or_else(|| &made[at - initializers.len()]);
        let Ok(value) = constant(value) else { return true };
        let shape = value.shape().to_vec();
        let numbers = value.numbers().into_iter().map(|number| number as f32).collect();
        tensors.insert(output.clone(), initializers.len() + made.len());
        made.push(tensor(output, &Constant::F32(shape, numbers)));
        false
    });
    graph.initializer.extend(made);
}

/// `ConstantOfShape` of floats, whose number is an attribute, as `Expand` of a tensor of the file.
fn fill_by_expanding(graph: &mut GraphProto) {
    let mut made = Vec::new();
    for fill in graph.node.iter_mut().filter(|node| node.op_type() == "ConstantOfShape") {
        let value = fill.attribute.iter().find_map(|attribute| attribute.t.clone());
        let value = value.map_or(Ok(Constant::F32(vec![1], vec![0.0])), |value| constant(&value));
        if let (Ok(Constant::F32(_, values)), [shape], [output]) = (value, &fill.input[..], &fill.output[..])
            && let [number] = values[..]
        {
            let name = format!("{output}/value");
            made.push(tensor(&name, &Constant::F32(Vec::new(), vec![number])));
            *fill = node("Expand", &[&name, shape], output);
        }
    }
    graph.initializer.extend(made);
}

/// `SplitToSequence` by known sizes, whose parts are all taken by number, as `Split`.
fn split_without_sequences(graph: &mut GraphProto, shapes: &HashMap<String, Vec<usize>>) {
    let integers: HashMap<String, Constant> = graph
        .initializer
        .iter()
        .filter(|tensor| tensor.data_type() == DataType::Int64 as i32)
        .filter_map(|tensor| Some((tensor.name().to_owned(), constant(tensor).ok()?)))
        .collect();
    let takers = takers(graph);
    let mut replaced: HashMap<usize, Vec<NodeProto>> = HashMap::new();
    let mut made = Vec::new();
    for (i, split) in graph.node.iter().enumerate().filter(|(_, node)| node.op_type() == "SplitToSequence") {
        let (Some(x), Some(sequence)) = (split.input.first(), split.output.first()) else { continue };
        let Some(sizes) = split.input.get(1).and_then(|name| integers.get(name)) else { continue };
        let mut list: Vec<i64> = sizes.numbers().into_iter().map(|size| size as i64).collect();
        let along = int(split, "axis", 0);
        if sizes.shape().is_empty() {
            // Parts of one size, of an axis that is not the batch.
            let Some(shape) = shapes.get(x) else { continue };
            let rank = shape.len() as i64;
            let axis = if along < 0 { along + rank } else { along };
            let Some(whole) = usize::try_from(axis).ok().filter(|axis| *axis > 0).and_then(|axis| shape.get(axis))
            else {
                continue;
            };
            let (whole, size) = (*whole as i64, list[0].max(1));
            list = (0..whole).step_by(size as usize).map(|start| size.min(whole - start)).collect();
        }
        let count = list.len() as i64;
        let mut parts: Vec<String> = (0..count).map(|part| format!("{sequence}/part{part}")).collect();
        let taken: Option<Vec<(usize, usize)>> =
            takers.get(sequence.as_str()).into_iter().flatten().try_fold(Vec::new(), |mut all, at| {
                let take = &graph.node[*at];
                let number = take.input.get(1).and_then(|name| integers.get(name))?.numbers().first().copied()? as i64;
                let part = usize::try_from(if number < 0 { number + count } else { number }).ok()?;
                (take.op_type() == "SequenceAt" && part < parts.len()).then(|| all.push((*at, part)))?;
                Some(all)
            });
        let Some(taken) = taken else { continue };
        for (at, part) in taken {
            let output = graph.node[at].output[0].clone();
            if parts[part].starts_with(&format!("{sequence}/part")) {
                parts[part] = output;
                replaced.insert(at, Vec::new());
            } else {
                replaced.insert(at, vec![node("Identity", &[&parts[part]], &output)]);
            }
        }
        let name = format!("{sequence}/sizes");
        let mut plain = node("Split", &[x, &name], sequence);
        made.push(tensor(&name, &Constant::I64(vec![list.len()], list)));
        plain.output = parts;
        plain.attribute.push(attribute("axis", &Attribute::Int(along)));
        replaced.insert(i, vec![plain]);
    }
    let nodes = std::mem::take(&mut graph.node).into_iter().enumerate();
    graph.node = nodes.flat_map(|(i, node)| replaced.remove(&i).unwrap_or_else(|| vec![node])).collect();
    graph.initializer.extend(made);
}

/// `Gemm` with a weight that other products take, too, as `MatMul` and `Add`, the weight stored as the product takes it.
/// (A weight of one product keeps its name and its form.)
fn plain_products(graph: &mut GraphProto) {
    let weights: HashMap<String, TensorProto> =
        graph.initializer.iter().map(|tensor| (tensor.name().to_owned(), tensor.clone())).collect();
    let mut takers: HashMap<&str, usize> = HashMap::new();
    let products = graph.node.iter().filter(|node| matches!(node.op_type(), "Gemm" | "MatMul"));
    products.flat_map(|node| &node.input).for_each(|name| *takers.entry(name).or_default() += 1);
    let shared: HashSet<String> =
        takers.into_iter().filter(|(_, count)| *count > 1).map(|(name, _)| name.to_owned()).collect();
    let mut transposed: HashMap<String, TensorProto> = HashMap::new();
    let mut nodes = Vec::with_capacity(graph.node.len());
    for gemm in std::mem::take(&mut graph.node) {
        let plain = gemm.op_type() == "Gemm"
            && gemm.input.get(1).is_some_and(|name| shared.contains(name))
            && int(&gemm, "transA", 0) == 0
            && float(&gemm, "alpha", 1.0) == 1.0
            && (float(&gemm, "beta", 1.0) == 1.0 || gemm.input.len() < 3);
        let weight = gemm.input.get(1).and_then(|name| weights.get(name)).filter(|_| plain);
        let Some(weight) = weight.filter(|weight| weight.data_type() == DataType::Float as i32) else {
            nodes.push(gemm);
            continue;
        };
        let mut factor = weight.name().to_owned();
        if int(&gemm, "transB", 0) != 0 {
            let Ok(turned) = turned(weight) else {
                nodes.push(gemm);
                continue;
            };
            factor = turned.name().to_owned();
            transposed.insert(factor.clone(), turned);
        }
        let output = &gemm.output[0];
        match gemm.input.get(2).filter(|bias| !bias.is_empty()) {
            Some(bias) => {
                let product = format!("{output}/product");
                nodes.push(node("MatMul", &[&gemm.input[0], &factor], &product));
                nodes.push(node("Add", &[&product, bias], output));
            }
            None => nodes.push(node("MatMul", &[&gemm.input[0], &factor], output)),
        }
    }
    graph.node = nodes;
    let mut transposed: Vec<_> = transposed.into_values().collect();
    transposed.retain(|tensor| !weights.contains_key(tensor.name()));
    transposed.sort_by(|a, b| a.name().cmp(b.name()));
    graph.initializer.extend(transposed);
    drop_unused(graph);
}

/// `Transpose` of a weight of the file before a `MatMul`, as PyTorch writes linear layers: the weight stored so.
fn fold_transposes(graph: &mut GraphProto) {
    let weights: HashMap<String, TensorProto> =
        graph.initializer.iter().map(|tensor| (tensor.name().to_owned(), tensor.clone())).collect();
    let outputs: HashSet<_> = graph.output.iter().map(|output| output.name().to_owned()).collect();
    let takers = takers(graph);
    let is_factor = |name: &String| {
        let mut takers = takers.get(name.as_str()).into_iter().flatten().map(|at| &graph.node[*at]);
        takers.all(|node| node.op_type() == "MatMul" && node.input.get(1) == Some(name) && node.input[0] != *name)
    };
    let mut folded: HashMap<String, TensorProto> = HashMap::new();
    for node in graph.node.iter().filter(|node| node.op_type() == "Transpose") {
        let [source] = &node.input[..] else { continue };
        let weight = weights.get(source).filter(|weight| weight.data_type() == DataType::Float as i32);
        let output = &node.output[0];
        if let Some(Ok(turned)) = weight.map(turned)
            && is_factor(output)
            && !outputs.contains(output)
        {
            folded.insert(output.clone(), turned);
        }
    }
    graph.node.retain(|node| !node.output.first().is_some_and(|output| folded.contains_key(output)));
    let names = folded.iter().map(|(output, turned)| (output.clone(), turned.name().to_owned()));
    rename_taken(&mut graph.node, &names.collect());
    let mut made: Vec<_> = folded.into_values().collect();
    made.sort_by(|a, b| a.name().cmp(b.name()));
    made.dedup_by(|a, b| a.name() == b.name());
    graph.initializer.extend(made);
}

/// A matrix [rows, columns] as [columns, rows].
fn turned(weight: &TensorProto) -> Result<TensorProto, super::super::error::GraphError> {
    let value = constant(weight)?;
    let [rows, columns] = value.shape()[..] else { return Err("expected a matrix".into()) };
    let numbers = value.numbers();
    let turned = (0..rows * columns).map(|i| numbers[i % rows * columns + i / rows] as f32).collect();
    Ok(tensor(&format!("{}{TRANSPOSED}", weight.name()), &Constant::F32(vec![columns, rows], turned)))
}

/// Takes out tensors that no node takes any more.
fn drop_unused(graph: &mut GraphProto) {
    let mut used: HashSet<String> = takers(graph).into_keys().map(str::to_owned).collect();
    used.extend(graph.output.iter().map(|output| output.name().to_owned()));
    used.extend(graph.input.iter().map(|input| input.name().to_owned()));
    graph.initializer.retain(|tensor| used.contains(tensor.name()));
}
