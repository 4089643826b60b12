//! What both programs promise on the command line: help with examples, man pages, completions, JSON, exit codes.

mod common;

use common::{Bench, TINY, stderr};
use rustix::process::{Pid, Signal, kill_process};

/// Commands as `--help` lists them.
fn commands(bench: &Bench, program: &str) -> Vec<String> {
    let help = bench.ok(program, &["--help"]);
    let list = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let names = list.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    names.map(|line| line.split_whitespace().next().unwrap().to_owned()).filter(|name| name != "help").collect()
}

const PROGRAMS: [&str; 2] = ["emg-cache", "emg-train"];

#[test]
fn every_command_has_examples_and_json() {
    let bench = Bench::new();
    for program in PROGRAMS {
        let all = commands(&bench, program);
        assert!(all.len() > 8, "{all:?}");
        for command in all {
            let help = bench.ok(program, &[&command, "--help"]);
            let example = format!("Examples:\n  {program} {command} ");
            let alone = format!("Examples:\n  {program} {command}\n");
            assert!(help.contains(&example) || help.contains(&alone), "{program} {command}: {help}");
            let script = ["completions", "man"].contains(&command.as_str());
            assert!(script || help.contains("--json"), "{program} {command} has no --json");
        }
    }
}

#[test]
fn man_pages_and_completions_name_every_command() {
    let bench = Bench::new();
    for program in PROGRAMS {
        bench.ok(program, &["man", "man1"]);
        let all = commands(&bench, program);
        for command in &all {
            let page = std::fs::read_to_string(bench.path(&format!("man1/{program}-{command}.1"))).unwrap();
            assert!(
                page.contains("Examples:") && page.contains(&format!("{program} {command}").replace('-', "\\-")),
                "{page}"
            );
        }
        assert!(bench.path(&format!("man1/{program}.1")).exists());
        for shell in ["bash", "zsh", "fish"] {
            let script = bench.ok(program, &["completions", shell]);
            assert!(all.iter().all(|command| script.contains(command)), "{program} {shell}");
        }
        // bash takes it as it is.
        std::fs::write(bench.path("completions"), bench.ok(program, &["completions", "bash"])).unwrap();
        let bash = std::process::Command::new("bash").arg("-n").arg(bench.path("completions")).output().unwrap();
        assert!(bash.status.success(), "{}", stderr(&bash));
    }
}

#[test]
fn results_are_json_where_a_program_asks() {
    let bench = Bench::new();
    let synth = bench.json("emg-cache", &["synth", "data", "--recordings", "3", "--seconds", "1", "--json"]);
    assert_eq!(synth["recordings"].as_array().unwrap().len(), 3);
    std::fs::write(bench.path("tiny.yaml"), TINY).unwrap();
    let part = bench.json("emg-cache", &["build", "--config", "tiny.yaml", "--part", "1/1", "--json"]);
    assert_eq!((part["share"].as_u64(), part["segments_written"].as_u64()), (Some(1), Some(1)), "{part}");
    let built = bench.json("emg-cache", &["build", "--config", "tiny.yaml", "--json"]);
    let key = built["key"].as_str().unwrap();
    assert_eq!((key.len(), built["reused"].as_bool()), (64, Some(false)), "{built}");
    assert_eq!(bench.json("emg-cache", &["build", "--config", "tiny.yaml", "--json"])["reused"], true);
    assert_eq!(bench.json("emg-cache", &["pin", key, "--store", "st", "--json"])["pinned"], true);
    assert_eq!(bench.json("emg-cache", &["unpin", key, "--store", "st", "--json"])["pinned"], false);
    let repaired = bench.json("emg-cache", &["repair", key, "--config", "tiny.yaml", "--json"]);
    assert_eq!(repaired["repaired"].as_array().unwrap().len(), 0, "{repaired}");
    let config = bench.json("emg-train", &["config", "--config", "tiny.yaml", "--set", "data.stride=7", "--json"]);
    assert_eq!((config["data"]["stride"].as_u64(), config["data"]["window_size"].as_u64()), (Some(7), Some(200)));
    // What it prints is a configuration again, the same one.
    std::fs::write(bench.path("whole.yaml"), bench.ok("emg-train", &["config", "--config", "tiny.yaml"])).unwrap();
    let print = |name: &str| bench.ok("emg-train", &["config", "--config", name]);
    assert_eq!(print("whole.yaml"), print("tiny.yaml"));
}

/// DESIGN: 0 done, 1 failed at work, 2 wrong usage or configuration, 130 interrupted.
#[test]
fn exit_codes_say_what_happened() {
    let bench = Bench::tiny(&["--recordings", "4", "--seconds", "1"]);
    std::fs::write(bench.path("bad.yaml"), "data:\n  strid: 3\n").unwrap();
    bench.build(&["--config", "tiny.yaml"]);
    std::fs::write(bench.path("broken.hdf5"), "not HDF5").unwrap();
    let cases: [(i32, &str, &[&str]); 14] = [
        (2, "emg-cache", &[]),
        (2, "emg-cache", &["build", "--no-such-option"]),
        (2, "emg-cache", &["build", "--config", "bad.yaml"]),
        (2, "emg-cache", &["info", "0123456789", "--store", "st"]),
        (2, "emg-cache", &["synth", "x", "--ik-failures", "2"]),
        (1, "emg-cache", &["build", "--config", "tiny.yaml", "broken.hdf5"]),
        (1, "emg-cache", &["list", "--store", "nowhere"]),
        (2, "emg-train", &["fit", "--config", "nowhere.yaml"]),
        (2, "emg-train", &["fit", "--config", "tiny.yaml", "--set", "model.dropout=3"]),
        (2, "emg-train", &["config", "--config", "bad.yaml"]),
        (2, "emg-train", &["eval", "nowhere"]),
        (1, "emg-train", &["fit", "--config", "tiny.yaml", "--ort-lib", "tiny.yaml", "--run", "r"]),
        (1, "emg-train", &["predict", "tiny.yaml", "data", "--out", "out"]),
        (0, "emg-train", &["fit", "--config", "tiny.yaml", "--set", "training.num_epochs=1", "--run", "done"]),
    ];
    for (code, program, args) in cases {
        let output = bench.run(program, args);
        assert_eq!(output.status.code(), Some(code), "{program} {args:?}: {}", stderr(&output));
        assert!(code == 0 || !output.stderr.is_empty(), "{program} {args:?} says nothing");
    }
    let mut fit = bench
        .command("emg-train")
        .args(["fit", "--config", "tiny.yaml", "--set", "training.num_epochs=100000", "--run", "long"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !bench.path("long/metrics.jsonl").exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(fit.try_wait().unwrap().is_none(), "the training ended by itself");
    }
    kill_process(Pid::from_child(&fit), Signal::INT).unwrap();
    assert_eq!(fit.wait().unwrap().code(), Some(130));
}

/// A file of the reference system: every key that it has, with its own values.
const REFERENCE: &str = "
data:
  dataset_path: data
  hdf5_group: emg2pose
  table_name: timeseries
  emg_channels: 16
  joint_angles_channels: 20
  window_size: 500
  stride: 1
  padding: [0, 0]
  skip_ik_failures: false
  split_ratio: [0.7, 0.15, 0.15]
  normalize: true
  shuffle: true
  max_samples_for_normalize: 10000
  chunk_cache_size: 67108864
model:
  input_size: 16
  output_size: 20
  encoder_features: [32, 64, 128]
  decoder_hidden: 128
  decoder_layers: 2
  dropout: 0.1
  tds_stages:
    - {in_conv_kernel: 5, in_conv_stride: 2, num_blocks: 2, channels: 8, feature_width: 4, kernel_width: 21}
    - {in_conv_kernel: 5, in_conv_stride: 2, num_blocks: 2, channels: 8, feature_width: 8, kernel_width: 11}
  decoder_type: sequential_lstm
  decoder_hidden_size: 128
  decoder_num_layers: 2
  decoder_state_condition: true
  rollout_freq: 50
  original_sampling_rate: 2000
  predict_velocity: false
training:
  num_epochs: 100
  batch_size: 64
  learning_rate: 5.0e-4
  weight_decay: 0.01
  optimizer: adamw
  scheduler: cosine
  step_size: 20
  gamma: 0.5
  warmup_epochs: 5
  loss_type: mse+mae
  mae_weight: 0.5
  gradient_clip_norm: 1.0
  gradient_accumulation_steps: 1
  early_stopping: true
  patience: 20
  min_delta: 1.0e-4
  monitor_metric: val_loss
  restore_best_weights: true
  device: auto
  num_workers: 4
  pin_memory: true
  persistent_workers: true
  prefetch_factor: 2
  compute_metrics_online: true
logging:
  checkpoint_dir: checkpoints
  log_dir: logs
  save_every: 5
  log_every: 10
  save_best_only: true
  monitor: val_loss
  mode: min
";

#[test]
fn the_references_files_load_and_the_schema_says_the_same_as_the_programs() {
    let bench = Bench::new();
    std::fs::write(bench.path("reference.yaml"), REFERENCE).unwrap();
    let output = bench.run("emg-train", &["config", "--config", "reference.yaml", "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output).matches("ignored").count(), 3, "{}", stderr(&output));
    std::fs::write(bench.path("schema.json"), bench.ok("emg-train", &["config", "--schema"])).unwrap();
    let wrong = [
        "data: {strid: 3}",
        "data: {stride: many}",
        "model: {type: gru}",
        "trainin: {}",
        "data: {layout: {emg: a, angles: b}}",
        "model: {tds_stages: [{in_conv_kernal: 5}]}",
        "data: {shuffle: perhaps}",
    ];
    let right = [
        "data: {shuffle: block, layout: generic_neuromotor_wrist}",
        "data: {layout: {joint_angle_rate: 60, angle_unit: deg, metadata: {user: subject}}}",
        "model: {initial_pose: true}",
        "training: {clip_value: 1, joint_weights: [1, 2.5]}",
    ];
    let mut cases = vec!["schema.json".to_owned(), "reference.yaml=yes".to_owned()];
    for (i, (text, verdict)) in wrong.iter().map(|t| (t, "no")).chain(right.iter().map(|t| (t, "yes"))).enumerate() {
        let path = format!("case{i}.yaml");
        std::fs::write(bench.path(&path), text).unwrap();
        let loads = bench.run("emg-train", &["config", "--config", &path]);
        // The number of joint weights is beyond a schema.
        let ours = loads.status.success() || text.contains("joint_weights");
        assert_eq!(ours, verdict == "yes", "{text}: {}", stderr(&loads));
        cases.push(format!("{path}={verdict}"));
    }
    let presets = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    for entry in std::fs::read_dir(presets).unwrap() {
        cases.push(format!("{}=yes", entry.unwrap().path().display()));
    }
    let cases: Vec<_> = cases.iter().map(String::as_str).collect();
    println!("{}", bench.python("check_schema.py", &cases));
}

/// `emg-train .. | head -1` ends neither in a panic nor before its work is done.
#[test]
fn a_reader_that_goes_away_ends_nothing() {
    let bench = Bench::tiny(&["--recordings", "3", "--seconds", "1"]);
    bench.build(&["--config", "tiny.yaml"]);
    let fit = ["fit", "--config", "tiny.yaml", "--set", "training.num_epochs=1", "--run", "run"];
    let predict = ["predict", "run/model.onnx", "data", "--out", "out"];
    for args in [&["config", "--schema"][..], &["completions", "bash"], &fit, &predict] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = bench.command("emg-train");
        let status = command.args(args).stdout(writer.try_clone().unwrap()).stderr(writer).status().unwrap();
        assert_eq!(status.code(), Some(0), "{args:?}");
    }
    for name in ["run/model.onnx", "out/synth-00000_left.hdf5", "out/synth-00002_left.hdf5"] {
        assert!(bench.path(name).exists(), "{name}");
    }
}
