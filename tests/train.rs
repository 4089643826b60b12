//! `emg-train` from the command line: training, exact repetition and resume, evaluation, export.

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use common::{Bench, TINY, checkpoint, files, stderr, tensors};
use rustix::process::{Pid, Signal, kill_process};

/// Everything that has a state of its own.
const STATEFUL: [&str; 8] = [
    "--set",
    "training.gradient_accumulation_steps=3",
    "--set",
    "training.ema=0.9",
    "--set",
    "training.schedule_per=step",
    "--set",
    "training.precision=fp16",
];

fn bench(seconds: &str) -> Bench {
    Bench::tiny(&["--recordings", "4", "--seconds", seconds])
}

fn fit<'a>(run: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["fit", "--config", "tiny.yaml", "--run", run], more].concat()
}

/// Starts a fit and sends `signal` once it reports that epoch 1 is done.
fn stop_after_an_epoch(bench: &Bench, run: &str, more: &[&str], signal: Signal) -> Option<i32> {
    let mut child = bench.command("emg-train").args(fit(run, more)).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut seen = String::new();
    for line in lines.map_while(Result::ok) {
        seen += &line;
        if line.starts_with("epoch 2/4 loss") {
            kill_process(Pid::from_child(&child), signal).unwrap();
        }
    }
    assert!(seen.contains("epoch 1/4 lr"), "{seen}");
    child.wait().unwrap().code()
}

#[test]
fn the_same_seed_gives_the_same_checkpoints_and_a_stopped_run_ends_with_the_same_weights() {
    let bench = bench("3");
    bench.build(&["--config", "tiny.yaml"]);
    bench.ok("emg-train", &fit("a", &[]));
    bench.ok("emg-train", &fit("b", &["--set", "training.num_workers=0"]));
    for name in ["best", "last"] {
        let (a, b) = (checkpoint(&bench, "a", name), checkpoint(&bench, "b", name));
        // The configuration inside differs in num_workers only, so compare what follows it.
        assert_eq!(tensors(&a), tensors(&b), "{name}");
    }
    bench.ok("emg-train", &fit("c", &[]));
    assert_eq!(checkpoint(&bench, "a", "last"), checkpoint(&bench, "c", "last"));
    assert_eq!(checkpoint(&bench, "a", "best"), checkpoint(&bench, "c", "best"));
    bench.ok("emg-train", &fit("d", &["--set", "training.seed=7"]));
    assert_ne!(tensors(&checkpoint(&bench, "a", "last")), tensors(&checkpoint(&bench, "d", "last")));

    assert_eq!(stop_after_an_epoch(&bench, "int", &[], Signal::INT), Some(130));
    assert_eq!(stop_after_an_epoch(&bench, "kill", &[], Signal::KILL), None);
    for run in ["int", "kill"] {
        bench.ok("emg-train", &fit(run, &["--resume"]));
        for name in ["best", "last"] {
            assert_eq!(checkpoint(&bench, "a", name), checkpoint(&bench, run, name), "{run} {name}");
        }
        let lines = std::fs::read_to_string(bench.path(run).join("metrics.jsonl")).unwrap();
        let epochs: Vec<_> =
            lines.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["epoch"].clone()).collect();
        assert_eq!(epochs, [1, 2, 3, 4], "{run}");
    }
    bench.ok("emg-train", &fit("int", &["--resume", "--set", "training.num_epochs=5"]));
    assert!(bench.fails("emg-train", 2, &fit("int", &[])).contains("--resume"));
    assert!(bench.fails("emg-train", 2, &fit("new", &["--resume"])).contains("no run"));
}

/// Stopped between two batches of one optimizer step, and with the loss scale and the average on their way.
#[test]
fn accumulated_averaged_and_scaled_training_resumes_exactly() {
    let bench = bench("3");
    bench.build(&["--config", "tiny.yaml"]);
    bench.ok("emg-train", &fit("a", &STATEFUL));
    // Where the signal lands is chance, so try until it is between two batches of a step.
    let stopped = (0..12).map(|i| format!("int{i}")).find(|run| {
        assert_eq!(stop_after_an_epoch(&bench, run, &STATEFUL, Signal::INT), Some(130));
        let middle = checkpoint(&bench, run, "last");
        tensors(&middle).iter().any(|(name, bytes)| name == "gradient" && bytes.iter().any(|byte| *byte != 0))
    });
    let run = stopped.expect("some run stops between two batches of a step");
    let middle = checkpoint(&bench, &run, "last");
    bench.ok("emg-train", &fit(&run, &[&["--resume"], &STATEFUL[..]].concat()));
    for name in ["best", "last"] {
        assert_eq!(checkpoint(&bench, "a", name), checkpoint(&bench, &run, name), "{name}");
    }
    let vector = |wanted: &str| tensors(&middle).into_iter().find(|(name, _)| name == wanted).unwrap().1;
    assert!(vector("ema") != vector("parameters"));
}

/// What a run says of its epochs, but for times.
fn metrics(bench: &Bench, run: &str) -> Vec<serde_json::Value> {
    let lines = std::fs::read_to_string(bench.path(run).join("metrics.jsonl")).unwrap();
    let parse = |line: &str| {
        let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
        record.as_object_mut().unwrap().retain(|key, _| !key.ends_with("_seconds"));
        record
    };
    lines.lines().map(parse).collect()
}

/// Rows that lie with the step, which gathers windows from them, and batches that bring theirs: the same training to the
/// last bit, with windows moved at random, padding beyond the recordings, failed rows and statistics by recording.
#[test]
fn training_is_the_same_wherever_rows_lie() {
    const MOVED: [&str; 4] = ["--set", "data.jitter=true", "--set", "data.rotation=1"];
    const BY_RECORDING: [&str; 4] = ["--set", "data.normalize_angles=recording", "--set", "data.padding=[30, 20]"];
    const TRACKING: [&str; 4] = ["--set", "model.initial_pose=true", "--set", "data.skip_ik_failures=false"];
    const LARGE: [&str; 2] = ["--set", "training.batch_size=4096"];
    const STORED: [&str; 6] = [
        "--set",
        "data.dtype=float16",
        "--set",
        "data.shuffle=block",
        "--set",
        "training.gradient_accumulation_steps=3",
    ];
    let bench = Bench::tiny(&["--recordings", "4", "--seconds", "3", "--ik-failures", "0.3"]);
    for (name, set) in [
        ("moved", MOVED.to_vec()),
        ("by recording", [&MOVED[2..], &BY_RECORDING].concat()),
        ("tracking", [&TRACKING[..], &BY_RECORDING[2..]].concat()),
        ("one batch, filled up", LARGE.to_vec()),
        ("in halves, by blocks", STORED.to_vec()),
    ] {
        bench.build(&[&["--config", "tiny.yaml"], &set[..]].concat());
        let run = |residency: &str| {
            let folder = format!("{name} {residency}");
            let residency = format!("training.data_residency={residency}");
            let output = bench.run("emg-train", &fit(&folder, &[&set[..], &["--set", &residency]].concat()));
            assert!(output.status.success(), "{name}: {}", stderr(&output));
            (tensors(&checkpoint(&bench, &folder, "last")), metrics(&bench, &folder), stderr(&output))
        };
        let ((host, said, quiet), (device, heard, told)) = (run("host"), run("device"));
        assert!(!quiet.contains("MiB of training rows") && told.contains("MiB of training rows"), "{told}");
        assert_eq!(host, device, "{name}");
        assert_eq!(said, heard, "{name}");
    }
    // A run may go on with its rows elsewhere.
    let [host, device] = ["host", "device"].map(|residency| format!("training.data_residency={residency}"));
    bench.build(&["--config", "tiny.yaml"]);
    bench.ok(
        "emg-train",
        &fit("halves", &["--set", &host, "--set", "training.num_epochs=2", "--set", "training.scheduler=none"]),
    );
    bench.ok("emg-train", &fit("whole", &["--set", &host, "--set", "training.scheduler=none"]));
    let on = ["--resume", "--set", &device, "--set", "training.scheduler=none"];
    bench.ok("emg-train", &fit("halves", &on));
    assert_eq!(tensors(&checkpoint(&bench, "halves", "last")), tensors(&checkpoint(&bench, "whole", "last")));
}

/// Exports a run and lets Python's onnxruntime compute what `eval` reports.
fn check_export(bench: &Bench, run: &str, dataset: &str) {
    let evaluation = bench.ok("emg-train", &["eval", run, "--json"]);
    std::fs::write(bench.path("eval.json"), &evaluation).unwrap();
    let evaluation: serde_json::Value = serde_json::from_str(&evaluation).unwrap();
    let info = bench.ok("emg-cache", &["info", evaluation["cache"].as_str().unwrap(), "--store", "st", "--json"]);
    std::fs::write(bench.path("info.json"), info).unwrap();
    let model = format!("{run}/model.onnx");
    bench.python("check_export.py", &[&model, "info.json", dataset, "eval.json"]);
    // `export` writes what `fit` wrote.
    bench.ok("emg-train", &["export", run, "--out", "again.onnx"]);
    assert_eq!(std::fs::read(bench.path(&model)).unwrap(), std::fs::read(bench.path("again.onnx")).unwrap());
}

#[test]
fn exported_models_compute_what_eval_reports() {
    let bench = bench("2");
    let variants: [&[&str]; 7] = [
        &[],
        &["data.normalize_emg=train", "data.padding=[20,10]", "data.eval_window=300", "model.predict_velocity=true"],
        &["data.normalize_emg=none", "data.normalize_angles=none", "model.initial_pose=true", "data.rotation=1"],
        &["model.decoder_type=mlp", "training.optimizer=sgd", "training.scheduler=plateau", "training.loss_type=mse"],
        &[
            "data.skip_ik_failures=true",
            "training.optimizer=adam",
            "training.scheduler=step",
            "model.decoder_state_condition=false",
            "training.compute_metrics_online=false",
            "training.loss_type=mae",
            "training.persistent_workers=false",
        ],
        &["model.type=lstm", "model.hidden_size=12", "training.ema=0.5", "training.precision=bf16"],
        &["model.type=neuropose", "data.window_size=640", "data.stride=320", "training.gradient_accumulation_steps=2"],
    ];
    for (i, variant) in variants.iter().enumerate() {
        let sets: Vec<_> = variant.iter().flat_map(|set| ["--set", set]).collect();
        bench.build(&[&["--config", "tiny.yaml"], sets.as_slice()].concat());
        let run = format!("run{i}");
        let epochs = ["--set", "training.num_epochs=2"];
        bench.ok("emg-train", &fit(&run, &[&epochs, sets.as_slice()].concat()));
        check_export(&bench, &run, "data");
    }
    for run in ["run0", "run3", "run5"] {
        println!("{}", bench.python("check_downstream.py", &[&format!("{run}/model.onnx")]));
    }
    let longer = bench.ok("emg-train", &["export", "run0", "--length", "500", "--out", "long.onnx"]);
    assert_eq!(longer.trim(), "long.onnx");
    let message = bench.fails("emg-train", 2, &["export", "run0", "--length", "20"]);
    assert!(message.contains("left context"), "{message}");
}

#[test]
fn metrics_by_group_and_over_users_are_numpys() {
    let bench = Bench::new();
    bench.ok("emg-cache", &["synth", "data", "--recordings", "12", "--seconds", "1", "--users", "3"]);
    // Two kinds of generalization in one split.
    let csv = std::fs::read_to_string(bench.path("data/metadata.csv")).unwrap();
    let lines = csv.lines().enumerate().map(|(i, line)| {
        let line = line.replace(",val,", ",train,").replace(",test,", ",train,");
        let kind = if i % 2 == 0 { ",user" } else { ",stage" };
        if i == 0 { line } else { format!("{}{kind}", &line[..line.rfind(',').unwrap()]) }
    });
    std::fs::write(bench.path("data/metadata.csv"), lines.map(|line| line + "\n").collect::<String>()).unwrap();
    std::fs::write(bench.path("tiny.yaml"), TINY).unwrap();
    let sets = ["--set", "training.monitor_metric=train_loss", "--set", "logging.monitor=train_loss"];
    let (key, _) = bench.build(&["--config", "tiny.yaml"]);
    bench.ok("emg-train", &fit("run", &[&sets[..], &["--set", "training.num_epochs=2"]].concat()));
    let info = bench.ok("emg-cache", &["info", &key, "--store", "st", "--json"]);
    std::fs::write(bench.path("info.json"), info).unwrap();
    for (units, flags) in [("si", &[][..]), ("emg2pose", &["--emg2pose"])] {
        let eval = ["eval", "run", "--split", "train", "--json", "--derivatives", units];
        std::fs::write(bench.path("eval.json"), bench.ok("emg-train", &eval)).unwrap();
        let said = bench
            .python("check_metrics.py", &[&["run/model.onnx", "info.json", "data", "eval.json"][..], flags].concat());
        assert!(said.starts_with("ok: "), "{said}");
    }
    let shown = bench.ok("emg-train", &["eval", "run", "--split", "train", "--by", "user,stage,generalization"]);
    for expected in ["over 3 users: mae", "user user01: ", "stage ", "generalization stage: ", "generalization user: "]
    {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }

    // Everything gathered first gives the same to 1e-6.
    bench.ok(
        "emg-train",
        &fit(
            "off",
            &[&sets[..], &["--set", "training.num_epochs=2"], &["--set", "training.compute_metrics_online=false"]]
                .concat(),
        ),
    );
    let figures = |run: &str| {
        let report = bench.json("emg-train", &["eval", run, "--split", "train", "--json"]);
        let mut numbers = Vec::new();
        for part in ["metrics", "mean_predictor", "over_users", "by_user", "by_stage", "by_generalization"] {
            collect(&report[part], &mut numbers);
        }
        numbers
    };
    let (online, offline) = (figures("run"), figures("off"));
    assert!(online.len() == offline.len() && online.len() > 500, "{}", online.len());
    for (a, b) in online.iter().zip(&offline) {
        assert!((a - b).abs() <= 1e-6 * b.abs().max(1e-3), "{a} {b}");
    }
}

fn collect(value: &serde_json::Value, numbers: &mut Vec<f64>) {
    match value {
        serde_json::Value::Number(number) => numbers.push(number.as_f64().unwrap()),
        serde_json::Value::Array(values) => values.iter().for_each(|value| collect(value, numbers)),
        serde_json::Value::Object(fields) => fields.values().for_each(|value| collect(value, numbers)),
        _ => {}
    }
}

#[test]
fn bench_data_takes_batches_as_fit_does() {
    let bench = bench("3");
    let (key, _) = bench.build(&["--config", "tiny.yaml"]);
    let by_config = ["bench-data", "--config", "tiny.yaml", "--seconds", "0.2"];
    let shown = bench.ok("emg-train", &by_config);
    for expected in ["first batch in memory", "windows/s", "plain copy", "later than others", "anonymous memory"] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    for shuffle in ["true", "false", "block"] {
        for workers in ["0", "3"] {
            let (shuffle, workers) = (format!("data.shuffle={shuffle}"), format!("training.num_workers={workers}"));
            let sets = ["--set", &shuffle, "--set", &workers, "--set", "training.prefetch_factor=0"];
            let cache = ["--store", "st", "--cache", &key, "--epochs", "3", "--json", "--set", "model.type=lstm"];
            let report = bench.json("emg-train", &[&["bench-data"], &cache[..], &sets].concat());
            // One batch of the 118 windows of 200 rows, in each epoch.

            assert_eq!(report["windows"], 3 * 64, "{report}");
            assert_eq!(report["batch_bytes"], 64 * 200 * (16 + 20 + 1) * 4);
            assert!(report["memcpy_bytes_per_second"].is_null() && report["epoch_gap_ms"].is_number());
            assert!(report["anonymous_bytes"].as_u64().unwrap() < 64 << 20);
        }
    }
    let message = bench.fails("emg-train", 2, &["bench-data", "--config", "tiny.yaml", "--set", "data.stride=7"]);
    assert!(message.contains("emg-cache build"), "{message}");
    assert!(bench.fails("emg-train", 2, &["bench-data", "--seconds", "0"]).contains("0.01 to 86400"));
    assert!(bench.fails("emg-train", 2, &["bench-data", "--epochs", "1", "--seconds", "1"]).contains("cannot be used"));
}

#[test]
fn angles_by_recording_train_and_evaluate_but_do_not_export() {
    let bench = bench("2");
    let sets = ["--set", "data.normalize_angles=recording", "--set", "training.num_epochs=2"];
    bench.build(&[&["--config", "tiny.yaml"], &sets[..2]].concat());
    let output = bench.run("emg-train", &fit("run", &sets));
    assert!(output.status.success() && stderr(&output).contains("no model can be exported"), "{}", stderr(&output));
    assert!(!bench.path("run/model.onnx").exists());
    bench.ok("emg-train", &["eval", "run", "--split", "val"]);
    assert!(bench.fails("emg-train", 2, &["export", "run"]).contains("normalize_angles: train"));
}

#[test]
fn it_learns_recordings_that_another_generator_made() {
    let bench = Bench::new();
    bench.python("make_recordings.py", &["data", "--layout", "meta", "--count", "8", "--rows", "12000"]);
    std::fs::write(bench.path("tiny.yaml"), TINY).unwrap();
    let sets = ["--set", "training.num_epochs=15"];
    bench.build(&["--config", "tiny.yaml"]);
    bench.ok("emg-train", &fit("run", &sets));
    let report = bench.json("emg-train", &["eval", "run", "--split", "val", "--json"]);
    let (mae, mean) = (&report["metrics"]["mae_deg"], &report["mean_predictor"]["mae_deg"]);
    let ratio = mae.as_f64().unwrap() / mean.as_f64().unwrap();
    assert!(ratio < 0.7, "val mae {mae}, mean predictor {mean}");
}

#[test]
fn early_stopping_ends_training_and_numbered_checkpoints_are_kept() {
    let bench = bench("2");
    bench.build(&["--config", "tiny.yaml"]);
    let sets = [
        "--set",
        "training.num_epochs=30",
        "--set",
        "training.patience=2",
        "--set",
        "training.min_delta=1000",
        "--set",
        "logging.save_best_only=false",
        "--set",
        "logging.save_every=1",
        "--set",
        "logging.keep_last=2",
        "--set",
        "logging.checkpoint_dir=elsewhere",
        "--set",
        "logging.log_dir=logs",
    ];
    let output = bench.run("emg-train", &fit("run", &sets));
    assert!(stderr(&output).contains("stopped after epoch 3"), "{}", stderr(&output));
    let names: Vec<_> = files(&bench.path("elsewhere"))
        .into_iter()
        .map(|(path, _)| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(
        names,
        ["best.safetensors", "epoch_00002.safetensors", "epoch_00003.safetensors", "last.safetensors", "lock"]
    );
    assert_eq!(std::fs::read_to_string(bench.path("logs/metrics.jsonl")).unwrap().lines().count(), 3);
    bench.ok("emg-train", &["eval", "run", "--checkpoint", "last"]);
}

#[test]
fn wrong_usage_exits_with_2_and_says_what_to_do() {
    let bench = bench("2");
    let message = bench.fails("emg-train", 2, &fit("run", &[]));
    assert!(message.contains("emg-cache build --config tiny.yaml"), "{message}");
    bench.build(&["--config", "tiny.yaml", "--set", "data.stride=50"]);
    let message = bench.fails("emg-train", 2, &fit("run", &[]));
    assert!(message.contains("emg-cache build --config tiny.yaml"), "{message}");
    let key = bench.json("emg-cache", &["list", "--store", "st", "--json"])[0]["key"].as_str().unwrap().to_owned();
    let message = bench.fails("emg-train", 2, &fit("run", &["--cache", &key]));
    assert!(message.contains("data.stride: the configuration says 100, but the cache was built with 50"), "{message}");
    // Another machine, whose memo knows nothing.
    let output =
        bench.command("emg-train").args(fit("run", &[])).env("XDG_CACHE_HOME", bench.path("x")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--cache KEY"), "{}", stderr(&output));

    let stride = ["--set", "data.stride=50"];
    let with = |more: &[&'static str]| [&stride[..], more].concat();
    for (more, expected) in [
        (with(&["--set", "model.tds_stages=[{in_conv_kernel: 300}]"]), "left context"),
        (with(&["--set", "training.monitor_metric=val_los"]), "expected one of `val_loss`"),
        (with(&["--set", "model.type=tracking_vemg2pose"]), "1790 rows of left context"),
        (with(&["--set", "model.type=neuropose"]), "at least 320 rows"),
        (with(&["--set", "training.no_decay=[nothing*]"]), "`nothing*` matches no parameter"),
        (with(&["--set", "training.joint_weights=[1]"]), "one for each joint angle"),
    ] {
        let message = bench.fails("emg-train", 2, &fit("run", &more));
        assert!(message.contains(expected), "{more:?}: {message}");
    }
    assert!(!bench.path("run").exists());
    let message = bench.fails("emg-train", 1, &fit("cuda", &with(&["--set", "training.device=cuda"])));
    assert!(message.contains("CUDA") || message.contains("NVIDIA"), "{message}");
    assert!(bench.fails("emg-train", 2, &["eval", "nothing"]).contains("holds no run"));
}

#[test]
fn a_loss_that_is_not_finite_stops_training_and_names_the_windows() {
    let bench = bench("2");
    bench.build(&["--config", "tiny.yaml"]);
    let sets = ["--set", "training.learning_rate=1e30", "--set", "training.gradient_clip_norm=0"];
    let message = bench.fails("emg-train", 1, &fit("run", &sets));
    assert!(message.contains("not finite in epoch 1") && message.contains("synth-0000"), "{message}");
    // All eight, by recording.
    let named = message.split("the windows ").nth(1).unwrap().split(';').next().unwrap();
    let rows = named.split('[').skip(1).map(|rest| rest.split(']').next().unwrap().split(',').count());
    assert_eq!(rows.sum::<usize>(), 8, "{message}");
}

#[test]
fn doctor_names_the_library_and_what_is_missing() {
    let bench = Bench::new();
    let report = bench.json("emg-train", &["doctor", "--json"]);
    assert_eq!(report["library"]["version"], "1.31.1");
    assert!(report["providers"].as_array().unwrap().contains(&"CPU".into()));
    assert!(bench.ok("emg-train", &["doctor"]).contains("found by   the project's folder"));
    let message = bench.fails("emg-train", 1, &["doctor", "--ort-lib", "/nowhere/libonnxruntime.so"]);
    assert!(message.contains("/nowhere/libonnxruntime.so"), "{message}");
    std::fs::write(bench.path("libonnxruntime.so"), "no library").unwrap();
    let path = bench.path("libonnxruntime.so");
    let output = bench.command("emg-train").arg("doctor").env("ORT_DYLIB_PATH", &path).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(path.to_str().unwrap()), "{}", stderr(&output));
    // A copy outside the project, run outside the project, finds nothing and says where it looked.
    let copy = bench.path("emg-train");
    std::fs::copy(Path::new(env!("CARGO_BIN_EXE_emg-train")), &copy).unwrap();
    let output =
        std::process::Command::new(&copy).arg("doctor").current_dir("/").env_remove("VIRTUAL_ENV").output().unwrap();
    assert!(stderr(&output).contains("scripts/setup"), "{}", stderr(&output));
}

#[test]
fn a_model_keeps_its_own_normalization_on_another_cache() {
    let bench = bench("2");
    let sets = ["--set", "data.normalize_emg=train"];
    bench.build(&[&["--config", "tiny.yaml"], &sets[..]].concat());
    bench.ok("emg-train", &fit("run", &[&sets[..], &["--set", "training.num_epochs=2"]].concat()));
    let own = bench.json("emg-train", &["eval", "run", "--json"]);
    // The same test recording in a cache whose training split is another.
    let csv = std::fs::read_to_string(bench.path("data/metadata.csv")).unwrap();
    let swapped = csv.replacen(",train,", ",X,", 1).replacen(",val,", ",train,", 1).replacen(",X,", ",val,", 1);
    std::fs::write(bench.path("data/metadata.csv"), swapped).unwrap();
    let (key, _) = bench.build(&[&["--config", "tiny.yaml"], &sets[..]].concat());
    let other = bench.json("emg-train", &["eval", "run", "--cache", &key, "--json"]);
    assert_ne!(own["cache"], other["cache"]);
    for part in ["loss", "metrics", "mean_predictor"] {
        assert_eq!(own[part], other[part], "{part}");
    }
    // All splits are metadata.csv's, so a seed contradicts nothing.
    let more = ["--cache", &key, "--set", "data.seed=1", "--set", "training.num_epochs=1"];
    bench.ok("emg-train", &fit("again", &[&sets[..], &more].concat()));
}
