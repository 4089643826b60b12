//! Streaming exports against whole windows, in Python's onnxruntime, through docs/examples/stream.py.

mod common;

use common::Bench;
use emg_pipeline::config::{Config, Dtype, InitialPose, ModelType};
use emg_pipeline::model::{Model, initialize};
use emg_pipeline::step::{Exported, export, export_stream};
use emg_pipeline::units::{Affine, Units};

/// The model's weights, with angles that say something: those of new weights hardly move.
fn weights(model: &Model) -> Vec<f32> {
    let parameters = model.parameters();
    let mut values = initialize(&parameters, 5);
    // emg2pose's networks scale their outputs down.
    let factor = if model.config().architecture().to_string().ends_with("emg2pose") { 8.0 } else { 1.0 };
    let mut at = 0;
    for parameter in &parameters {
        if parameter.name.starts_with("decoder.linear") {
            values[at..at + parameter.elements()].iter_mut().for_each(|value| *value *= factor);
        }
        at += parameter.elements();
    }
    values
}

fn affine(n: usize, mean: f32, divisor: f32) -> Affine {
    Affine { mean: (0..n).map(|i| mean * i as f32 / n as f32).collect(), divisor: vec![divisor; n] }
}

/// Writes the model's whole form and streams of it in these chunks.
fn write(bench: &Bench, name: &str, model: &Model, rows: usize, chunks: &[Option<usize>], emg: Units) {
    let parameters = weights(model);
    let metadata = vec![("left_context".to_owned(), model.left_context().to_string())];
    let angles = if emg == Units::Raw { Units::Raw } else { Units::Fixed(affine(20, 0.5, 0.7)) };
    let mut exported = Exported {
        model,
        parameters: &parameters,
        buffers: &[],
        rows,
        emg,
        train_emg: affine(16, 0.1, 1.3),
        angles,
        dtype: Dtype::Float32,
        metadata,
    };
    std::fs::write(bench.path(&format!("{name}.onnx")), export(&exported).unwrap()).unwrap();
    for chunk in chunks {
        let stream = model.stream(rows, *chunk).unwrap();
        let own = [("chunk", stream.chunk()), ("lag", stream.lag())];
        exported.metadata.truncate(1);
        exported.metadata.extend(own.map(|(key, value)| (key.to_owned(), value.to_string())));
        let path = bench.path(&format!("{name}.{}.stream.onnx", stream.chunk()));
        std::fs::write(path, export_stream(&exported, &stream).unwrap()).unwrap();
    }
}

fn model(kind: ModelType, change: impl Fn(&mut Config)) -> Model {
    let mut config = Config::default();
    config.model.kind = Some(kind);
    change(&mut config);
    Model::new(&config.model)
}

#[test]
fn streams_give_what_whole_windows_give() {
    let bench = Bench::new();
    let recording = || Units::PerRecording;
    let tds = |change: &dyn Fn(&mut Config)| model(ModelType::TdsLstm, change);
    write(&bench, "tds_lstm", &tds(&|_| ()), 500, &[None, Some(4), Some(200)], recording());
    write(&bench, "tds_lstm_long", &tds(&|_| ()), 2003, &[None, Some(64)], Units::Fixed(affine(16, 0.1, 1.3)));
    let tracking = |config: &mut Config| {
        config.model.initial_pose = InitialPose::True;
        config.model.predict_velocity = true;
        config.model.rollout_freq = 130.0;
    };
    write(&bench, "tds_lstm_tracking", &tds(&tracking), 900, &[None, Some(12)], recording());
    write(&bench, "tds_mlp", &model(ModelType::TdsMlp, |_| ()), 600, &[None, Some(100)], Units::Raw);
    // Strides that do not divide kernels, and more steps than features.
    let odd = |config: &mut Config| {
        config.model.tds_stages[0].in_conv_kernel = 7;
        config.model.tds_stages[0].in_conv_stride = 3;
        config.model.tds_stages[1].in_conv_kernel = 4;
        config.model.rollout_freq = 700.0;
    };
    write(&bench, "odd", &tds(&odd), 444, &[None, Some(6)], Units::Raw);
    // A step at every row, by a decoder without memory: what is right beyond the window, whole windows further on say.
    let memoryless = |config: &mut Config| {
        config.model.decoder_state_condition = false;
        config.model.rollout_freq = 2000.0;
    };
    let rows = 172 + 4 * 50 + 1;
    write(&bench, "memoryless", &model(ModelType::TdsMlp, memoryless), rows, &[None, Some(8)], Units::Raw);
    for kind in [
        ModelType::TrackingVemg2pose,
        ModelType::RegressionVemg2pose,
        ModelType::TrackingEmg2pose,
        ModelType::RegressionEmg2pose,
    ] {
        write(&bench, &kind.to_string(), &model(kind, |_| ()), 5790, &[None, Some(400)], Units::Raw);
    }
    println!("{}", bench.python("check_stream.py", &["."]));
}

#[test]
fn what_cannot_be_streamed_is_refused_with_the_reason() {
    let stream = |kind, rows, chunk| model(kind, |_| ()).stream(rows, chunk).unwrap_err().to_string();
    assert!(stream(ModelType::Neuropose, 4000, None).contains("neuropose: it needs the whole window"));
    assert!(stream(ModelType::Lstm, 500, None).contains("lstm: it needs the whole window"));
    assert!(stream(ModelType::TdsLstm, 500, Some(30)).contains("a multiple of 4 rows"));
    assert!(stream(ModelType::TdsLstm, 500, Some(0)).contains("a multiple of 4 rows"));
    assert!(stream(ModelType::TdsLstm, 500, Some(usize::MAX - 3)).contains("up to 1048576"));
    assert!(stream(ModelType::TdsLstm, 190, None).contains("too short to stream"));
    assert!(stream(ModelType::TdsLstm, 100, None).contains("172 rows of left context"));
    assert!(stream(ModelType::TdsLstm, 500, Some(1 << 20)).contains("at most 256"));
    let leaves_out = |config: &mut Config| {
        config.model.tds_stages[0].in_conv_kernel = 3;
        config.model.tds_stages[0].num_blocks = 0;
        config.model.tds_stages[1].in_conv_kernel = 1;
        config.model.tds_stages[1].in_conv_stride = 2;
    };
    let refused = model(ModelType::TdsLstm, leaves_out).stream(500, None);
    assert!(refused.unwrap_err().to_string().contains("leaves out rows"));
}

#[test]
fn exported_streams_run_in_python_and_in_a_browser() {
    let bench = Bench::tiny(&["--recordings", "4", "--seconds", "1"]);
    bench.build(&["--config", "tiny.yaml"]);
    let fit = ["fit", "--config", "tiny.yaml", "--run", "run", "--set", "training.num_epochs=2"];
    bench.ok("emg-train", &fit);
    let tools = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools");
    for (name, more) in
        [("run/stream.chunk32.onnx", &[][..]), ("half.onnx", &["--dtype", "float16", "--out", "half.onnx"])]
    {
        let export = [&["export", "run", "--streaming", "--chunk", "32", "--json"], more].concat();
        let said = bench.json("emg-train", &export);
        assert_eq!((said["model"].as_str(), said["chunk"].as_u64()), (Some(name), Some(32)));
        std::fs::write(bench.path("about.json"), said.to_string()).unwrap();
        println!("{}", bench.python("check_browser_stream.py", &["about.json", tools.to_str().unwrap()]));
    }
    let refused = |args: &[&str]| bench.fails("emg-train", 2, &[&["export", "run"], args].concat());
    assert!(refused(&["--streaming", "--chunk", "30"]).contains("a multiple of 4 rows"));
    assert!(refused(&["--chunk", "32"]).contains("--streaming"));
    assert!(refused(&["--dtype", "int4"]).contains("[possible values: float32, float16, int8]"));
    assert!(refused(&["--out", "."]).contains("expected the path of a file"));
    assert!(refused(&["--out", "/dev/null"]).contains("expected the path of a file"));
    // A link's target is replaced, not the link; other weights lie beside the best.
    std::fs::write(bench.path("target.onnx"), "old").unwrap();
    std::os::unix::fs::symlink("target.onnx", bench.path("link.onnx")).unwrap();
    bench.ok("emg-train", &["export", "run", "--out", "link.onnx"]);
    assert!(bench.path("link.onnx").is_symlink());
    assert_eq!(std::fs::read(bench.path("target.onnx")).unwrap(), std::fs::read(bench.path("run/model.onnx")).unwrap());
    assert_eq!(bench.ok("emg-train", &["export", "run", "--checkpoint", "last"]).trim(), "run/model.last.onnx");
}
