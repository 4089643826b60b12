//! What a training step does beside forward, backward and optimizer: accumulation, averages, clipping, decay, weights
//! of joints, mixed precision, batches that are skipped.

mod common;

use std::collections::HashMap;

use common::noise;
use emg_pipeline::config::{LossType, ModelConfig, ModelType, OnNan, Optimizer, Precision, TdsStage, TrainingConfig};
use emg_pipeline::dataset::BatchShape;
use emg_pipeline::graph::Kernels;
use emg_pipeline::model::Model;
use emg_pipeline::ports::Values;
use emg_pipeline::runtime::{self, Provider, Stepper};
use emg_pipeline::step::{
    HYPERPARAMETERS, Hyperparameters, Problem, StateVector, results, state_vectors, training_step,
};

const ROWS: usize = 40;
const CHANNELS: usize = 4;
const JOINTS: usize = 3;

fn model(kind: ModelType) -> Model {
    let stage = TdsStage {
        in_conv_kernel: 3,
        in_conv_stride: 2,
        num_blocks: 1,
        channels: 3,
        feature_width: 4,
        kernel_width: 3,
    };
    Model::new(&ModelConfig {
        kind: Some(kind),
        input_size: CHANNELS,
        output_size: JOINTS,
        dropout: 0.0,
        tds_stages: vec![stage],
        decoder_hidden_size: 8,
        rollout_freq: 20.0,
        original_sampling_rate: 100.0,
        ..Default::default()
    })
}

fn problem(model: &Model, batch: usize) -> Problem {
    let context = model.left_context();
    Problem::new(
        model.clone(),
        BatchShape { batch, rows: ROWS, channels: CHANNELS, joints: JOINTS, context, after: 0 },
        LossType::MseMae,
        0.5,
    )
}

/// Windows `from..from + count` of a fixed set, each with failed rows of its own.
struct Windows {
    emg: Vec<f32>,
    angles: Vec<f32>,
    mask: Vec<f32>,
}

impl Windows {
    fn new(model: &Model, from: usize, count: usize) -> Self {
        let targets = ROWS - model.left_context();
        let take = |number: u64, size: usize| -> Vec<f32> {
            noise(number, (from + count) * size).skip(from * size).take(count * size).collect()
        };
        let mask = take(3, targets).into_iter().enumerate().map(|(i, x)| {
            // Window w fails more often than w - 1.
            let w = from + i / targets;
            f32::from(u8::from(x > -0.5 + 0.1 * w as f32))
        });
        Self { emg: take(1, ROWS * CHANNELS), angles: take(2, targets * JOINTS), mask: mask.collect() }
    }
}

struct Trainer {
    stepper: Stepper,
    vectors: Vec<StateVector>,
}

impl Trainer {
    fn new(problem: &Problem, config: &TrainingConfig, kernels: Kernels) -> Self {
        let graph = training_step(problem, config, kernels).unwrap();
        let vectors = state_vectors(&problem.model, config);
        let library = runtime::load(None).unwrap();
        let mut stepper = Stepper::new(&library, Provider::Cpu, &graph.onnx, graph.ports).unwrap();
        for vector in &vectors {
            stepper.set_state(vector.name, &vector.initial(&problem.model, 5)).unwrap();
        }
        Self { stepper, vectors }
    }

    /// One batch; gives its results.
    fn step(&mut self, windows: &Windows, hyper: Hyperparameters) -> HashMap<&'static str, Vec<f32>> {
        const ALL: [&str; 6] = [
            results::LOSS,
            results::VALID_ROWS,
            results::ABSOLUTE,
            results::SQUARED,
            results::FINITE,
            results::APPLIED,
        ];
        let hyper = hyper.values();
        let batch = common::batch(&windows.emg, &windows.angles, &windows.mask);
        let controls = [(HYPERPARAMETERS, Values::F32(&hyper))];
        self.stepper.step(&batch, &controls, |step| ALL.map(|name| (name, step.get(name).to_vec())).into()).unwrap()
    }

    fn vector(&self, name: &str) -> Vec<f32> {
        self.stepper.state(name).unwrap()
    }

    fn state(&self) -> Vec<Vec<f32>> {
        self.vectors.iter().map(|vector| self.vector(vector.name)).collect()
    }
}

fn sgd() -> TrainingConfig {
    TrainingConfig { optimizer: Optimizer::Sgd, weight_decay: 0.0, gradient_clip_norm: 0.0, ..Default::default() }
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

#[test]
fn accumulated_batches_are_one_large_batch() {
    let model = model(ModelType::TdsLstm);
    for kernels in [Kernels::Cpu, Kernels::Standard, Kernels::Cuda] {
        let config = TrainingConfig { gradient_clip_norm: 0.05, ..sgd() };
        let mut large = Trainer::new(&problem(&model, 6), &config, kernels);
        let accumulating = TrainingConfig { gradient_accumulation_steps: 3, ..config };
        let mut small = Trainer::new(&problem(&model, 2), &accumulating, kernels);
        for step in 1..=3 {
            large.step(&Windows::new(&model, 0, 6), Hyperparameters::new(0.1, step));
            for part in 0..3 {
                let before = small.vector("parameters");
                let hyper = Hyperparameters { apply: part == 2, ..Hyperparameters::new(0.1, step) };
                small.step(&Windows::new(&model, 2 * part, 2), hyper);
                assert_eq!(before != small.vector("parameters"), part == 2, "part {part}");
            }
        }
        let (a, b) = (large.vector("parameters"), small.vector("parameters"));
        assert!(furthest(&a, &b) <= 1e-6, "{kernels:?}: {}", furthest(&a, &b));
        assert!(small.vector("gradient").iter().chain(&small.vector("gradient_rows")).all(|x| *x == 0.0));
    }
}

#[test]
fn averages_follow_the_parameters() {
    let model = model(ModelType::TdsMlp);
    let config = TrainingConfig { ema: 0.75, ..sgd() };
    let mut trainer = Trainer::new(&problem(&model, 4), &config, Kernels::Cpu);
    let mut expected = trainer.vector("parameters");
    assert_eq!(trainer.vector("ema"), expected);
    for step in 1..=4 {
        trainer.step(&Windows::new(&model, 0, 4), Hyperparameters::new(0.5, step));
        let now = trainer.vector("parameters");
        expected.iter_mut().zip(&now).for_each(|(average, now)| *average = 0.75 * *average + 0.25 * now);
    }
    assert!(furthest(&trainer.vector("ema"), &expected) < 1e-6);
    assert!(furthest(&trainer.vector("parameters"), &expected) > 1e-4);
}

#[test]
fn gradients_are_cut_by_value_then_by_norm() {
    let model = model(ModelType::TdsMlp);
    let windows = Windows::new(&model, 0, 4);
    let change = |config: &TrainingConfig| -> Vec<f32> {
        let mut trainer = Trainer::new(&problem(&model, 4), config, Kernels::Cpu);
        let before = trainer.vector("parameters");
        trainer.step(&windows, Hyperparameters::new(1.0, 1));
        before.iter().zip(trainer.vector("parameters")).map(|(before, after)| before - after).collect()
    };
    let gradient = change(&sgd());
    let limit = gradient.iter().fold(0.0f32, |most, g| most.max(g.abs())) / 3.0;
    let cut: Vec<_> = gradient.iter().map(|g| g.clamp(-limit, limit)).collect();
    let by_value = TrainingConfig { clip_value: Some(f64::from(limit)), ..sgd() };
    assert!(furthest(&change(&by_value), &cut) < 1e-6);
    let norm = cut.iter().map(|g| g * g).sum::<f32>().sqrt();
    let both = change(&TrainingConfig { gradient_clip_norm: f64::from(norm) / 2.0, ..by_value });
    let halved: Vec<_> = cut.iter().map(|g| g / 2.0).collect();
    assert!(furthest(&both, &halved) < 1e-6);
}

#[test]
fn decay_spares_the_parameters_that_are_named() {
    let model = model(ModelType::TdsMlp);
    for optimizer in [Optimizer::Adamw, Optimizer::Adam, Optimizer::Sgd] {
        let after = |no_decay: &[&str], weight_decay: f64| {
            let no_decay = no_decay.iter().map(|name| (*name).to_owned()).collect();
            let config = TrainingConfig { optimizer, weight_decay, no_decay, ..sgd() };
            let mut trainer = Trainer::new(&problem(&model, 4), &config, Kernels::Cpu);
            trainer.step(&Windows::new(&model, 0, 4), Hyperparameters::new(0.1, 1));
            trainer.vector("parameters")
        };
        let (all, none, some) = (after(&[], 0.5), after(&["*"], 0.5), after(&["*.bias", "*norm?.weight"], 0.5));
        assert_eq!(none, after(&[], 0.0), "{optimizer}");
        let mut start = 0;
        for parameter in model.parameters() {
            let range = start..start + parameter.elements();
            start = range.end;
            let name = &parameter.name;
            let spared = name.ends_with(".bias") || name.ends_with("norm1.weight") || name.ends_with("norm2.weight");
            let expected = if spared { &none } else { &all };
            assert!(furthest(&some[range.clone()], &expected[range]) < 1e-7, "{optimizer}: {name}");
        }
    }
}

#[test]
fn joints_count_as_much_as_their_weights() {
    let model = model(ModelType::TdsMlp);
    let windows = Windows::new(&model, 0, 4);
    let mut plain = problem(&model, 4);
    plain.loss = LossType::Mae;
    let weighted = Problem { joint_weights: Some(vec![2.0, 0.0, 0.5]), ..plain.clone() };
    let results =
        |problem: &Problem| Trainer::new(problem, &sgd(), Kernels::Cpu).step(&windows, Hyperparameters::new(0.1, 1));
    let (plain, weighted) = (results(&plain), results(&weighted));
    assert_eq!(plain[results::ABSOLUTE], weighted[results::ABSOLUTE]);
    let [a, _, c] = plain[results::ABSOLUTE][..] else { panic!("three joints") };
    let expected = (2.0 * a + 0.5 * c) / (2.5 * plain[results::VALID_ROWS][0]);
    assert!((weighted[results::LOSS][0] - expected).abs() < 1e-6, "{weighted:?}");
}

/// Twelve steps in each precision; the losses of bf16 and fp16 are those of fp32 up to the halves' rounding.
#[test]
fn half_precisions_follow_single_precision() {
    for kind in [ModelType::TdsLstm, ModelType::TdsMlp] {
        let model = model(kind);
        let windows = Windows::new(&model, 0, 6);
        let losses = |precision: Precision, kernels: Kernels| -> Vec<f32> {
            let config =
                TrainingConfig { precision, optimizer: Optimizer::Adam, weight_decay: 0.0, ..Default::default() };
            let mut trainer = Trainer::new(&problem(&model, 6), &config, kernels);
            let hyper = |step| Hyperparameters { loss_scale: 1024.0, ..Hyperparameters::new(0.003, step) };
            (1..=12).map(|step| trainer.step(&windows, hyper(step))[results::LOSS][0]).collect()
        };
        let single = losses(Precision::Fp32, Kernels::Cpu);
        assert!(single[11] < 0.9 * single[0]);
        // ONNX Runtime runs float16 operators on the CPU as float32 ones, bfloat16 ones not at all.
        for (precision, kernels, tolerance) in [
            (Precision::Fp16, Kernels::Cpu, 2e-3),
            (Precision::Fp16, Kernels::Standard, 2e-3),
            (Precision::Bf16, Kernels::Cpu, 2e-2),
        ] {
            let half = losses(precision, kernels);
            let off = half.iter().zip(&single).map(|(a, b)| (a - b).abs() / b).fold(0.0f32, f32::max);
            assert!(off > 0.0 && off < tolerance, "{kind} {precision} {kernels:?}: off by {off}");
        }
    }
}

#[test]
fn a_gradient_beyond_float16_changes_nothing() {
    let model = model(ModelType::TdsMlp);
    let windows = Windows::new(&model, 0, 4);
    let config = TrainingConfig { precision: Precision::Fp16, ema: 0.9, ..Default::default() };
    let mut trainer = Trainer::new(&problem(&model, 4), &config, Kernels::Cpu);
    let before = trainer.state();
    let scaled = |loss_scale: f32| Hyperparameters { loss_scale, ..Hyperparameters::new(0.1, 1) };
    assert_eq!(trainer.step(&windows, scaled(1e30))[results::FINITE], [0.0]);
    assert_eq!(trainer.state(), before);
    assert_eq!(trainer.step(&windows, scaled(64.0))[results::FINITE], [1.0]);
    assert_ne!(trainer.state(), before);
}

#[test]
fn undefined_emg_is_skipped_where_the_configuration_says_so() {
    let model = model(ModelType::TdsLstm);
    let mut windows = Windows::new(&model, 0, 4);
    windows.emg[7] = f32::NAN;
    let config = TrainingConfig { on_nan: OnNan::Skip, gradient_accumulation_steps: 2, ..sgd() };
    let mut trainer = Trainer::new(&problem(&model, 4), &config, Kernels::Cpu);
    let before = trainer.state();
    let part = |apply| Hyperparameters { apply, ..Hyperparameters::new(0.1, 1) };
    let outcome = |step: &HashMap<&str, Vec<f32>>| (step[results::FINITE][0], step[results::APPLIED][0]);
    assert_eq!(outcome(&trainer.step(&windows, part(false))), (0.0, 0.0));
    assert_eq!(trainer.state(), before);
    assert_eq!(outcome(&trainer.step(&windows, part(true))), (0.0, 0.0), "nothing to apply");
    assert_eq!(trainer.state(), before);
    // A batch that is skipped does not take the others of its step with it.
    let good = Windows::new(&model, 0, 4);
    trainer.step(&windows, part(false));
    assert_eq!(outcome(&trainer.step(&good, part(true))), (1.0, 1.0));
    let mut alone = Trainer::new(&problem(&model, 4), &sgd(), Kernels::Cpu);
    alone.step(&good, part(true));
    assert!(furthest(&trainer.vector("parameters"), &alone.vector("parameters")) < 1e-6);
}

#[test]
fn steps_repeat_bit_for_bit() {
    for kind in [ModelType::TdsLstm, ModelType::Lstm] {
        let model = model(kind);
        let run = || {
            let mut trainer = Trainer::new(&problem(&model, 4), &TrainingConfig::default(), Kernels::Cpu);
            (1..=5).for_each(|i| drop(trainer.step(&Windows::new(&model, 0, 4), Hyperparameters::new(0.01, i))));
            trainer.state()
        };
        assert_eq!(run(), run(), "{kind}");
    }
}
