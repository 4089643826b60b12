//! `emg-train fit --model`: a user's own ONNX model from the command line.

mod common;

use common::Bench;

const CONFIG: &str = "
data:
  dataset_path: data
  emg_channels: 4
  joint_angles_channels: 3
  window_size: 40
  stride: 20
  normalize_emg: recording
  normalize_angles: train
  store: st
model:
  input_size: 4
  output_size: 3
  original_sampling_rate: 200
training:
  num_epochs: 3
  batch_size: 8
  learning_rate: 0.01
  warmup_epochs: 0
  num_workers: 0
";

/// A folder with recordings and their cache; the cache's description is in info.json.
fn bench() -> Bench {
    let bench = Bench::new();
    let sizes = ["--channels", "4", "--joints", "3", "--rate", "200", "--seconds", "8", "--recordings", "4"];
    bench.ok("emg-cache", &[&["synth", "data"], &sizes[..]].concat());
    std::fs::write(bench.path("own.yaml"), CONFIG).unwrap();
    let (key, _) = bench.build(&["--config", "own.yaml"]);
    let info = bench.ok("emg-cache", &["info", &key, "--store", "st", "--json"]);
    std::fs::write(bench.path("info.json"), info).unwrap();
    bench
}

fn model(name: &str) -> String {
    format!("{}/tests/golden/models/{name}.onnx", env!("CARGO_MANIFEST_DIR"))
}

fn fit<'a>(model: &'a str, run: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["fit", "--config", "own.yaml", "--run", run, "--model", model], more].concat()
}

/// Validation loss of the first and last epoch.
fn losses(bench: &Bench, run: &str) -> (f64, f64) {
    let text = std::fs::read_to_string(bench.path(run).join("metrics.jsonl")).unwrap();
    let loss = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["val_loss"].as_f64().unwrap();
    (loss(text.lines().next().unwrap()), loss(text.lines().last().unwrap()))
}

/// Weights go with the model that they were trained in, and a run's own copy of the file with them.
#[test]
fn weights_are_used_with_the_model_that_they_belong_to() {
    let bench = bench();
    let short = ["--set", "training.num_epochs=1"];
    // Two exports of one network, and another network.
    for (run, name) in [("a", "causal.torchscript"), ("b", "causal.dynamo"), ("c", "cnn.torchscript")] {
        bench.ok("emg-train", &fit(&model(name), run, &short));
    }
    for other in ["b", "c"] {
        let path = format!("{other}/checkpoints/last.safetensors");
        for args in [&["eval", "a", "--checkpoint", &path][..], &["export", "a", "--checkpoint", &path]] {
            let message = bench.fails("emg-train", 2, args);
            assert!(message.contains("the checkpoint is of another model"), "{message}");
        }
    }
    std::fs::copy(bench.path("b/imported.onnx"), bench.path("a/imported.onnx")).unwrap();
    for args in [
        &["export", "a", "--out", "x.onnx"][..],
        &["eval", "a"],
        &["fit", "--resume", "--run", "a", "--set", "training.num_epochs=2"],
    ] {
        let message = bench.fails("emg-train", 2, args);
        assert!(message.contains("it was trained with another ONNX file"), "{args:?}: {message}");
    }
    assert!(!bench.path("x.onnx").exists());
}

/// SLURM starts a job again with the same command line, also where that names a model.
#[test]
fn a_job_that_is_started_again_resumes_its_own_model() {
    let bench = bench();
    let (model, sets) = (model("causal.torchscript"), ["--set", "training.num_epochs=1"]);
    let args = fit(&model, "a", &[&sets[..], &["--requeue"]].concat());
    bench.ok("emg-train", &args);
    let more: Vec<_> = args.iter().map(|arg| if *arg == sets[1] { "training.num_epochs=2" } else { arg }).collect();
    bench.ok("emg-train", &more);
    let lines = std::fs::read_to_string(bench.path("a/metrics.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 2);
}

#[test]
fn a_users_model_trains_resumes_evaluates_and_keeps_its_names() {
    let bench = bench();
    for (name, more) in [
        ("cnn.torchscript", &[][..]),
        ("cnn.dynamo", &[][..]),
        ("tcn.dynamo", &["--set", "model.left_context=14"]),
        ("gru.torchscript", &[]),
        ("transformer.dynamo", &[]),
    ] {
        let (path, run) = (model(name), format!("run-{name}"));
        bench.ok("emg-train", &fit(&path, &run, more));
        let (first, last) = losses(&bench, &run);
        assert!(last < first, "{name}: {first} to {last}");
        let eval = bench.json("emg-train", &["eval", &run, "--split", "val", "--json"]);
        let best = eval["loss"].as_f64().unwrap();
        assert!(best <= last + 1e-6, "{name}: {eval}");
        std::fs::write(bench.path("eval.json"), eval.to_string()).unwrap();
        let exported = bench.path(&run).join("model.onnx");
        let exported = exported.to_str().unwrap();
        bench.python("check_own_model.py", &[&path, exported, "info.json", "data", "eval.json"]);
    }
    // EMG by the training split's statistics, which the exported model then has inside.
    let train = ["--set", "data.normalize_emg=train"];
    let (key, _) = bench.build(&[&["--config", "own.yaml"], &train[..]].concat());
    std::fs::write(bench.path("train.json"), bench.ok("emg-cache", &["info", &key, "--store", "st", "--json"]))
        .unwrap();
    for name in ["cnn.dynamo", "mlp.torchscript"] {
        let (path, run) = (model(name), format!("train-{name}"));
        bench.ok("emg-train", &fit(&path, &run, &train));
        let eval = bench.json("emg-train", &["eval", &run, "--split", "val", "--json"]);
        std::fs::write(bench.path("eval.json"), eval.to_string()).unwrap();
        let exported = bench.path(&run).join("model.onnx");
        let exported = exported.to_str().unwrap();
        bench.python("check_own_model.py", &[&path, exported, "train.json", "data", "eval.json"]);
    }
    // Two epochs, then a third, are three.
    let path = model("cnn.torchscript");
    bench.ok("emg-train", &fit(&path, "two", &["--set", "training.num_epochs=2", "--set", "training.scheduler=none"]));
    bench.ok("emg-train", &["fit", "--resume", "--run", "two", "--set", "training.num_epochs=3"]);
    bench.ok("emg-train", &fit(&path, "three", &["--set", "training.scheduler=none"]));
    assert_eq!(losses(&bench, "two"), losses(&bench, "three"));
}

/// Fits a golden model, and compares eval with the exported model in Python's onnxruntime.
fn fit_and_check(bench: &Bench, name: &str, run: &str, more: &[&str]) {
    let path = model(name);
    bench.ok("emg-train", &fit(&path, run, more));
    let (first, last) = losses(bench, run);
    assert!(last < first, "{name}: {first} to {last}");
    let eval = bench.json("emg-train", &["eval", run, "--split", "val", "--json"]);
    std::fs::write(bench.path("eval.json"), eval.to_string()).unwrap();
    let exported = bench.path(run).join("model.onnx");
    bench.python("check_own_model.py", &[&path, exported.to_str().unwrap(), "info.json", "data", "eval.json"]);
}

/// Half the size, and nearly the same answers.
#[test]
fn an_own_model_is_exported_with_weights_in_float16() {
    let bench = bench();
    bench.ok("emg-train", &fit(&model("conformer.dynamo"), "run", &["--set", "training.num_epochs=1"]));
    bench.ok("emg-train", &["export", "run", "--dtype", "float16", "--out", "half.onnx"]);
    let size = |path: &str| std::fs::metadata(bench.path(path)).unwrap().len() as f64;
    // Of a small model, half of the file is its nodes.
    assert!(size("half.onnx") < 0.9 * size("run/model.onnx"), "{} of {}", size("half.onnx"), size("run/model.onnx"));
    let error = |path: &str| {
        let predicted =
            bench.json("emg-train", &["predict", path, "data", "--out", path.strip_suffix(".onnx").unwrap(), "--json"]);
        predicted["recordings"][0]["mae_deg"].as_f64().unwrap()
    };
    let [whole, half] = ["run/model.onnx", "half.onnx"].map(error);
    assert!(whole != half && (whole - half).abs() < 1e-2 * whole, "{whole} and {half}");
}

/// Tiny and dead channels with their biases, parts of a tensor, computed biases; products with vectors.
#[test]
fn layers_that_are_hard_to_quantize_keep_what_they_compute() {
    let bench = bench();
    bench.python("make_layers.py", &[]);
    for (name, [convolutions, products]) in
        [("tiny", [3, 0]), ("split", [0, 3]), ("unbiased", [2, 0]), ("vector", [0, 1]), ("scaled", [0, 0])]
    {
        let path = bench.path(&format!("{name}.onnx"));
        let slow = ["--set", "training.num_epochs=1", "--set", "training.learning_rate=1e-12"];
        bench.ok("emg-train", &fit(path.to_str().unwrap(), name, &slow));
        let eval = bench.json("emg-train", &["eval", name, "--split", "val", "--json"]);
        std::fs::write(bench.path("eval.json"), eval.to_string()).unwrap();
        let exported = bench.path(name).join("model.onnx");
        let arguments = [path.to_str().unwrap(), exported.to_str().unwrap(), "info.json", "data", "eval.json"];
        bench.python("check_own_model.py", &arguments);
        let export = ["export", name, "--dtype", "int8", "--json"];
        if convolutions + products == 0 {
            let message = bench.fails("emg-train", 1, &export);
            assert!(message.contains("no linear layer or convolution to quantize"), "{message}");
            continue;
        }
        let said = bench.json("emg-train", &export);
        let int8 = bench.path(name).join("model.int8.onnx");
        let counts = [convolutions, products].map(|count| count.to_string());
        let checked = bench.python("check_int8.py", &[arguments[1], int8.to_str().unwrap(), &counts[0], &counts[1]]);
        println!("{name}: {checked} {said}");
        assert_eq!(said["int8"]["float32"], serde_json::json!({}), "{said}");
        let [difference, mae] = ["difference_deg", "float32_mae_deg"].map(|key| said["int8"][key].as_f64().unwrap());
        assert!(difference < 0.1 * mae, "{said}");
    }
}

/// As the model over all rows of a recording at once.
#[test]
fn causal_convolutions_are_exported_as_streams() {
    let bench = bench();
    bench.python("make_causal.py", &[]);
    let contexts =
        |left: &str, right: &str| [format!("model.left_context={left}"), format!("model.right_context={right}")];
    for (name, [left, right]) in [
        ("padded.onnx", contexts("0", "0")),
        ("padded.onnx", contexts("11", "0")),
        ("chomped.onnx", contexts("0", "0")),
        ("valid.onnx", contexts("13", "0")),
        ("ahead.onnx", contexts("4", "5")),
        ("scaled.onnx", contexts("0", "0")),
        ("differences.onnx", contexts("0", "0")),
        ("residuals.onnx", contexts("0", "5")),
        ("residuals.onnx", contexts("4", "7")),
        ("memoryless.onnx", contexts("0", "0")),
        (&model("tcn.dynamo"), contexts("14", "0")),
        (&model("amplitude.dynamo"), contexts("0", "0")),
    ] {
        let run = format!("{}.{left}.{right}", name.rsplit('/').next().unwrap());
        let path = if name.starts_with('/') { name.to_owned() } else { bench.path(name).to_str().unwrap().to_owned() };
        let fit = fit(&path, &run, &["--set", "training.num_epochs=1", "--set", &left, "--set", &right]);
        bench.ok("emg-train", &fit);
        let export = ["export", &run, "--streaming", "--json"];
        if name.ends_with("amplitude.dynamo.onnx") {
            let message = bench.fails("emg-train", 2, &export);
            assert!(message.contains("its last angles depend on 2 rows that are padded"), "{message}");
            continue;
        }
        let mut streams = Vec::new();
        for chunk in ["1", "7", "64"] {
            let out = format!("{run}/stream.chunk{chunk}.onnx");
            let said = bench.json("emg-train", &[&export[..], &["--chunk", chunk]].concat());
            assert_eq!((said["model"].as_str(), said["chunk"].to_string()), (Some(&*out), chunk.to_owned()), "{said}");
            streams.push(out);
        }
        let half = format!("{run}/half.onnx");
        let said = bench.json("emg-train", &[&export[..], &["--dtype", "float16", "--out", &half]].concat());
        // 20 ms at 200 Hz.
        assert_eq!(said["chunk"], 4, "{said}");
        let whole = format!("{run}/model.onnx");
        let streams: Vec<_> = std::iter::once(&*whole).chain(streams.iter().map(String::as_str)).collect();
        println!("{run}: {}", bench.python("check_causal.py", &streams));
        println!("{run}: {}", bench.python("check_causal.py", &[&whole, &half]));
    }
    let path = bench.path("forecast.onnx");
    let late = ["--set", "training.num_epochs=1", "--set", "model.left_context=13"];
    bench.ok("emg-train", &fit(path.to_str().unwrap(), "forecast", &late));
    let message = bench.fails("emg-train", 2, &["export", "forecast", "--streaming"]);
    assert!(message.contains("its angles are known 13 rows before the rows that they are of"), "{message}");
    for (name, expected) in [
        ("same", "its last angles depend on 2 rows that are padded behind the window"),
        ("residuals", "train with model.right_context: 5"),
        ("last", "it needs the whole window at once"),
        ("cropped", "it pads behind its rows after some of them were cropped"),
        ("bordered", "it pads rows with other numbers than 0"),
        ("placed", "Add_0: it has numbers for each row of the window"),
        ("strided", "Conv_0: it has a stride in time"),
        ("attends", "MatMul_2: it needs the whole window at once"),
        ("centred", "ReduceMean_0: it needs the whole window at once"),
    ] {
        let path = bench.path(&format!("{name}.onnx"));
        bench.ok("emg-train", &fit(path.to_str().unwrap(), name, &["--set", "training.num_epochs=1"]));
        let message = bench.fails("emg-train", 2, &["export", name, "--streaming"]);
        assert!(message.contains(expected), "{name}: {message}");
    }
}

/// Branches take weights from outside, under the names that these have in the exported model.
#[test]
fn branches_keep_the_weights_that_they_take() {
    let bench = bench();
    fit_and_check(&bench, "branches", "run", &[]);
    let error = |path: &str, out: &str| {
        let predicted = bench.json("emg-train", &["predict", path, "data", "--out", out, "--json"]);
        predicted["recordings"][0]["mae_deg"].as_f64().unwrap()
    };
    bench.ok("emg-train", &["export", "run", "--dtype", "float16", "--out", "half.onnx"]);
    let [whole, half] = [error("run/model.onnx", "whole"), error("half.onnx", "half")];
    assert!(whole != half && (whole - half).abs() < 1e-2 * whole, "{whole} and {half}");
}

#[test]
fn refusals_say_why() {
    let bench = bench();
    bench.python("make_refused.py", &[]);
    for (name, more, expected) in [
        ("twice", &[][..], "x is defined more than once"),
        ("silent", &[], "node silent_node (Abs) has no outputs"),
        ("half", &[], "export the model in float32, and set training.precision"),
        ("batch", &[], "tensor token [8, 1, 3] has a row for each of the 8 windows of the batch"),
        ("unknown", &[], "operators that cannot be trained: Unique (Unique_node)"),
        ("depends", &[], "the shape of its output depends on the values of its input"),
        ("merged", &[], "of a batch normalization and also used otherwise"),
        ("pose", &[], "input initial_pose is [any, 7]; expected float32 [batch, 3]"),
        ("statistics", &[], "input emg_std is [any, 7]; expected float32 [batch, 4]"),
        ("mean", &[], "the model has an input emg_mean, but none named emg_std"),
        ("inputs", &[], "the EMG, and perhaps others named initial_pose, or emg_mean and emg_std"),
        ("twice", &["--train", "*", "--freeze", "*"], "x is defined more than once"),
    ] {
        let message = bench.fails("emg-train", 2, &fit(&format!("{name}.onnx"), "run", more));
        assert!(message.contains(expected), "{name}: {message}");
        assert!(!message.contains("Some("), "{message}");
    }
    let message = bench.fails("emg-train", 2, &fit(&model("tracker.dynamo"), "run", &["--set", "model.target=last"]));
    assert!(message.contains("would be the one to predict"), "{message}");
    let message = bench.fails("emg-train", 2, &fit(&model("cnn.dynamo"), "run", &["--train", "*.running_var"]));
    assert!(message.contains("layers.1.running_var, a running statistic"), "{message}");
}

/// Quantizers, simplifiers and converters of others take exported models.
#[test]
fn exported_models_are_quantized_narrowed_and_simplified() {
    let bench = bench();
    for (name, more) in [("gru.torchscript", &[][..]), ("conformer.dynamo", &[]), ("cnn.dynamo", &[])] {
        bench.ok("emg-train", &fit(&model(name), name, &[&["--set", "training.num_epochs=1"], more].concat()));
        let exported = bench.path(name).join("model.onnx");
        println!("{name}: {}", bench.python("check_downstream.py", &[exported.to_str().unwrap()]));
    }
}

#[test]
fn a_second_input_is_the_pose_that_a_window_starts_from() {
    let bench = bench();
    fit_and_check(&bench, "tracker.dynamo", "run", &[]);
    let predicted = bench.json("emg-train", &["predict", "run/model.onnx", "data", "--out", "out", "--json"]);
    assert!(predicted.to_string().contains("mae_deg"), "{predicted}");
}

/// Whatever the EMG is normalized by, and where steps gather windows from rows on the device.
#[test]
fn further_inputs_are_the_statistics_of_each_recording() {
    let bench = bench();
    fit_and_check(&bench, "amplitude.dynamo", "recording", &[]);
    let rotated = ["--set", "data.rotation=1", "--set", "training.num_epochs=3"];
    let resident = [&rotated[..], &["--set", "training.data_residency=device"]].concat();
    bench.ok("emg-train", &fit(&model("amplitude.dynamo"), "rotated", &rotated));
    bench.ok("emg-train", &fit(&model("amplitude.dynamo"), "resident", &resident));
    assert_eq!(losses(&bench, "rotated"), losses(&bench, "resident"));
    for normalize in ["none", "train"] {
        let set = format!("data.normalize_emg={normalize}");
        let (key, _) = bench.build(&["--config", "own.yaml", "--set", &set]);
        let info = bench.ok("emg-cache", &["info", &key, "--store", "st", "--json"]);
        std::fs::write(bench.path("info.json"), info).unwrap();
        fit_and_check(&bench, "amplitude.dynamo", normalize, &["--set", &set]);
    }
}

#[test]
fn a_window_may_have_one_pose() {
    let bench = bench();
    for (target, contexts) in [("last", [39, 0]), ("center", [20, 19])] {
        let set = format!("model.target={target}");
        fit_and_check(&bench, "gru.dynamo", target, &["--set", &set]);
        let predicted =
            bench.json("emg-train", &["predict", &format!("{target}/model.onnx"), "data", "--out", target, "--json"]);
        let file = &predicted["recordings"][0];
        let [rows, done] = ["rows", "predicted_rows"].map(|name| file[name].as_u64().unwrap());
        assert_eq!(rows - done, contexts.iter().sum::<u64>(), "{predicted}");
    }
    let more = ["--set", "model.target=last", "--set", "model.left_context=3"];
    let message = bench.fails("emg-train", 2, &fit(&model("gru.dynamo"), "other", &more));
    assert!(message.contains("0 with a model.target"), "{message}");
    let more = ["--set", "model.target=last"];
    let message = bench.fails("emg-train", 2, &fit(&model("mlp.dynamo"), "other", &more));
    assert!(message.contains("takes one pose for a window, but the model outputs 40 rows"), "{message}");
}

/// Noise and stochastic depth are drawn anew at every step, and left out of evaluation and the exported model.
#[test]
fn random_operators_train_and_are_gone_in_inference() {
    let bench = bench();
    fit_and_check(&bench, "noisy.dynamo", "run", &[]);
    bench.python("check_inference.py", &[bench.path("run/model.onnx").to_str().unwrap()]);
    // A run repeats exactly, and another seed draws other numbers.
    bench.ok("emg-train", &fit(&model("noisy.dynamo"), "again", &[]));
    bench.ok("emg-train", &fit(&model("noisy.dynamo"), "other", &["--set", "training.seed=7"]));
    assert_eq!(losses(&bench, "run"), losses(&bench, "again"));
    assert_ne!(losses(&bench, "run"), losses(&bench, "other"));
}

/// Operators of no table are taken as they are where nothing above them is trained.
#[test]
fn a_spectrogram_of_the_input_needs_no_gradient() {
    let bench = bench();
    fit_and_check(&bench, "spectrogram.dynamo", "run", &["--set", "model.left_context=15"]);
}

#[test]
fn what_the_loss_does_not_reach_is_told_and_left_alone() {
    let bench = bench();
    let path = model("stuck.dynamo");
    let output = bench.run("emg-train", &fit(&path, "run", &["--set", "training.weight_decay=0.5"]));
    let text = common::stderr(&output);
    assert!(output.status.success() && text.contains("the loss does not depend on steps"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("steps") && line.contains("not reached")), "{text}");
    bench.python("check_frozen.py", &[&path, bench.path("run/model.onnx").to_str().unwrap(), "steps"]);
}

#[test]
fn a_gradient_that_is_not_finite_is_named() {
    let bench = bench();
    let message = bench.fails("emg-train", 1, &fit(&model("infinite.dynamo"), "run", &[]));
    assert!(message.contains("the gradient of root is not finite in epoch 1, step"), "{message}");
    let output = bench.run(
        "emg-train",
        &fit(&model("infinite.dynamo"), "skips", &["--set", "training.on_nan=skip", "--set", "training.num_epochs=1"]),
    );
    let text = common::stderr(&output);
    assert!(output.status.success() && text.contains("the gradient of root is not finite, batch skipped"), "{text}");
}

#[test]
fn doctor_shows_what_is_trained_and_checks_gradients() {
    let bench = Bench::new();
    let sizes = ["--set", "data.emg_channels=4", "--set", "model.input_size=4", "--set", "data.window_size=40"];
    let joints = ["--set", "data.joint_angles_channels=3", "--set", "model.output_size=3"];
    let doctor = |name: &str, more: &[&str]| {
        [&["doctor", "--model", &model(name)][..], &sizes, &joints, &["--set", "training.batch_size=4"], more]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let args = doctor("causal.dynamo", &["--check", "--freeze", "qkv.*"]);
    let text = bench.ok("emg-train", &args.iter().map(String::as_str).collect::<Vec<_>>());
    for (name, role) in [("qkv.weight", "frozen by you"), ("mask", "buffer"), ("linear.bias", "trained")] {
        assert!(text.lines().any(|line| line.starts_with(name) && line.contains(role)), "{name}: {text}");
    }
    assert!(text.contains("2 of 2 gradients agree with differences of the loss to 1e-3 (float64)"), "{text}");
    let args = doctor("branches", &["--check"]);
    let text = bench.ok("emg-train", &args.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(text.contains("4 of 4 gradients agree with differences of the loss to 1e-3 (float64)"), "{text}");
    // ONNX Runtime has no convolution in float64.
    for name in ["cnn.torchscript", "amplitude.dynamo"] {
        let args = doctor(name, &["--check", "--json"]);
        let found = bench.json("emg-train", &args.iter().map(String::as_str).collect::<Vec<_>>());
        let check = &found["check"];
        assert!(check["float64"] == false && check["wrong"] == 0, "{name}: {check}");
    }
    let args = doctor("infinite.dynamo", &["--check"]);
    let output = bench.run("emg-train", &args.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("WRONG"));
    let args = doctor("mlp.dynamo", &["--step", "step", "--train", "nothing"]);
    let message = bench.fails("emg-train", 2, &args.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(message.contains("model.train: `nothing` matches no parameter"), "{message}");
}

#[test]
fn frozen_initializers_stay_as_they_were() {
    let bench = bench();
    let path = model("tcn.torchscript");
    bench.ok("emg-train", &fit(&path, "run", &["--set", "model.left_context=14", "--freeze", "layers.*"]));
    let exported = bench.path("run/model.onnx");
    bench.python("check_frozen.py", &[&path, exported.to_str().unwrap(), "layers."]);
    let message = bench.fails("emg-train", 2, &fit(&path, "other", &["--freeze", "nothing"]));
    assert!(message.contains("model.freeze: `nothing` matches no parameter"), "{message}");
}

#[test]
fn models_that_do_not_fit_are_refused_with_the_reason() {
    let bench = bench();
    bench.build(&["--config", "own.yaml", "--set", "data.window_size=60"]);
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    let unknown = format!("{golden}/unknown.onnx");
    for (path, more, expected) in [
        ("nowhere.onnx".to_owned(), &[][..], "nowhere.onnx"),
        (format!("{golden}/models/losses.json"), &[], "not an ONNX model"),
        (unknown, &["--set", "model.emg_layout=channels_first"], "the model has no parameters to train"),
        (model("transformer.dynamo"), &["--set", "data.window_size=60"], "windows of 40 rows"),
        (model("mlp.dynamo"), &["--set", "model.emg_layout=channels_first"], "expected 4 channels"),
        (model("mlp.dynamo"), &["--set", "model.left_context=40"], "too short"),
        (model("tcn.dynamo"), &["--set", "model.angles_layout=channels_last"], "expected [batch, rows, 3]"),
        (model("gru.dynamo"), &["--set", "training.batch_size=0"], "at least 1"),
    ] {
        let message = bench.fails("emg-train", 2, &fit(&path, "run", more));
        assert!(message.contains(expected), "{path}: {message}");
        assert!(!bench.path("run").exists(), "{path}");
    }
}

#[test]
fn doctor_shows_what_a_training_step_costs() {
    let bench = Bench::new();
    let path = model("transformer.dynamo");
    let sizes = ["--set", "data.emg_channels=4", "--set", "model.input_size=4", "--set", "data.window_size=40"];
    let joints = ["--set", "data.joint_angles_channels=3", "--set", "model.output_size=3"];
    let own = bench.json("emg-train", &[&["doctor", "--json", "--model", &path], &sizes[..], &joints[..]].concat());
    assert!(own["parameters"].as_u64().unwrap() > 4000 && own["nodes"].as_u64().unwrap() > 100, "{own}");
    let small = ["--set", "training.batch_size=8", "--set", "data.window_size=2590"];
    let text = bench.ok("emg-train", &[&["doctor", "--model", "tracking_vemg2pose"], &small[..]].concat());
    assert!(text.contains("parameters 5970068") && text.contains("8 x 2590 rows"), "{text}");
    // A window that does not fit is wrong usage, not a failure at work.
    let short =
        bench.fails("emg-train", 2, &["doctor", "--model", "tracking_vemg2pose", "--set", "data.window_size=100"]);
    assert!(short.contains("a window of 100 rows is too short"), "{short}");
}
