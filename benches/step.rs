//! Time of a training step of tds_lstm with its default stages, batch 64 x 2000 samples, on the CPU provider.
//! benches/compare-step runs it beside eager PyTorch. Prints one line of JSON.

use std::time::Instant;

use emg_pipeline::config::{Config, LossType};
use emg_pipeline::dataset::{BatchShape, Random};
use emg_pipeline::model::{Dropout, Model, initialize};
use emg_pipeline::runtime::{self, Inputs, Provider, Stepper};
use emg_pipeline::step::{AngleUnits, EmgUnits, Problem, hyperparameters, results, training_step};

fn main() {
    let argument = |name: &str, default: usize| {
        let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
        arguments.next().map_or(default, |value| value.parse().expect("a number"))
    };
    let (steps, warmup, batch) = (argument("--steps", 5), argument("--warmup", 2), argument("--batch", 64));
    let config = Config::default();
    let model = Model::new(&config.model);
    let shape = BatchShape { batch, rows: 2000, channels: 16, joints: 20, context: model.left_context() };
    let problem = Problem {
        model: model.clone(),
        shape,
        emg: EmgUnits::AsCached,
        angles: AngleUnits::Radians,
        loss: LossType::MseMae,
        mae_weight: 0.5,
    };
    let graph = training_step(&problem, &config.training, Provider::Cpu.kernels()).expect("a differentiable model");
    let library = runtime::load(None).expect("ONNX Runtime");
    let start = Instant::now();
    let mut stepper = Stepper::new(&library, Provider::Cpu, &graph.onnx, graph.spec).expect("a session");
    let opened = start.elapsed();
    stepper.set_state(0, &initialize(&model.parameters(), 1)).expect("parameters fit");

    let mut random = Random::new(&[1]);
    let mut noise = |n: usize| -> Vec<f32> { (0..n).map(|_| random.up_to(2000) as f32 / 1000.0 - 1.0).collect() };
    let emg = noise(shape.batch * shape.rows * shape.channels);
    let angles = noise(shape.batch * shape.target_rows() * shape.joints);
    let mask: Vec<_> = noise(shape.batch * shape.target_rows()).iter().map(|x| f32::from(u8::from(*x < 0.8))).collect();
    let mut times = Vec::new();
    for step in 1..=(warmup + steps) as u64 {
        let hyper = hyperparameters(5e-4, step);
        let seeds: Vec<_> =
            (0..Dropout::SEEDS as u64).map(|i| ((step * 7919 + i * 104_729) % Dropout::MODULUS) as i64).collect();
        let start = Instant::now();
        let inputs = Inputs { floats: vec![&emg, &angles, &mask, &hyper], integers: vec![&seeds] };
        let loss = stepper.step(&inputs, |outputs| outputs[results::LOSS][0]).expect("a step");
        assert!(loss.is_finite());
        if step > warmup as u64 {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    let mut sorted = times.clone();
    sorted.sort_by(f64::total_cmp);
    println!(
        "{}",
        serde_json::json!({
            "ms_per_step": sorted[sorted.len() / 2], "steps": times,
            "nodes": graph.nodes, "open_ms": opened.as_secs_f64() * 1e3,
        })
    );
}
