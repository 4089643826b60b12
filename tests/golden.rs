//! Models against PyTorch: tests/golden/make_golden.py wrote the files.

mod common;

use std::collections::HashMap;
use std::path::PathBuf;

use emg_pipeline::config::{LossType, ModelConfig, Optimizer, TrainingConfig};
use emg_pipeline::dataset::BatchShape;
use emg_pipeline::graph::Kernels;
use emg_pipeline::model::Model;
use emg_pipeline::ports::Values;
use emg_pipeline::runtime::{self, Provider, Session, Stepper, Tensor};
use emg_pipeline::step::{
    HYPERPARAMETERS, Hyperparameters, PARAMETERS, Problem, evaluation_step, gradient_graph, results, training_step,
};

struct Golden {
    problem: Problem,
    tensors: HashMap<String, Tensor>,
    parameters: Vec<f32>,
}

fn golden(case: &str) -> Golden {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{case}.safetensors"));
    let bytes = std::fs::read(path).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone().unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensors: HashMap<_, _> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let values = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            (name, Tensor::new(view.shape().to_vec(), values))
        })
        .collect();
    let config: ModelConfig = serde_json::from_str(&metadata["config"]).unwrap();
    let loss: serde_json::Value = serde_json::from_str(&metadata["loss"]).unwrap();
    let model = Model::new(&config);
    let emg = &tensors["emg"].shape;
    let shape = BatchShape {
        batch: emg[0],
        rows: emg[1],
        channels: emg[2],
        joints: config.output_size,
        context: model.left_context(),
        after: 0,
    };
    let parameters = model.parameters().into_iter().flat_map(|p| {
        let tensor = &tensors[&format!("param.{}", p.name)];
        assert_eq!(tensor.shape, p.shape, "{}", p.name);
        tensor.values.clone()
    });
    let parameters = parameters.collect();
    let problem = Problem::new(
        model,
        shape,
        serde_json::from_value::<LossType>(loss["loss_type"].clone()).unwrap(),
        loss["mae_weight"].as_f64().unwrap(),
    );
    Golden { problem, tensors, parameters }
}

const CASES: [&str; 4] = ["lstm_velocity", "lstm_unconditioned", "mlp", "mlp_velocity"];

/// Every case with and without fused operators.
fn cases() -> impl Iterator<Item = (&'static str, Kernels)> {
    CASES.into_iter().flat_map(|case| [Kernels::Standard, Kernels::Cpu, Kernels::Cuda].map(|kernels| (case, kernels)))
}

fn greatest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, value| most.max(value.abs()))
}

/// max|g - r| <= tolerance * max(max|r| of the tensor, 1e-3 * max|r| over all tensors)
#[test]
fn loss_and_every_gradient_match_pytorch() {
    let library = runtime::load(None).unwrap();
    for (case, kernels) in cases() {
        let golden = golden(case);
        let onnx = gradient_graph(&golden.problem, kernels).unwrap();
        let mut session = Session::new(&library, Provider::Cpu, &onnx).unwrap();
        let parameters = Tensor::new([golden.parameters.len()], golden.parameters.clone());
        let inputs = [
            ("parameters", &parameters),
            ("emg", &golden.tensors["emg"]),
            ("joint_angles", &golden.tensors["target"]),
            ("mask", &golden.tensors["mask"]),
        ];
        let outputs = session.run(&inputs).unwrap();
        let expected_loss = golden.tensors["losses.adamw"].values[0];
        assert!((outputs[0].values[0] - expected_loss).abs() <= 1e-5 * expected_loss, "{case}: loss");
        let prediction = &golden.tensors["prediction"];
        let off = outputs[1].values.iter().zip(&prediction.values).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(off <= 1e-5, "{case}: prediction is off by {off}");

        let names: Vec<_> = golden.problem.model.parameters().into_iter().map(|p| p.name).collect();
        let reference = |name: &String| &golden.tensors[&format!("grad.{name}")];
        let overall = names.iter().map(|name| greatest(&reference(name).values)).fold(0.0, f32::max);
        let mut worst = (0.0, String::new());
        for (name, found) in names.iter().zip(&outputs[2..]) {
            let expected = reference(name);
            assert_eq!(found.shape, expected.shape, "{case}: {name}");
            let off = found.values.iter().zip(&expected.values).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
            let scale = greatest(&expected.values).max(1e-3 * overall);
            assert!(off <= 1e-4 * scale, "{case}: gradient of {name} is off by {off}, scale {scale}");
            if off / scale > worst.0 {
                worst = (off / scale, name.clone());
            }
        }
        println!("{case} {kernels:?}: worst gradient error {:.1e} ({})", worst.0, worst.1);
    }
}

#[test]
fn twenty_steps_follow_pytorchs_loss_curve() {
    let library = runtime::load(None).unwrap();
    for (case, kernels) in cases() {
        let golden = golden(case);
        for optimizer in [Optimizer::Adamw, Optimizer::Adam, Optimizer::Sgd] {
            let config =
                TrainingConfig { optimizer, weight_decay: 0.01, gradient_clip_norm: 1.0, ..Default::default() };
            let graph = training_step(&golden.problem, &config, kernels).unwrap();
            let mut stepper = Stepper::new(&library, Provider::Cpu, &graph.onnx, graph.ports).unwrap();
            stepper.set_state(PARAMETERS, &golden.parameters).unwrap();
            let [emg, target, mask] = ["emg", "target", "mask"].map(|name| golden.tensors[name].values.as_slice());
            let batch = common::batch(emg, target, mask);
            for (i, expected) in golden.tensors[&format!("losses.{optimizer}")].values.iter().enumerate() {
                let hyper = Hyperparameters::new(1e-3, i as u64 + 1).values();
                let controls = [(HYPERPARAMETERS, Values::F32(&hyper))];
                let loss = stepper.step(&batch, &controls, |step| step.get(results::LOSS)[0]).unwrap();
                let off = (loss - expected).abs();
                assert!(off <= 1e-3 * expected, "{case}: {optimizer} step {i}: {loss}, PyTorch {expected}");
            }
        }
    }
}

#[test]
fn the_evaluation_step_gives_the_same_loss_and_prediction() {
    let library = runtime::load(None).unwrap();
    for kernels in [Kernels::Standard, Kernels::Cpu, Kernels::Cuda] {
        let golden = golden("lstm_velocity");
        let graph = evaluation_step(&golden.problem, golden.problem.shape.batch, kernels).unwrap();
        let mut stepper = Stepper::new(&library, Provider::Cpu, &graph.onnx, graph.ports).unwrap();
        stepper.set_state(PARAMETERS, &golden.parameters).unwrap();
        let [emg, target, mask] = ["emg", "target", "mask"].map(|name| golden.tensors[name].values.as_slice());
        let batch = common::batch(emg, target, mask);
        for _ in 0..2 {
            let read =
                |step: &runtime::Results<'_>| (step.get(results::LOSS)[0], step.get(results::PREDICTION).to_vec());
            let (loss, prediction) = stepper.step(&batch, &[], read).unwrap();
            assert!((loss - golden.tensors["losses.adamw"].values[0]).abs() < 1e-5 * loss);
            let expected = &golden.tensors["prediction"].values;
            assert!(prediction.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5));
        }
    }
}
