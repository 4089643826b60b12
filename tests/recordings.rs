//! What laboratories have on their disks becomes the right rows, or a clear refusal.

mod common;

use std::process::Command;

use common::{Bench, stderr};
use serde_json::Value;

const SETS: [&str; 10] = [
    "--store",
    "st",
    "--set",
    "data.window_size=50",
    "--set",
    "data.stride=50",
    "--set",
    "data.split_ratio=[1,0,0]",
    "--set",
    "data.normalize_emg=none",
];
const APART: [&str; 2] = ["--set", "data.layout={emg: emg, joint_angles: ang}"];

/// A folder with the situations of make_situations.py.
fn situations() -> Bench {
    let bench = Bench::new();
    bench.python("make_situations.py", &["."]);
    bench
}

/// What `build --json` says; and the recordings of the cache.
fn build(bench: &Bench, more: &[&str]) -> (Value, Vec<Value>) {
    let output = bench.run("emg-cache", &[&["build", "--json"], &SETS[..], more].concat());
    assert!(output.status.success(), "{more:?}: {}", stderr(&output));
    let built: Value = serde_json::from_slice(&output.stdout).unwrap();
    let info = bench.json("emg-cache", &["info", built["key"].as_str().unwrap(), "--store", "st", "--json"]);
    (built, info["recordings"].as_array().unwrap().clone())
}

fn refusal(bench: &Bench, more: &[&str]) -> String {
    bench.fails("emg-cache", 1, &[&["build"], &SETS[..], more].concat())
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// Whether each line has one of `expected` of its own.
#[track_caller]
fn all_told(lines: &[&str], expected: &[&str]) {
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for expected in expected {
        assert!(lines.iter().any(|line| line.contains(expected)), "{expected:?} in {lines:#?}");
    }
}

fn names(recordings: &[Value]) -> Vec<&str> {
    recordings.iter().map(|recording| recording["name"].as_str().unwrap()).collect()
}

/// pynwb and PyTables read the same values (tests/golden/make_foreign.py).
#[test]
fn files_of_pynwb_and_pytables_are_cached_as_these_read_them() {
    let bench = Bench::new();
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/recordings");
    let widths = "data.emg_channels=4 data.joint_angles_channels=3 model.input_size=4 model.output_size=3";
    let widths: Vec<_> = widths.split(' ').flat_map(|set| ["--set", set]).collect();
    for (file, layout) in [
        ("pynwb.nwb", "{emg: acquisition/emg/data, joint_angles: acquisition/angles/data}"),
        ("pytables.h5", "{table: run/rows, joint_angles: ang, attributes: run/rows}"),
    ] {
        let (name, layout) = (file.split('.').next().unwrap(), format!("data.layout={layout}"));
        let path = fixtures.join(file);
        let (_, recordings) = build(&bench, &[&widths[..], &["--set", &layout, path.to_str().unwrap()]].concat());
        for (array, values) in [("emg", "emg"), ("joint_angles", "angles")] {
            let segment = recordings[0]["segment"].as_str().unwrap();
            let cached = std::fs::read(bench.path(&format!("st/segments/{segment}/{array}/c/0/0"))).unwrap();
            let expected = std::fs::read(fixtures.join(format!("{name}.{values}.f4"))).unwrap();
            let numbers =
                |bytes: &[u8]| bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<_>>();
            let (cached, expected) = (numbers(&cached[..expected.len()]), numbers(&expected));
            // pynwb computes in float32.
            let close = |a: f32, b: f32| (a.is_nan() && b.is_nan()) || (a - b).abs() <= 2e-6 * b.abs();
            assert!(
                cached.iter().zip(&expected).all(|(a, b)| close(*a, *b)) && expected.len() >= 600,
                "{name}: {array}"
            );
        }
        if name == "pytables" {
            let labels = ["user", "session", "stage"].map(|label| recordings[0][label].clone());
            assert_eq!(labels, ["Zo\u{eb}".into(), Value::Null, "7".into()]);
        }
    }
}

/// Storage, types, filters, links and attributes: EMG_RECORDINGS random files, 20,000 for the full test.
#[test]
fn random_recordings_are_cached_as_h5py_reads_them_or_refused_for_what_they_are() {
    let bench = Bench::new();
    let files = std::env::var("EMG_RECORDINGS").unwrap_or("300".into());
    let seed = std::env::var("EMG_SEED").unwrap_or("1".into());
    let said =
        bench.python("check_recordings.py", &[env!("CARGO_BIN_EXE_emg-cache"), "--files", &files, "--seed", &seed]);
    println!("{said}");
    let counts: Vec<u64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [cached, refused] = counts[..] else { panic!("{said}") };
    assert!(cached > 2 * files.parse::<u64>().unwrap() / 5 && refused > cached / 5, "{said}");
}

#[test]
fn links_are_followed_and_what_is_no_recording_is_told() {
    let bench = situations();
    let (built, recordings) = build(&bench, &["linked"]);
    assert_eq!(names(&recordings), ["a", "x"]);
    assert_eq!(recordings[1]["path"], "more/x.hdf5");
    all_told(
        &texts(&built["left_out"]),
        &[
            "linked/circle: a link to a folder that is searched already",
            "linked/broken.hdf5: a link to nothing",
            "linked/again.hdf5: the same file as linked/a.hdf5",
            "linked/.snapshot: hidden",
            "linked/._a.hdf5: hidden",
            "linked/notes.mat: input: expected an HDF5 file, found a MATLAB 5 file; save it with -v7.3",
            "linked/predicted/a.hdf5: holds angles that emg-train predicted, not recorded ones",
            "linked/pipe.hdf5: not a regular file",
        ],
    );
    // The same from the memo, and what it is that leaves nothing.
    let (again, _) = build(&bench, &["linked"]);
    assert_eq!((&again["key"], &again["recordings_read"]), (&built["key"], &Value::from(0)));
    assert_eq!(again["left_out"].as_array().unwrap().len(), 8);
    let message = refusal(&bench, &["linked/predicted"]);
    assert!(message.contains("no recording is left") && message.contains("emg-train predicted"), "{message}");
    let message = refusal(&bench, &["linked/pipe.hdf5"]);
    assert!(message.contains("pipe.hdf5: not a regular file"), "{message}");
    // A build that fails says what was left out, too.
    std::fs::write(bench.path("linked/bad.hdf5"), "text").unwrap();
    let message = refusal(&bench, &["linked"]);
    assert!(message.contains("bad.hdf5: not readable as HDF5") && message.contains("left out:\n"), "{message}");
}

#[test]
fn links_in_archives_are_recordings_and_members_with_holes_are_refused() {
    let bench = situations();
    let (built, recordings) = build(&bench, &["tars/links.tar"]);
    assert_eq!(names(&recordings), ["a", "b", "c"]);
    assert!(recordings.iter().all(|recording| recording["blake3"] == recordings[0]["blake3"]));
    assert_eq!(texts(&built["left_out"]), [""; 0]);
    for format in ["gnu", "posix"] {
        let archive = format!("{format}.tar");
        let mut tar = Command::new("tar");
        let tar = tar.args(["--sparse", "--format", format, "-cf", &archive, "-C", "tars", "sparse"]);
        assert!(tar.current_dir(bench.path("")).status().unwrap().success());
        let message = refusal(&bench, &[&archive]);
        assert!(message.contains("1 of 2 recordings"), "{message}");
        assert!(message.contains("sparse/holes.hdf5: stored as a sparse file, without its holes"), "{message}");
        let (built, recordings) = build(&bench, &["--set", "data.on_bad_recording=skip", &archive]);
        assert_eq!((names(&recordings), built["skipped"].as_array().unwrap().len()), (vec!["plain"], 1));
    }
}

#[test]
fn rows_in_other_files_are_refused() {
    let bench = situations();
    let message = refusal(&bench, &[&APART[..], &["external_link"]].concat());
    assert!(
        message.contains("emg: expected an object of this file, found an external link to another file"),
        "{message}"
    );
    assert!(message.contains("../elsewhere/other.bin"), "{message}");
}

const NWB: [&str; 2] = ["--set", "data.layout={emg: acquisition/emg/data, joint_angles: acquisition/angles/data}"];

#[test]
fn signals_of_nwb_files_are_aligned_by_when_they_start() {
    let bench = situations();
    let angles = |folder: &str| {
        let (_, recordings) = build(&bench, &[&NWB[..], &[folder]].concat());
        let segment = recordings[0]["segment"].as_str().unwrap();
        let runs = recordings[0]["valid_runs"].clone();
        (runs, std::fs::read(bench.path(&format!("st/segments/{segment}/joint_angles/c/0/0"))).unwrap())
    };
    let (late, same) = (angles("nwb_late"), angles("nwb_same"));
    assert_eq!(late.0, serde_json::json!([[100, 600]]));
    assert!(late == same);
    for (folder, expected) in [
        ("nwb_other_day", "angles of the time of the EMG, found that they start 9.00 s away from it"),
        ("nwb_degrees", "expected angles in rad (data.layout.angle_unit), found unit degrees"),
        ("nwb_stamps", "timestamps: expected steady time stamps at 2000 Hz, found sample 699 0.349 s off"),
        ("nwb_channels", "one factor for all channels, or data.layout.emg_scale, found a channel_conversion"),
        ("zstd", "needs the HDF5 filter zstd (32015), for which there is no plugin: install one (hdf5plugin has most)"),
        ("nwb_gap", "timestamps: expected steady time stamps at 2000 Hz, found sample"),
    ] {
        let message = refusal(&bench, &[&NWB[..], &[folder]].concat());
        assert!(message.contains(expected), "{message}");
    }
}

/// A file that may hold anything is left out if it is no recording of this layout, and refused if it is a bad one.
#[test]
fn doubtful_files_that_are_recordings_are_held_to_what_recordings_are() {
    let bench = situations();
    let message = refusal(&bench, &[&NWB[..], &["nwb_bad"]].concat());
    assert!(message.contains("2 of 4 recordings cannot be used"), "{message}");
    for expected in ["cut.nwb: not readable as HDF5", "nan.nwb: EMG row 3 holds", "left out:\n  ", "other.nwb: group"] {
        assert!(message.contains(expected), "{expected}: {message}");
    }
    let skip = ["--set", "data.on_bad_recording=skip"];
    let (built, recordings) = build(&bench, &[&NWB[..], &skip, &["nwb_bad"]].concat());
    assert_eq!((names(&recordings), texts(&built["skipped"]).len()), (vec!["good"], 2));
    all_told(&texts(&built["left_out"]), &["other.nwb: group: expected `emg`, found lfp"]);
}

#[test]
fn a_table_lists_recordings_in_the_folders_below_it() {
    let bench = situations();
    for input in ["above", "above.tar"] {
        let (built, recordings) = build(&bench, &[input]);
        let of = |what: &str| recordings.iter().map(|r| r[what].as_str().unwrap()).collect::<Vec<_>>();
        let mut users: Vec<_> = of("path").into_iter().zip(of("user")).zip(of("split")).collect();
        users.sort_unstable();
        let expected = [(("s1/a.hdf5", "u1"), "train"), (("s2/a.hdf5", "u2"), "val"), (("s2/b.hdf5", "u3"), "test")];
        assert_eq!(users, expected, "{input}");
        let left_out = if input == "above" { vec!["p.hdf5: not listed in"] } else { vec![] };
        all_told(&texts(&built["left_out"]), &left_out);
    }
}

#[test]
fn users_stay_together_also_where_a_table_lists_some_of_their_recordings() {
    let bench = situations();
    let by_user = ["--set", "data.split_by=user", "--set", "data.split_ratio=[0.5,0.25,0.25]"];
    for (folder, users) in [("users", 4), ("spaces", 3)] {
        let (_, recordings) = build(&bench, &[&by_user[..], &[folder]].concat());
        let mut pairs: Vec<_> = recordings.iter().map(|r| (r["user"].to_string(), r["split"].to_string())).collect();
        pairs.sort_unstable();
        pairs.dedup();
        assert_eq!(pairs.len(), users, "{pairs:?}");
        if folder == "users" {
            assert!(pairs[..2].iter().all(|(_, split)| split.contains("test")), "{pairs:?}");
        }
    }
    let table = bench.path("users/metadata.csv");
    let text = std::fs::read_to_string(&table).unwrap();
    std::fs::write(&table, text.replace("u0_1,u0,", "u0_1,u0,val")).unwrap();
    let message = refusal(&bench, &[&by_user[..], &["users"]].concat());
    assert!(message.contains("data.split_by is user, but metadata.csv lists u0 in several splits"), "{message}");
}

#[test]
fn which_table_lists_a_recording_does_not_depend_on_the_order_of_the_inputs() {
    let bench = situations();
    let splits = |inputs: &[&str]| {
        let (built, recordings) = build(&bench, inputs);
        let mut of: Vec<_> = recordings.iter().map(|r| (r["user"].to_string(), r["split"].to_string())).collect();
        of.sort_unstable();
        (of, texts(&built["warnings"]).iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    };
    std::fs::remove_dir_all(bench.path("above/unlisted")).unwrap();
    let expected = splits(&["above"]);
    for inputs in [&["above/s2", "above"][..], &["above/s2/a.hdf5", "above"], &["above", "above/s1"]] {
        assert_eq!(splits(inputs), expected, "{inputs:?}");
    }
    let (_, warnings) = splits(&["above/s1"]);
    assert!(
        warnings.iter().any(|w| w.contains("above/metadata.csv: lies above the inputs and is not used")),
        "{warnings:?}"
    );
}

#[test]
fn netcdf_says_what_packed_and_missing_values_are() {
    let bench = situations();
    let (packed, _) = build(&bench, &[&APART[..], &["packed"]].concat());
    let moments = cached_moments(&bench, packed["key"].as_str().unwrap(), 16);
    assert!(moments.iter().all(|(mean, std)| (mean - 2.0).abs() < 100.0 && (std - 500.0).abs() < 100.0), "{moments:?}");
    let message = refusal(&bench, &[&APART[..], &["fill"]].concat());
    assert!(message.contains("EMG row 7 holds a value that is not finite"), "{message}");
    // A declared offset leaves the file's factor; integers without any are refused.
    let shifted = "data.layout={emg: emg, joint_angles: ang, emg_offset: 7}";
    let (shifted_cache, _) = build(&bench, &["--set", shifted, "packed"]);
    let shifted_moments = cached_moments(&bench, shifted_cache["key"].as_str().unwrap(), 16);
    let by_five = moments.iter().zip(&shifted_moments).all(|(a, b)| (b.0 - a.0 - 5.0).abs() < 1e-2);
    assert!(by_five, "{moments:?} {shifted_moments:?}");
    assert!(refusal(&bench, &["--set", shifted, "int16"]).contains("integers with data.layout.emg_scale"));
}

#[test]
fn float16_takes_angles_that_count() {
    let bench = situations();
    let halves = ["--set", "data.dtype=float16"];
    let (_, recordings) = build(&bench, &[&halves[..], &["masked_large"]].concat());
    assert_eq!(recordings[0]["valid_runs"], serde_json::json!([[0, 5], [6, 694]]));
    let skip = ["--set", "data.on_bad_recording=skip"];
    let (built, _) = build(&bench, &[&halves[..], &skip, &["large", "masked_large"]].concat());
    all_told(&texts(&built["skipped"]), &["large/r.hdf5: holds values too large for float16"]);
}

#[test]
fn a_file_that_is_being_written_ends_the_build_whatever_is_skipped() {
    let bench = situations();
    bench.python("write_slowly.py", &["written.h5"]);
    let skip = ["--set", "data.on_bad_recording=skip"];
    let message = refusal(&bench, &[&skip[..], &["written.h5", "metadata"]].concat());
    assert!(message.contains("written.h5: another program is writing it"), "{message}");
}

#[test]
fn a_row_of_a_table_is_of_one_recording() {
    let bench = situations();
    std::fs::write(bench.path("above/metadata.csv"), "filename,user\na,u1\nb,u2\n").unwrap();
    std::fs::remove_dir_all(bench.path("above/unlisted")).unwrap();
    let message = refusal(&bench, &["above"]);
    let expected = "metadata.csv: line 2: this row may be of s1/a.hdf5 or of s2/a.hdf5; list their paths";
    assert!(message.contains(expected) || message.contains("of s2/a.hdf5 or of s1/a.hdf5"), "{message}");
    // Equal contents are one recording.
    std::fs::copy(bench.path("above/s1/a.hdf5"), bench.path("above/s2/a.hdf5")).unwrap();
    build(&bench, &["above"]);
}

/// The mean and standard deviation of each EMG channel, as cached.
fn cached_moments(bench: &Bench, key: &str, channels: usize) -> Vec<(f64, f64)> {
    let manifest = bench.json("emg-cache", &["info", key, "--store", "st", "--json"]);
    let segment = manifest["recordings"][0]["segment"].as_str().unwrap();
    let rows = manifest["recordings"][0]["rows"].as_u64().unwrap() as usize;
    let bytes = std::fs::read(bench.path(&format!("st/segments/{segment}/emg/c/0/0"))).unwrap();
    let values: Vec<f64> =
        bytes[..4 * rows * channels].as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect();
    let of = |channel: usize| values.iter().skip(channel).step_by(channels);
    let moments = |channel: usize| {
        let mean = of(channel).sum::<f64>() / rows as f64;
        (mean, (of(channel).map(|value| (value - mean).powi(2)).sum::<f64>() / rows as f64).sqrt())
    };
    (0..channels).map(moments).collect()
}

#[test]
fn emg_may_be_in_volts_and_a_constant_channel_is_one_in_any_unit() {
    let bench = situations();
    for folder in ["microvolts", "volts"] {
        let (built, _) = build(&bench, &[&APART[..], &["--set", "data.normalize_emg=recording", folder]].concat());
        all_told(&texts(&built["warnings"]), &["`r`: EMG channels [5] are constant"]);
        let moments = cached_moments(&bench, built["key"].as_str().unwrap(), 16);
        for (channel, (mean, std)) in moments.into_iter().enumerate() {
            let expected = if channel == 5 { 0.0 } else { 1.0 };
            assert!(mean.abs() < 1e-5 && (std - expected).abs() < 1e-5, "{folder}, {channel}: {mean} {std}");
        }
    }
}

#[test]
fn integers_need_a_scale_which_may_be_the_files() {
    let bench = situations();
    let message = refusal(&bench, &[&APART[..], &["int16"]].concat());
    assert!(message.contains("emg: expected floats, or integers with data.layout.emg_scale"), "{message}");
    let scaled = "data.layout={emg: emg, joint_angles: ang, emg_scale: 1e-3, emg_offset: 2}";
    let (declared, _) = build(&bench, &["--set", scaled, "int16"]);
    let moments = cached_moments(&bench, declared["key"].as_str().unwrap(), 16);
    assert!(moments.iter().all(|(mean, std)| (mean - 2.0).abs() < 0.2 && (std - 1.0).abs() < 0.2), "{moments:?}");
    let (stored, _) = build(&bench, &[&APART[..], &["conversion"]].concat());
    let moments = cached_moments(&bench, stored["key"].as_str().unwrap(), 16);
    assert!(moments.iter().all(|(mean, std)| (mean - 0.25).abs() < 2e-4 && (std - 1e-3).abs() < 2e-4), "{moments:?}");
    let halves = ["--set", "data.dtype=float16"];
    let message = refusal(&bench, &[&APART[..], &halves, &["volts"]].concat());
    assert!(message.contains("holds values too small for float16"), "{message}");
    for bad in ["emg_scale: 0", "joint_angle_scale: 0.0", "time_scale: -0.0"] {
        let layout = format!("data.layout={{emg: emg, joint_angles: ang, {bad}}}");
        let message = bench.fails("emg-cache", 2, &["build", "--set", &layout, "int16"]);
        assert!(message.contains("data.layout: expected a finite"), "{message}");
    }
}

#[test]
fn time_stamps_are_checked_in_the_unit_that_they_have() {
    let bench = situations();
    let timed = ["--set", "data.layout={emg: emg, joint_angles: ang, time: t}"];
    for folder in ["time_ns", "time_samples"] {
        let (built, recordings) = build(&bench, &[&timed[..], &[folder]].concat());
        assert_eq!((&recordings[0]["time_gaps"], texts(&built["warnings"])), (&Value::from(0), vec![]), "{folder}");
    }
    for (folder, rate) in [("time_1000", "1000.000000"), ("time_ms", "2.000000")] {
        let message = refusal(&bench, &[&timed[..], &[folder]].concat());
        let expected = format!("time: expected time stamps at 2000 Hz (model.original_sampling_rate), found {rate} Hz");
        assert!(message.contains(&expected), "{message}");
    }
    let milliseconds = "data.layout={emg: emg, joint_angles: ang, time: t, time_scale: 1e-3}";
    build(&bench, &["--set", milliseconds, "time_ms"]);
    for (time, expected) in
        [("nowhere", "fields: expected nowhere"), ("emg", "emg: expected 1 values per row, found 16")]
    {
        let layout = format!("data.layout={{table: emg2pose/timeseries, attributes: emg2pose, time: {time}}}");
        let message = refusal(&bench, &["--set", &layout, "time_gap"]);
        assert!(message.contains(expected), "{message}");
    }
    let message =
        refusal(&bench, &["--set", "data.layout={table: emg2pose/timeseries, attributes: elsewhere}", "time_gap"]);
    assert!(message.contains("attributes: expected a group or dataset `elsewhere`"), "{message}");
    // A gap is no other rate; many are told in one line.
    let (built, recordings) = build(&bench, &["time_gap"]);
    assert!(recordings.iter().all(|recording| recording["time_gaps"] == 1));
    all_told(&texts(&built["warnings"]), &["7 recordings have gaps in time, among them `r0`: 1 gaps in time; `r1`"]);
}

#[test]
fn the_table_that_emg2pose_offers_assigns_splits_and_labels() {
    let bench = situations();
    let (built, recordings) = build(&bench, &["metadata"]);
    let of = |what: &str| recordings.iter().map(|recording| recording[what].clone()).collect::<Vec<_>>();
    assert_eq!((of("split"), of("user")), (vec!["train".into(), "test".into()], vec!["u1".into(), "u2".into()]));
    assert_eq!(recordings[1]["labels"]["held_out_user"], "True");
    all_told(&texts(&built["warnings"]), &["emg2pose_metadata.csv: 1 of 3 listed recordings are not there: gone"]);
    // Other labels are another cache.
    let table = bench.path("metadata/emg2pose_metadata.csv");
    let text = std::fs::read_to_string(&table).unwrap();
    std::fs::write(&table, text.replace("both,True", "left,True")).unwrap();
    assert_ne!(build(&bench, &["metadata"]).0["key"], built["key"]);
    std::fs::write(&table, text.replace(",b,", ",a.h5,")).unwrap();
    let message = refusal(&bench, &["metadata"]);
    assert!(message.contains("line 3: `a.h5` is listed in line 2, too, with other values"), "{message}");
    std::fs::write(&table, text.replace(",b,", ",c,")).unwrap();
    let message = refusal(&bench, &["metadata"]);
    assert!(message.contains("b.hdf5: not listed in") && message.contains("emg2pose_metadata.csv"), "{message}");
}

#[test]
fn joints_are_chosen_by_name_or_number() {
    let bench = situations();
    let sets = ["--set", "model.output_size=2"];
    let (by_name, recordings) =
        build(&bench, &[&sets[..], &["--set", "data.joints=[index_MCP_FE, 0]", "joint_some"]].concat());
    let (by_number, _) = build(&bench, &[&sets[..], &["--set", "data.joints=[5, 0]", "joint_some"]].concat());
    assert_eq!(by_name["key"], by_number["key"]);
    let (all, whole) = build(&bench, &["joint_some"]);
    assert_ne!(all["key"], by_name["key"]);
    let mean = |recording: &Value, joint: usize| recording["statistics"]["joint_angles"]["mean"][joint].clone();
    for (some, whole) in recordings.iter().zip(&whole) {
        assert_eq!((mean(some, 0), mean(some, 1)), (mean(whole, 5), mean(whole, 0)));
    }
    for (joints, expected) in [
        ("[20]", "numbers from 0 to 19 or names of thumb_CMC_FE"),
        ("[little_finger]", "found little_finger"),
        ("[0, thumb_CMC_FE]", "each joint once, found thumb_CMC_FE"),
        ("[]", "at least one joint"),
    ] {
        let message = bench.fails("emg-cache", 2, &["build", "--set", &format!("data.joints={joints}"), "joint_some"]);
        assert!(message.contains("data.joints") && message.contains(expected), "{message}");
    }
    let message = bench.fails("emg-cache", 2, &["build", "--set", "data.joints=[5, 0]", "joint_some"]);
    assert!(message.contains("model.output_size"), "{message}");
}

/// A joint without a sensor does not count, and nothing else changes: training gives what it gives where that joint is 0
/// and has the weight 0.
#[test]
fn a_joint_that_was_not_measured_is_masked_alone() {
    let bench = situations();
    std::fs::write(bench.path("tiny.yaml"), common::TINY).unwrap();
    let splits = ["train", "train", "val", "test"].into_iter().enumerate();
    let splits: String = splits.map(|(i, split)| format!("r{i},{split},g{}\n", i % 2)).collect();
    for folder in ["joint_nan", "joint_zero", "joint_some"] {
        let table = format!("filename,split,group\n{splits}");
        std::fs::write(bench.path(folder).join("metadata.csv"), table).unwrap();
    }
    let (built, recordings) = build(&bench, &["joint_nan"]);
    assert!(recordings.iter().all(|recording| recording["unmeasured_joints"] == serde_json::json!([19])));
    let runs = serde_json::json!([[0, 100], [300, 2700]]);
    assert!(recordings.iter().all(|recording| recording["valid_runs"] == runs), "{}", recordings[0]["valid_runs"]);
    let warnings = texts(&built["warnings"]);
    let expected = "not measured, so excluded from errors: pinky_DIP_FE";
    assert!(warnings.len() == 4 && warnings.iter().all(|warning| warning.contains(expected)), "{warnings:?}");

    let weights = format!("training.joint_weights=[{}0]", "1,".repeat(19));
    let (zero_weights, nan_weights) = ([("joint_zero", weights.as_str())], [("joint_nan", "training.num_workers=2")]);
    let losses = |[(folder, set)]: [(&str, &str); 1], more: &str| -> Vec<f64> {
        let run = format!("run-{folder}-{}", more.len());
        let folder = format!("data.dataset_path={folder}");
        let sets = ["--config", "tiny.yaml", "--set", &folder, "--set", set, "--set", more];
        bench.ok("emg-cache", &[&["build"], &sets[..]].concat());
        bench.ok("emg-train", &[&["fit"], &sets[..], &["--run", &run]].concat());
        let metrics = std::fs::read_to_string(bench.path(&run).join("metrics.jsonl")).unwrap();
        let epochs = metrics.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        epochs.flat_map(|epoch| ["train_loss", "val_loss"].map(|name| epoch[name].as_f64().unwrap())).collect()
    };
    for more in ["training.loss_type=mae", "training.gradient_accumulation_steps=2", "training.data_residency=device"] {
        let (zero, nan) = (losses(zero_weights, more), losses(nan_weights, more));
        let close = zero.iter().zip(&nan).all(|(a, b)| (a - b).abs() <= 1e-5 * a.abs());
        assert!(close && zero.len() == 8, "{more}: {zero:?} {nan:?}");
    }
    // Recordings of which some lack a joint; and an evaluation of them, by other labels, too.
    let sets = ["--config", "tiny.yaml", "--set", "data.dataset_path=joint_some"];
    bench.ok("emg-cache", &[&["build"], &sets[..]].concat());
    bench.ok("emg-train", &[&["fit"], &sets[..], &["--run", "some"]].concat());
    for split in ["train", "val", "test"] {
        let result = bench.json("emg-train", &["eval", "some", "--split", split, "--by", "group,user", "--json"]);
        let joints = result["metrics"]["mae_deg_per_joint"].as_array().unwrap();
        let finite: Vec<f64> = joints.iter().filter_map(Value::as_f64).collect();
        let mean = finite.iter().sum::<f64>() / finite.len() as f64;
        assert!((19..=20).contains(&finite.len()), "{joints:?}");
        if finite.len() == 19 {
            assert!((result["metrics"]["mae_deg"].as_f64().unwrap() - mean).abs() < 1e-9 * mean, "{result}");
        }
        assert!(!result["by_label"]["group"].as_array().unwrap().is_empty());
    }
    let message = bench.fails("emg-train", 2, &["eval", "some", "--by", "colour"]);
    assert!(
        message.contains("has a label colour; expected one of user, stage, generalization, session, side, group"),
        "{message}"
    );
}
