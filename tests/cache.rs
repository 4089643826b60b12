//! `emg-cache` from the command line, against h5py, numpy and zarr-python.

mod common;

use common::{Bench, files};

const SMALL: [&str; 6] = ["--set", "data.window_size=50", "--set", "data.stride=25", "--store", "st"];

fn synth(bench: &Bench, folder: &str, more: &[&str]) {
    bench.ok("emg-cache", &[&["synth", folder, "--recordings", "4", "--seconds", "0.5"], more].concat());
}

#[test]
fn every_layout_becomes_the_cache_that_numpy_computes() {
    let layouts: [(&str, &[&str]); 5] = [
        ("meta", &["--rows", "100"]),
        ("public", &["--rows", "3000"]),
        ("gzip", &["--rows", "3000", "--chunk", "489"]),
        ("gzip", &["--rows", "20000", "--chunk", "16384"]),
        ("public", &["--rows", "900", "--channels", "8", "--joints", "5", "--no-metadata"]),
    ];
    for (layout, more) in layouts {
        let bench = Bench::new();
        bench.python("make_recordings.py", &[&["data", "--layout", layout, "--count", "4"], more].concat());
        let sizes: &[&str] = if more.contains(&"8") {
            &["data.emg_channels=8", "model.input_size=8", "data.joint_angles_channels=5", "model.output_size=5"]
        } else {
            &[]
        };
        for settings in [
            &["data.normalize_emg=recording", "data.normalize_angles=train"][..],
            &["data.normalize_emg=train", "data.skip_ik_failures=true", "data.statistics=exact"],
            &[
                "data.max_samples_for_normalize=700",
                "data.normalize=true",
                "data.eval_window=60",
                "data.eval_stride=60",
            ],
            &["data.normalize_emg=recording", "data.dtype=float16"],
        ] {
            let sets: Vec<_> = sizes.iter().chain(settings).flat_map(|set| ["--set", set]).collect();
            let (key, _) = bench.build(&[&SMALL, sets.as_slice(), &["data"]].concat());
            bench.check_cache(&key, "data");
            assert!(bench.ok("emg-cache", &["verify", &key, "--store", "st"]).contains("no damage"));
        }
    }
}

/// Files that other people's tools write: datasets of their own, other rates, units and names.
#[test]
fn declared_layouts_become_the_cache_that_numpy_computes() {
    let wrist = "data.layout=generic_neuromotor_wrist";
    let apart = "data.layout={emg: raw/emg, joint_angles: pose, time: raw/t, joint_angle_rate: 60, angle_unit: deg, \
                 metadata: {user: subject, filename: file, split: fold}}";
    let held =
        "data.layout={emg: emg, joint_angles: angles, joint_angle_rate: 72, interpolation: hold, invalid_rows: none}";
    let same = "data.layout={emg: emg, joint_angles: angles, attributes: emg}";
    for (kind, layout, joints) in
        [("wrist", wrist, "2"), ("apart", apart, "5"), ("held", held, "3"), ("same", same, "4"), ("big", same, "4")]
    {
        let bench = Bench::new();
        bench.python("make_layouts.py", &["data", kind]);
        let joints = [format!("data.joint_angles_channels={joints}"), format!("model.output_size={joints}")];
        let sets: Vec<_> = [layout, &joints[0], &joints[1], "data.normalize_emg=recording", "data.split_ratio=[1,0,0]"]
            .into_iter()
            .flat_map(|set| ["--set", set])
            .collect();
        for more in [&[][..], &["--set", "data.skip_ik_failures=true"]] {
            let (key, _) = bench.build(&[&SMALL, sets.as_slice(), more, &["data"]].concat());
            bench.check_cache(&key, "data");
            let info = bench.json("emg-cache", &["info", &key, "--store", "st", "--json"]);
            let user = &info["recordings"][0]["user"];
            assert_eq!(user.is_null(), !["apart", "wrist"].contains(&kind), "{kind}: {user}");
        }
    }
    let bench = Bench::new();
    bench.python("make_layouts.py", &["data", "held"]);
    for (layout, expected) in [
        ("{emg: emg, joint_angles: angles}", "angles: expected 0.70 s at 2000 Hz, found 0.02 s"),
        ("{emg: emg, joint_angles: nowhere}", "dataset: expected `nowhere`, found angles, emg"),
        ("{emg: emg/x, joint_angles: angles}", "emg: expected a group, found a dataset"),
        ("{table: emg, joint_angles: angles}", "dataset: expected one dimension, found shape [1401, 16]"),
    ] {
        let set = format!("data.layout={layout}");
        let args = ["build", "--set", &set, "--set", "data.joint_angles_channels=3", "--set", "model.output_size=3"];
        let message = bench.fails("emg-cache", 1, &[&args[..], &["data"]].concat());
        assert!(message.contains(expected), "{layout}: {message}");
    }
    for (layout, expected) in [
        ("emg2qwerty", "generic_neuromotor_wrist"),
        ("{emgs: emg}", "data.layout.emg"),
        ("{joint_angle_rate: -1}", "a positive joint_angle_rate"),
        ("{table: t, joint_angle_rate: 60}", "whose rows have a single rate"),
        ("{metadata: {who: user}}", "only metadata columns from the list filename"),
    ] {
        let message = bench.fails("emg-cache", 2, &["build", "--set", &format!("data.layout={layout}"), "data"]);
        assert!(message.contains(expected), "{layout}: {message}");
    }
}

/// emg2pose ships as one tar: its members are read where they lie, and are the recordings that they would be outside.
#[test]
fn recordings_in_a_tar_are_the_recordings() {
    let bench = Bench::new();
    bench.ok("emg-cache", &["synth", "data", "--recordings", "4", "--seconds", "2"]);
    bench.ok("emg-cache", &["synth", "data2", "--recordings", "3", "--seconds", "2", "--gzip", "489", "--seed", "9"]);
    let deep = format!("data/{}", "long/".repeat(30));
    std::fs::create_dir_all(bench.path(&deep)).unwrap();
    std::fs::copy(bench.path("data2/synth-00001_right.hdf5"), bench.path(&deep).join("synth-00001_x.hdf5"))
        .or_else(|_| {
            std::fs::copy(bench.path("data2/synth-00001_left.hdf5"), bench.path(&deep).join("synth-00001_x.hdf5"))
        })
        .unwrap();
    let table = std::fs::read_to_string(bench.path("data/metadata.csv")).unwrap();
    let line = table.lines().nth(1).unwrap();
    let mut fields: Vec<_> = line.split(',').collect();
    let filename = table.split(',').position(|column| column == "filename").unwrap();
    fields[filename] = "synth-00001_x";
    std::fs::write(bench.path("data/metadata.csv"), format!("{table}{}\n", fields.join(","))).unwrap();
    for format in ["gnu", "posix"] {
        let mut tar = std::process::Command::new("tar");
        let tar = tar.args(["--format", format, "-cf", &format!("{format}.tar"), "data"]).current_dir(bench.path(""));
        assert!(tar.status().unwrap().success());
    }
    let (key, _) = bench.build(&[&SMALL[..], &["data"]].concat());
    for format in ["gnu.tar", "posix.tar"] {
        let store = ["--set", "data.window_size=50", "--set", "data.stride=25", "--store", format];
        let store: Vec<_> = store.iter().map(|s| s.strip_suffix(".tar").unwrap_or(s)).collect();
        let (same, said) = bench.build(&[&store[..], &[format]].concat());
        assert_eq!(key, same, "{format}");
        assert!(said.contains("5 recordings read"), "{said}");
        let (_, said) = bench.build(&[&store[..], &[format]].concat());
        assert!(said.contains("0 recordings read"), "{said}");
    }
    let bytes = std::fs::read(bench.path("gnu.tar")).unwrap();
    std::fs::write(bench.path("cut.tar"), &bytes[..bytes.len() / 2]).unwrap();
    let message = bench.fails("emg-cache", 1, &["build", "--store", "st3", "cut.tar"]);
    assert!(message.contains("cut.tar: ") && message.contains("archive"), "{message}");
    // What was appended last under a name is what tar takes out.
    std::fs::copy(bench.path("data2/synth-00000_left.hdf5"), bench.path("data/synth-00000_left.hdf5")).unwrap();
    let mut tar = std::process::Command::new("tar");
    let tar = tar.args(["-rf", "gnu.tar", "data/synth-00000_left.hdf5"]).current_dir(bench.path(""));
    assert!(tar.status().unwrap().success());
    let (grown, said) = bench.build(&[&SMALL[..], &["gnu.tar"]].concat());
    assert_eq!(grown, bench.build(&[&SMALL[..], &["data"]].concat()).0, "{said}");
    // Two archives with metadata of their own do not mix them up.
    for (i, split) in ["train", "test"].iter().enumerate() {
        let name = format!("synth-0000{}_left", i + 2);
        std::fs::write(bench.path("metadata.csv"), format!("filename,split,user\n{name},{split},u{i}\n")).unwrap();
        std::fs::copy(bench.path(&format!("data2/{name}.hdf5")), bench.path(&format!("{name}.hdf5")))
            .or_else(|_| std::fs::copy(bench.path(&format!("data/{name}.hdf5")), bench.path(&format!("{name}.hdf5"))))
            .unwrap();
        let mut tar = std::process::Command::new("tar");
        let tar = tar
            .args(["-cf", &format!("flat{i}.tar"), &format!("{name}.hdf5"), "metadata.csv"])
            .current_dir(bench.path(""));
        assert!(tar.status().unwrap().success());
    }
    std::fs::remove_file(bench.path("metadata.csv")).unwrap();
    let (flat, _) = bench.build(&[&SMALL[..], &["flat0.tar", "flat1.tar"]].concat());
    let info = bench.json("emg-cache", &["info", &flat, "--store", "st", "--json"]);
    let of = |i: usize, what: &str| info["recordings"][i][what].as_str().unwrap().to_owned();
    assert_eq!([of(0, "split"), of(1, "split"), of(0, "user"), of(1, "user")], ["train", "test", "u0", "u1"]);
}

/// `EMG2POSE_TEST_FILE=path` runs it on a real recording.
#[test]
fn a_real_recording_builds_with_a_window_of_50() {
    let Some(path) = std::env::var_os("EMG2POSE_TEST_FILE") else {
        println!("EMG2POSE_TEST_FILE is not set: nothing to test");
        return;
    };
    let bench = Bench::new();
    let path = std::path::Path::new(&path);
    let sets = ["--set", "data.split_ratio=[1,0,0]", path.to_str().unwrap()];
    let (key, _) = bench.build(&[&SMALL[..], &sets].concat());
    bench.check_cache(&key, path.parent().unwrap().to_str().unwrap());
}

#[test]
fn recordings_longer_than_memory_are_streamed_to_the_same_rows() {
    let bench = Bench::new();
    for (folder, layout) in [("plain", "public"), ("packed", "gzip")] {
        // 26 MB of rows: beyond what is read whole. gzip shrinks its file below that, decoded it is not.
        let args = ["--layout", layout, "--count", "1", "--rows", "170000", "--chunk", "16384", "--no-metadata"];
        bench.python("make_recordings.py", &[&[folder][..], &args].concat());
        let sets = ["--set", "data.split_ratio=[1,0,0]", "--set", "data.normalize_emg=recording", folder];
        let (key, _) = bench.build(&[&SMALL[..], &sets].concat());
        bench.check_cache(&key, folder);
    }
}

#[test]
fn a_second_build_reads_nothing_and_an_added_recording_is_all_that_is_written() {
    let bench = Bench::new();
    synth(&bench, "data", &[]);
    let (key, first) = bench.build(&[&SMALL[..], &["data"]].concat());
    assert!(first.contains("4 recordings read, 1 segments written"), "{first}");
    let (again, second) = bench.build(&[&SMALL[..], &["data"]].concat());
    assert_eq!(key, again);
    assert!(second.contains("0 recordings read, 0 segments written"), "{second}");

    bench.ok("emg-cache", &["synth", "more", "--recordings", "5", "--seconds", "0.5"]);
    std::fs::copy(bench.path("more/synth-00004_left.hdf5"), bench.path("data/synth-00004_left.hdf5")).unwrap();
    std::fs::copy(bench.path("more/metadata.csv"), bench.path("data/metadata.csv")).unwrap();
    let (grown, third) = bench.build(&[&SMALL[..], &["data"]].concat());
    assert_ne!(key, grown);
    assert!(third.contains("1 recordings read, 1 segments written"), "{third}");
    bench.check_cache(&grown, "data");

    // Another store that never had the smaller cache: other segments, the same key.
    let other = ["--set", "data.window_size=50", "--set", "data.stride=25", "--store", "st2", "data"];
    assert_eq!(bench.build(&other).0, grown);
    let segments = |store: &str| std::fs::read_dir(bench.path(store).join("segments")).unwrap().count();
    assert_eq!((segments("st"), segments("st2")), (2, 1));
}

#[test]
fn two_builds_of_the_same_data_are_byte_identical_at_any_segment_size() {
    let bench = Bench::new();
    bench.ok("emg-cache", &["synth", "data", "--recordings", "6", "--seconds", "4"]);
    let mut keys = Vec::new();
    for (store, bytes) in [("a", "1048576"), ("b", "1048576"), ("c", "4294967296")] {
        let size = format!("data.segment_bytes={bytes}");
        keys.push(bench.build(&["--set", "data.stride=25", "--set", &size, "--store", store, "data"]).0);
    }
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    let relative = |store: &str| {
        let root = bench.path(store);
        files(&root)
            .into_iter()
            .map(|(path, bytes)| (path.strip_prefix(&root).unwrap().to_owned(), bytes))
            .collect::<Vec<_>>()
    };
    assert_eq!(relative("a"), relative("b"));
    assert_eq!(std::fs::read_dir(bench.path("a/segments")).unwrap().count(), 6);
    assert_eq!(std::fs::read_dir(bench.path("c/segments")).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(bench.path("a/tmp")).unwrap().count(), 0);
}

#[test]
fn a_changed_recording_changes_the_key() {
    let bench = Bench::new();
    synth(&bench, "data", &[]);
    // HDF5 writes times of day in whole seconds, if it is let.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    synth(&bench, "same", &[]);
    let bytes = |folder: &str| files(&bench.path(folder)).into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>();
    assert!(bytes("data") == bytes("same"));
    let (key, _) = bench.build(&[&SMALL[..], &["data"]].concat());
    synth(&bench, "data", &["--seed", "7"]);
    assert_ne!(bench.build(&[&SMALL[..], &["data"]].concat()).0, key);
}

#[test]
fn unusable_recordings_are_named_and_fail_or_are_skipped() {
    let bench = Bench::new();
    synth(&bench, "data", &[]);
    std::fs::remove_file(bench.path("data/metadata.csv")).unwrap();
    std::fs::write(bench.path("data/text.hdf5"), "not HDF5").unwrap();
    bench.ok("emg-cache", &["synth", "short", "--recordings", "1", "--seconds", "0.02"]);
    bench.ok("emg-cache", &["synth", "narrow", "--recordings", "1", "--channels", "8", "--joints", "5"]);
    bench.ok("emg-cache", &["synth", "slow", "--recordings", "1", "--rate", "1000"]);
    for folder in ["short", "narrow", "slow"] {
        let from = bench.path(folder).join("synth-00000_left.hdf5");
        std::fs::copy(from, bench.path(&format!("data/{folder}.hdf5"))).unwrap();
    }
    let whole = std::fs::read(bench.path("data/synth-00000_left.hdf5")).unwrap();
    std::fs::write(bench.path("data/cut.hdf5"), &whole[..whole.len() / 2]).unwrap();
    let message = bench.fails("emg-cache", 1, &[&["build"], &SMALL[..], &["data"]].concat());
    for expected in [
        "5 of 9 recordings",
        "text.hdf5: not readable as HDF5",
        "short.hdf5: too short: expected at least 50 rows for one window, found 40",
        "narrow.hdf5: emg: expected 16 values per row, found 8",
        "slow.hdf5: sample_rate: expected 2000 (model.original_sampling_rate), found 1000",
        "cut.hdf5",
        "data.on_bad_recording",
    ] {
        assert!(message.contains(expected), "{expected:?} in {message}");
    }
    let skip = [&SMALL[..], &["--set", "data.on_bad_recording=skip", "data"]].concat();
    let (key, said) = bench.build(&skip);
    assert!(said.contains("5 recordings skipped") && said.contains("narrow.hdf5"), "{said}");
    let (again, said) = bench.build(&skip);
    assert_eq!(key, again);
    // Only the one that HDF5 cannot read is tried again.
    assert!(said.contains("1 recordings read"), "{said}");
    let other = [&SMALL[..], &["--set", "data.hdf5_group=elsewhere", "data/synth-00000_left.hdf5"]].concat();
    let message = bench.fails("emg-cache", 1, &[&["build"], other.as_slice()].concat());
    assert!(message.contains("group: expected `elsewhere`, found emg2pose"), "{message}");
}

#[test]
fn info_shows_a_table_and_a_picture() {
    let bench = Bench::new();
    bench.ok("emg-cache", &["synth", "data", "--recordings", "6", "--seconds", "3", "--ik-failures", "0.2"]);
    let (key, _) = bench.build(&[&SMALL[..], &["data"]].concat());
    let said = bench.ok("emg-cache", &["info", &key, "--store", "st", "--plot", "picture.svg"]);
    let total = said.lines().find(|line| line.starts_with("all ")).unwrap();
    let fields: Vec<_> = total.split_whitespace().collect();
    // 6 recordings of 5 users in 3 stages, 18 s.
    assert_eq!(fields[1..6], ["6", "5", "3", "0.3", "min"], "{said}");
    assert!(
        said.contains("16 EMG channels, 20 joint angles at 2000 Hz") && said.contains("50 rows, stride 25"),
        "{said}"
    );
    let counted = bench.python("check_picture.py", &["picture.svg"]);
    let counts: Vec<usize> = counted.split_whitespace().map(|count| count.parse().unwrap()).collect();
    // A line for each channel and joint; at least a bar for each channel and recording.
    assert!(counts[0] >= 36 && counts[1] >= 16 + 12, "{counted}");
    let message = bench.fails("emg-cache", 1, &["info", &key, "--store", "st", "--plot", "nowhere/picture.svg"]);
    assert!(message.contains("nowhere/picture.svg: the picture cannot be written"), "{message}");
}

#[test]
fn leakage_between_splits_is_refused() {
    let bench = Bench::new();
    synth(&bench, "data", &[]);
    std::fs::copy(bench.path("data/synth-00000_left.hdf5"), bench.path("data/copy.hdf5")).unwrap();
    let csv = std::fs::read_to_string(bench.path("data/metadata.csv")).unwrap();
    let same = format!("{csv}s,u,x,0,1,left,copy,left,False,False,train,\n");
    std::fs::write(bench.path("data/metadata.csv"), &same).unwrap();
    let (key, said) = bench.build(&[&SMALL[..], &["data"]].concat());
    assert!(said.contains("have the same content"), "{said}");
    bench.check_cache(&key, "data");
    std::fs::write(bench.path("data/metadata.csv"), same.replace("False,train,\n", "False,test,\n")).unwrap();
    let message = bench.fails("emg-cache", 1, &[&["build"], &SMALL[..], &["data"]].concat());
    assert!(message.contains("copy.hdf5") && message.contains("two splits"), "{message}");
}

#[test]
fn one_flipped_bit_is_found_and_named_and_a_cut_file_is_not_opened() {
    let bench = Bench::new();
    synth(&bench, "data", &[]);
    let (key, _) = bench.build(&[&SMALL[..], &["data"]].concat());
    let all = files(&bench.path("st"));
    assert!(all.len() >= 8, "{}", all.len());
    for (path, bytes) in all.iter().filter(|(path, _)| !path.ends_with("format.json")) {
        for place in [0, bytes.len() / 2, bytes.len() - 1] {
            let mut damaged = bytes.clone();
            damaged[place] ^= 4;
            std::fs::write(path, &damaged).unwrap();
            let output = bench.run("emg-cache", &["verify", &key, "--store", "st"]);
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(output.status.code(), Some(1), "{path:?} byte {place}: {said}");
            assert!(said.contains(path.file_name().unwrap().to_str().unwrap()), "{path:?}: {said}");
            if path.ends_with("emg/c/0/0") && place == 0 {
                assert!(said.contains("block 0") && said.contains("synth-00000_left"), "{said}");
            }
        }
        std::fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(bench.run("emg-cache", &["verify", &key, "--store", "st"]).status.code(), Some(1));
        if path.ends_with("0/0") {
            let message = bench.fails("emg-cache", 1, &["info", &key, "--store", "st"]);
            assert!(message.contains(&format!("expected {} bytes", bytes.len())), "{message}");
        }
        std::fs::write(path, bytes).unwrap();
    }
    assert!(bench.ok("emg-cache", &["verify", "--store", "st"]).contains("1 caches, no damage"));
}

#[test]
fn wrong_usage_exits_with_2_and_says_what_is_right() {
    let bench = Bench::new();
    synth(&bench, "data", &[]);
    let cases: [(&[&str], &str); 6] = [
        (&["build", "--set", "data.windowsize=3", "data"], "data.window_size"),
        (&["build", "--set", "data.stride=0", "data"], "data.stride: expected 1 to"),
        (&["build", "--config", "nowhere.yaml", "data"], "presets: default"),
        (&["build", "--set", "data.dtype=int8", "data"], "float16"),
        (&["build"], "data.dataset_path"),
        (&["build", "--sett", "x"], "--set"),
    ];
    for (args, expected) in cases {
        let message = bench.fails("emg-cache", 2, args);
        assert!(message.contains(expected), "{args:?}: {message}");
    }
    bench.build(&[&SMALL[..], &["data"]].concat());
    assert!(bench.fails("emg-cache", 2, &["info", "0123456789", "--store", "st"]).contains("no cache 0123456789"));
    assert!(bench.fails("emg-cache", 2, &["info", "xyz", "--store", "st"]).contains("8 hexadecimal"));
    assert!(bench.fails("emg-cache", 1, &["list", "--store", "data"]).contains("format.json"));
    assert!(bench.fails("emg-cache", 1, &["build", "--store", "st", "missing"]).contains("missing"));
}

#[test]
fn splits_without_metadata_follow_ratio_unit_and_seed() {
    let bench = Bench::new();
    bench.ok("emg-cache", &["synth", "data", "--recordings", "12", "--seconds", "0.2", "--users", "4"]);
    std::fs::remove_file(bench.path("data/metadata.csv")).unwrap();
    let sets = ["--set", "data.split_by=user", "--set", "data.split_ratio=[0.5,0.25,0.25]", "data"];
    let (key, _) = bench.build(&[&SMALL[..], &sets].concat());
    let info = bench.json("emg-cache", &["info", &key, "--store", "st", "--json"]);
    let recordings = info["recordings"].as_array().unwrap();
    let mut by_user = std::collections::BTreeMap::new();
    for recording in recordings {
        let split = by_user.entry(recording["user"].as_str().unwrap()).or_insert(&recording["split"]);
        assert_eq!(*split, &recording["split"]);
    }
    let of = |split: &str| by_user.values().filter(|value| ***value == *split).count();
    assert_eq!((of("train"), of("val"), of("test")), (2, 1, 1));
}

#[test]
fn builders_at_once_agree() {
    let bench = Bench::new();
    bench.ok("emg-cache", &["synth", "data", "--recordings", "6", "--seconds", "4"]);
    // A store with a segment already, and segments so small that each recording fills one.
    let args = ["build", "--set", "data.stride=25", "--set", "data.segment_bytes=1048576", "--store", "st"];
    bench.ok("emg-cache", &[&args[..], &["data/synth-00000_left.hdf5"]].concat());
    let start =
        || bench.command("emg-cache").args(args).arg("data").stdout(std::process::Stdio::piped()).spawn().unwrap();
    let builders: Vec<_> = (0..8).map(|_| start()).collect();
    let keys: Vec<_> = builders
        .into_iter()
        .map(|builder| {
            let output = builder.wait_with_output().unwrap();
            assert!(output.status.success());
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        })
        .collect();
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    bench.check_cache(&keys[0], "data");
    assert_eq!(std::fs::read_dir(bench.path("st/tmp")).unwrap().count(), 0);
}

/// The memo holds paths of recordings, which may name subjects.
#[test]
fn the_memo_is_nobody_elses_to_read() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::tiny(&["--recordings", "2", "--seconds", "0.2"]);
    bench.build(&["--config", "tiny.yaml"]);
    let memo: Vec<_> = files(&bench.path("cache-home")).into_iter().filter(|(_, bytes)| !bytes.is_empty()).collect();
    assert!(!memo.is_empty());
    for (path, _) in memo {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
    }
}
