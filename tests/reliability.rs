//! What labs have: full disks, odd file systems, other users and clocks, damaged files, hostile names.

mod common;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use common::{Bench, checkpoint, files, stderr, tensors};
use emg_pipeline::random::Random;
use emg_pipeline::train::Checkpoint;
use serde_json::Value;

const BUILD: [&str; 2] = ["--config", "tiny.yaml"];

fn bench() -> Bench {
    let bench = Bench::tiny(&["--recordings", "4", "--seconds", "3"]);
    bench.build(&BUILD);
    bench
}

fn fit<'a>(run: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["fit", "--config", "tiny.yaml", "--run", run], more].concat()
}

/// tests/c/shim.c, compiled once.
fn shim() -> &'static Path {
    static SHIM: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = SHIM.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shim.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/shim.c");
        let compiled =
            Command::new("gcc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&path).arg(source).arg("-ldl").status();
        assert!(compiled.unwrap().success());
        (folder, path)
    });
    path
}

/// Runs a program whose system calls fail as these variables say.
fn shimmed(bench: &Bench, program: &str, args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = bench.command(program);
    command.args(args).env("LD_PRELOAD", shim()).envs(variables.iter().copied());
    command.output().unwrap()
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 16], at).unwrap();
}

/// System calls of commands fail one by one, or the process is killed there; what that leaves is whole. EMG_FAULTS=all tries
/// all of them, which takes an hour.
#[test]
fn any_system_call_may_fail() {
    let bench = Bench::new();
    let mut args = vec![env!("CARGO_BIN_EXE_emg-cache"), env!("CARGO_BIN_EXE_emg-train")];
    if std::env::var_os("EMG_FAULTS").is_none() {
        args.extend(["--sample", "360"]);
    }
    println!("{}", bench.python("check_faults.py", &args));
}

#[test]
fn a_checkpoint_whose_close_fails_does_not_replace_the_good_one() {
    let bench = bench();
    bench.ok("emg-train", &fit("a", &["--set", "training.num_epochs=1"]));
    let before = checkpoint(&bench, "a", "last");
    let output = shimmed(&bench, "emg-train", &fit("a", &["--resume"]), &[("SHIM_CLOSE", ".last.safetensors")]);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("cannot save the checkpoint last") && message.contains("No space left"), "{message}");
    assert_eq!(checkpoint(&bench, "a", "last"), before);
    // A temporary file that a killed process left goes with the next run.
    let left = bench.path("a/checkpoints/.last.safetensors.0123456789abcdef");
    fs::write(&left, "half").unwrap();
    bench.ok("emg-train", &fit("a", &["--resume"]));
    assert!(!left.exists());
    for (args, file) in [
        (&["report", "a", "--no-eval", "--out", "r.html"][..], "r.html"),
        (&["export", "a", "--out", "m.onnx"], "m.onnx"),
        (&["predict", "a/model.onnx", "data/synth-00000_left.hdf5", "--out", "p.h5"], "p.h5"),
        (&["predict", "a/model.onnx", "data/synth-00000_left.hdf5", "--out", "p.csv"], "p.csv"),
    ] {
        bench.ok("emg-train", args);
        let old = fs::read(bench.path(file)).unwrap();
        let output = shimmed(&bench, "emg-train", args, &[("SHIM_CLOSE", file)]);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(file) && fs::read(bench.path(file)).unwrap() == old, "{args:?}");
    }
}

#[test]
fn every_flipped_bit_of_a_checkpoint_is_found() {
    let bench = bench();
    bench.ok("emg-train", &fit("a", &["--set", "training.num_epochs=1"]));
    let path = bench.path("a/checkpoints/best.safetensors");
    let whole = fs::read(&path).unwrap();
    Checkpoint::parse(&path, &whole).unwrap();
    let mut random = Random::new(&[1]);
    // The header, where the digest is, more closely than tensors.
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) + 8;
    for i in 0..3000 {
        let bit = random.up_to(if i % 2 == 0 { 8 * header } else { 8 * whole.len() as u64 } - 1) as usize;
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Checkpoint::parse(&path, &damaged).is_err(), "bit {bit}");
    }
    for length in (0..whole.len()).step_by(997) {
        assert!(Checkpoint::parse(&path, &whole[..length]).is_err(), "length {length}");
    }
}

#[test]
fn damaged_models_and_predictions_are_refused() {
    let bench = bench();
    bench.ok("emg-train", &fit("a", &["--set", "training.num_epochs=1"]));
    let predict = |model: &str, from: &str| bench.run("emg-train", &["predict", model, from, "--out", "out.h5"]);
    let recording = "data/synth-00000_left.hdf5";
    assert!(predict("a/model.onnx", recording).status.success());
    fs::rename(bench.path("out.h5"), bench.path("p.h5")).unwrap();
    assert!(predict("a/model.onnx", "p.h5").status.success());
    let mut random = Random::new(&[2]);
    for (file, path) in [("m.onnx", "a/model.onnx"), ("q.h5", "p.h5")] {
        for _ in 0..8 {
            fs::copy(bench.path(path), bench.path(file)).unwrap();
            let length = fs::metadata(bench.path(file)).unwrap().len();
            // Of the prediction, the second half is rows.
            flip(&bench.path(file), length / 2 + random.up_to(length / 4));
            let output = if file == "m.onnx" { predict(file, recording) } else { predict("a/model.onnx", file) };
            assert_eq!(output.status.code(), Some(1), "{file}: {}", stderr(&output));
            assert!(stderr(&output).contains(file), "{}", stderr(&output));
        }
    }
    // What another program wrote anew is used as it is: here, a byte more of metadata.
    let mut changed = fs::read(bench.path("a/model.onnx")).unwrap();
    changed.extend([0x72, 0x06, 0x0a, 0x01, b'k', 0x12, 0x01, b'v']);
    fs::write(bench.path("m.onnx"), changed).unwrap();
    assert!(predict("m.onnx", recording).status.success());
}

#[test]
fn a_run_goes_on_from_the_newest_whole_checkpoint() {
    let bench = bench();
    let keep = ["--set", "logging.save_best_only=false", "--set", "logging.save_every=1"];
    bench.ok("emg-train", &fit("whole", &keep));
    let first = [&keep[..], &["--set", "training.num_epochs=2"]].concat();
    bench.ok("emg-train", &fit("a", &first));
    let best = bench.path("a/checkpoints/best.safetensors");
    for name in ["last", "best"] {
        let path = bench.path(&format!("a/checkpoints/{name}.safetensors"));
        flip(&path, fs::metadata(&path).unwrap().len() - 100);
    }
    let broken = fs::read(&best).unwrap();
    let output = bench.run("emg-train", &fit("a", &[&keep[..], &["--resume"]].concat()));
    let message = stderr(&output);
    assert!(output.status.success(), "{message}");
    assert!(message.contains("last.safetensors: damaged") && message.contains("epoch_00002.safetensors"), "{message}");
    assert!(message.contains("best.safetensors: damaged") && message.contains("takes its place"), "{message}");
    assert_eq!(tensors(&checkpoint(&bench, "a", "last")), tensors(&checkpoint(&bench, "whole", "last")));
    assert!(fs::read(&best).unwrap() != broken);
    // Without a whole one there is nothing to go on from.
    for entry in fs::read_dir(bench.path("a/checkpoints")).unwrap().flatten() {
        fs::write(entry.path(), "nothing").unwrap();
    }
    assert!(bench.fails("emg-train", 1, &fit("a", &["--resume"])).contains("last.safetensors: damaged"));
}

#[test]
fn stores_work_on_file_systems_that_lack_things() {
    let bench = bench();
    let whole = fs::read_dir(bench.path("st/caches")).unwrap().next().unwrap().unwrap().file_name();
    let lacks = [
        ("locks", vec![("SHIM_FLOCK", "38")]),
        ("a lock daemon", vec![("SHIM_FLOCK", "37")]),
        ("hard links", vec![("SHIM_LINK", "1")]),
        ("syncing of folders", vec![("SHIM_FSYNC_DIR", "22")]),
        ("mapping", vec![("SHIM_MMAP", "19")]),
        ("all of it", vec![("SHIM_FLOCK", "95"), ("SHIM_LINK", "95"), ("SHIM_FSYNC_DIR", "22"), ("SHIM_MMAP", "19")]),
    ];
    bench.ok("emg-train", &fit("whole", &[]));
    for (i, (what, variables)) in lacks.iter().enumerate() {
        let (store, run) = (format!("st{i}"), format!("run{i}"));
        let built = shimmed(&bench, "emg-cache", &["build", "--config", "tiny.yaml", "--store", &store], variables);
        assert!(built.status.success(), "{what}: {}", stderr(&built));
        assert!(bench.path(&store).join("caches").join(&whole).exists(), "{what}");
        for args in [&["verify", "--store", &store][..], &["gc", "--store", &store]] {
            assert!(shimmed(&bench, "emg-cache", args, variables).status.success(), "{what}: {args:?}");
        }
        let output = shimmed(&bench, "emg-train", &fit(&run, &["--store", &store]), variables);
        assert!(output.status.success(), "{what}: {}", stderr(&output));
        let warned = stderr(&output).contains("this file system has no locks");
        assert_eq!(warned, variables.iter().any(|(name, _)| *name == "SHIM_FLOCK"), "{}", stderr(&output));
        let states = [checkpoint(&bench, "whole", "last"), checkpoint(&bench, &run, "last")].map(|file| tensors(&file));
        assert!(states[0] == states[1], "{what}");
    }
}

/// An ext4 image, mounted at `volume`; `None` where that is not allowed.
struct Volume(PathBuf);

impl Volume {
    fn new(bench: &Bench, mib: u32) -> Option<Self> {
        let script =
            format!("truncate -s {mib}M image && mkfs.ext4 -q image && mkdir volume && mount -o loop image volume");
        let made = Command::new("sh").args(["-c", &script]).current_dir(bench.path("")).output().unwrap();
        made.status.success().then(|| Self(bench.path("volume")))
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_volume_that_was_just_made_takes_a_store_until_it_is_full() {
    let bench = bench();
    fs::create_dir_all(bench.path("new/lost+found")).unwrap();
    bench.build(&["--config", "tiny.yaml", "--store", "new"]);
    let Some(_volume) = Volume::new(&bench, 16) else {
        println!("no image can be mounted here");
        return;
    };
    let (key, _) = bench.build(&["--config", "tiny.yaml", "--store", "volume"]);
    bench.ok("emg-cache", &["synth", "more", "--recordings", "12", "--seconds", "10"]);
    let full = bench.fails("emg-cache", 1, &["build", "--config", "tiny.yaml", "--store", "volume", "more"]);
    assert!(full.contains("No space left"), "{full}");
    assert!(bench.ok("emg-cache", &["verify", "--store", "volume"]).contains("1 caches, no damage"));
    assert_eq!(fs::read_dir(bench.path("volume/tmp")).unwrap().count(), 0);
    bench.ok("emg-train", &fit("a", &["--store", "volume", "--cache", &key, "--set", "training.num_epochs=1"]));
}

#[test]
fn work_is_done_with_as_many_threads_as_there_are() {
    let bench = bench();
    for threads in ["0", "1", "2", "5"] {
        let store = format!("st{threads}");
        for args in [
            &["build", "--config", "tiny.yaml", "--store", &store][..],
            &["verify", "--store", &store],
            &["build", "--config", "tiny.yaml", "--store", &store],
        ] {
            let output = shimmed(&bench, "emg-cache", args, &[("SHIM_THREADS", threads)]);
            assert!(output.status.success(), "{threads} threads, {args:?}: {}", stderr(&output));
        }
        // ONNX Runtime needs threads of its own.
        let output = shimmed(&bench, "emg-train", &fit("none", &["--store", &store]), &[("SHIM_THREADS", threads)]);
        assert!(matches!(output.status.code(), Some(0 | 1)), "{threads} threads: {}", stderr(&output));
    }
}

#[test]
fn builds_of_other_machines_clocks_and_containers_are_left_alone() {
    let bench = bench();
    let tmp = bench.path("st/tmp");
    let made = |name: &str| {
        fs::create_dir(tmp.join(name)).unwrap();
        File::create(tmp.join(name).join("lease")).unwrap()
    };
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().replace(['-', '\n'], "");
    // In another container, where no process of this number can be seen; on another machine, a moment ago.
    let held = made(&format!("container-{boot}-999999-1"));
    held.lock().unwrap();
    made("elsewhere-otherboot-1-1");
    let ahead = [("SHIM_CLOCK", "90000")];
    for args in [&["build", "--config", "tiny.yaml"][..], &["gc", "--unpinned", "--store", "st"]] {
        let output = shimmed(&bench, "emg-cache", args, &ahead);
        assert!(output.status.success(), "{}", stderr(&output));
    }
    assert_eq!(fs::read_dir(&tmp).unwrap().count(), 2);
    assert_eq!(fs::read_dir(bench.path("st/caches")).unwrap().count(), 1);
    drop(held);
    bench.ok("emg-cache", &["gc", "--store", "st"]);
    // Without the mark of the file system that its builder saw, a free lock proves nothing.
    assert_eq!(fs::read_dir(&tmp).unwrap().count(), 2);
}

/// Makes everything below a folder look older than a day.
fn age_all(root: &Path) {
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let then = SystemTime::now() - Duration::from_secs(48 * 3600);
            File::open(&path).unwrap().set_modified(then).unwrap();
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
}

#[test]
fn gc_removes_what_it_can_and_tells_the_rest() {
    let bench = bench();
    let tmp = bench.path("st/tmp");
    for name in ["a-boot-1-1", "b-boot-1-1"] {
        fs::create_dir(tmp.join(name)).unwrap();
        fs::write(tmp.join(name).join(format!("rows-{}", &name[..1])), "x").unwrap();
    }
    age_all(&bench.path("st"));
    let output = shimmed(&bench, "emg-cache", &["gc", "--store", "st", "--json"], &[("SHIM_UNLINK", "rows-a")]);
    assert_eq!(output.status.code(), Some(1));
    let outcome: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(outcome["failed"][0].as_str().unwrap().contains("a-boot-1-1"), "{outcome}");
    assert!(!tmp.join("b-boot-1-1").exists() && tmp.join("a-boot-1-1").exists());
    // A build that finds its cache makes it young again.
    age_all(&bench.path("st"));
    let key = bench.build(&BUILD).0;
    assert!(bench.ok("emg-cache", &["gc", "--unpinned", "--store", "st"]).contains("removed 0 of 0"));
    bench.ok("emg-cache", &["verify", &key, "--store", "st"]);
    // What an interrupted gc had set aside comes back, and is removed by the next one if nobody needs it.
    let segment = fs::read_dir(bench.path("st/segments")).unwrap().next().unwrap().unwrap().path();
    let name = segment.file_name().unwrap().to_str().unwrap().to_owned();
    for prefix in ["removed", "kept"] {
        fs::rename(&segment, tmp.join(format!("{prefix}-{name}"))).unwrap();
        age_all(&bench.path("st"));
        bench.build(&BUILD);
        bench.ok("emg-cache", &["verify", &key, "--store", "st"]);
    }
    fs::rename(bench.path(&format!("st/caches/{key}.json")), tmp.join(format!("removed-{key}.json"))).unwrap();
    bench.ok("emg-cache", &["gc", "--store", "st"]);
    bench.ok("emg-cache", &["verify", &key, "--store", "st"]);
    age_all(&bench.path("st"));
    assert!(bench.ok("emg-cache", &["gc", "--unpinned", "--store", "st"]).contains("removed 2 of 2"));
    assert!(bench.fails("emg-cache", 2, &["pin", &key, "--store", "st"]).contains("no cache"));
    assert_eq!(fs::read_dir(bench.path("st/pins")).map_or(0, Iterator::count), 0);
}

#[test]
fn small_segments_are_folded() {
    let bench = Bench::new();
    bench.ok("emg-cache", &["synth", "all", "--recordings", "70", "--seconds", "0.2", "--ik-failures", "0"]);
    fs::create_dir(bench.path("data")).unwrap();
    let build = ["--store", "st", "--set", "data.window_size=50", "--set", "data.split_ratio=[1,0,0]", "data"];
    let segments = |key: &str| {
        let info = bench.json("emg-cache", &["info", key, "--store", "st", "--json"]);
        info["segments"].as_array().unwrap().len()
    };
    let mut keys = Vec::new();
    for i in 0..70 {
        let name = format!("synth-{i:05}_left.hdf5");
        fs::rename(bench.path(&format!("all/{name}")), bench.path(&format!("data/{name}"))).unwrap();
        keys.push(bench.build(&build).0);
        if i == 9 {
            bench.check_cache(&keys[i], "data");
        }
    }
    assert_eq!([10, 65, 66, 67].map(|n| segments(&keys[n - 1])), [10, 65, 2, 3]);
    bench.check_cache(&keys[69], "data");
    // One that exists is folded by hand, and keeps its key; the recordings are not needed.
    fs::rename(bench.path("data"), bench.path("moved")).unwrap();
    let folded = bench.json("emg-cache", &["compact", &keys[9], "--store", "st", "--json"]);
    assert_eq!((&folded[0]["segments_before"], &folded[0]["segments_after"]), (&10.into(), &1.into()));
    assert_eq!(segments(&keys[9]), 1);
    assert!(bench.ok("emg-cache", &["compact", &keys[9], "--store", "st"]).contains("1 segments, now 1"));
    bench.ok("emg-cache", &["verify", "--store", "st"]);
    // Damage is not copied.
    let small = bench.json("emg-cache", &["info", &keys[40], "--store", "st", "--json"]);
    let small = small["segments"][3]["key"].as_str().unwrap();
    flip(&bench.path(&format!("st/segments/{small}/emg/c/0/0")), 100);
    let refused = bench.fails("emg-cache", 1, &["compact", &keys[40], "--store", "st"]);
    assert!(refused.contains("block 0: does not match its hash; repair the cache first"), "{refused}");
    assert_eq!(segments(&keys[40]), 41);
    // Rows of an earlier normalizer stay under its keys.
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/store-1");
    let copied = Command::new("cp").arg("-r").arg(&fixture).arg(bench.path("old")).status().unwrap();
    assert!(copied.success());
    bench.ok("emg-cache", &["compact", "--store", "old"]);
    let names = |root: &Path| -> Vec<_> {
        let relative = |path: PathBuf| path.strip_prefix(root).unwrap().to_owned();
        files(root).into_iter().map(|(path, bytes)| (relative(path), bytes)).collect()
    };
    assert!(names(&bench.path("old")) == names(&fixture));
    // With many segments and few descriptors.
    let limited = format!("ulimit -n 60; exec {} info {} --store st", env!("CARGO_BIN_EXE_emg-cache"), keys[60]);
    let output = Command::new("sh").args(["-c", &limited]).current_dir(bench.path("")).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn rows_are_compared_with_their_hashes_where_that_is_wanted() {
    let bench = bench();
    bench.ok("emg-train", &fit("a", &["--set", "training.num_epochs=1"]));
    let eval = |more: &[&str]| bench.run("emg-train", &[&["eval", "a", "--json"], more].concat());
    let right = eval(&[]).stdout;
    for verify in ["first-touch", "open"] {
        assert_eq!(eval(&["--verify", verify]).stdout, right);
        assert_eq!(eval(&["--verify", verify, "--io", "read"]).stdout, right);
    }
    eval(&["--stage", "local"]);
    let shard = |root: &str| {
        let found = files(&bench.path(root)).into_iter().map(|(path, _)| path);
        found.into_iter().find(|path| path.ends_with("emg/c/0/0")).unwrap()
    };
    // A copy that changed is copied again; what the store has is believed unless it is compared.
    flip(&shard("local"), 1000);
    let staged = eval(&["--stage", "local"]);
    assert!(stderr(&staged).contains("staging 1 segments") && staged.stdout == right, "{}", stderr(&staged));
    flip(&shard("st"), 1000);
    for verify in ["first-touch", "open"] {
        for io in ["mmap", "read"] {
            let output = eval(&["--verify", verify, "--io", io]);
            let message = stderr(&output);
            assert!(
                output.status.code() == Some(1) && message.contains("block 0 does not match its hash"),
                "{message}"
            );
        }
    }
    let trained = bench.fails("emg-train", 1, &fit("b", &["--verify", "first-touch"]));
    assert!(trained.contains("block 0 does not match its hash"), "{trained}");
    assert!(eval(&[]).status.success());
    assert_eq!(eval(&["--stage", "local", "--verify", "open"]).stdout, right, "the copy is right");
}

#[test]
fn staging_follows_no_planted_link_and_is_shared_between_users() {
    let bench = bench();
    bench.ok("emg-train", &fit("a", &["--set", "training.num_epochs=1"]));
    let segment = fs::read_dir(bench.path("st/segments")).unwrap().next().unwrap().unwrap().file_name();
    let part = bench.path("local").join(segment).with_extension("part");
    fs::create_dir_all(part.join("emg/c/0")).unwrap();
    fs::write(bench.path("precious"), "mine").unwrap();
    symlink(bench.path("precious"), part.join("emg/c/0/0")).unwrap();
    let eval = |folder: &str| bench.run("emg-train", &["eval", "a", "--stage", folder]);
    let output = eval("local");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(fs::read(bench.path("precious")).unwrap(), b"mine");
    // A new folder is open to others, and what is in it is not.
    assert!(eval("shared").status.success());
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let own = fs::read_dir(bench.path("shared")).unwrap().next().unwrap().unwrap();
    assert!(own.file_name().to_str().unwrap().starts_with("user-"));
    assert_eq!((mode(bench.path("shared")), mode(own.path())), (0o1777, 0o700));
    // A link in place of the user's folder is none.
    let name = own.file_name();
    fs::create_dir(bench.path("planted")).unwrap();
    symlink(bench.path("data"), bench.path("planted").join(name)).unwrap();
    let refused = eval("planted");
    assert!(stderr(&refused).contains("is not a folder of this user"), "{}", stderr(&refused));
}

#[test]
fn nothing_of_the_users_is_overwritten() {
    let bench = bench();
    bench.ok("emg-train", &fit("a", &["--set", "training.num_epochs=1"]));
    // Synthesis into a folder of recordings.
    fs::create_dir(bench.path("real")).unwrap();
    fs::write(bench.path("real/synth-00001_left.hdf5"), "a recording").unwrap();
    let refused = bench.fails("emg-cache", 2, &["synth", "real", "--recordings", "2", "--seconds", "1"]);
    assert!(refused.contains("synth-00001_left.hdf5: there is another file here already"), "{refused}");
    assert_eq!(fs::read_dir(bench.path("real")).unwrap().count(), 1);
    let again = ["synth", "data", "--recordings", "4", "--seconds", "3"];
    let before = files(&bench.path("data"));
    bench.ok("emg-cache", &again);
    assert!(files(&bench.path("data")) == before);
    // Predictions in place of recordings, or of those of another recording.
    bench.ok("emg-cache", &["synth", "others", "--recordings", "4", "--seconds", "3", "--seed", "7"]);
    let predict = |from: &str, out: &str| {
        vec!["predict".to_owned(), "a/model.onnx".into(), from.into(), "--out".into(), out.into()]
    };
    let run = |args: Vec<String>| bench.run("emg-train", &args.iter().map(String::as_str).collect::<Vec<_>>());
    let refused = run(predict("data/synth-00000_left.hdf5", "others"));
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("here is a file that `predict` did not write"), "{}", stderr(&refused));
    for (format, from, what) in
        [("hdf5", "others", "the prediction of another recording"), ("csv", "others", "another file")]
    {
        let of = |folder: &str| {
            let recording = format!("{folder}/synth-00000_left.hdf5");
            run([predict(&recording, "folder"), vec!["--format".into(), format.into()]].concat())
        };
        assert!(of("data").status.success());
        assert!(format == "csv" || of("data").status.success(), "the same once more");
        let refused = of(from);
        assert!(refused.status.code() == Some(1) && stderr(&refused).contains(what), "{}", stderr(&refused));
    }
    // A file that is named may be the prediction of another recording, but nothing else.
    for from in ["data", "others"] {
        assert!(run(predict(&format!("{from}/synth-00000_left.hdf5"), "p.h5")).status.success());
    }
    for (out, what) in
        [("others/synth-00001_left.hdf5", "a file that `predict` did not write"), ("data/metadata.csv", "another file")]
    {
        let refused = run(predict("data/synth-00000_left.hdf5", out));
        assert!(stderr(&refused).contains(what), "{}", stderr(&refused));
    }
    // A picture whose disk is full.
    let key = bench.build(&BUILD).0;
    let plot = ["info", &key, "--store", "st", "--plot", "cache.svg"];
    bench.ok("emg-cache", &plot);
    let picture = fs::read(bench.path("cache.svg")).unwrap();
    let output = shimmed(&bench, "emg-cache", &plot, &[("SHIM_CLOSE", "cache.svg")]);
    assert!(!output.status.success() && fs::read(bench.path("cache.svg")).unwrap() == picture);
    // Files of a run replace links, not what these lead to; named outputs, what they lead to.
    fs::write(bench.path("precious"), "mine").unwrap();
    fs::remove_file(bench.path("a/model.onnx")).unwrap();
    symlink(bench.path("precious"), bench.path("a/model.onnx")).unwrap();
    bench.ok("emg-train", &fit("a", &["--resume", "--set", "training.num_epochs=2"]));
    assert_eq!(fs::read(bench.path("precious")).unwrap(), b"mine");
    symlink(bench.path("precious"), bench.path("named.onnx")).unwrap();
    bench.ok("emg-train", &["export", "a", "--out", "named.onnx"]);
    assert!(bench.path("named.onnx").is_symlink() && fs::read(bench.path("precious")).unwrap() != b"mine");
}

#[test]
fn paths_are_what_users_mean() {
    let bench = bench();
    for args in [
        &["build", "--config", "tiny.yaml", "--store", "s3://bucket/store"][..],
        &["list", "--store", "gs://bucket"],
        &["build", "--config", "tiny.yaml", "--set", "data.store=file:///x"],
        &["build", "--config", "tiny.yaml", "https://example.org/data"],
    ] {
        let message = bench.fails("emg-cache", 2, args);
        assert!(message.contains(":// is not supported"), "{message}");
    }
    let home = |args: &[&str]| {
        let output = bench.command("emg-cache").args(args).env("HOME", bench.path("home")).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    };
    fs::create_dir(bench.path("home")).unwrap();
    home(&["build", "--config", "tiny.yaml", "--store", "~/st"]);
    home(&["build", "--config", "tiny.yaml", "--set", "data.store=~/other"]);
    assert!(bench.path("home/st/format.json").exists() && bench.path("home/other/format.json").exists());
    assert!(!bench.path("~").exists());
    let output = bench.command("emg-cache").args(["list"]).env("EMG_STORE", "s3://x").output().unwrap();
    assert!(output.status.code() == Some(2) && stderr(&output).contains("s3://x"), "{}", stderr(&output));
    // Two ways to one recording are one: nothing is read again.
    let args = |input: &'static str| ["build", "--config", "tiny.yaml", "--json", input];
    let reread = |input: &'static str| bench.json("emg-cache", &args(input))["recordings_read"].clone();
    assert_eq!((reread("data"), reread("./home/../data")), (0.into(), 0.into()));
}

/// Starts a training and sends it a signal once it has done an epoch.
fn signalled(
    bench: &Bench,
    args: &[&str],
    signal: &str,
    prepare: &dyn Fn(&mut Command),
) -> (std::process::Child, PathBuf) {
    let mut command = bench.command("emg-train");
    command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
    prepare(&mut command);
    let run = bench.path(args[args.iter().position(|arg| *arg == "--run").unwrap() + 1]);
    let lines = || fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default().lines().count();
    let before = lines();
    let mut child = command.spawn().unwrap();
    while lines() <= before {
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    (child, run)
}

#[test]
fn signals_save_where_training_stands() {
    let bench = bench();
    let long =
        ["--set", "training.num_epochs=100000", "--set", "training.early_stopping=false", "--set", "data.stride=20"];
    bench.build(&[&BUILD[..], &long].concat());
    let plain = |_: &mut Command| ();
    for (run, signal) in [("term", "-TERM"), ("hup", "-HUP"), ("int", "-INT")] {
        let (mut child, run) = signalled(&bench, &fit(run, &long), signal, &plain);
        assert_eq!(child.wait().unwrap().code(), Some(130), "{signal}");
        assert!(run.join("checkpoints/last.safetensors").exists());
    }
    // SIGUSR1 saves within the epoch and goes on.
    let (mut child, run) = signalled(&bench, &fit("usr1", &long), "-USR1", &plain);
    let within = || {
        let path = run.join("checkpoints/last.safetensors");
        Checkpoint::load(&path).is_ok_and(|checkpoint| checkpoint.progress.batch > 0)
    };
    // What it saves is soon replaced by the epoch's own checkpoint.
    for i in 0.. {
        if within() {
            break;
        }
        assert!(i < 1000 && child.try_wait().unwrap().is_none(), "it ended, or saves nothing");
        Command::new("kill").args(["-USR1", &child.id().to_string()]).status().unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
    // With --requeue it asks SLURM, exits, and the same command line continues.
    let bin = bench.path("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("scontrol"), format!("#!/bin/sh\necho \"$@\" >> {}\n", bench.path("asked").display())).unwrap();
    fs::set_permissions(bin.join("scontrol"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let in_slurm = |command: &mut Command| {
        command.env("SLURM_JOB_ID", "4711").env("PATH", &path);
    };
    let args = fit("slurm", &[&long[..], &["--requeue"]].concat());
    let (mut child, run) = signalled(&bench, &args, "-USR1", &in_slurm);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(fs::read_to_string(bench.path("asked")).unwrap(), "requeue 4711\n");
    // What SLURM sends next does not cut that short, nor does what comes after a terminal has gone.
    for (name, first) in [("both", "-USR1"), ("gone", "-HUP")] {
        let args = fit(name, &[&long[..], &["--requeue"]].concat());
        let (mut child, run) = signalled(&bench, &args, "-STOP", &in_slurm);
        let last = run.join("checkpoints/last.safetensors");
        let before = fs::metadata(&last).unwrap().modified().unwrap();
        for signal in [first, "-TERM", "-CONT"] {
            Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        }
        assert_eq!(child.wait().unwrap().code(), Some(130));
        assert!(fs::metadata(&last).unwrap().modified().unwrap() > before, "{name}");
    }
    assert_eq!(fs::read_to_string(bench.path("asked")).unwrap(), "requeue 4711\n".repeat(2));
    let epochs = || fs::read_to_string(run.join("metrics.jsonl")).unwrap().lines().count();
    let before = epochs();
    let (mut child, _) = signalled(&bench, &args, "-TERM", &in_slurm);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(epochs() >= before);
}

#[test]
fn two_trainings_without_names_have_two_folders() {
    let bench = bench();
    let start = || {
        let mut command = bench.command("emg-train");
        command.args(["fit", "--config", "tiny.yaml", "--set", "training.num_epochs=1"]).stdout(Stdio::null());
        command.stderr(Stdio::null()).spawn().unwrap()
    };
    for _ in 0..4 {
        let both = [start(), start()];
        for mut child in both {
            assert!(child.wait().unwrap().success());
        }
    }
    assert!((1..=8).all(|i| bench.path(&format!("runs/{i}/model.onnx")).exists()));
    // A folder that nothing came of is removed.
    bench.fails("emg-train", 2, &["fit", "--config", "tiny.yaml", "--set", "training.batch_size=0"]);
    assert!(!bench.path("runs/9").exists());
    let message = bench.fails("emg-train", 2, &["report", "runs"]);
    assert!(message.contains("below it are runs/1, runs/2, runs/3"), "{message}");
}

#[test]
fn caches_are_found_without_a_home() {
    let bench = bench();
    let homeless = |program: &str, args: &[&str], temporary: &Path| {
        let mut command = bench.command(program);
        command.args(args).env_remove("HOME").env("XDG_CACHE_HOME", "relative").env("TMPDIR", temporary);
        command.output().unwrap()
    };
    fs::create_dir(bench.path("tmp")).unwrap();
    let build = ["build", "--config", "tiny.yaml"];
    let built = homeless("emg-cache", &build, &bench.path("tmp"));
    assert!(built.status.success() && !stderr(&built).contains("cannot be kept"), "{}", stderr(&built));
    let fitted = homeless("emg-train", &fit("a", &["--set", "training.num_epochs=1"]), &bench.path("tmp"));
    assert!(fitted.status.success(), "{}", stderr(&fitted));
    assert!(!bench.path("relative").exists());
    // Where nothing can be kept, the build says so, and fit names what helps first.
    let nowhere = Path::new("/proc/self");
    let built = homeless("emg-cache", &build, nowhere);
    assert!(built.status.success() && stderr(&built).contains("only with --cache KEY"), "{}", stderr(&built));
    let fitted = homeless("emg-train", &fit("b", &[]), nowhere);
    assert!(stderr(&fitted).contains("emg-train fit --cache KEY"), "{}", stderr(&fitted));
    // A key that says what the cache says is no contradiction.
    let key = String::from_utf8(built.stdout).unwrap();
    let with = |set: &'static str| ["--cache", key.trim(), "--set", set];
    bench.ok(
        "emg-train",
        &fit("c", &[&with("data.split_ratio=[0.7,0.15,0.15]")[..], &["--set", "training.num_epochs=1"]].concat()),
    );
    fs::remove_file(bench.path("data/metadata.csv")).unwrap();
    let key = bench.build(&BUILD).0;
    let refused = bench.fails("emg-train", 2, &fit("d", &["--cache", &key, "--set", "data.split_ratio=[1,0,0]"]));
    assert!(refused.contains("data.split_ratio: the configuration says [1.0,0.0,0.0]"), "{refused}");
}

#[test]
fn names_that_are_no_text_or_more_than_text() {
    let bench = bench();
    bench.ok("emg-train", &fit("a", &["--set", "training.num_epochs=1"]));
    let bytes = |text: &'static [u8]| OsStr::from_bytes(text).to_owned();
    let run = |program: &str, args: &[&OsStr]| bench.command(program).args(args).output().unwrap();
    let word = |text: &'static str| OsStr::new(text);
    // A run folder and outputs that are not UTF-8, with --json.
    fs::rename(bench.path("a"), bench.path("").join(bytes(b"run\xff"))).unwrap();
    let (folder, out, model) = (bytes(b"run\xff"), bytes(b"p\xff.h5"), bytes(b"run\xff/model.onnx"));
    let recording = word("data/synth-00000_left.hdf5");
    for args in [
        &[word("report"), &folder, word("--json"), word("--no-eval")][..],
        &[word("export"), &folder, word("--json"), word("--length"), word("300")],
        &[word("predict"), &model, recording, word("--out"), &out, word("--json")],
    ] {
        let output = run("emg-train", args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        serde_json::from_slice::<Value>(&output.stdout).unwrap();
    }
    // A configuration cannot name a store that is not text; that is said before any work.
    let store = bytes(b"st\xff");
    let built = run("emg-cache", &[word("build"), word("--config"), word("tiny.yaml"), word("--store"), &store]);
    assert!(built.status.success(), "{}", stderr(&built));
    let args = [word("fit"), word("--config"), word("tiny.yaml"), word("--store"), &store, word("--run"), word("b")];
    let refused = run("emg-train", &args);
    assert!(refused.status.code() == Some(2) && stderr(&refused).contains("valid UTF-8"), "{}", stderr(&refused));
    assert!(!bench.path("b").exists());
    // Recordings whose names are not text, or would do something to the terminal.
    let names = [bytes(b"data/n\xff.hdf5"), bytes(b"data/\x1b[2J\xc2\x9b31m.hdf5")];
    for name in &names {
        fs::write(bench.path("").join(name), "no recording").unwrap();
    }
    let good = bench.path("").join(bytes(b"data/g\xff.hdf5"));
    bench.ok("emg-cache", &["synth", "more", "--recordings", "1", "--seconds", "3", "--seed", "9"]);
    fs::copy(bench.path("more/synth-00000_left.hdf5"), &good).unwrap();
    fs::remove_file(bench.path("data/metadata.csv")).unwrap();
    for _ in 0..2 {
        let output = bench.run("emg-cache", &["build", "--config", "tiny.yaml"]);
        let all = [output.stdout, output.stderr].concat();
        assert_eq!(output.status.code(), Some(1));
        assert!(!all.contains(&0x1b) && !String::from_utf8_lossy(&all).contains('\u{9b}'));
        assert!(
            String::from_utf8_lossy(&all).contains(r"\u001b[2J\u009b31m.hdf5"),
            "{}",
            String::from_utf8_lossy(&all)
        );
    }
    for name in &names {
        fs::remove_file(bench.path("").join(name)).unwrap();
    }
    bench.build(&BUILD);
    assert_eq!(bench.json("emg-cache", &["build", "--config", "tiny.yaml", "--json"])["recordings_read"], 0);
}

#[test]
fn numbers_are_checked_before_memory_is_asked_for() {
    let bench = bench();
    for (set, says) in [
        ("model.decoder_hidden_size=1000000000", "model.decoder_hidden_size: expected 1 to 65536"),
        ("model.hidden_size=1000000000000000000", "model.hidden_size: expected 1 to 65536"),
        ("model.decoder_num_layers=4000000000", "model.decoder_num_layers: expected 1 to 1000"),
        ("model.decoder_hidden_size=65536", "expected at most 2147483647"),
        ("training.batch_size=1000000000", "lower training.batch_size"),
        ("training.batch_size=10000000", "lower training.batch_size"),
    ] {
        let message = bench.fails("emg-train", 2, &fit("a", &["--set", set]));
        assert!(message.contains(says), "{set}: {message}");
    }
    assert!(!bench.path("a").exists());
}

#[test]
fn what_training_reports_survives_clocks_and_full_disks() {
    let bench = bench();
    bench.ok("emg-train", &fit("a", &["--set", "training.num_epochs=2", "--set", "training.scheduler=onecycle"]));
    // The first part ran on a machine whose clock was a day ahead.
    let events = || {
        let names =
            fs::read_dir(bench.path("a")).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name.starts_with("events.out.tfevents.")).collect();
        names.sort();
        names
    };
    let name = events().remove(0);
    let mut parts: Vec<_> = name.split('.').map(str::to_owned).collect();
    parts[3] = (parts[3].parse::<u64>().unwrap() + 86_400).to_string();
    fs::rename(bench.path(&format!("a/{name}")), bench.path(&format!("a/{}", parts.join(".")))).unwrap();
    // A folder in place of the table: its line is missing until it is gone.
    fs::remove_file(bench.path("a/metrics.csv")).unwrap();
    fs::create_dir(bench.path("a/metrics.csv")).unwrap();
    let more = ["--resume", "--set", "training.num_epochs=4", "--set", "training.scheduler=onecycle"];
    let output = bench.run("emg-train", &fit("a", &more));
    let message = stderr(&output);
    assert!(output.status.success() && message.contains("cannot write metrics.csv"), "{message}");
    assert!(message.contains("training.scheduler onecycle spans training.num_epochs, now 4 instead of 2"), "{message}");
    assert_eq!(events().len(), 2);
    assert!(events()[0].contains(&parts[3]), "{:?}", events());
    fs::remove_dir(bench.path("a/metrics.csv")).unwrap();
    bench.ok("emg-train", &fit("a", &more));
    assert_eq!(fs::read_to_string(bench.path("a/metrics.csv")).unwrap().lines().count(), 5);
    println!("{}", bench.python("check_tensorboard.py", &["a", "4"]));
    // Figures that are no numbers do not keep the rest from being shown.
    let lines = fs::read_to_string(bench.path("a/metrics.jsonl")).unwrap();
    let first = lines.lines().next().unwrap();
    let mut record: Value = serde_json::from_str(first).unwrap();
    record["train_mae_deg"] = Value::Null;
    fs::write(bench.path("a/metrics.jsonl"), lines.replace(first, &record.to_string())).unwrap();
    bench.ok("emg-train", &["report", "a", "--no-eval"]);
}
