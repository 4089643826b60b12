//! Every operator of a user's model that can be trained: its output and gradients against PyTorch's
//! (tests/golden/make_operators.py wrote the file) and against central differences.

mod common;

use std::collections::{BTreeSet, HashMap};
use std::sync::OnceLock;

use common::{from_hex, noise};
use emg_pipeline::graph::{
    DType, Graph, GraphError, Kernels, ModelInfo, OnnxModel, RecurrentCell, TensorType, TrainingOperators, Value,
    gradients, known_operators, prune, select_kernels, to_onnx,
};
use emg_pipeline::runtime::{self, Provider, Session, Tensor};
use proptest::prelude::*;

/// Evaluation: nothing is dropped, statistics stay.
struct Evaluation {
    /// Whether passes over time are one operator.
    fuses: bool,
}

impl TrainingOperators for Evaluation {
    fn dropout(&mut self, _: &mut Graph, x: Value, _: f64) -> Value {
        x
    }

    fn most_unrolled(&self, _: RecurrentCell, _: usize) -> Option<usize> {
        self.fuses.then_some(4)
    }

    fn running(&self, _: &str, value: Value) -> Value {
        value
    }

    fn uniform(&mut self, _: &mut Graph, _: &[usize]) -> Option<Value> {
        None
    }

    fn batch_norm(
        &mut self,
        graph: &mut Graph,
        x: Value,
        affine: [Value; 2],
        statistics: [(&str, Value); 2],
        epsilon: f32,
        _: f32,
    ) -> Value {
        graph.fixed_norm(x, affine, statistics.map(|(_, value)| value), epsilon)
    }
}

/// The script's `drawn`.
fn drawn(unit: f32, domain: &str) -> f32 {
    match domain {
        "any" => unit * 2.0 + if unit == 0.0 { 0.0 } else { 0.2f32.copysign(unit) },
        "positive" => unit + 0.8,
        "unit" => unit * 1.8,
        "above" => unit + 1.8,
        other => panic!("{other}"),
    }
}

struct Case {
    name: String,
    model: OnnxModel,
    inputs: Vec<Tensor>,
    y: Tensor,
    gradients: Vec<Tensor>,
}

fn cases() -> Vec<Case> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/operators.safetensors");
    let bytes = std::fs::read(path).unwrap();
    // Parsed by hand: models are bytes between the tensors, which are then not aligned.
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let data = &bytes[8 + length..];
    let part = |key: &str| {
        let ends = header[key]["data_offsets"].as_array().unwrap_or_else(|| panic!("no {key}"));
        &data[ends[0].as_u64().unwrap() as usize..ends[1].as_u64().unwrap() as usize]
    };
    let tensor = |key: &str| {
        let shape: Vec<usize> = serde_json::from_value(header[key]["shape"].clone()).unwrap();
        Tensor::new(shape, part(key).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    };
    let metadata = header["__metadata__"].as_object().unwrap();
    let case = |(name, domains): (&String, &serde_json::Value)| {
        let domains: Vec<String> = serde_json::from_str(domains.as_str().unwrap()).unwrap();
        let gradients: Vec<_> = (0..domains.len()).map(|i| tensor(&format!("{name}.d{i}"))).collect();
        let inputs = gradients.iter().zip(&domains).enumerate().map(|(i, (gradient, domain))| {
            let values = noise(i as u64, gradient.values.len()).map(|unit| drawn(unit, domain)).collect();
            Tensor::new(gradient.shape.clone(), values)
        });
        Case {
            name: name.clone(),
            model: OnnxModel::parse(part(&format!("{name}.model"))).unwrap(),
            inputs: inputs.collect(),
            y: tensor(&format!("{name}.y")),
            gradients,
        }
    };
    metadata.iter().map(case).collect()
}

fn session(graph: &Graph) -> Session {
    let library = runtime::load(None).unwrap();
    Session::new(&library, Provider::Cpu, &to_onnx(graph, &[], &ModelInfo::default())).unwrap()
}

fn run(session: &mut Session, inputs: &[Tensor]) -> Vec<Tensor> {
    let names: Vec<_> = (0..inputs.len()).map(|i| format!("x{i}")).collect();
    session.run(&names.iter().map(String::as_str).zip(inputs).collect::<Vec<_>>()).unwrap()
}

/// A model's graph, y, and the values of its inputs.
fn built(model: &OnnxModel, inputs: &[Tensor], fuses: bool) -> Result<(Graph, Value, Vec<Value>), GraphError> {
    let mut graph = Graph::new();
    let input = |(i, tensor): (usize, &Tensor)| graph.input(&format!("x{i}"), TensorType::f32(tensor.shape.clone()));
    let values: Vec<_> = inputs.iter().enumerate().map(input).collect();
    let bound: HashMap<_, _> = values.iter().enumerate().map(|(i, value)| (format!("x{i}"), *value)).collect();
    let outputs = model.build(&mut graph, &mut Evaluation { fuses }, &bound, None)?;
    let y = *outputs.first().ok_or("the model has no output")?;
    Ok((graph, y, values))
}

/// The loss sum(y x noise(90)) of a model, and the values of its inputs.
fn loss(model: &OnnxModel, inputs: &[Tensor]) -> Result<(Graph, Value, Vec<Value>), GraphError> {
    let (mut graph, y, loss, values) = loss_of(model, inputs, false)?;
    graph.output("loss", loss);
    graph.output("y", y);
    Ok((graph, loss, values))
}

/// The output of a model, the loss sum(y x noise(90)), and the values of its inputs.
fn loss_of(model: &OnnxModel, inputs: &[Tensor], fuses: bool) -> Result<(Graph, Value, Value, Vec<Value>), GraphError> {
    let (mut graph, y, values) = built(model, inputs, fuses)?;
    let shape = graph.shape(y).to_vec();
    let weights = graph.f32(shape.clone(), noise(90, shape.iter().product()).collect());
    let product = graph.mul(y, weights);
    let loss = graph.sum_all(product);
    Ok((graph, y, loss, values))
}

fn close(found: &Tensor, expected: &Tensor, what: &str) {
    assert_eq!(found.shape, expected.shape, "{what}");
    let scale = expected.values.iter().fold(1.0f32, |most, value| most.max(value.abs()));
    for (i, (a, b)) in found.values.iter().zip(&expected.values).enumerate() {
        assert!((a - b).abs() <= 2e-5 * scale, "{what} element {i}: {a}, PyTorch {b}");
    }
}

/// `twice`: each input is used again, beside the operator, so that its gradient is a sum.
fn check_case(case: &Case, kernels: Kernels, twice: bool) {
    let name = format!("{} {kernels:?}, {}", case.name, if twice { "each input used twice" } else { "alone" });
    let fuses = kernels == Kernels::Cpu;
    let built = loss_of(&case.model, &case.inputs, fuses);
    let (mut graph, y, mut loss, values) = built.unwrap_or_else(|e| panic!("{name}: {e}"));
    let weights: Vec<Vec<f32>> =
        case.inputs.iter().enumerate().map(|(i, x)| noise(200 + i as u64, x.values.len()).collect()).collect();
    if twice {
        for ((value, weights), input) in values.iter().zip(&weights).zip(&case.inputs) {
            let weights = graph.f32(input.shape.clone(), weights.clone());
            let product = graph.mul(*value, weights);
            let sum = graph.sum_all(product);
            loss = graph.add(loss, sum);
        }
    }
    let found = gradients(&mut graph, loss, &values).unwrap_or_else(|e| panic!("{name}: {e}"));
    graph.output("y", y);
    for (i, gradient) in found.into_iter().enumerate() {
        let gradient = gradient.unwrap_or_else(|| {
            let shape = graph.shape(values[i]).to_vec();
            graph.zeros(values[i], &shape)
        });
        graph.output(&format!("d{i}"), gradient);
    }
    select_kernels(&mut graph, kernels);
    prune(&mut graph);
    let outputs = run(&mut session(&graph), &case.inputs);
    close(&outputs[0], &case.y, &format!("{name}: y"));
    for (i, (found, expected)) in outputs[1..].iter().zip(&case.gradients).enumerate() {
        let mut expected = expected.clone();
        if twice {
            expected.values.iter_mut().zip(&weights[i]).for_each(|(gradient, weight)| *gradient += weight);
        }
        close(found, &expected, &format!("{name}: gradient of x{i}"));
    }
}

#[test]
fn operators_and_their_gradients_are_pytorchs() {
    let mut tested = BTreeSet::new();
    for case in cases() {
        tested.extend(case.model.operators().map(str::to_owned));
        for kernels in [Kernels::Standard, Kernels::Cpu, Kernels::Cuda] {
            for twice in [false, true] {
                check_case(&case, kernels, twice);
            }
        }
    }
    // What is random has no golden values: tests/own_model.rs trains it.
    let random = ["Bernoulli", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"];
    let fixed = known_operators().filter(|name| !random.contains(name));
    let missing: Vec<_> = fixed.filter(|name| !tested.contains(*name)).collect();
    assert!(missing.is_empty(), "operators without a golden case: {missing:?}");
}

/// A layer's pass over time as one operator is what its steps one by one are: batches that are no whole pieces of work, more
/// units than a panel has columns, both directions.
#[test]
fn fused_recurrences_are_their_steps() {
    let mut compared = 0;
    for case in cases() {
        let plain = case.inputs.len() == 4 && case.inputs.iter().map(|x| x.shape.len()).eq([3, 3, 3, 2]);
        let recurrent = case.model.operators().all(|name| ["LSTM", "GRU", "RNN"].contains(&name));
        if !plain || !recurrent {
            continue;
        }
        let gates = case.inputs[2].shape[1] / case.inputs[2].shape[2];
        let directions = case.inputs[1].shape[0];
        for [steps, batch, hidden] in [[7, 6, 19], [5, 9, 32], [6, 1, 3]] {
            let width = gates * hidden;
            let shapes = [
                vec![steps, batch, 5],
                vec![directions, width, 5],
                vec![directions, width, hidden],
                vec![directions, 2 * width],
            ];
            let inputs: Vec<_> = shapes
                .into_iter()
                .enumerate()
                .map(|(i, shape)| {
                    let elements = shape.iter().product();
                    Tensor::new(shape, noise(i as u64, elements).collect())
                })
                .collect();
            let [one_by_one, fused] = [(Kernels::Standard, false), (Kernels::Cpu, true)].map(|(kernels, fuses)| {
                // The case's hidden size is an attribute of the node, which nothing reads.
                let (mut graph, y, loss, values) = loss_of(&case.model, &inputs, fuses).unwrap();
                let found = gradients(&mut graph, loss, &values).unwrap();
                graph.output("y", y);
                for (i, gradient) in found.into_iter().enumerate() {
                    graph.output(&format!("d{i}"), gradient.unwrap());
                }
                select_kernels(&mut graph, kernels);
                prune(&mut graph);
                assert_eq!(graph.nodes().iter().any(|node| node.operator.name == "Recurrence"), fuses);
                run(&mut session(&graph), &inputs)
            });
            for (i, (found, expected)) in fused.iter().zip(&one_by_one).enumerate() {
                close(found, expected, &format!("{} {steps} x {batch} x {hidden}: {i}", case.name));
            }
            compared += 1;
        }
    }
    assert!(compared >= 15, "{compared}");
}

/// A few elements of each gradient against central differences, in float32 with a large step.
#[test]
fn gradients_equal_differences() {
    const STEP: f32 = 1e-2;
    for mut case in cases() {
        let (graph, ..) = loss(&case.model, &case.inputs).unwrap();
        let mut graph = graph;
        prune(&mut graph);
        let mut forward = session(&graph);
        let largest = case.gradients.iter().flat_map(|t| &t.values).fold(1.0f32, |most, value| most.max(value.abs()));
        for i in 0..case.inputs.len() {
            let elements = case.inputs[i].values.len();
            for j in (0..elements).step_by(elements.div_ceil(7)) {
                let at = case.inputs[i].values[j];
                let mut loss_at = |value: f32| {
                    case.inputs[i].values[j] = value;
                    f64::from(run(&mut forward, &case.inputs)[0].values[0])
                };
                let (above, below) = (loss_at(at + STEP), loss_at(at - STEP));
                case.inputs[i].values[j] = at;
                // A kink or a jump between the two ends says nothing about the gradient between them.
                let middle = f64::from(run(&mut forward, &case.inputs)[0].values[0]);
                let (right, left) = ((above - middle) / f64::from(STEP), (middle - below) / f64::from(STEP));
                if (right - left).abs() > 0.1 * f64::from(largest) {
                    continue;
                }
                let difference = (right + left) / 2.0;
                let gradient = f64::from(case.gradients[i].values[j]);
                let off = (gradient - difference).abs();
                assert!(
                    off <= 5e-3 * f64::from(largest),
                    "{} x{i} element {j}: {gradient}, difference {difference}",
                    case.name
                );
            }
        }
    }
}

#[test]
fn all_operators_that_are_not_known_are_named_with_their_nodes() {
    let message = loss(&unknown(), &[]).unwrap_err().to_string();
    assert!(message.contains("NonMaxSuppression (boxes)"), "{message}");
    assert!(message.contains("com.example.Strange (first, second)"), "{message}");
    assert!(!message.contains("Relu"), "{message}");
}

#[test]
fn nodes_that_onnx_does_not_allow_are_refused() {
    #[derive(serde::Deserialize)]
    struct Refused {
        model: String,
        shapes: Vec<Vec<usize>>,
        message: String,
    }
    let text = include_str!("golden/refused.json");
    for Refused { model, shapes, message } in serde_json::from_str::<Vec<Refused>>(text).unwrap() {
        let inputs: Vec<_> =
            shapes.iter().map(|shape| Tensor::new(shape.clone(), vec![0.0; shape.iter().product()])).collect();
        let refusal =
            built(&OnnxModel::parse(&from_hex(&model)).unwrap(), &inputs, false).map(|_| ()).unwrap_err().to_string();
        assert!(refusal.contains(&message), "{refusal}, expected {message}");
    }
}

fn unknown() -> OnnxModel {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/unknown.onnx");
    OnnxModel::load(std::path::Path::new(path)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(std::env::var("EMG_MUTATIONS").map_or(64, |n| n.parse().unwrap())))]

    /// Damaged models are refused, or build; nothing panics and nothing is sized by a number that was not checked.
    /// EMG_MUTATIONS: how many models.
    #[test]
    fn mutated_models_do_not_panic(which in any::<prop::sample::Index>(), mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        static CASES: OnceLock<Vec<Case>> = OnceLock::new();
        let all = CASES.get_or_init(cases);
        let case = &all[which.index(all.len())];
        let mut bytes = case.model.bytes();
        for (at, byte) in mutations {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(model) = OnnxModel::parse(&bytes)
            && let Ok((mut graph, y, values)) = built(&model, &case.inputs, false)
            && graph.dtype(y) == DType::F32
        {
            // Whole, for weights of y's shape would be the test's own allocation of an unchecked size.
            let product = graph.mul(y, y);
            let loss = graph.sum_all(product);
            let _ = gradients(&mut graph, loss, &values);
        }
    }
}
