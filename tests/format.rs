//! The store format is what docs/store-format.md says, and stores of it stay readable for ever.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::Bench;
use emg_pipeline::cache::{Access, Cache, Io, Store, verify};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The Python program of the documentation.
fn documented_reader() -> String {
    let text = std::fs::read_to_string(root("docs/store-format.md")).unwrap();
    let program = text.split("```python\n").nth(1).unwrap().split("```").next().unwrap().to_owned();
    assert!(program.trim().lines().count() <= 20, "a reader in 20 lines");
    program
}

/// What the documented reader prints, computed by this library.
fn lines(store: &Path, key: &emg_pipeline::cache::Key, io: Io) -> String {
    let cache = Cache::open(store, key, &Access { io, ..Access::default() }).unwrap();
    let settings = &cache.manifest().settings;
    let mut text = String::new();
    for recording in cache.recordings() {
        let (content, segment) = (recording.content, cache.segment(recording.segment));
        let mut emg = vec![0.0; content.rows as usize * settings.emg_channels];
        let mut angles = vec![0.0; content.rows as usize * settings.joint_angles_channels];
        segment.copy_emg(content.first_row, &mut emg).unwrap();
        segment.copy_joint_angles(content.first_row, &mut angles).unwrap();
        let valid: u64 = content.valid_runs.iter().map(|run| run.1).sum();
        let sum: f64 = emg.iter().map(|value| f64::from(*value)).sum();
        let (name, split) = (&recording.listed.name, recording.listed.split);
        text += &format!("{name} {split} {} {valid} {sum:.6} {:.6}\n", content.rows, angles[0]);
    }
    text
}

/// tests/fixtures/store-1 was made by the first version that wrote format 1 (scripts/generate-fixture-store).
#[test]
fn a_store_of_format_1_is_read_as_documented() {
    let path = root("tests/fixtures/store-1");
    let store = Store::open(&path).unwrap();
    let keys = store.cache_keys().unwrap();
    assert_eq!(keys.len(), 2);
    assert_eq!(verify(&store, &keys, true, &|_| ()).unwrap(), []);
    for key in &keys {
        let output = Command::new("python3")
            .args(["-c", &documented_reader(), path.to_str().unwrap(), &key.to_string()])
            .env("PYTHONPATH", root(".tools/python"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let printed = String::from_utf8(output.stdout).unwrap();
        assert_eq!(printed.lines().count(), 5);
        for io in [Io::Mmap, Io::Read] {
            let ours = lines(&path, key, io);
            for (a, b) in printed.lines().zip(ours.lines()) {
                let (a, b): (Vec<_>, Vec<_>) = (a.split(' ').collect(), b.split(' ').collect());
                assert_eq!((&a[..4], &a[5]), (&b[..4], &b[5]));
                // numpy sums in another order.
                let [a, b] = [a[4], b[4]].map(|sum| sum.parse::<f64>().unwrap());
                assert!((a - b).abs() <= 2e-6 + 1e-9 * a.abs(), "{a} {b}");
            }
        }
    }
}

/// Every statement about bytes and digests, checked on the fixture by Python from the documentation's words.
#[test]
fn the_bytes_are_as_documented() {
    let bench = Bench::new();
    let path = root("tests/fixtures/store-1");
    let said = bench.python("check_format.py", &[path.to_str().unwrap()]);
    assert_eq!(said.trim(), "ok: 2 caches, 2 segments");
}

/// A store that today's version builds is one that the documentation describes.
#[test]
fn new_stores_are_of_the_documented_format() {
    let bench = Bench::new();
    bench.ok("emg-cache", &["synth", "data", "--recordings", "3", "--seconds", "5"]);
    std::fs::remove_file(bench.path("data/metadata.csv")).unwrap();
    std::fs::rename(bench.path("data/synth-00000_left.hdf5"), bench.path("data/Müller \"1\".hdf5")).unwrap();
    bench.build(&["--store", "st", "data"]);
    bench.build(&["--store", "st", "--set", "data.dtype=float16", "--set", "data.normalize=true", "data"]);
    assert_eq!(bench.python("check_format.py", &["st"]).trim(), "ok: 2 caches, 2 segments");
}
