//! What a training leaves to look at: TensorBoard's events, metrics.csv, environment.json, and `emg-train report`.

mod common;

use common::{Bench, stderr};
use serde_json::{Value, json};

fn bench() -> Bench {
    let bench = Bench::tiny(&["--recordings", "4", "--seconds", "2"]);
    bench.build(&["--config", "tiny.yaml"]);
    bench
}

fn fit<'a>(run: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["fit", "--config", "tiny.yaml", "--run", run], more].concat()
}

#[test]
fn tensorboard_loads_the_events_also_of_a_resumed_run() {
    let bench = bench();
    bench.ok("emg-train", &fit("run", &["--set", "training.num_epochs=3"]));
    println!("{}", bench.python("check_tensorboard.py", &["run", "3"]));
    let environment: Value =
        serde_json::from_slice(&std::fs::read(bench.path("run/environment.json")).unwrap()).unwrap();
    assert!(environment["computes_on"].as_str().unwrap().starts_with("CPU, ONNX Runtime"), "{environment}");
    // The last epoch's checkpoint is lost, so that epoch is trained, and told, again.
    bench.ok("emg-train", &fit("two", &["--set", "training.num_epochs=2"]));
    std::fs::copy(bench.path("two/checkpoints/last.safetensors"), bench.path("run/checkpoints/last.safetensors"))
        .unwrap();
    bench.ok("emg-train", &["fit", "--resume", "--run", "run", "--set", "training.num_epochs=4"]);
    println!("{}", bench.python("check_tensorboard.py", &["run", "4"]));
}

#[test]
fn a_closing_summary_says_where_everything_is() {
    let bench = bench();
    let said = bench.ok("emg-train", &fit("run", &[]));
    for piece in [
        "run         run",
        "model       run/model.onnx",
        "tensorboard --logdir run",
        "emg-train report run",
        "best val_loss",
    ] {
        assert!(said.contains(piece), "{piece}: {said}");
    }
    let said = bench.json("emg-train", &fit("other", &["--json", "--set", "training.num_epochs=1"]));
    assert_eq!((said["run"].as_str(), said["epochs"].as_u64()), (Some("other"), Some(1)));
    for path in ["checkpoint", "last_checkpoint", "model", "metrics"] {
        assert!(bench.path(said[path].as_str().unwrap()).exists(), "{path}: {said}");
    }
}

fn check(bench: &Bench, page: &str, wanted: &Value) {
    println!("{}", bench.python("check_report.py", &[page, "page.png", &wanted.to_string()]));
}

#[test]
fn a_report_is_one_page_that_a_browser_shows_without_errors() {
    let bench = bench();
    let name = "a <b>&\"run\"</script>";
    bench.ok("emg-train", &fit(name, &[]));
    let said = bench.json("emg-train", &["report", name, "--json"]);
    let mae = said["runs"][0]["evaluation"]["metrics"]["mae_deg"].as_f64().unwrap();
    let eval = bench.json("emg-train", &["eval", name, "--json"]);
    assert_eq!(eval["metrics"], said["runs"][0]["evaluation"]["metrics"]);
    let key = eval["cache"].as_str().unwrap();
    let texts = [
        name,
        &format!("{mae:.2}°"),
        key,
        "thumb_CMC_FE",
        "proximal",
        "Error by user",
        "user02",
        "FreeMovement",
        "CPU, ONNX Runtime",
    ];
    check(&bench, &format!("{name}/report.html"), &json!({ "curves": 5, "windows": 60, "texts": texts }));
    // Another run beside it, on another split.
    bench.ok("emg-train", &fit("mlp", &["--set", "model.decoder_type=mlp", "--set", "training.num_epochs=2"]));
    assert_eq!(bench.ok("emg-train", &["report", name, "mlp", "--split", "val"]).trim(), "comparison.html");
    let texts = ["2 runs compared", "model.decoder_type", "tds_mlp", "mlp validation"];
    check(&bench, "comparison.html", &json!({ "curves": 5, "windows": 120, "texts": texts }));
}

#[test]
fn a_report_shows_what_there_is_and_says_what_is_missing() {
    let bench = bench();
    bench.ok("emg-train", &fit("run", &["--set", "training.num_epochs=1"]));
    bench.ok("emg-train", &["report", "run", "--no-eval", "--out", "plain.html"]);
    check(&bench, "plain.html", &json!({ "curves": 5, "windows": 0, "texts": ["No evaluation: --no-eval"] }));
    std::fs::remove_dir_all(bench.path("st")).unwrap();
    let output = bench.run("emg-train", &["report", "run", "--out", "gone.html"]);
    assert!(
        output.status.success() && stderr(&output).contains("warning: run: no evaluation: "),
        "{}",
        stderr(&output)
    );
    check(
        &bench,
        "gone.html",
        &json!({ "curves": 5, "windows": 0, "texts": ["No evaluation:", "tds_lstm, 1 epoch in"] }),
    );
    // What was asked for must be possible.
    let message = bench.fails("emg-train", 1, &["report", "run", "--store", "elsewhere"]);
    assert!(message.contains("elsewhere"), "{message}");
    let message = bench.fails("emg-train", 1, &["report", "run", "--checkpoint", "typo"]);
    assert!(message.contains("typo"), "{message}");
    let cut = std::fs::read(bench.path("run/checkpoints/best.safetensors")).unwrap();
    std::fs::write(bench.path("run/checkpoints/best.safetensors"), &cut[..cut.len() / 2]).unwrap();
    let message = bench.fails("emg-train", 1, &["report", "run"]);
    assert!(message.contains("damaged"), "{message}");
    let message = bench.fails("emg-train", 2, &["report", "nothing"]);
    assert!(message.contains("nothing holds no run"), "{message}");
    let message = bench.fails("emg-train", 2, &["report", "run", "--out", "run"]);
    assert!(message.contains("expected the path of a file"), "{message}");
}
