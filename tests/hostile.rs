//! Files that are broken, or made to do harm.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use common::{Bench, files, stderr};
use emg_pipeline::cache::{self, BuildOptions, CacheSettings, Manifest, NoEvents, Store};
use emg_pipeline::config::{self, Config};
use emg_pipeline::random::Random;
use emg_pipeline::recording::{Hdf5, WORKER_ARGUMENT};
use serde_json::{Value, json};

const SETS: [&str; 4] = ["--set", "data.window_size=20", "--set", "data.stride=20"];

/// Small recordings of every storage that is decoded here or by the library.
fn originals(bench: &Bench) -> Vec<Vec<u8>> {
    for (folder, layout, more) in [
        ("meta", "meta", &["--rows", "60"][..]),
        ("public", "public", &["--rows", "60"]),
        ("gzip", "gzip", &["--rows", "200", "--chunk", "30"]),
    ] {
        bench.python("make_recordings.py", &[&[folder, "--layout", layout, "--count", "1"], more].concat());
    }
    let made = ["meta", "public", "gzip"].map(|folder| bench.path(folder));
    let files = made.iter().flat_map(|folder| files(folder));
    files.filter(|(path, _)| path.extension().is_some_and(|e| e == "hdf5")).map(|(_, bytes)| bytes).collect()
}

/// Flips, overwrites, copies or cuts a few places, mostly where headers lie.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    const INTERESTING: [u64; 8] = [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, u64::MAX, 1 << 40];
    for _ in 0..=random.up_to(5) {
        let reach = if random.up_to(3) == 0 { bytes.len() } else { bytes.len().min(3000) };
        let at = random.up_to(reach as u64 - 1) as usize;
        match random.up_to(9) {
            0..=3 => bytes[at] ^= 1 << random.up_to(7),
            4..=6 => {
                let value = INTERESTING[random.up_to(7) as usize].to_le_bytes();
                let width = (1 << random.up_to(3)).min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&value[..width]);
            }
            7 => {
                let from = random.up_to(reach as u64 - 1) as usize;
                let width = (1 + random.up_to(15) as usize).min(bytes.len() - from.max(at));
                bytes.copy_within(from..from + width, at);
            }
            8 => bytes[at] = random.up_to(255) as u8,
            _ if random.up_to(3) == 0 => bytes.truncate(at + 1),
            _ => {}
        }
    }
}

/// EMG_MUTATIONS: how many files, 20,000 for the full test. A build may refuse any of them, but it ends, by itself,
/// within its memory.
#[test]
fn mutated_recordings_do_no_harm() {
    let bench = Bench::new();
    let originals = originals(&bench);
    assert_eq!(originals.len(), 3);
    let wanted = std::env::var("EMG_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(400usize);
    let seed = std::env::var("EMG_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let (mut made, mut left_out, mut crashed, mut endless) = (0, 0, 0, 0);
    while made < wanted {
        let folder = bench.path("mutants");
        let _ = std::fs::remove_dir_all(&folder);
        let _ = std::fs::remove_dir_all(bench.path("st"));
        std::fs::create_dir(&folder).unwrap();
        for i in made..(made + 100).min(wanted) {
            let mut random = Random::new(&[seed, i as u64]);
            let mut bytes = originals[i % originals.len()].clone();
            mutate(&mut bytes, &mut random);
            std::fs::write(folder.join(format!("m{i:06}.hdf5")), bytes).unwrap();
        }
        std::fs::write(folder.join("whole.hdf5"), &originals[0]).unwrap();
        // Every other time as members of an archive, which the library reads through our driver.
        let archived = (made / 100) % 2 == 1;
        if archived {
            let mut tar = Command::new("tar");
            assert!(
                tar.args(["-cf", "mutants.tar", "mutants"]).current_dir(bench.path("")).status().unwrap().success()
            );
        }
        let input = if archived { "mutants.tar" } else { "mutants" };
        made += 100;
        // 3 GiB of address space: an allocation sized by a header that lies fails.
        let line = format!(
            "ulimit -v 3145728; exec timeout 300 {} build --store st {} --set data.on_bad_recording=skip \
             --set data.split_ratio=[1,0,0] {input}",
            env!("CARGO_BIN_EXE_emg-cache"),
            SETS.join(" ")
        );
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", &line]).current_dir(bench.path("")).env("XDG_CACHE_HOME", bench.path("x"));
        let output = shell.env("RAYON_NUM_THREADS", "2").output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(!said.contains("panic") && !said.contains("whole.hdf5"), "{said}");
        left_out += said.lines().filter(|line| line.starts_with("skipped: ") && line.contains("mutants/m")).count();
        endless += said.matches("does not finish reading it").count();
        crashed += said.matches("makes the HDF5 library crash").count() + said.matches("exited unexpectedly").count();
    }
    println!(
        "{wanted} mutants: {left_out} left out, of them {crashed} crashed the HDF5 library and {endless} kept it busy"
    );
    assert!(left_out > wanted / 20, "{left_out}: the mutations reach nothing");
}

/// The same for datasets of their own, of which one is compressed and one only the library decodes.
#[test]
fn mutated_datasets_do_no_harm() {
    let bench = Bench::new();
    bench.python("make_layouts.py", &["apart", "apart"]);
    bench.python("make_layouts.py", &["same", "same"]);
    for (kind, layout, joints) in [
        ("apart", "{emg: raw/emg, joint_angles: pose, time: raw/t, joint_angle_rate: 60, angle_unit: deg}", 5),
        ("same", "{emg: emg, joint_angles: angles}", 4),
    ] {
        let original = std::fs::read(bench.path(kind).join("r0.h5")).unwrap();
        let folder = bench.path("mutants");
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        for i in 0..60u64 {
            let mut bytes = original.clone();
            mutate(&mut bytes, &mut Random::new(&[3, i]));
            std::fs::write(folder.join(format!("m{i:03}.h5")), bytes).unwrap();
        }
        std::fs::write(folder.join("whole.h5"), &original).unwrap();
        let sets = [
            format!("data.layout={layout}"),
            format!("data.joint_angles_channels={joints}"),
            format!("model.output_size={joints}"),
            "data.on_bad_recording=skip".into(),
            "data.split_ratio=[1,0,0]".into(),
        ];
        let sets: Vec<_> = sets.iter().flat_map(|set| ["--set", set]).collect();
        let output = bench
            .run("emg-cache", &[&["build", "--store", &format!("st-{kind}")], &SETS[..], &sets, &["mutants"]].concat());
        let said = stderr(&output);
        assert!(output.status.success() && !said.contains("panic") && !said.contains("whole.h5"), "{said}");
        assert!(said.matches("mutants/m").count() > 3, "the mutations reach nothing: {said}");
    }
}

/// A row of a table with text in it is not where its size in memory says, and the text matters to nobody.
#[test]
fn fields_of_variable_length_do_not_matter() {
    let bench = Bench::new();
    let script = "import h5py, numpy\n\
        t = numpy.dtype([('label', h5py.string_dtype()), ('emg', '<f4', (16,)), ('joint_angles', '<f4', (20,))])\n\
        h5py.File('r.h5', 'w').create_dataset('emg2pose/timeseries', data=numpy.array([('x', [i] * 16, [i + 1] * 20) for i in range(500)], t))\n";
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/python");
    let status =
        Command::new("python3").args(["-c", script]).env("PYTHONPATH", python).current_dir(bench.path("")).status();
    assert!(status.unwrap().success());
    let (key, _) = bench.build(&["--store", "st", "r.h5"]);
    bench.check_cache(&key, ".");
}

/// A stand-in for the worker that dies, hangs up or talks nonsense when it is asked for certain files.
fn worker(bench: &Bench, name: &str, script: &str) -> Hdf5 {
    let path = bench.path(name);
    let real = env!("CARGO_BIN_EXE_emg-cache");
    let text = format!(
        "#!/bin/sh\nwhile IFS= read -r line; do\ncase $line in\n{script}\n*) printf '%s\\n' \"$line\" | {real} {WORKER_ARGUMENT};;\nesac\ndone\n"
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    Hdf5::workers(path)
}

fn config(sets: &[&str]) -> Config {
    let sets: Vec<_> = ["data.window_size=20", "data.stride=20", "data.on_bad_recording=skip"]
        .iter()
        .chain(sets)
        .map(|set| (*set).to_owned())
        .collect();
    config::load(None, &sets).unwrap().config
}

/// What a file's content does is that file's fault; a process that ends in another way is the system's, and the recording
/// may be good.
#[test]
fn a_recording_that_crashes_the_library_fails_alone_and_by_name() {
    let bench = Bench::new();
    bench.ok("emg-cache", &["synth", "data", "--recordings", "6", "--seconds", "0.2"]);
    std::fs::remove_file(bench.path("data/metadata.csv")).unwrap();
    let mut names: Vec<_> = files(&bench.path("data")).into_iter().map(|(path, _)| path).collect();
    names.sort();
    let name = |i: usize| names[i].file_name().unwrap().to_str().unwrap().to_owned();
    let hdf5 = worker(&bench, "worker", &format!("*{}*) kill -SEGV $$;;", name(1)));
    let options = BuildOptions::new(&config(&["data.split_ratio=[1,0,0]"]), vec![bench.path("data")], hdf5).unwrap();
    let built = cache::build(&bench.path("st"), &options, &NoEvents).unwrap();
    let skipped = built.skipped.join("\n");
    assert_eq!(built.skipped.len(), 1, "{skipped}");
    assert!(skipped.contains(&name(1)) && skipped.contains("makes the HDF5 library crash (signal 11)"), "{skipped}");
    for (does, what) in [
        ("exit 3", "exited unexpectedly"),
        ("echo nonsense", "sent an invalid answer"),
        ("kill -KILL $$", "was ended (signal 9), perhaps for want of memory"),
        ("kill -ABRT $$", "was ended (signal 6)"),
    ] {
        let hdf5 = worker(&bench, "worker", &format!("*{}*) {does};;", name(2)));
        let options = BuildOptions { hdf5, ..options.clone() };
        let error = cache::build(&bench.path("other"), &options, &NoEvents).unwrap_err().to_string();
        assert!(error.contains(&name(2)) && error.contains(what), "{error}");
    }
    let manifest = Manifest::read(&Store::open(&bench.path("st")).unwrap(), &built.key).unwrap();
    assert_eq!(manifest.recordings.len(), 5);
    assert_eq!(manifest.settings, CacheSettings::new(&config(&[])));
}

/// Data that only the library can decode comes through the worker too.
#[test]
fn data_for_the_library_is_read_in_a_child() {
    let bench = Bench::new();
    let script = "import h5py, numpy, sys\n\
        t = numpy.dtype([('emg', '>f4', (16,)), ('joint_angles', '>f8', (20,))])\n\
        r = numpy.random.default_rng(3)\n\
        d = numpy.zeros(70000, t); d['emg'] = r.normal(size=(70000, 16)); d['joint_angles'] = r.normal(size=(70000, 20))\n\
        h5py.File('data/big.hdf5', 'w').create_group('emg2pose').create_dataset('timeseries', data=d, chunks=(999,))\n";
    std::fs::create_dir(bench.path("data")).unwrap();
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/python");
    let status =
        Command::new("python3").args(["-c", script]).env("PYTHONPATH", python).current_dir(bench.path("")).status();
    assert!(status.unwrap().success());
    let sets = ["--set", "data.split_ratio=[1,0,0]", "--set", "data.normalize_emg=recording"];
    let (key, _) = bench.build(&[&SETS[..], &sets, &["--store", "st", "data"]].concat());
    bench.check_cache(&key, "data");
}

/// The documented digest of a JSON file, so that what is forged is believed as far as its digest goes.
fn seal(mut document: Value) -> Vec<u8> {
    document.as_object_mut().unwrap().shift_remove("digest");
    let mut bytes = serde_json::to_vec(&document).unwrap();
    let digest = blake3::hash(&bytes).to_hex();
    bytes.pop();
    bytes.extend_from_slice(format!(",\"digest\":\"{digest}\"}}\n").as_bytes());
    bytes
}

#[test]
fn forged_manifests_and_indexes_are_refused_with_the_reason() {
    let bench = Bench::new();
    bench.ok("emg-cache", &["synth", "data", "--recordings", "3", "--seconds", "0.5"]);
    let (key, _) = bench.build(&[&SETS[..], &["--store", "st", "data"]].concat());
    let manifest = bench.path("st/caches").join(format!("{key}.json"));
    let segment = std::fs::read_dir(bench.path("st/segments")).unwrap().next().unwrap().unwrap().path();
    let index = segment.join("segment.json");
    let [original_manifest, original_index] = [&manifest, &index].map(|path| std::fs::read(path).unwrap());
    let run = |expected: &str| {
        for command in ["info", "verify"] {
            let output = bench.run("emg-cache", &[command, &key, "--store", "st"]);
            let said = [String::from_utf8_lossy(&output.stdout).into_owned(), stderr(&output)].concat();
            assert_eq!(output.status.code(), Some(1), "{expected}: {said}");
            assert!(said.contains(expected), "{command}: {expected} in {said}");
        }
    };
    let big = u64::MAX;
    let forged: [(&str, Value, &str); 12] = [
        ("/segments/0/key", json!("../../../../etc"), "is not a cache key"),
        ("/segments/0/bytes", json!("many"), "invalid type"),
        ("/segments/0/bytes", json!(-1), "invalid value"),
        ("/segments/0/more", json!(1), "unknown field"),
        ("/recordings/0/segment", json!(7), "names a segment that does not exist"),
        ("/recordings/0/blake3", json!("0".repeat(64)), "is the cache"),
        ("/recordings/0/split", json!("evil"), "unknown variant"),
        ("/settings/window_size", json!(0), "impossible windows"),
        ("/settings/emg_channels", json!(big), "wrong number of columns"),
        ("/windows", json!([big, 0, 0]), "windows, its recordings have"),
        ("/train_emg/mean", json!([1.0]), "the training statistics have the wrong number of columns"),
        ("/train_emg/n", json!(big), "training statistics are not those"),
    ];
    for (place, value, expected) in forged {
        let mut document: Value = serde_json::from_slice(&original_manifest).unwrap();
        set(&mut document, place, value);
        std::fs::write(&manifest, seal(document)).unwrap();
        run(expected);
    }
    std::fs::write(&manifest, &original_manifest).unwrap();

    let forged: [(&str, Value, &str); 13] = [
        ("/recordings/0/emg/n", json!(big), "the statistics cover 18446744073709551615"),
        ("/rows", json!(big), "rows"),
        ("/recordings/1/first_row", json!(0), "starts at row 0"),
        ("/recordings/1/first_row", json!(big), "starts at row"),
        ("/recordings/0/rows", json!(big), "recording 1 starts at row"),
        ("/recordings/0/valid_runs", json!([[0, big]]), "leaves its rows"),
        ("/recordings/0/valid_runs", json!([[0, 10], [5, 10]]), "overlaps"),
        ("/recordings/0/valid_runs", json!([[big, 1]]), "leaves its rows"),
        ("/recordings/0/emg/m2", json!([]), "number of columns"),
        ("/files/0/path", json!("../../../../../etc/passwd"), "expected the files"),
        ("/files/0/bytes", json!(big), "expected the files"),
        ("/files/0/blocks", json!([]), "0 blocks for"),
        ("/normalizer", json!(99), "from a newer version"),
    ];
    for (place, value, expected) in forged {
        let mut document: Value = serde_json::from_slice(&original_index).unwrap();
        set(&mut document, place, value);
        std::fs::write(&index, seal(document)).unwrap();
        run(expected);
    }
    // Bytes that are no document at all, and one that no memory holds.
    for bytes in [&b""[..], b"{}", b"\xff\xff", &[b'['; 100_000]] {
        std::fs::write(&index, bytes).unwrap();
        run("segment.json");
    }
    std::fs::File::create(&index).unwrap().set_len(1 << 40).unwrap();
    run("more than any document has");
    std::fs::write(&index, &original_index).unwrap();
    assert!(bench.ok("emg-cache", &["verify", "--store", "st"]).contains("no damage"));
}

fn set(document: &mut Value, place: &str, value: Value) {
    let (parent, name) = place.rsplit_once('/').unwrap();
    match document.pointer_mut(parent).unwrap() {
        Value::Object(members) => drop(members.insert(name.to_owned(), value)),
        Value::Array(items) => items[name.parse::<usize>().unwrap()] = value,
        other => panic!("{other}"),
    }
}
