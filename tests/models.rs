//! Users' own ONNX models: what PyTorch's two exporters write, trained beside PyTorch.
//! tests/golden/make_models.py wrote the files.

mod common;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use common::noise;
use emg_pipeline::config::{Dtype, LossType, ModelConfig, ModelType, Optimizer, TrainingConfig};
use emg_pipeline::dataset::BatchShape;
use emg_pipeline::graph::{Kernels, OnnxModel, Probe, TensorType};
use emg_pipeline::model::{Model, ModelError, Role, initialize};
use emg_pipeline::ports::Values;
use emg_pipeline::runtime::{self, Provider, Stepper};
use emg_pipeline::step::{
    BUFFERS, Exported, HYPERPARAMETERS, Hyperparameters, PARAMETERS, Problem, RANDOM, StepError, export, results,
    training_step,
};
use emg_pipeline::units::{Affine, Units};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    batch: usize,
    window: usize,
    channels: usize,
    joints: usize,
    networks: HashMap<String, Network>,
}

#[derive(Deserialize)]
struct Network {
    exporters: Vec<String>,
    context: usize,
    losses: Vec<f32>,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models")
}

fn golden() -> Golden {
    serde_json::from_slice(&std::fs::read(folder().join("losses.json")).unwrap()).unwrap()
}

fn config(golden: &Golden, context: usize) -> ModelConfig {
    ModelConfig {
        kind: Some(ModelType::Onnx),
        onnx: Some("imported.onnx".into()),
        input_size: golden.channels,
        output_size: golden.joints,
        left_context: context,
        ..Default::default()
    }
}

/// What a model learns from batches of so many windows of so many rows.
fn problem(golden: &Golden, model: Model, batch: usize, rows: usize) -> Problem {
    let context = model.left_context();
    Problem::new(
        model,
        BatchShape { batch, rows, channels: golden.channels, joints: golden.joints, context, after: 0 },
        LossType::Mse,
        0.0,
    )
}

fn curve(golden: &Golden, network: &Network, file: &str, kernels: Kernels) -> Vec<f32> {
    let model = OnnxModel::load(&folder().join(file)).unwrap();
    let mut config = config(golden, network.context);
    if file.starts_with("causal.torchscript") {
        // A buffer of one element, which this exporter does not tell from a parameter.
        config.freeze = vec!["scale".to_owned()];
    }
    let model = Model::imported(&config, model, None).unwrap_or_else(|e| panic!("{file}: {e}"));
    let parameters = initialize(&model.parameters(), 0);
    let buffers = initialize(&model.buffers(), 0);
    let problem = problem(golden, model, golden.batch, golden.window);
    let shape = problem.shape;
    let (batch, rows) = (shape.batch, shape.rows);
    let config =
        TrainingConfig { optimizer: Optimizer::Adam, weight_decay: 0.0, gradient_clip_norm: 0.0, ..Default::default() };
    let graph = training_step(&problem, &config, kernels).unwrap_or_else(|error| panic!("{file}: {error}"));
    assert!(!graph.ports.has_control(RANDOM), "{file}: nothing is dropped");
    let library = runtime::load(None).unwrap();
    let mut stepper = Stepper::new(&library, Provider::Cpu, &graph.onnx, graph.ports).unwrap();
    stepper.set_state(PARAMETERS, &parameters).unwrap();
    if stepper.ports().has_state(BUFFERS) {
        stepper.set_state(BUFFERS, &buffers).unwrap();
    }
    let emg: Vec<_> = noise(1000, batch * rows * golden.channels).map(|x| x * 2.0).collect();
    let target: Vec<_> = noise(1001, batch * shape.target_rows() * golden.joints).collect();
    let mask: Vec<_> = noise(1002, batch * shape.target_rows()).map(|x| f32::from(u8::from(x > -0.4))).collect();
    (0..network.losses.len() as u64)
        .map(|i| {
            let hyper = Hyperparameters::new(1e-3, i + 1).values();
            let batch = common::batch(&emg, &target, &mask);
            let controls = [(HYPERPARAMETERS, Values::F32(&hyper))];
            stepper.step(&batch, &controls, |step| step.get(results::LOSS)[0]).unwrap()
        })
        .collect()
}

#[test]
fn exports_train_as_in_pytorch() {
    let golden = golden();
    let mut names: Vec<_> = golden.networks.keys().collect();
    names.sort();
    assert!(names.len() >= 6);
    for name in names {
        let network = &golden.networks[name];
        assert_eq!(network.exporters[..2], ["dynamo", "torchscript"], "{name}");
        assert!(network.exporters.len() == 4 || !["norms", "causal"].contains(&name.as_str()), "{name}");
        for exporter in &network.exporters[..2] {
            for kernels in [Kernels::Cpu, Kernels::Standard, Kernels::Cuda] {
                let losses = curve(&golden, network, &format!("{name}.{exporter}.onnx"), kernels);
                let off = losses.iter().zip(&network.losses).map(|(a, b)| (a - b).abs() / b).fold(0.0f32, f32::max);
                println!("{name} {exporter} {kernels:?}: worst loss error {off:.1e}");
                assert!(off <= 1e-3, "{name} {exporter} {kernels:?}: {losses:?}, PyTorch {:?}", network.losses);
            }
        }
    }
}

/// Exports that have lost what training needs are refused, with the export line that keeps it.
#[test]
fn default_exports_are_refused() {
    let golden = golden();
    for (name, lost) in [("norms", "norms.1.weight"), ("causal", "qkv.weight")] {
        for (exporter, lost) in [("dynamo-default", lost), ("torchscript-default", "onnx::MatMul")] {
            let model = OnnxModel::load(&folder().join(format!("{name}.{exporter}.onnx"))).unwrap();
            let error = Model::imported(&config(&golden, 0), model, None).unwrap_err().to_string();
            assert!(error.contains(lost) && error.contains("optimize=False"), "{name} {exporter}: {error}");
        }
    }
}

/// Runs of earlier versions have the parameters that those took from a file.
#[test]
fn files_are_still_read_as_earlier_versions_did() {
    let golden = golden();
    let path = folder().join("norms.dynamo-default.onnx");
    let model = Model::imported(&config(&golden, 0), OnnxModel::load_legacy(&path).unwrap(), None).unwrap();
    let names: Vec<_> = model.parameters().into_iter().map(|parameter| parameter.name).collect();
    // One tensor that the exporter merged, and its copies.
    assert_eq!(names.iter().filter(|name| name.starts_with("first.")).count(), 8, "{names:?}");
    assert!(names.iter().any(|name| name.contains('/')) && names.contains(&"conv.weight".to_owned()), "{names:?}");
}

/// What dynamo's metadata says of each tensor is followed.
#[test]
fn buffers_and_statistics_are_not_trained() {
    let golden = golden();
    let roles = |name: &str, freeze: &[&str], train: &[&str]| {
        let mut config = config(&golden, golden.networks[name].context);
        config.freeze = freeze.iter().map(|name| (*name).to_owned()).collect();
        config.train = train.iter().map(|name| (*name).to_owned()).collect();
        let model = OnnxModel::load(&folder().join(format!("{name}.dynamo.onnx"))).unwrap();
        let model = Model::imported(&config, model, None)?;
        let named = model.tensors().into_iter().map(|tensor| (tensor.name, tensor.role));
        Ok::<HashMap<_, _>, ModelError>(named.collect())
    };
    let causal = roles("causal", &[], &[]).unwrap();
    assert_eq!([causal["mask"], causal["scale"], causal["qkv.weight"]], [Role::Buffer, Role::Buffer, Role::Trained]);
    let cnn = roles("cnn", &["layers.0.*"], &[]).unwrap();
    assert_eq!([cnn["layers.0.weight"], cnn["layers.1.running_var"]], [Role::Frozen, Role::Statistic]);
    assert_eq!(roles("causal", &[], &["scale"]).unwrap()["scale"], Role::Trained);
    for (freeze, train, expected) in [
        (&[][..], &["nothing"][..], "model.train: `nothing` matches no parameter"),
        (&["scale"], &["scale"], "scale is named by model.freeze and by model.train"),
    ] {
        assert!(roles("causal", freeze, train).unwrap_err().to_string().contains(expected), "{expected}");
    }
}

/// Knows one shape.
#[derive(Debug)]
struct Same;

impl Probe for Same {
    fn types(&self, _: &[u8]) -> Result<Vec<TensorType>, String> {
        Ok(vec![TensorType::f32([4, 40, 4])])
    }
}

/// Damaged files, and intact ones with other sizes than theirs, are refused or train; nothing panics.
#[test]
fn damaged_models_are_refused_or_train() {
    let count = std::env::var("EMG_MUTATIONS").map_or(300, |count| count.parse().unwrap());
    let golden = golden();
    let mut names: Vec<_> =
        golden.networks.iter().flat_map(|(name, n)| n.exporters.iter().map(move |e| (name, e))).collect();
    names.sort();
    let files: Vec<_> =
        names.iter().map(|(n, e)| std::fs::read(folder().join(format!("{n}.{e}.onnx"))).unwrap()).collect();
    let (mut refused, mut trained) = (0, 0);
    for round in 0..count {
        let mut random = emg_pipeline::random::Random::new(&[round, 77]);
        let mut pick = |most: usize| random.up_to(most as u64) as usize;
        let mut bytes = files[pick(files.len() - 1)].clone();
        for _ in 0..pick(4) {
            // Structure lies between the weights: look for bytes that are part of text or small numbers.
            let at = (0..50).map(|_| pick(bytes.len() - 1)).find(|at| bytes[*at] < 0x80).unwrap_or(0);
            bytes[at] = pick(255) as u8;
        }
        let (batch, rows) = ([1, 2, golden.batch][pick(2)], [golden.window, 23, 64][pick(2)]);
        let config = config(&golden, [0, 14][pick(1)]);
        let build = || -> Result<(), StepError> {
            let model = Model::imported(&config, OnnxModel::parse(&bytes)?, Some(Arc::new(Same)))?;
            model.check_window(rows)?;
            let [parameters, buffers] = [model.parameters(), model.buffers()].map(|list| initialize(&list, 0));
            export(&Exported {
                model: &model,
                parameters: &parameters,
                buffers: &buffers,
                rows,
                emg: Units::Raw,
                train_emg: Affine { mean: vec![0.0; golden.channels], divisor: vec![1.0; golden.channels] },
                angles: Units::Raw,
                dtype: Dtype::Float32,
                metadata: Vec::new(),
            })?;
            let problem = problem(&golden, model, batch, rows);
            training_step(&problem, &TrainingConfig::default(), Kernels::Cpu).map(|_| ())
        };
        let built = build();
        if built.is_ok() { trained += 1 } else { refused += 1 }
    }
    println!("{refused} refused, {trained} trained");
    assert!(refused > 0 && trained > 0);
}
