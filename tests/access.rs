//! How `emg-train` reaches a cache: mapped, read, or staged to local disk; caches of different history.

mod common;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::Stdio;

use common::{Bench, files, stderr};

const SETS: [&str; 24] = [
    "--set",
    "data.dataset_path=data",
    "--set",
    "data.window_size=200",
    "--set",
    "data.stride=100",
    "--set",
    "data.normalize_emg=recording",
    "--set",
    "data.store=st",
    "--set",
    "model.decoder_hidden_size=8",
    "--set",
    "model.tds_stages=[{in_conv_kernel: 5, in_conv_stride: 4, num_blocks: 1, channels: 2, feature_width: 4, kernel_width: 5}]",
    "--set",
    "training.num_epochs=2",
    "--set",
    "training.batch_size=8",
    "--set",
    "training.warmup_epochs=1",
    "--set",
    "training.device=cpu",
    "--set",
    "training.num_workers=2",
];

fn bench() -> (Bench, String) {
    let bench = Bench::new();
    bench.ok("emg-cache", &["synth", "data", "--recordings", "4", "--seconds", "3"]);
    let (key, _) = bench.build(&SETS);
    (bench, key)
}

fn fit(bench: &Bench, run: &str, more: &[&str]) -> std::process::Output {
    bench.run("emg-train", &[&["fit", "--run", run], &SETS[..], more].concat())
}

fn weights(bench: &Bench, run: &str) -> Vec<u8> {
    std::fs::read(bench.path(run).join("checkpoints/last.safetensors")).unwrap()
}

#[test]
fn rows_are_the_same_however_they_are_reached() {
    let (bench, key) = bench();
    let segment = std::fs::read_dir(bench.path("st/segments")).unwrap().next().unwrap().unwrap().file_name();
    let segment = segment.to_str().unwrap();
    assert!(fit(&bench, "mapped", &[]).status.success());
    assert!(fit(&bench, "read", &["--io", "read"]).status.success());
    let staged = fit(&bench, "staged", &["--stage", "local"]);
    assert!(stderr(&staged).contains("staging 1 segments"), "{}", stderr(&staged));
    let staged = fit(&bench, "staged2", &["--stage", "local", "--io", "read"]);
    assert!(staged.status.success() && !stderr(&staged).contains("staging"), "{}", stderr(&staged));
    for run in ["read", "staged", "staged2"] {
        assert_eq!(weights(&bench, "mapped"), weights(&bench, run), "{run}");
    }

    let user = std::fs::read_dir(bench.path("local")).unwrap().next().unwrap().unwrap().path();
    let local = user.join(segment);

    // What does not match its hash is not staged, and what does not fit is refused or makes room.
    std::fs::remove_dir_all(&local).unwrap();
    let shard = bench.path("st/segments").join(segment).join("emg/c/0/0");
    let bytes = std::fs::read(&shard).unwrap();
    File::options().write(true).open(&shard).unwrap().write_all_at(b"xx", 100).unwrap();
    let refused = fit(&bench, "refused", &["--stage", "local"]);
    assert!(stderr(&refused).contains("block 0 does not match its hash"), "{}", stderr(&refused));
    std::fs::write(&shard, &bytes).unwrap();
    let small = fit(&bench, "small", &["--stage", "local", "--stage-bytes", "1000"]);
    assert!(stderr(&small).contains("--stage-bytes is 1000"), "{}", stderr(&small));
    let old = bench.path("local").join("0".repeat(64));
    std::fs::create_dir(&old).unwrap();
    std::fs::write(old.join("rows"), vec![0; 1 << 20]).unwrap();
    std::fs::write(bench.path("local/mine.txt"), "not staged").unwrap();
    let room =
        (files(&bench.path("st/segments")).iter().map(|(_, bytes)| bytes.len()).sum::<usize>() + 1000).to_string();
    assert!(fit(&bench, "room", &["--stage", "local", "--stage-bytes", &room]).status.success());
    assert!(!old.exists() && bench.path("local/mine.txt").exists());

    // Evaluation takes the same options.
    let eval = |more: &[&str]| bench.ok("emg-train", &[&["eval", "mapped", "--json"], more].concat());
    assert_eq!(eval(&[]), eval(&["--io", "read"]));
    assert_eq!(eval(&[]), eval(&["--stage", "local", "--cache", &key]));
}

/// A copy that was cut short goes on where it was: of the blocks that it has, the store is not asked again.
#[test]
fn staging_goes_on_where_it_was() {
    use emg_pipeline::cache::{Access, Cache, Key, Stage};
    let bench = Bench::new();
    bench.ok("emg-cache", &["synth", "data", "--recordings", "3", "--seconds", "46"]);
    let (key, _) = bench.build(&["--store", "st", "data"]);
    let shard = files(&bench.path("st")).into_iter().find(|(path, _)| path.ends_with("emg/c/0/0")).unwrap();
    assert!(shard.1.len() > 1 << 24, "two blocks");
    let access = || Access { stage: Some(Stage::new(bench.path("local"), 1 << 40, |_, _| ())), ..Access::default() };
    let open = || Cache::open(&bench.path("st"), &Key::parse(&key).unwrap(), &access());
    drop(open().unwrap());
    let staged = files(&bench.path("local")).into_iter().find(|(path, _)| path.ends_with("emg/c/0/0")).unwrap().0;
    assert!(std::fs::read(&staged).unwrap() == shard.1);
    // The copy lost its second block, the store its first.
    File::options().write(true).open(&staged).unwrap().set_len(1 << 24).unwrap();
    let folder = staged.ancestors().nth(4).unwrap();
    std::fs::rename(folder, folder.with_extension("part")).unwrap();
    File::options().write(true).open(&shard.0).unwrap().write_all_at(b"damage", 1000).unwrap();
    drop(open().unwrap());
    assert!(std::fs::read(&staged).unwrap() == shard.1);
    let inside = Access { stage: Some(Stage::new(bench.path("st/segments"), 1 << 40, |_, _| ())), ..Access::default() };
    let refused = Cache::open(&bench.path("st"), &Key::parse(&key).unwrap(), &inside).unwrap_err();
    assert!(refused.to_string().contains("the staging folder is inside the store"), "{refused}");
}

/// A mapping of a file that shrinks kills the process with SIGBUS; reading it does not.
#[test]
fn a_segment_that_shrinks_is_an_error_with_io_read() {
    let (bench, _) = bench();
    let shard = files(&bench.path("st/segments")).into_iter().find(|(path, _)| path.ends_with("emg/c/0/0")).unwrap().0;
    let mut command = bench.command("emg-train");
    command.args(["fit", "--run", "run", "--io", "read"]).args(SETS).args(["--set", "training.num_epochs=5000"]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut said = String::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok) {
        if line.starts_with("epoch 1/") && !said.contains("epoch 1/") {
            File::options().write(true).open(&shard).unwrap().set_len(1000).unwrap();
        }
        said += &line;
    }
    assert_eq!(child.wait().unwrap().code(), Some(1), "{said}");
    assert!(said.contains("is shorter than when it was opened"), "{said}");
}

/// Windows are numbered by recordings, not by where their rows lie.
#[test]
fn training_does_not_depend_on_a_stores_history() {
    let (bench, key) = bench();
    let first = bench.path("data").read_dir().unwrap().map(|entry| entry.unwrap().path());
    let first = first.filter(|path| path.extension().is_some_and(|e| e == "hdf5")).max().unwrap();
    let other = [&SETS[..], &["--store", "st2"]].concat();
    bench.build(&[&other[..], &["--set", "data.split_ratio=[1,0,0]", first.to_str().unwrap()]].concat());
    assert_eq!(bench.build(&other).0, key);
    let count = |store: &str| bench.path(store).join("segments").read_dir().unwrap().count();
    assert_eq!((count("st"), count("st2")), (1, 2));
    assert!(fit(&bench, "a", &["--cache", &key]).status.success());
    assert!(fit(&bench, "b", &["--cache", &key, "--store", "st2"]).status.success());
    // The configuration in a checkpoint names the store; the tensors lie behind it.
    let tensors = |run: &str| {
        let bytes = weights(&bench, run);
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[header..].to_vec()
    };
    assert_eq!(tensors("a"), tensors("b"));
}

/// Half the bytes, and nearly the same training.
#[test]
fn a_float16_cache_trains_like_a_float32_one() {
    let (bench, full_key) = bench();
    assert!(fit(&bench, "full", &[]).status.success());
    let half = ["--set", "data.dtype=float16"];
    let (half_key, _) = bench.build(&[&SETS[..], &half].concat());
    assert!(fit(&bench, "half", &half).status.success());
    let loss = |run: &str| {
        let lines = std::fs::read_to_string(bench.path(run).join("metrics.jsonl")).unwrap();
        let last: serde_json::Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
        last["train_loss"].as_f64().unwrap()
    };
    let (full, half) = (loss("full"), loss("half"));
    assert!(full != half && (full - half).abs() < 1e-2 * full, "{full} {half}");
    // The same rows with the same padding: the shards are half as long.
    let bytes = |key: &str| {
        let info = bench.json("emg-cache", &["info", key, "--store", "st", "--json"]);
        info["segments"][0]["bytes"].as_u64().unwrap()
    };
    let (full, half) = (bytes(&full_key), bytes(&half_key));
    assert!((2 * half).abs_diff(full) < 10_000, "{full} {half}");
}
