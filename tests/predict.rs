//! `emg-train predict` from the command line, against windows run one by one in Python's onnxruntime.

mod common;

use common::{Bench, stderr};
use serde_json::{Value, json};

fn bench(seconds: &str) -> Bench {
    Bench::tiny(&["--recordings", "4", "--seconds", seconds, "--ik-failures", "0.3"])
}

fn fit(bench: &Bench, run: &str, sets: &[&str]) {
    let sets: Vec<_> = sets.iter().chain(&["training.num_epochs=1"]).flat_map(|set| ["--set", set]).collect();
    bench.build(&[&["--config", "tiny.yaml"], sets.as_slice()].concat());
    bench.ok("emg-train", &[&["fit", "--config", "tiny.yaml", "--run", run], sets.as_slice()].concat());
}

/// Every kind of network.
const VARIANTS: [&[&str]; 5] = [
    &[],
    &["model.initial_pose=true", "model.predict_velocity=true"],
    &["data.normalize_emg=train", "model.decoder_type=mlp"],
    &["data.normalize_emg=none", "data.normalize_angles=none", "model.type=lstm", "model.hidden_size=12"],
    &["model.type=neuropose", "data.window_size=640", "data.stride=320"],
];

const FIRST: &str = "data/synth-00000_left.hdf5";

/// Predicts the first recording, to HDF5 and CSV, and has both checked; gives the mean absolute error.
fn check(bench: &Bench, model: &str) -> f64 {
    let report = bench.json("emg-train", &["predict", model, FIRST, "--out", "one.h5", "--json"]);
    bench.ok("emg-train", &["predict", model, FIRST, "--out", "one.csv"]);
    let said = bench.python("check_predict.py", &[model, FIRST, "one.h5", "one.csv"]);
    let numpy: f64 = said.split("mae ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    let ours = report["recordings"][0]["mae_deg"].as_f64().unwrap();
    assert!((ours - numpy).abs() < 1e-4, "{ours} {numpy}");
    ours
}

#[test]
fn predictions_are_those_of_windows_run_one_by_one() {
    let bench = bench("2.1");
    for (i, sets) in VARIANTS.iter().enumerate() {
        let run = format!("run{i}");
        fit(&bench, &run, sets);
        check(&bench, &format!("{run}/model.onnx"));
    }
    // The same run as another file, beside the first.
    let before = std::fs::read(bench.path("run0/model.onnx")).unwrap();
    assert_eq!(bench.ok("emg-train", &["export", "run0", "--length", "777"]).trim(), "run0/model.777.onnx");
    check(&bench, "run0/model.777.onnx");
    assert_eq!(std::fs::read(bench.path("run0/model.onnx")).unwrap(), before);
    // In half precision, every kind of network.
    for i in [0, 2, 3, 4] {
        let (run, half) = (format!("run{i}"), format!("half{i}.onnx"));
        bench.ok("emg-train", &["export", &run, "--dtype", "float16", "--out", &half]);
        let (full, half_error) = (check(&bench, &format!("{run}/model.onnx")), check(&bench, &half));
        assert!((full - half_error).abs() < 0.01 && full != half_error, "{i}: {full} {half_error}");
        let size = |path: &str| std::fs::metadata(bench.path(path)).unwrap().len();
        let share = size(&half) as f64 / size(&format!("{run}/model.onnx")) as f64;
        // Small networks are half nodes and names.
        assert!(share < if i == 4 { 0.51 } else { 0.85 }, "{i}: {share}");
    }
}

/// Every kind of network, and networks of users: with integer kernels, and nearly the same answers.
#[test]
fn models_are_exported_in_8_bit_integers() {
    let bench = bench("2.1");
    for (i, sets) in VARIANTS.iter().enumerate() {
        let run = format!("run{i}");
        fit(&bench, &run, sets);
        // Matrices that interpolate are no weights.
        let rest = if i == 4 { json!({"MatMul": 3}) } else { json!({}) };
        assert_eq!(check_int8(&bench, &run), rest, "{run}");
    }
    let said = bench.json("emg-train", &["export", "run0", "--dtype", "int8", "--calibrate", "3", "--json"]);
    assert_eq!(said["model"].as_str(), Some("run0/model.int8.onnx"));
    assert_eq!([&said["int8"]["calibration_windows"], &said["int8"]["compared_windows"]], [3, 3], "{said}");
    assert_eq!(said["int8"]["split"], "test", "{said}");
    let long = bench.fails("emg-train", 1, &["export", "run0", "--dtype", "int8", "--length", "5000"]);
    assert!(long.contains("no recording of the cache's train split has 5000 rows (one window of the model)"), "{long}");
    let refused = |args: &[&str]| bench.fails("emg-train", 2, &[&["export", "run0"], args].concat());
    assert!(refused(&["--calibrate", "3"]).contains("--calibrate is for --dtype int8"));
    assert!(refused(&["--dtype", "int8", "--streaming"]).contains("--dtype int8 is for whole windows"));
}

/// Exports a run's model in int8, checks it and what it predicts, and compares with float32; gives what stays float32.
fn check_int8(bench: &Bench, run: &str) -> Value {
    let (float32, int8) = (format!("{run}/model.onnx"), format!("{run}/model.int8.onnx"));
    let said = bench.json("emg-train", &["export", run, "--dtype", "int8", "--json"]);
    let [convolutions, products] = [&["Conv"][..], &["Gemm", "MatMul"]].map(|names| {
        let count = |name: &&str| said["int8"]["int8"][*name].as_u64().unwrap_or(0);
        names.iter().map(count).sum::<u64>().to_string()
    });
    let checked = bench.python("check_int8.py", &[&float32, &int8, &convolutions, &products]);
    println!("{run}: {checked} {said}");
    let (full, small) = (check(bench, &float32), check(bench, &int8));
    // Steps that add to the pose before them add errors, too.
    assert!((full - small).abs() < 0.1 * full && full != small, "{run}: {full} {small}");
    let number = |name: &str| said["int8"][name].as_f64().unwrap();
    assert!((number("mae_deg") - number("float32_mae_deg")).abs() < 0.05 * full, "{said}");
    assert!((1e-4..0.05 * full).contains(&number("difference_deg")), "{said}");
    said["int8"]["float32"].clone()
}

/// Where EMG is normalized by recording, each recording is by its own statistics.
#[test]
fn another_amplifier_changes_nothing_where_emg_is_normalized_by_recording() {
    let bench = bench("1");
    fit(&bench, "run", &[]);
    bench.python("scale_emg.py", &[FIRST, "scaled.hdf5", "1000", "-3"]);
    let mae = |recording: &str| {
        let said = bench.json("emg-train", &["predict", "run/model.onnx", recording, "--out", "out.h5", "--json"]);
        said["recordings"][0]["mae_deg"].as_f64().unwrap()
    };
    let (own, scaled) = (mae(FIRST), mae("scaled.hdf5"));
    assert!((own - scaled).abs() < 1e-3, "{own} {scaled}");
    bench.python("check_predict.py", &["run/model.onnx", "scaled.hdf5", "out.h5"]);
}

#[test]
fn tar_archives_and_recordings_of_one_window_are_predicted() {
    let bench = bench("0.1");
    fit(&bench, "run", &[]);
    bench.ok("emg-train", &["predict", "run/model.onnx", FIRST, "--out", "one.h5"]);
    println!("{}", bench.python("check_predict.py", &["run/model.onnx", FIRST, "one.h5"]));
    let tar = std::process::Command::new("tar").args(["cf", "all.tar", "data"]).current_dir(bench.path("")).status();
    assert!(tar.unwrap().success());
    bench.ok("emg-train", &["predict", "run/model.onnx", "all.tar", "--out", "out"]);
    bench.python("check_predict.py", &["run/model.onnx", FIRST, "out/synth-00000_left.hdf5"]);
    // A model whose batch is fixed gets full ones.
    bench.python("edit_model.py", &["run/model.onnx", "fixed.onnx", "batch=3"]);
    bench.ok("emg-train", &["predict", "fixed.onnx", FIRST, "--out", "fixed.h5"]);
    bench.python("check_predict.py", &["run/model.onnx", FIRST, "fixed.h5"]);
}

#[test]
fn a_users_own_model_predicts_whatever_its_axes_are() {
    let bench = Bench::new();
    let sizes = ["--channels", "4", "--joints", "3", "--rate", "200", "--seconds", "8", "--recordings", "4"];
    bench.ok("emg-cache", &[&["synth", "data"], &sizes[..]].concat());
    let config = "
data: {dataset_path: data, emg_channels: 4, joint_angles_channels: 3, window_size: 40, stride: 20,
       normalize_emg: recording, normalize_angles: train, store: st}
model: {input_size: 4, output_size: 3, original_sampling_rate: 200}
training: {num_epochs: 1, batch_size: 8, learning_rate: 0.01, warmup_epochs: 0, num_workers: 0}
";
    std::fs::write(bench.path("own.yaml"), config).unwrap();
    bench.build(&["--config", "own.yaml"]);
    for (name, context) in [("cnn.torchscript", 0), ("tcn.dynamo", 14), ("gru.torchscript", 0), ("mlp.torchscript", 0)]
    {
        let path = format!("{}/tests/golden/models/{name}.onnx", env!("CARGO_MANIFEST_DIR"));
        let context = format!("model.left_context={context}");
        bench.ok("emg-train", &["fit", "--config", "own.yaml", "--run", name, "--model", &path, "--set", &context]);
        check(&bench, &format!("{name}/model.onnx"));
    }
    bench.ok("emg-train", &["export", "cnn.torchscript", "--dtype", "float16", "--out", "half.onnx"]);
    check(&bench, "half.onnx");
    for (run, rest) in
        [("cnn.torchscript", json!({})), ("tcn.dynamo", json!({})), ("gru.torchscript", json!({"GRU": 1}))]
    {
        assert_eq!(check_int8(&bench, run), rest, "{run}");
    }
}

#[test]
fn folders_are_predicted_file_by_file() {
    let bench = bench("0.5");
    fit(&bench, "run", &[]);
    let report = bench
        .json("emg-train", &["predict", "run/model.onnx", "data", "--out", "out/csv", "--format", "csv", "--json"]);
    let list = report["recordings"].as_array().unwrap();
    assert_eq!(list.len(), 4);
    for entry in list {
        assert!(bench.path(entry["out"].as_str().unwrap()).exists(), "{entry}");
        let (rows, predicted) = (entry["rows"].as_u64().unwrap(), entry["predicted_rows"].as_u64().unwrap());
        assert!(rows == 1000 && predicted < rows && entry["started_from_row"] == Value::Null, "{entry}");
    }
    let said = bench.ok("emg-train", &["predict", "run/model.onnx", "data", "--out", "out"]);
    assert!(said.contains("out/synth-00003_left.hdf5") && said.contains(" deg"), "{said}");
    // What was predicted can be predicted again if it is named, but among recordings it is none: neither here nor for
    // emg-cache.
    bench.ok("emg-train", &["predict", "run/model.onnx", "out/synth-00000_left.hdf5", "--out", "again.hdf5"]);
    let (key, _) = bench.build(&["--config", "tiny.yaml"]);
    for _ in 0..2 {
        let output = bench.run("emg-train", &["predict", "run/model.onnx", "data", "--out", "data/predicted"]);
        assert!(output.status.success(), "{}", stderr(&output));
    }
    let (again, said) = bench.build(&["--config", "tiny.yaml"]);
    assert_eq!(key, again);
    assert!(said.matches("left out: ").count() == 4 && said.contains("that emg-train predicted"), "{said}");
}

#[test]
fn recordings_without_angles_can_be_predicted_but_for_tracking_models() {
    let bench = bench("0.5");
    fit(&bench, "run", &[]);
    fit(&bench, "tracking", &["model.initial_pose=true"]);
    bench.python("make_emg_only.py", &[FIRST, "only.hdf5", "failed.hdf5"]);
    bench.ok("emg-train", &["predict", "run/model.onnx", FIRST, "--out", "a.csv"]);
    let report = bench.json("emg-train", &["predict", "run/model.onnx", "only.hdf5", "--out", "b.csv", "--json"]);
    assert_eq!(report["recordings"][0]["mae_deg"], Value::Null);
    assert_eq!(report["recordings"][0]["started_from_row"], Value::Null);
    let read = |name: &str| std::fs::read_to_string(bench.path(name)).unwrap();
    assert_eq!(read("a.csv"), read("b.csv"));
    let message = bench.fails("emg-train", 1, &["predict", "tracking/model.onnx", "only.hdf5", "--out", "c.csv"]);
    assert!(message.contains("only.hdf5: fields: expected joint_angles"), "{message}");
    let message = bench.fails("emg-train", 1, &["predict", "tracking/model.onnx", "failed.hdf5", "--out", "c.csv"]);
    assert!(message.contains("failed.hdf5: expected a row with a pose to start from"), "{message}");
    assert!(!bench.path("c.csv").exists());
    // The first predicted row is 20; from 19 on all fail up to 600, so 18 is nearest.
    bench.python("make_emg_only.py", &[FIRST, "only.hdf5", "gap.hdf5", "19", "600"]);
    let output = bench.run("emg-train", &["predict", "tracking/model.onnx", "gap.hdf5", "--out", "d.h5", "--json"]);
    assert!(stderr(&output).contains("gap.hdf5: the first predicted row has no true pose"), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["recordings"][0]["started_from_row"], 18, "{report}");
}

fn predict<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["predict", "run/model.onnx"], more].concat()
}

#[test]
fn what_cannot_be_predicted_is_refused_by_name() {
    let bench = bench("0.5");
    fit(&bench, "run", &[]);
    bench.ok("emg-cache", &["synth", "short", "--recordings", "1", "--seconds", "0.05"]);
    let short = bench.fails("emg-train", 2, &predict(&["data", "short/synth-00000_left.hdf5", "--out", "out"]));
    assert!(short.contains("would both be written"), "{short}");
    let short = bench.fails("emg-train", 1, &predict(&["short", "--out", "out.h5"]));
    assert!(short.contains("short/synth-00000_left.hdf5: expected at least 200 rows"), "{short}");
    let many = bench.fails("emg-train", 2, &predict(&["data", "--out", "out.h5"]));
    assert!(many.contains("there are 4 recordings: name a folder"), "{many}");
    let itself = bench.fails("emg-train", 2, &predict(&[FIRST, "--out", FIRST]));
    assert!(itself.contains("is the recording itself"), "{itself}");
    std::fs::copy(bench.path("run/model.onnx"), bench.path("model.h5")).unwrap();
    let model = bench.fails("emg-train", 2, &["predict", "model.h5", FIRST, "--out", "model.h5"]);
    assert!(model.contains("is the model itself"), "{model}");
    let odd = bench.fails("emg-train", 2, &predict(&[FIRST, "--out", "out.txt"]));
    assert!(odd.contains("expected .h5, .hdf5 or .csv, or a folder"), "{odd}");
    let nowhere = bench.fails("emg-train", 2, &predict(&[FIRST, "--out", "nowhere/out.h5"]));
    assert!(nowhere.contains("there is no folder nowhere"), "{nowhere}");
    let format = bench.fails("emg-train", 2, &predict(&[FIRST, "--out", "a.csv", "--format", "hdf5"]));
    assert!(format.contains("the extension does not match"), "{format}");
    let of = |model: &str| bench.fails("emg-train", 1, &["predict", model, FIRST, "--out", "out.h5"]);
    bench.ok("emg-train", &["export", "run", "--streaming"]);
    assert!(of("run/stream.onnx").contains("run/stream.onnx: this is a streaming model"), "{}", of("run/stream.onnx"));
    let foreign = format!("{}/tests/golden/models/cnn.torchscript.onnx", env!("CARGO_MANIFEST_DIR"));
    assert!(of(&foreign).contains("but its metadata"), "{}", of(&foreign));
    std::fs::write(bench.path("text.onnx"), "not a model").unwrap();
    assert!(of("text.onnx").contains("text.onnx: "), "{}", of("text.onnx"));
    assert!(of("absent.onnx").contains("absent.onnx: No such file"), "{}", of("absent.onnx"));
    // Metadata that is not the model's.
    for (edit, told) in [
        ("window=150", "metadata says [150, 16] EMG values per window, but its input is emg [batch, 200, 16]"),
        ("window=18446744073709551615", "EMG values per window"),
        ("window=many", "`window` is invalid: many is not a number"),
        ("left_context=0", "metadata says [200, 20] angles per window"),
        ("left_context=200", "is inconsistent"),
        ("emg_layout=channels_first", "metadata says [16, 200] EMG values"),
        ("joints=a,b", "is inconsistent"),
        ("recordings={}", "`recordings` is invalid"),
        ("batch=1073741824", "batch size is fixed at 1073741824 windows"),
    ] {
        bench.python("edit_model.py", &["run/model.onnx", "edited.onnx", edit]);
        let message = of("edited.onnx");
        assert!(message.contains("edited.onnx: ") && message.contains(told), "{edit}: {message}");
    }
    bench.python("edit_model.py", &["run/model.onnx", "nan.onnx", "nan"]);
    assert!(of("nan.onnx").contains("the model's angles of row 20 are not finite"), "{}", of("nan.onnx"));
    assert!(!bench.path("out.h5").exists());
}
