//! Every step graph of every preset, in every precision and with everything that training offers, stays inside what
//! ONNX Runtime's CUDA provider and this project have kernels of, and inside the rules of CUDA graph capture: checked without a GPU.

use std::collections::{BTreeSet, HashMap};

use emg_pipeline::config::{LossType, OnNan, PRESETS, Precision, TrainingConfig, load};
use emg_pipeline::dataset::BatchShape;
use emg_pipeline::graph::{DType, Kernels, OnnxModel, Signature, fused_in_halves, fused_on_cuda};
use emg_pipeline::model::Model;
use emg_pipeline::step::{Problem, ResidentRows, evaluation_step, training_step};
use emg_pipeline::units::Units;

/// Types with a kernel, by operator.
fn table() -> HashMap<&'static str, BTreeSet<&'static str>> {
    let lines = include_str!("golden/cuda_kernels.txt").lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            (words.next().unwrap(), words.collect())
        })
        .collect()
}

fn check(what: &str, signatures: &BTreeSet<Signature>, table: &HashMap<&'static str, BTreeSet<&'static str>>) {
    for Signature { operator, dtype, inputs, outputs } in signatures {
        if fused_on_cuda().any(|fused| fused == *operator) {
            assert!(*dtype == DType::F32 || fused_in_halves(operator), "{what}: {operator} in {dtype}");
            continue;
        }
        let types = table.get(operator).unwrap_or_else(|| panic!("{what}: the CUDA provider has no {operator}"));
        assert!(types.contains(format!("{dtype:?}").as_str()), "{what}: {operator} has no CUDA kernel for {dtype:?}");
        // Graph capture: wider ones copy a list of pointers to the device at every run.
        assert!(*operator != "Concat" || *inputs <= 32, "{what}: Concat of {inputs}");
        assert!(*operator != "Split" || *outputs <= 32, "{what}: Split into {outputs}");
    }
}

#[test]
fn step_graphs_use_only_what_the_cuda_provider_has() {
    let table = table();
    let own = [("tds_mlp", "model.type=tds_mlp"), ("lstm", "model.type=lstm")];
    let presets = PRESETS.iter().map(|(name, _)| (*name, load(Some(name), &[])));
    let all = presets.chain(own.map(|(name, set)| (name, load(None, &[set.into()]))));
    for (name, loaded) in all {
        let config = loaded.unwrap().config;
        let model = Model::new(&config.model);
        let context = model.left_context();
        let rows = (context + 800).max(2000);
        let shape = BatchShape { batch: 4, rows, channels: 16, joints: 20, context, after: 0 };
        let problem = Problem {
            angles: Units::PerRecording,
            joint_weights: Some(vec![1.0; 20]),
            ..Problem::new(model, shape, LossType::MseMae, 0.5)
        };
        for precision in [Precision::Tf32, Precision::Fp32, Precision::Bf16, Precision::Fp16] {
            let training = TrainingConfig {
                precision,
                ema: 0.9,
                clip_value: Some(1.0),
                gradient_clip_norm: 1.0,
                gradient_accumulation_steps: 2,
                weight_decay: 0.01,
                no_decay: vec!["*bias".into()],
                on_nan: OnNan::Skip,
                ..config.training.clone()
            };
            for kernels in [Kernels::Standard, Kernels::Cuda] {
                let step = training_step(&problem, &training, kernels).unwrap();
                check(&format!("{name} {precision} {kernels:?}"), &step.signatures, &table);
                let fused =
                    step.signatures.iter().any(|signature| fused_on_cuda().any(|fused| fused == signature.operator));
                assert!(kernels == Kernels::Cuda || !fused, "{name}");
            }
        }
        for kernels in [Kernels::Standard, Kernels::Cuda] {
            let step = evaluation_step(&problem, problem.shape.batch, kernels).unwrap();
            check(&format!("{name} evaluation {kernels:?}"), &step.signatures, &table);
        }
        let resident = Some(ResidentRows { rows: 100_000, rolled: true });
        let step = training_step(&Problem { resident, ..problem }, &config.training, Kernels::Cuda).unwrap();
        check(&format!("{name}, rows on the device"), &step.signatures, &table);
    }
}

/// Recurrences of users' models are one operator each, which has a kernel.
#[test]
fn recurrences_of_any_length_have_a_kernel() {
    let table = table();
    for (name, rows) in [("gru.dynamo", 40), ("bilstm.dynamo", 40)] {
        let path = format!("{}/tests/golden/models/{name}.onnx", env!("CARGO_MANIFEST_DIR"));
        let sets = ["model.input_size=4", "model.output_size=3", "data.emg_channels=4", "data.joint_angles_channels=3"]
            .map(str::to_owned);
        let config = load(None, &sets).unwrap().config;
        let model = Model::imported(&config.model, OnnxModel::load(path.as_ref()).unwrap(), None).unwrap();
        let shape = BatchShape { batch: 4, rows, channels: 4, joints: 3, context: 0, after: 0 };
        let problem = Problem::new(model, shape, LossType::Mse, 0.0);
        let step = training_step(&problem, &config.training, Kernels::Cuda).unwrap();
        check(name, &step.signatures, &table);
        for operator in ["Recurrence", "RecurrenceGradient"] {
            assert!(step.signatures.iter().any(|signature| signature.operator == operator), "{name}: {operator}");
        }
        // Without kernels of this project, standard operators.
        let step = training_step(&problem, &config.training, Kernels::Standard).unwrap();
        check(name, &step.signatures, &table);
    }
}
