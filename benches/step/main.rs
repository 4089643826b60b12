//! Time and memory of training steps, on one batch already in memory. benches/compare-step runs it beside eager
//! PyTorch on the CPU, benches/compare-gpu on CUDA.
//!
//!     cargo bench --bench step -- [--network tds_lstm] [--batch 64] [--window ROWS] [--steps 5] [--warmup 2]
//!                                 [--device cpu] [--precision tf32] [--kernels 3] [--standard]
//!
//! `--network` is a preset, or tds_lstm, tds_mlp or lstm with their defaults, or the path of an ONNX model of windows of
//! 2,000 rows. `--kernels` adds so
//! many steps on CUDA, and prints how long each kernel took in them; `--standard` takes standard operators only there.
//! The last line printed is JSON.

mod kernels;

use std::time::Instant;

use emg_pipeline::config::{Config, load};
use emg_pipeline::dataset::BatchShape;
use emg_pipeline::graph::OnnxModel;
use emg_pipeline::model::{Dropout, Model};
use emg_pipeline::ports::{self, Values};
use emg_pipeline::random::Random;
use emg_pipeline::runtime::{self, Provider, Stepper};
use emg_pipeline::step::{HYPERPARAMETERS, Hyperparameters, Problem, RANDOM, results, state_vectors, training_step};

fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != name).nth(1)
}

fn number(name: &str, default: usize) -> usize {
    argument(name).map_or(default, |value| value.parse().expect("a number"))
}

/// A preset, or the default configuration with another type of model and windows of 2,000 rows.
fn configuration(network: &str) -> Config {
    if network.starts_with("tds_") || network == "lstm" {
        let set = [format!("model.type={network}"), "data.window_size=2000".into()];
        return load(None, &set).expect("a configuration").config;
    }
    if network.ends_with(".onnx") {
        let set = ["model.type=onnx".into(), format!("model.onnx={network}"), "data.window_size=2000".into()];
        return load(None, &set).expect("a configuration").config;
    }
    load(Some(network), &[]).expect("a preset").config
}

/// Most memory that the process has had, in MiB.
fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or("VmHWM: 0 kB");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

fn main() {
    let program = Instant::now();
    let network = argument("--network").unwrap_or_else(|| "tds_lstm".into());
    let (steps, warmup, batch) = (number("--steps", 5), number("--warmup", 2), number("--batch", 64));
    let mut config = configuration(&network);
    let word = |name: &str, default: &str| serde_json::json!(argument(name).unwrap_or_else(|| default.into()));
    config.training.device = serde_json::from_value(word("--device", "cpu")).expect("cpu or cuda");
    config.training.cuda_kernels = !std::env::args().any(|argument| argument == "--standard");
    config.training.precision = serde_json::from_value(word("--precision", "tf32")).expect("a precision");
    let model = match config.model.onnx.clone() {
        Some(path) => {
            let imported = OnnxModel::load(&path).expect("an ONNX model");
            Model::imported(&config.model, imported, None).expect("a model that trains")
        }
        None => Model::new(&config.model),
    };
    let rows = number("--window", config.data.window_size);
    let shape = BatchShape { batch, rows, channels: 16, joints: 20, context: model.left_context(), after: 0 };
    let problem = Problem::new(model.clone(), shape, config.training.loss_type, config.training.mae_weight);
    let library = runtime::load(None).expect("ONNX Runtime");
    let provider = Provider::choose(&library, &config.training).expect("the device");
    let start = Instant::now();
    let graph = training_step(&problem, &config.training, provider.kernels()).expect("a differentiable model");
    let built = start.elapsed();
    let start = Instant::now();
    let mut stepper = Stepper::new(&library, provider, &graph.onnx, graph.ports).expect("a session");
    let opened = start.elapsed();
    for vector in state_vectors(&model, &config.training) {
        stepper.set_state(vector.name, &vector.initial(&model, 1)).expect("the state fits");
    }

    let mut random = Random::new(&[1]);
    let mut noise = |n: usize| -> Vec<f32> { (0..n).map(|_| random.up_to(2000) as f32 / 1000.0 - 1.0).collect() };
    let emg = noise(shape.batch * shape.rows * shape.channels);
    let angles = noise(shape.batch * shape.target_rows() * shape.joints);
    let mask: Vec<_> = noise(shape.batch * shape.target_rows()).iter().map(|x| f32::from(u8::from(*x < 0.8))).collect();
    let batch = [
        (ports::EMG, Values::F32(&emg)),
        (ports::JOINT_ANGLES, Values::F32(&angles)),
        (ports::MASK, Values::F32(&mask)),
    ];
    let (mut times, mut losses, mut tenth) = (Vec::new(), Vec::new(), None);
    let profiled = number("--kernels", 0);
    for step in 1..=(warmup + steps + profiled) as u64 {
        if profiled > 0 && step == (warmup + steps + 1) as u64 {
            kernels::start();
        }
        // Both sets of buffers get the batch once, and keep it.
        if step <= 2 {
            stepper.load(&batch).expect("a batch");
        }
        let hyper = Hyperparameters { loss_scale: 1024.0, ..Hyperparameters::new(5e-4, step) }.values();
        let seeds: Vec<_> =
            (0..Dropout::SEEDS as u64).map(|i| ((step * 7919 + i * 104_729) % Dropout::MODULUS) as i64).collect();
        let start = Instant::now();
        let mut controls = vec![(HYPERPARAMETERS, Values::F32(&hyper))];
        if stepper.ports().has_control(RANDOM) {
            controls.push((RANDOM, Values::I64(&seeds)));
        }
        stepper.launch(&controls).expect("a step");
        let loss = stepper.finish(|step| step.get(results::LOSS)[0]).expect("a step");
        losses.push(loss);
        if step == 10 {
            tenth = Some(program.elapsed().as_secs_f64());
        }
        if step > warmup as u64 && step <= (warmup + steps) as u64 {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    if profiled > 0 {
        kernels::print(profiled);
    }
    let mut sorted = times.clone();
    sorted.sort_by(f64::total_cmp);
    println!(
        "{}",
        serde_json::json!({
            "ms_per_step": sorted[sorted.len() / 2], "steps": times,
            "nodes": graph.nodes, "window": shape.rows, "build_ms": built.as_secs_f64() * 1e3, "open_ms": opened.as_secs_f64() * 1e3,
            "peak_mib": peak_mib(), "seconds_to_step_10": tenth, "losses": losses, "provider": provider.to_string(),
        })
    );
}
