//! Training that is killed, interrupted, out of disk, started from weights: nothing is lost, and it ends the same.

mod common;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Bench, checkpoint, stderr, tensors};
use emg_pipeline::random::Random;

fn bench() -> Bench {
    let bench = Bench::tiny(&["--recordings", "4", "--seconds", "3"]);
    bench.build(&["--config", "tiny.yaml"]);
    bench
}

fn fit<'a>(run: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["fit", "--config", "tiny.yaml", "--run", run], more].concat()
}

/// Kills at random moments of a run, from the start of the process on, each time going on from what was saved. EMG_KILLS
/// says how often. In turns: plain, and with all that has a state or an order of its own.
#[test]
fn killed_at_random_moments_it_ends_with_the_same_weights() {
    let kills: u64 = std::env::var("EMG_KILLS").map_or(50, |text| text.parse().unwrap());
    let bench = bench();
    let common = ["training.ema=0.9", "logging.save_every_steps=3", "training.num_epochs=6", "logging.save_every=2"];
    let more = [
        "data.shuffle=block",
        "training.gradient_accumulation_steps=4",
        "training.persistent_workers=false",
        "training.schedule_per=step",
        "logging.save_best_only=false",
    ];
    let kinds = [common.to_vec(), [&common[..], &more].concat()];
    let kinds = kinds.map(|sets| sets.into_iter().flat_map(|set| ["--set", set]).collect::<Vec<_>>());
    let start = Instant::now();
    for (i, sets) in kinds.iter().enumerate() {
        bench.ok("emg-train", &fit(["whole0", "whole1"][i], sets));
    }
    let whole = start.elapsed() / 2;
    let (mut killed, mut resumed, mut round) = (0, 0, 0);
    while killed < kills {
        round += 1;
        assert!(round < 20 * kills, "runs end before they are killed");
        let (run, kind) = (format!("killed{round}"), (round % 2) as usize);
        let mut random = Random::new(&[round]);
        // Patience grows, so that every run ends once.
        for attempt in 0.. {
            let begun = bench.path(&run).join("config.yaml").exists();
            let args = if begun { [&kinds[kind][..], &["--resume"]].concat() } else { kinds[kind].clone() };
            resumed += u64::from(begun);
            let mut command = bench.command("emg-train");
            let mut child = command.args(fit(&run, &args)).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_micros(random.up_to(whole.as_micros() as u64 * (attempt + 3) / 3)));
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "{run}: {status}");
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            killed += 1;
        }
        let whole = ["whole0", "whole1"][kind];
        for name in ["best", "last"] {
            assert_eq!(checkpoint(&bench, whole, name), checkpoint(&bench, &run, name), "{run} {name}");
        }
        assert_eq!(metrics(&bench, whole), metrics(&bench, &run), "{run}");
        assert!(bench.path(&run).join("model.onnx").exists());
        std::fs::remove_dir_all(bench.path(&run)).unwrap();
    }
    assert!(resumed * 3 > kills, "only {resumed} of {kills} were resumed");
}

/// Epochs, without how long they took.
fn metrics(bench: &Bench, run: &str) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(bench.path(run).join("metrics.jsonl")).unwrap();
    let record = |line: &str| {
        let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
        let fields = value.as_object_mut().unwrap();
        fields.retain(|name, _| !name.ends_with("_seconds"));
        value
    };
    text.lines().map(record).collect()
}

#[test]
fn a_full_disk_costs_checkpoints_but_not_the_run() {
    let bench = bench();
    // The first checkpoint, of 0.3 MB, fits; then files may not grow beyond what an earlier run's last one is.
    bench.ok("emg-train", &fit("a", &["--set", "training.num_epochs=2"]));
    let before = checkpoint(&bench, "a", "last");
    let more = ["--resume", "--set", "training.num_epochs=4"];
    let limited = |bytes: u64| {
        let mut command = bench.command("emg-train");
        command.args(fit("a", &more));
        // SAFETY: both calls are async-signal-safe and touch nothing but this child's limits.
        unsafe {
            command.pre_exec(move || {
                libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
                libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit);
                Ok(())
            });
        }
        command.output().unwrap()
    };
    let output = limited(before.len() as u64 / 2);
    let message = stderr(&output);
    // It trained to the end, warned each time, then said that the last checkpoint is not on disk.
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("warning: cannot save the checkpoint last, training continues"), "{message}");
    assert!(message.contains("epoch 4/4 lr"), "{message}");
    assert!(message.contains("error: ") && message.contains(".safetensors"), "{message}");
    assert_eq!(checkpoint(&bench, "a", "last"), before);
    let left: Vec<_> =
        std::fs::read_dir(bench.path("a/checkpoints")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left.len(), 3, "best, last and lock: {left:?}");
    // Lines of the epochs since are there all the same: the limit is one of each file's size.
    assert_eq!(metrics(&bench, "a").len(), 4);
    // With room again it goes on from there, and ends as a run without trouble.
    bench.ok("emg-train", &fit("a", &more));
    bench.ok("emg-train", &fit("b", &["--set", "training.num_epochs=2"]));
    bench.ok("emg-train", &fit("b", &more));
    assert_eq!(tensors(&checkpoint(&bench, "a", "last")), tensors(&checkpoint(&bench, "b", "last")));
}

#[test]
fn resuming_may_change_where_things_go_and_nothing_of_the_training() {
    let bench = bench();
    bench.ok("emg-train", &fit("a", &["--set", "training.num_epochs=2"]));
    for (set, key) in [
        ("training.batch_size=4", "training.batch_size"),
        ("training.learning_rate=0.1", "training.learning_rate"),
        ("data.jitter=false", "data.jitter"),
        ("model.dropout=0.1", "model.dropout"),
        ("data.shuffle=block", "data.shuffle"),
    ] {
        let message = bench.fails("emg-train", 2, &fit("a", &["--resume", "--set", set]));
        assert!(message.contains(&format!("{key} cannot change")), "{set}: {message}");
    }
    let change = [
        "--resume",
        "--set",
        "training.num_epochs=3",
        "--set",
        "training.patience=7",
        "--set",
        "training.num_workers=1",
        "--set",
        "training.prefetch_factor=4",
        "--set",
        "logging.monitor=val_mae",
        "--set",
        "logging.checkpoint_dir=elsewhere",
        "--set",
        "logging.log_dir=logs",
        "--set",
        "logging.save_every_steps=1",
    ];
    let output = bench.ok("emg-train", &fit("a", &change));
    // What was best by loss is no rival to what is best by error.
    assert!(output.contains("best val_mae") && output.contains("in 3 epochs"), "{output}");
    assert!(bench.path("elsewhere/best.safetensors").exists() && bench.path("elsewhere/last.safetensors").exists());
    assert_eq!(std::fs::read_to_string(bench.path("logs/metrics.jsonl")).unwrap().lines().count(), 1);
    bench.ok("emg-train", &["eval", "a", "--checkpoint", "last"]);
    bench.ok("emg-train", &fit("b", &["--set", "training.num_epochs=2"]));
    bench.ok("emg-train", &fit("b", &["--resume", "--set", "training.num_epochs=3"]));
    let moved = std::fs::read(bench.path("elsewhere/last.safetensors")).unwrap();
    assert_eq!(tensors(&moved), tensors(&checkpoint(&bench, "b", "last")));
}

#[test]
fn folders_of_another_run_and_edited_configurations_are_refused() {
    let bench = bench();
    let shared =
        ["--set", "logging.checkpoint_dir=ck", "--set", "logging.log_dir=logs", "--set", "training.num_epochs=1"];
    bench.ok("emg-train", &fit("a", &shared));
    let before = std::fs::read(bench.path("ck/last.safetensors")).unwrap();
    let message = bench.fails("emg-train", 2, &fit("b", &shared));
    assert!(message.contains("logging.checkpoint_dir") && message.contains("another run's results"), "{message}");
    let message = bench.fails("emg-train", 2, &fit("b", &shared[2..]));
    assert!(message.contains("logging.log_dir"), "{message}");
    assert_eq!(std::fs::read(bench.path("ck/last.safetensors")).unwrap(), before);
    assert_eq!(std::fs::read_to_string(bench.path("logs/metrics.jsonl")).unwrap().lines().count(), 1);
    // From another folder they are the same.
    let output = bench
        .command("emg-train")
        .args(["eval", bench.path("a").to_str().unwrap()])
        .current_dir(bench.path("data"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));

    // What a run was trained with stands in its checkpoints, whatever config.yaml says now.
    let path = bench.path("a/config.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let edited = text.replace("learning_rate: 0.005", "learning_rate: 0.5");
    assert_ne!(text, edited);
    std::fs::write(&path, edited).unwrap();
    let resume = ["fit", "--run", "a", "--resume", "--set", "training.num_epochs=2"];
    let message = bench.fails("emg-train", 2, &resume);
    assert!(message.contains("training.learning_rate cannot change"), "{message}");
    std::fs::write(&path, text).unwrap();
    bench.ok("emg-train", &resume);
}

#[test]
fn a_run_starts_from_another_ones_weights() {
    let bench = bench();
    let sets = ["--set", "training.num_epochs=6", "--set", "training.ema=0.8"];
    bench.ok("emg-train", &fit("a", &sets));
    let best = bench.path("a/checkpoints/best.safetensors");
    // At a learning rate of almost nothing, what it starts from is what it evaluates.
    let init = ["--init", best.to_str().unwrap(), "--set", "training.learning_rate=1e-12"];
    bench.ok("emg-train", &fit("b", &[&init[..], &["--set", "training.num_epochs=1"]].concat()));
    let loss =
        |run: &str| bench.json("emg-train", &["eval", run, "--split", "val", "--json"])["loss"].as_f64().unwrap();
    assert!((loss("a") - loss("b")).abs() < 1e-5, "{} {}", loss("a"), loss("b"));

    let message =
        bench.fails("emg-train", 2, &fit("c", &[&init[..2], &["--set", "model.decoder_hidden_size=8"]].concat()));
    assert!(message.contains("--init: parameter decoder.lstm.weight_ih_l0"), "{message}");
    let message = bench.fails("emg-train", 2, &fit("c", &[&init[..2], &["--set", "model.type=lstm"]].concat()));
    assert!(message.contains("the checkpoint is from model type tds_lstm"), "{message}");
    let message = bench.fails("emg-train", 1, &fit("c", &["--init", "tiny.yaml"]));
    assert!(message.contains("tiny.yaml: damaged"), "{message}");
    assert!(!bench.path("c").exists());
    let other = ["--set", "data.normalize_emg=train"];
    bench.build(&[&["--config", "tiny.yaml"], &other[..]].concat());
    let more = [&init[..], &other, &["--set", "training.num_epochs=1"]].concat();
    let output = bench.run("emg-train", &fit("c", &more));
    assert!(
        stderr(&output).contains(
            "trained with EMG normalized by recording, angles by train; this run uses EMG normalized by train"
        ),
        "{}",
        stderr(&output)
    );
}

/// Names, shapes and order as published; tests/golden/emg2pose_names.json was made from replicas of emg2pose's modules
/// whose outputs agree with our networks' under this mapping.
#[test]
fn published_checkpoints_become_runs() {
    let bench = bench();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = root.join("tests/golden/emg2pose_names.json");
    let import = |args: &[&str]| {
        let mut command = std::process::Command::new("python3");
        command.arg(root.join("scripts/import-emg2pose")).args(args).current_dir(bench.path("")).output().unwrap()
    };
    for preset in
        ["tracking_vemg2pose", "regression_vemg2pose", "tracking_emg2pose", "regression_emg2pose", "neuropose"]
    {
        bench.python("make_emg2pose_checkpoint.py", &[names.to_str().unwrap(), preset, "p.ckpt", "p.safetensors"]);
        let output = import(&["p.ckpt", preset]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(String::from_utf8_lossy(&output.stdout).starts_with(preset));
        let file = std::fs::read(bench.path("p.safetensors")).unwrap();
        let expected = safetensors::SafeTensors::deserialize(&file).unwrap();
        let found = tensors(&checkpoint(&bench, preset, "best"));
        let config = emg_pipeline::config::load(Some(preset), &[]).unwrap().config;
        let model = emg_pipeline::model::Model::new(&config.model);
        for (vector, wanted) in [("parameters", model.parameters()), ("buffers", model.buffers())] {
            let values: Vec<u8> = wanted
                .iter()
                .flat_map(|parameter| {
                    let tensor = expected.tensor(&parameter.name).unwrap();
                    assert_eq!(tensor.shape(), parameter.shape, "{preset} {}", parameter.name);
                    tensor.data().to_vec()
                })
                .collect();
            let found = found.iter().find(|(name, _)| name == vector).map_or(&[][..], |(_, bytes)| bytes);
            assert!(values == found, "{preset}: {vector}");
        }
        std::fs::remove_file(bench.path("p.ckpt")).unwrap();
    }

    // Which of two networks of the same shapes it is, only the settings tell.
    let make = [names.to_str().unwrap(), "tracking_emg2pose", "p.ckpt", "p.safetensors"];
    bench.python("make_emg2pose_checkpoint.py", &[&make[..], &["--no-settings"]].concat());
    let output = import(&["p.ckpt", "run"]);
    assert!(stderr(&output).contains("name it with --preset") && !bench.path("run").exists(), "{}", stderr(&output));
    assert!(stderr(&import(&["p.ckpt", "run", "--preset", "neuropose"])).contains("the checkpoint has no"));
    // What it does tell is not overruled.
    bench.python("make_emg2pose_checkpoint.py", &make);
    let output = import(&["p.ckpt", "run", "--preset", "regression_emg2pose"]);
    assert!(stderr(&output).contains("expected regression_emg2pose, found tracking_emg2pose"), "{}", stderr(&output));
    // Neither another shape nor bytes that are missing or damaged pass.
    let json = std::fs::read_to_string(&names).unwrap();
    let turned = json
        .replace("mlp.0.weight\", \"decoder.layers.0.linear.weight\", [512, 84]", "mlp.0.weight\", \"x\", [84, 512]");
    assert_ne!(json, turned);
    std::fs::write(bench.path("turned.json"), turned).unwrap();
    bench.python("make_emg2pose_checkpoint.py", &["turned.json", "tracking_emg2pose", "t.ckpt", "t.safetensors"]);
    let output = import(&["t.ckpt", "run"]);
    assert!(stderr(&output).contains("expected the shape [512, 84], found [84, 512]"), "{}", stderr(&output));
    let mut bytes = std::fs::read(bench.path("p.ckpt")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(bench.path("d.ckpt"), bytes).unwrap();
    let output = import(&["d.ckpt", "run"]);
    assert!(
        stderr(&output).starts_with("error: ") && stderr(&output).contains("cannot be read"),
        "{}",
        stderr(&output)
    );
    bench.python("make_emg2pose_checkpoint.py", &[&make[..], &["--no-settings"]].concat());
    assert!(stderr(&import(&["tiny.yaml", "run"])).contains("not a checkpoint that PyTorch"));
    assert!(import(&["p.ckpt", "run", "--preset", "regression_emg2pose"]).status.success());
    assert!(stderr(&import(&["p.ckpt", "run", "--preset", "neuropose"])).contains("holds a run already"));

    // What came out evaluates, exports and starts training.
    let sets = ["--set", "data.window_size=2390", "--set", "data.stride=2390", "--set", "data.eval_window=2390"];
    let window = [&sets[..], &["--set", "data.eval_stride=2390", "--set", "data.dataset_path=data"]].concat();
    let config = [&["--config", "regression_emg2pose", "--store", "st"], &window[..]].concat();
    let (key, _) = bench.build(&config);
    let message = bench.fails("emg-train", 2, &["eval", "run", "--store", "st"]);
    assert!(message.contains("--cache KEY"), "{message}");
    let evaluation = bench.json("emg-train", &["eval", "run", "--store", "st", "--cache", &key, "--json"]);
    assert!(evaluation["metrics"]["mae_deg"].as_f64().unwrap().is_finite());
    bench.ok("emg-train", &["export", "run", "--store", "st", "--cache", &key]);
    assert!(bench.fails("emg-train", 2, &["fit", "--run", "run", "--resume"]).contains("--init"));
    let fit = ["--run", "tuned", "--init", "run/checkpoints/best.safetensors", "--set", "training.num_epochs=1"];
    bench.ok("emg-train", &[&["fit"], &config[..], &fit, &["--set", "training.batch_size=2"]].concat());
}
