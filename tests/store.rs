//! Keeping a store: sharing, upkeep, faults.

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use common::{Bench, files, paths, stderr};

const SMALL: [&str; 6] = ["--set", "data.window_size=50", "--set", "data.stride=25", "--store", "st"];
/// Segments so small that each recording of some seconds fills one.
const MANY: [&str; 2] = ["--set", "data.segment_bytes=1048576"];

fn synth(bench: &Bench, folder: &str, more: &[&str]) {
    bench.ok("emg-cache", &[&["synth", folder, "--recordings", "4", "--seconds", "0.5"], more].concat());
}

/// Every file below a folder by its path there.
fn contents(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    files(root).into_iter().map(|(path, bytes)| (path.strip_prefix(root).unwrap().to_owned(), bytes)).collect()
}

/// Published files of a store.
fn published(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    // A build may be killed before it makes the store.
    if !root.exists() {
        return BTreeMap::new();
    }
    let mut all = contents(root);
    all.retain(|path, _| !path.starts_with("tmp"));
    all
}

fn age(path: &Path, hours: u64) {
    let then = SystemTime::now() - Duration::from_secs(hours * 3600);
    File::open(path).unwrap().set_modified(then).unwrap();
}

/// Makes everything in a store look older than a day.
fn age_all(root: &Path) {
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            age(&path, 48);
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
}

#[test]
fn whatever_is_damaged_is_found_and_repaired_to_the_same_bytes() {
    let bench = Bench::new();
    // Two segments; the EMG shard of the larger has two blocks.
    bench.ok("emg-cache", &["synth", "data", "--recordings", "4", "--seconds", "45"]);
    let args = ["--set", "data.normalize=true", "--set", "data.segment_bytes=40000000", "--store", "st", "data"];
    let (key, _) = bench.build(&args);
    let whole = contents(&bench.path("st"));
    let shards = whole.iter().filter(|(path, bytes)| path.ends_with("emg/c/0/0") && bytes.len() > 1 << 24).count();
    assert!(shards >= 1 && whole.keys().filter(|path| path.ends_with("segment.json")).count() >= 2);
    let repair = |args: &[&str]| bench.run("emg-cache", &[&["repair", &key], args].concat());
    for (path, bytes) in &whole {
        let file = bench.path("st").join(path);
        let last = bytes.len() - 1;
        for damage in [Some(0), Some(bytes.len() / 2), Some(last), None] {
            match damage {
                Some(at) => {
                    let mut damaged = bytes.clone();
                    damaged[at] ^= 0x10;
                    std::fs::write(&file, damaged).unwrap();
                }
                None => std::fs::write(&file, &bytes[..last]).unwrap(),
            }
            let output = bench.run("emg-cache", &["verify", "--store", "st"]);
            let said = [String::from_utf8_lossy(&output.stdout).into_owned(), stderr(&output)].concat();
            assert_eq!(output.status.code(), Some(1), "{path:?} {damage:?}: {said}");
            assert!(said.contains(path.to_str().unwrap()), "{path:?}: {said}");
            // The end of the larger shard lies in its second block, which only the recordings at its end are in.
            if damage == Some(bytes.len() / 2) && bytes.len() > 1 << 24 {
                assert!(said.contains("block 0") && said.contains("synth-00000_left"), "{said}");
            }
            let output = repair(&args);
            assert!(output.status.success(), "{path:?} {damage:?}: {}", stderr(&output));
            let restored = contents(&bench.path("st"));
            assert!(restored == whole, "{path:?} {damage:?}");
        }
        std::fs::remove_file(&file).unwrap();
        assert!(repair(&args).status.success(), "{path:?} removed");
        assert!(contents(&bench.path("st")) == whole, "{path:?} removed");
    }
    // A whole segment gone, and a repair from other recordings.
    let segment = whole.keys().find(|path| path.ends_with("segment.json")).unwrap().parent().unwrap();
    std::fs::remove_dir_all(bench.path("st").join(segment)).unwrap();
    bench.ok("emg-cache", &["synth", "other", "--recordings", "3", "--seconds", "1", "--seed", "5"]);
    let other = repair(&[&args[..6], &["other"]].concat());
    assert!(!other.status.success() && stderr(&other).contains("not among the inputs"), "{}", stderr(&other));
    assert!(repair(&args).status.success());
    assert!(contents(&bench.path("st")) == whole);
    assert!(bench.ok("emg-cache", &["verify", "--store", "st"]).contains("no damage"));
}

#[test]
fn gc_removes_what_nothing_names_and_nothing_young() {
    let bench = Bench::new();
    synth(&bench, "data", &[]);
    let (first, _) = bench.build(&[&SMALL[..], &["data"]].concat());
    synth(&bench, "data", &["--seed", "7"]);
    let (second, _) = bench.build(&[&SMALL[..], &["data"]].concat());
    std::fs::remove_file(bench.path("st/caches").join(format!("{first}.json"))).unwrap();
    std::fs::create_dir(bench.path("st/tmp/lost-boot-1-0")).unwrap();
    let all = contents(&bench.path("st"));
    assert!(bench.ok("emg-cache", &["gc", "--store", "st"]).contains("removed 0 of 0"));
    assert!(contents(&bench.path("st")) == all);

    age_all(&bench.path("st"));
    let planned = bench.ok("emg-cache", &["gc", "--dry-run", "--store", "st"]);
    assert!(planned.contains("a segment that no cache uses") && planned.contains("an unfinished build"), "{planned}");
    assert!(contents(&bench.path("st")) == all);
    // While a manifest cannot be read, no segment goes.
    let manifest = bench.path("st/caches").join(format!("{second}.json"));
    let bytes = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, &bytes[1..]).unwrap();
    let output = bench.run("emg-cache", &["gc", "--dry-run", "--store", "st"]);
    assert!(stderr(&output).contains("all segments are kept"), "{}", stderr(&output));
    assert!(!String::from_utf8_lossy(&output.stdout).contains("a segment"));
    std::fs::write(&manifest, &bytes).unwrap();
    age(&manifest, 48);

    assert!(bench.ok("emg-cache", &["gc", "--store", "st"]).contains("removed 2 of 2"));
    assert_eq!(std::fs::read_dir(bench.path("st/segments")).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(bench.path("st/tmp")).unwrap().count(), 0);
    bench.check_cache(&second, "data");

    assert_eq!(bench.ok("emg-cache", &["pin", &second[..8], "--store", "st"]).trim(), second);
    assert!(bench.ok("emg-cache", &["gc", "--unpinned", "--store", "st"]).contains("removed 0 of 0"));
    assert_eq!(bench.ok("emg-cache", &["unpin", &second, "--store", "st"]).trim(), second);
    assert!(bench.fails("emg-cache", 2, &["unpin", &second, "--store", "st"]).contains("is not pinned"));
    let gone = bench.json("emg-cache", &["gc", "--unpinned", "--json", "--store", "st"]);
    assert_eq!(gone["removed"].as_array().unwrap().len(), 2, "{gone}");
    assert!(bench.fails("emg-cache", 2, &["info", &second, "--store", "st"]).contains("no cache"));
    // What was built once is built again.
    assert_eq!(bench.build(&[&SMALL[..], &["data"]].concat()).0, second);
    bench.check_cache(&second, "data");
}

/// A manifest that is published between gc's look and its removal keeps its segment.
#[test]
fn gc_puts_back_what_is_named_meanwhile() {
    use emg_pipeline::cache::{Store, plan_gc, run_gc};
    let bench = Bench::new();
    synth(&bench, "data", &[]);
    let (key, _) = bench.build(&[&SMALL[..], &["data"]].concat());
    let manifest = bench.path("st/caches").join(format!("{key}.json"));
    let bytes = std::fs::read(&manifest).unwrap();
    std::fs::remove_file(&manifest).unwrap();
    age_all(&bench.path("st"));
    let store = Store::open(&bench.path("st")).unwrap();
    let plan = plan_gc(&store, false).unwrap();
    assert_eq!(plan.removals.len(), 1);
    std::fs::write(&manifest, &bytes).unwrap();
    assert_eq!(run_gc(&store, &plan).removed, []);
    bench.check_cache(&key, "data");
    std::fs::remove_file(&manifest).unwrap();
    assert_eq!(run_gc(&store, &plan).removed.len(), 1);
}

#[test]
fn repair_needs_no_more_than_the_recordings_and_mends_several_things_at_once() {
    let bench = Bench::new();
    synth(&bench, "data", &[]);
    std::fs::remove_file(bench.path("data/metadata.csv")).unwrap();
    bench.ok("emg-cache", &["synth", "short", "--recordings", "1", "--seconds", "0.01"]);
    std::fs::copy(bench.path("short/synth-00000_left.hdf5"), bench.path("data/short.hdf5")).unwrap();
    let args = [&SMALL[..], &["--set", "data.on_bad_recording=skip", "data"]].concat();
    let (key, _) = bench.build(&args);
    let whole = published(&bench.path("st"));
    // The segment gone, as well as the manifest's first byte; the short recording is in neither.
    let repair = || bench.run("emg-cache", &[&["repair", &key], &args[..]].concat());
    std::fs::remove_dir_all(bench.path("st/segments")).unwrap();
    std::fs::create_dir(bench.path("st/segments")).unwrap();
    assert!(repair().status.success());
    assert!(published(&bench.path("st")) == whole);
    let [manifest, shard] = ["caches", "segments"].map(|folder| {
        files(&bench.path("st").join(folder)).into_iter().find(|(p, _)| !p.ends_with("zarr.json")).unwrap().0
    });
    for path in [&manifest, &shard] {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[10] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
    assert!(repair().status.success());
    assert!(published(&bench.path("st")) == whole);
    // A store of another format, which has no segment that we can read, is not ours to mend.
    std::fs::write(bench.path("st/format.json"), "{\"format\": 2}").unwrap();
    std::fs::remove_dir_all(bench.path("st/segments")).unwrap();
    assert!(stderr(&repair()).contains("found {\"format\": 2}"));
}

/// A build that finds its segment published but damaged puts its own, which is whole, in the place.
#[test]
fn a_build_does_not_rely_on_a_damaged_segment() {
    let bench = Bench::new();
    synth(&bench, "data", &[]);
    bench.build(&[&SMALL[..], &["data"]].concat());
    let shard = files(&bench.path("st")).into_iter().find(|(path, _)| path.ends_with("emg/c/0/0")).unwrap();
    std::fs::write(&shard.0, &shard.1[..shard.1.len() - 1]).unwrap();
    let (key, said) = bench.build(&[&SMALL[..4], &["--set", "data.stride=10", "--store", "st", "data"]].concat());
    assert!(said.contains("1 segments written"), "{said}");
    bench.check_cache(&key, "data");
    assert!(bench.ok("emg-cache", &["verify", "--store", "st"]).contains("2 caches, no damage"));
}

#[test]
fn a_build_restores_a_segment_that_its_manifest_lacks() {
    let bench = Bench::new();
    synth(&bench, "data", &[]);
    let (key, _) = bench.build(&[&SMALL[..], &["data"]].concat());
    let whole = contents(&bench.path("st"));
    std::fs::remove_dir_all(bench.path("st/segments")).unwrap();
    let (again, said) = bench.build(&[&SMALL[..], &["data"]].concat());
    assert_eq!(key, again);
    assert!(said.contains("1 segments written") && !said.contains("nothing to do"), "{said}");
    assert!(contents(&bench.path("st")) == whole);
}

#[test]
fn explain_names_what_differs_from_the_nearest_cache() {
    let bench = Bench::new();
    synth(&bench, "data", &[]);
    let (first, _) = bench.build(&[&SMALL[..], &["data"]].concat());
    assert!(bench.ok("emg-cache", &["explain", &first, "--store", "st"]).contains("no other cache"));
    let (second, _) = bench.build(&[&SMALL[..], &["--set", "data.stride=10", "data"]].concat());
    let csv = std::fs::read_to_string(bench.path("data/metadata.csv")).unwrap();
    std::fs::write(bench.path("data/metadata.csv"), csv.replacen(",train,", ",test,", 1)).unwrap();
    let (third, _) = bench.build(&[&SMALL[..], &["--set", "data.stride=10", "data"]].concat());
    let said = bench.ok("emg-cache", &["explain", &first, "--store", "st"]);
    assert!(said.contains(&second) && said.contains("data.stride: 25 in this cache, 10 in the nearest one"), "{said}");
    let json = bench.json("emg-cache", &["explain", &third, "--json", "--store", "st"]);
    assert_eq!(json["nearest"], second.as_str());
    let differences = json["differences"].as_array().unwrap();
    assert_eq!(differences.len(), 1, "{json}");
    assert!(differences[0]["what"].as_str().unwrap().starts_with("recording synth-"));
    assert_eq!(
        (&differences[0]["here"]["split"], &differences[0]["there"]["split"]),
        (&"test".into(), &"train".into())
    );
}

#[test]
fn parts_fill_a_store_and_a_plain_build_writes_the_manifest_alone() {
    let bench = Bench::new();
    bench.ok("emg-cache", &["synth", "data", "--recordings", "7", "--seconds", "4"]);
    let build = |more: &[&str], store: &str| {
        let args = [&["build", "--set", "data.stride=25"], &MANY[..], more, &["--store", store, "data"]].concat();
        let output = bench.run("emg-cache", &args);
        assert!(output.status.success(), "{}", stderr(&output));
        (String::from_utf8_lossy(&output.stdout).into_owned(), stderr(&output))
    };
    let (key, _) = build(&[], "plain");
    let parts: Vec<_> = (1..=3).map(|i| build(&["--part", &format!("{i}/3")], "st").1).collect();
    assert!(parts[0].contains("part 1/3: 3 of 7 segments, 3 written"), "{}", parts[0]);
    assert!(parts[2].contains("part 3/3: 2 of 7 segments, 2 written"), "{}", parts[2]);
    assert!(build(&["--part", "2/3"], "st").1.contains("0 written, 0 recordings read"));
    let (same, said) = build(&[], "st");
    assert_eq!(key, same);
    assert!(said.contains("0 recordings read, 0 segments written"), "{said}");
    assert!(published(&bench.path("st")) == published(&bench.path("plain")));
    let args = ["build", "--part", "4/3", "--store", "st", "data"];
    assert!(bench.fails("emg-cache", 2, &args).contains("1 <= I <= N"));
}

#[test]
fn stores_are_as_open_as_the_umask_says() {
    let bench = Bench::new();
    synth(&bench, "data", &[]);
    for (umask, file, folder) in [("002", 0o664, 0o775), ("077", 0o600, 0o700)] {
        let store = format!("st{umask}");
        let line = format!("umask {umask}; exec {} build --store {store} data", env!("CARGO_BIN_EXE_emg-cache"));
        let mut shell = std::process::Command::new("sh");
        let shell = shell.args(["-c", &line]).current_dir(bench.path("")).env("XDG_CACHE_HOME", bench.path("x"));
        assert!(shell.output().unwrap().status.success());
        for (path, _) in files(&bench.path(&store)) {
            let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&path), mode(path.parent().unwrap())), (file, folder), "{path:?}");
        }
    }
}

/// Every file of a finished build, whenever an earlier one was killed, and what that one finished is not made again.
#[test]
fn a_build_that_is_killed_at_any_moment_is_taken_up() {
    let bench = Bench::new();
    bench.ok("emg-cache", &["synth", "data", "--recordings", "8", "--seconds", "4"]);
    let args = [&["build", "--set", "data.stride=25"], &MANY[..], &["data", "--store"]].concat();
    let started = std::time::Instant::now();
    bench.ok("emg-cache", &[&args[..], &["whole"]].concat());
    let whole = published(&bench.path("whole"));
    let takes = started.elapsed();
    // EMG_KILLS: how many moments, 200 for the full test.
    let kills = std::env::var("EMG_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(25u32);
    let mut partial = 0;
    for i in 0..kills {
        let store = format!("st{i}");
        let mut command = bench.command("emg-cache");
        // Each build must find out by itself what the killed one had done.
        command.env("XDG_CACHE_HOME", bench.path(&format!("home{i}")));
        let mut child = command.args(&args).arg(&store).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Spread over the build, but for the first half of a hundredth.
        std::thread::sleep(takes * (2 * i + 1) / (2 * kills));
        child.kill().unwrap();
        child.wait().unwrap();
        let before = published(&bench.path(&store));
        let segments = before.keys().filter(|path| path.ends_with("segment.json")).count();
        partial += usize::from((1..8).contains(&segments));
        let output = bench.run("emg-cache", &[&args[..], &[&store]].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(published(&bench.path(&store)) == whole, "killed at {i}");
        let written = format!("{} segments written", 8 - segments);
        assert!(stderr(&output).contains(&written), "{segments} were there: {}", stderr(&output));
        std::fs::remove_dir_all(bench.path(&store)).unwrap();
    }
    println!("{kills} builds killed, {partial} of them with some segments published");
    assert!(partial > 0, "no build was killed between its first segment and its last");
}

#[test]
fn a_store_that_cannot_be_written_says_so_and_stays_whole() {
    let bench = Bench::new();
    bench.ok("emg-cache", &["synth", "data", "--recordings", "4", "--seconds", "4"]);
    // A limit on the size of files stands for a full disk: the write fails part of the way.
    let line = format!(
        "trap '' XFSZ; ulimit -f 100; exec {} build --set data.stride=25 --store st data",
        env!("CARGO_BIN_EXE_emg-cache")
    );
    let mut shell = std::process::Command::new("sh");
    let output = shell.args(["-c", &line]).current_dir(bench.path("")).env("XDG_CACHE_HOME", bench.path("x")).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("st/tmp/") && stderr(&output).contains("large"), "{}", stderr(&output));
    assert_eq!(published(&bench.path("st")).len(), 1, "format.json alone");
    assert_eq!(std::fs::read_dir(bench.path("st/tmp")).unwrap().count(), 0);

    std::fs::write(bench.path("file"), "").unwrap();
    assert!(bench.fails("emg-cache", 1, &["build", "--store", "file/st", "data"]).contains("file/st"));
}

/// Runs a shell script that may mount things; `None` where this machine does not let it.
fn with_mounts(bench: &Bench, script: &str) -> Option<std::process::Output> {
    let script = format!("mount -t tmpfs -o size=3m none disk || exit 77\n{script}");
    let mut unshare = std::process::Command::new("unshare");
    let unshare = unshare.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
    let output = unshare.current_dir(bench.path("")).env("XDG_CACHE_HOME", bench.path("x")).output().ok()?;
    let ran = output.status.code() != Some(77) && !stderr(&output).starts_with("unshare:");
    if !ran {
        println!("no tmpfs can be mounted here: nothing to test");
    }
    ran.then_some(output)
}

#[test]
fn a_full_disk_is_an_error_and_nothing_half_made_is_visible() {
    let bench = Bench::new();
    bench.ok("emg-cache", &["synth", "data", "--recordings", "4", "--seconds", "4"]);
    std::fs::create_dir(bench.path("disk")).unwrap();
    let (program, sets) =
        (env!("CARGO_BIN_EXE_emg-cache"), [&["--set", "data.stride=25"], &MANY[..]].concat().join(" "));
    let script = format!(
        "{program} build {sets} --store disk/st data; code=$?
         ls disk/st/segments | wc -l; ls disk/st/caches 2>/dev/null | wc -l; ls disk/st/tmp | wc -l; exit $code"
    );
    let Some(output) = with_mounts(&bench, &script) else { return };
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("No space left on device"), "{}", stderr(&output));
    let counts: Vec<u32> =
        String::from_utf8_lossy(&output.stdout).split_whitespace().map(|count| count.parse().unwrap()).collect();
    assert!(counts[0] >= 1 && counts[1..] == [0, 0], "{counts:?}");
}

#[test]
fn a_read_only_store_is_read_and_not_written() {
    let bench = Bench::new();
    synth(&bench, "data", &[]);
    std::fs::create_dir(bench.path("disk")).unwrap();
    let (program, sets) = (env!("CARGO_BIN_EXE_emg-cache"), SMALL[..4].join(" "));
    let script = format!(
        "set -e; key=$({program} build {sets} --store disk/st data); mount -o remount,ro disk
         {program} verify --store disk/st; {program} info $key --store disk/st >/dev/null
         {program} build {sets} --set data.stride=5 --store disk/st data"
    );
    let Some(output) = with_mounts(&bench, &script) else { return };
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 caches, no damage"));
    assert!(stderr(&output).contains("Read-only file system"), "{}", stderr(&output));
}

#[test]
fn an_input_that_changes_shrinks_or_vanishes_while_it_is_read_fails_the_build() {
    let bench = Bench::new();
    // Large enough to be still read when it changes.
    bench.ok("emg-cache", &["synth", "data", "--recordings", "12", "--seconds", "30"]);
    let last = bench.path("data/synth-00011_right.hdf5");
    let last = if last.exists() { last } else { bench.path("data/synth-00011_left.hdf5") };
    let bytes = std::fs::read(&last).unwrap();
    for change in ["flip", "shrink", "remove"] {
        let _ = std::fs::remove_dir_all(bench.path("st"));
        let mut command = bench.command("emg-cache");
        command.env("XDG_CACHE_HOME", bench.path(change)).env("RAYON_NUM_THREADS", "1");
        let child =
            command.args(["build", "--store", "st", "data"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn();
        let child = child.unwrap();
        // A segment in progress: every input was looked at, and the first are read.
        let begun = || paths(&bench.path("st")).iter().any(|path| path.ends_with("emg/c/0/0"));
        while !begun() {
            std::thread::sleep(Duration::from_millis(1));
        }
        match change {
            "flip" => File::options().write(true).open(&last).unwrap().write_all_at(b"x", 100_000).unwrap(),
            "shrink" => File::options().write(true).open(&last).unwrap().set_len(500_000).unwrap(),
            _ => std::fs::remove_file(&last).unwrap(),
        }
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{change}: {}", stderr(&output));
        let said = stderr(&output);
        assert!(said.contains(last.file_name().unwrap().to_str().unwrap()), "{change}: {said}");
        assert_eq!(
            std::fs::read_dir(bench.path("st")).unwrap().flatten().filter(|e| e.file_name() == "caches").count(),
            0
        );
        std::fs::write(&last, &bytes).unwrap();
    }
}

/// Readers and `gc` beside builders: nobody sees a part of anything, and nothing that is needed goes.
#[test]
fn a_store_is_used_while_it_is_built() {
    let bench = Bench::new();
    bench.ok("emg-cache", &["synth", "data", "--recordings", "6", "--seconds", "4"]);
    let first = ["build", "--set", "data.stride=25", "--store", "st", "data/synth-00000_left.hdf5"];
    let split = ["--set", "data.split_ratio=[1,0,0]"];
    let key = bench.ok("emg-cache", &[&first[..], &MANY, &split].concat()).trim().to_owned();
    age_all(&bench.path("st"));
    let builders: Vec<_> = (0..4)
        .map(|i| {
            let stride = format!("data.stride={}", 25 + i % 2);
            let args = [&["build", "--set", &stride], &MANY[..], &["--store", "st", "data"]].concat();
            bench.command("emg-cache").args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut rounds = 0;
    let mut running = builders;
    let mut keys = vec![key.clone()];
    while !running.is_empty() {
        for args in [&["list"][..], &["info", &key], &["verify", &key], &["gc"]] {
            bench.ok("emg-cache", &[args, &["--store", "st"]].concat());
        }
        rounds += 1;
        for mut builder in std::mem::take(&mut running) {
            if builder.try_wait().unwrap().is_none() {
                running.push(builder);
                continue;
            }
            let output = builder.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", stderr(&output));
            keys.push(String::from_utf8(output.stdout).unwrap().trim().to_owned());
        }
    }
    println!("{rounds} rounds of list, info, verify and gc beside four builders");
    assert!(bench.ok("emg-cache", &["verify", "--store", "st"]).contains("3 caches, no damage"));
    bench.check_cache(keys.last().unwrap(), "data");
}
