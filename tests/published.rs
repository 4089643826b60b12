//! emg2pose's published networks, NeuroPose, the plain LSTM and tds_lstm at full size against PyTorch:
//! tests/golden/make_published.py wrote the files.

mod common;

use std::collections::HashMap;
use std::path::PathBuf;

use common::noise;
use emg_pipeline::config::{LossType, ModelConfig, Optimizer, TrainingConfig};
use emg_pipeline::dataset::BatchShape;
use emg_pipeline::graph::Kernels;
use emg_pipeline::model::{Model, initialize, total_elements};
use emg_pipeline::ports::{Named, Values};
use emg_pipeline::runtime::{self, Provider, Session, Stepper, Tensor};
use emg_pipeline::step::{
    BUFFERS, HYPERPARAMETERS, Hyperparameters, PARAMETERS, Problem, evaluation_step, gradient_graph, results,
    training_step,
};

const CASES: [&str; 8] = [
    "tracking_vemg2pose",
    "regression_vemg2pose",
    "tracking_emg2pose",
    "regression_emg2pose",
    "neuropose",
    "tds_lstm",
    "lstm",
    "lstm_forward",
];

struct Case {
    problem: Problem,
    parameters: Vec<f32>,
    buffers: Vec<f32>,
    emg: Tensor,
    target: Tensor,
    mask: Tensor,
    clip: f64,
    golden: HashMap<String, Vec<f32>>,
}

impl Case {
    fn batch(&self) -> [Named<'_>; 3] {
        common::batch(&self.emg.values, &self.target.values, &self.mask.values)
    }
}

fn case(name: &str) -> Case {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/published/{name}.safetensors"));
    let bytes = std::fs::read(path).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone().unwrap();
    let number = |key: &str| metadata[key].parse::<f64>().unwrap();
    let config: ModelConfig = serde_json::from_str(&metadata["config"]).unwrap();
    let order: Vec<String> = serde_json::from_str(&metadata["order"]).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let floats = |data: &[u8]| data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let golden = file.tensors().into_iter().map(|(name, view)| (name, floats(view.data()))).collect();

    let model = Model::new(&config);
    assert_eq!(model.left_context(), number("context") as usize, "{name}");
    let list = model.parameters();
    assert_eq!(list.len(), order.len(), "{name}");
    let draw = |parameter: &emg_pipeline::model::Parameter| {
        let number = order.iter().position(|other| *other == parameter.name);
        let number = number.unwrap_or_else(|| panic!("{name}: PyTorch has no {}", parameter.name)) as u64;
        let is_scale = parameter.name.contains("norm") && parameter.name.ends_with("weight");
        let (factor, shift) = if parameter.shape.len() > 1 {
            let inputs: usize = parameter.shape[1..].iter().product();
            ((2.0 / (inputs as f64).sqrt()) as f32, 0.0)
        } else {
            (0.2, f32::from(u8::from(is_scale)))
        };
        noise(number, parameter.elements()).map(move |value| value * factor + shift)
    };
    let parameters = list.iter().flat_map(draw).collect();
    let (batch, rows, joints) = (number("batch") as usize, number("window") as usize, config.output_size);
    let context = model.left_context();
    let shape = BatchShape { batch, rows, channels: config.input_size, joints, context, after: 0 };
    let targets = shape.target_rows();
    let tensor = |number: u64, shape: &[usize], f: &dyn Fn(f32) -> f32| {
        Tensor::new(shape, noise(number, shape.iter().product()).map(f).collect())
    };
    Case {
        parameters,
        buffers: initialize(&model.buffers(), 0),
        emg: tensor(1000, &[batch, rows, shape.channels], &|x| x * 2.0),
        target: tensor(1001, &[batch, targets, joints], &|x| x),
        mask: tensor(1002, &[batch, targets], &|x| f32::from(u8::from(x > -0.4))),
        clip: number("clip"),
        golden,
        problem: Problem::new(model, shape, LossType::Mae, 0.5),
    }
}

/// max|g - r| <= 1e-4 max(max|r| of the tensor, 1e-3 max|r| over all tensors), or three times what PyTorch's own
/// float32 gradient is off by, where that is more: biases before a batch normalization have the gradient zero.
fn check_gradients(name: &str, kernels: Kernels) {
    let library = runtime::load(None).unwrap();
    let case = case(name);
    let onnx = gradient_graph(&case.problem, kernels).unwrap();
    let mut session = Session::new(&library, Provider::Cpu, &onnx).unwrap();
    let parameters = Tensor::new([case.parameters.len()], case.parameters.clone());
    let inputs =
        [("parameters", &parameters), ("emg", &case.emg), ("joint_angles", &case.target), ("mask", &case.mask)];
    let outputs = session.run(&inputs).unwrap();
    let loss = case.golden["losses"][0];
    assert!((outputs[0].values[0] - loss).abs() <= 1e-4 * loss, "{name}: {}, PyTorch {loss}", outputs[0].values[0]);
    let list = case.problem.model.parameters();
    let overall = list.iter().map(|p| case.golden[&format!("most.{}", p.name)][0]).fold(0.0, f32::max);
    let mut worst = (0.0, String::new());
    for (parameter, found) in list.iter().zip(&outputs[2..]) {
        let expected = &case.golden[&format!("grad.{}", parameter.name)];
        let most = case.golden[&format!("most.{}", parameter.name)][0];
        let scale = most.max(1e-3 * overall);
        let (count, elements) = (expected.len(), found.values.len());
        let samples = (0..count).map(|i| found.values[i * elements / count]);
        let off = samples.zip(expected).fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs()));
        let greatest = found.values.iter().fold(0.0f32, |most, value| most.max(value.abs()));
        let off = off.max((greatest - most).abs());
        let allowed = (1e-4 * scale).max(3.0 * case.golden[&format!("float32.{}", parameter.name)][0]);
        assert!(off <= allowed, "{name}: gradient of {} is off by {off}, scale {scale}", parameter.name);
        if off / scale > worst.0 {
            worst = (off / scale, parameter.name.clone());
        }
    }
    println!("{name} {kernels:?}: worst gradient error {:.1e} ({})", worst.0, worst.1);
}

#[test]
fn loss_and_gradients_match_pytorch() {
    for name in CASES {
        check_gradients(name, Kernels::Cpu);
    }
}

#[test]
fn loss_and_gradients_by_standard_operators_match_pytorch() {
    for name in ["tracking_vemg2pose", "tracking_emg2pose", "neuropose", "tds_lstm", "lstm"] {
        check_gradients(name, Kernels::Standard);
        check_gradients(name, Kernels::Cuda);
    }
}

#[test]
fn twenty_steps_of_adam_follow_pytorchs_loss_curve() {
    let library = runtime::load(None).unwrap();
    for name in CASES {
        let case = case(name);
        let config = TrainingConfig {
            optimizer: Optimizer::Adam,
            weight_decay: 0.0,
            gradient_clip_norm: case.clip,
            ..Default::default()
        };
        let graph = training_step(&case.problem, &config, Kernels::Cpu).unwrap();
        let mut stepper = Stepper::new(&library, Provider::Cpu, &graph.onnx, graph.ports).unwrap();
        stepper.set_state(PARAMETERS, &case.parameters).unwrap();
        if stepper.ports().has_state(BUFFERS) {
            stepper.set_state(BUFFERS, &case.buffers).unwrap();
        }
        let mut worst = 0.0f32;
        for (i, expected) in case.golden["losses"].iter().enumerate() {
            let hyper = Hyperparameters::new(1e-3, i as u64 + 1).values();
            let controls = [(HYPERPARAMETERS, Values::F32(&hyper))];
            let loss = stepper.step(&case.batch(), &controls, |step| step.get(results::LOSS)[0]).unwrap();
            worst = worst.max((loss - expected).abs() / expected);
            assert!(worst <= 1e-3, "{name}: step {i}: {loss}, PyTorch {expected}");
        }
        println!("{name}: worst loss error {worst:.1e} in {} steps", case.golden["losses"].len());
    }
}

/// One forward pass in training moves running statistics; evaluation goes by them.
#[test]
fn running_statistics_and_evaluation_are_pytorchs() {
    let library = runtime::load(None).unwrap();
    for name in CASES {
        let case = case(name);
        let graph = training_step(&case.problem, &TrainingConfig::default(), Kernels::Cpu).unwrap();
        let mut stepper = Stepper::new(&library, Provider::Cpu, &graph.onnx, graph.ports).unwrap();
        stepper.set_state(PARAMETERS, &case.parameters).unwrap();
        let mut buffers = Vec::new();
        let has_buffers = stepper.ports().has_state(BUFFERS);
        if has_buffers {
            stepper.set_state(BUFFERS, &case.buffers).unwrap();
            let hyper = Hyperparameters::new(0.0, 1).values();
            stepper.step(&case.batch(), &[(HYPERPARAMETERS, Values::F32(&hyper))], |_| ()).unwrap();
            buffers = stepper.state(BUFFERS).unwrap();
        }
        let mut rest = &buffers[..];
        for buffer in case.problem.model.buffers() {
            let (own, others) = rest.split_at(buffer.elements());
            rest = others;
            for (a, b) in own.iter().zip(&case.golden[&format!("buffer.{}", buffer.name)]) {
                assert!((a - b).abs() <= 1e-5 * b.abs().max(0.1), "{name}: {}: {a}, PyTorch {b}", buffer.name);
            }
        }
        let graph = evaluation_step(&case.problem, 0, Kernels::Cpu).unwrap();
        let mut evaluation = Stepper::new(&library, Provider::Cpu, &graph.onnx, graph.ports).unwrap();
        evaluation.set_state(PARAMETERS, &case.parameters).unwrap();
        if has_buffers {
            evaluation.set_state(BUFFERS, &buffers).unwrap();
        }
        let loss = evaluation.step(&case.batch(), &[], |step| step.get(results::LOSS)[0]).unwrap();
        let expected = case.golden["evaluated"][0];
        assert!((loss - expected).abs() <= 1e-4 * expected, "{name}: {loss}, PyTorch {expected}");
    }
}

/// Session creation grows with the square of the number of nodes.
#[test]
fn the_250_step_decoder_stays_below_15_000_nodes() {
    let config = ModelConfig {
        kind: Some(emg_pipeline::config::ModelType::TrackingVemg2pose),
        dropout: 0.0,
        ..Default::default()
    };
    let model = Model::new(&config);
    assert!(total_elements(&model.parameters()) > 5_000_000);
    let shape = BatchShape { batch: 8, rows: 11_790, channels: 16, joints: 20, context: 1790, after: 0 };
    let problem = Problem::new(model, shape, LossType::Mae, 0.5);
    for (kernels, most) in [(Kernels::Standard, 15_000), (Kernels::Cpu, 8_000), (Kernels::Cuda, 8_000)] {
        let nodes = training_step(&problem, &TrainingConfig::default(), kernels).unwrap().nodes;
        println!("{kernels:?}: {nodes} nodes");
        assert!(nodes <= most, "{kernels:?}: {nodes}");
    }
}
