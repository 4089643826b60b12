//! The fuzz targets of fuzz/, on their seeds and on mutations of them: whatever foreign bytes hold, reading them ends in a
//! value or an error.
//!
//! EMG_MUTATIONS: how many of each target (default: 200). EMG_FUZZ_SEEDS: a folder to write the seeds to, for `cargo fuzz`.

mod common;
#[path = "../fuzz/targets.rs"]
mod targets;

use std::path::{Path, PathBuf};

use common::{Bench, files, from_hex};
use emg_pipeline::config::PRESETS;
use emg_pipeline::random::Random;

/// Overwrites, copies, removes or cuts a few places.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    const PIECES: [&[u8]; 8] =
        [b"-1", b"18446744073709551615", b"null", b"1e999", b"{}", b"\xff\xff\xff\x7f", b"\x00", b"nan"];
    for _ in 0..=random.up_to(3) {
        if bytes.is_empty() {
            return;
        }
        let at = random.up_to(bytes.len() as u64 - 1) as usize;
        let width = (1 + random.up_to(7) as usize).min(bytes.len() - at);
        match random.up_to(6) {
            0..=2 => bytes[at] ^= 1 << random.up_to(7),
            3 => {
                bytes.drain(at..at + width);
            }
            4 => {
                let piece = PIECES[random.up_to(7) as usize];
                bytes.splice(at..at + width, piece.iter().copied());
            }
            5 => {
                let from = random.up_to(bytes.len() as u64 - 1) as usize;
                let piece = bytes[from..(from + width).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            _ if random.up_to(3) == 0 => bytes.truncate(at),
            _ => {}
        }
    }
}

/// Runs a target on its seeds, of which it must accept at least `accepted`, and on `mutations` of them.
fn check(name: &str, target: fn(&[u8]) -> bool, seeds: &[Vec<u8>], accepted: usize, mutations: u64) {
    if let Some(folder) = std::env::var_os("EMG_FUZZ_SEEDS") {
        let folder = PathBuf::from(folder).join(name);
        std::fs::create_dir_all(&folder).unwrap();
        for (i, seed) in seeds.iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{i}")), seed).unwrap();
        }
    }
    let good = seeds.iter().filter(|seed| target(seed)).count();
    assert!(good >= accepted, "{name}: {good} of {} seeds are accepted, expected {accepted}", seeds.len());
    let mut refused = 0;
    for round in 0..mutations {
        let mut random = Random::new(&[round, 13]);
        let mut bytes = seeds[random.up_to(seeds.len() as u64 - 1) as usize].clone();
        mutate(&mut bytes, &mut random);
        refused += u64::from(!target(&bytes));
    }
    assert!(mutations == 0 || refused > 0, "{name}: no mutation was noticed");
}

fn mutations() -> u64 {
    std::env::var("EMG_MUTATIONS").map_or(200, |count| count.parse().unwrap())
}

#[test]
fn onnx_models() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let models = files(&folder).into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "onnx"));
    let mut seeds: Vec<_> = models.map(|(_, bytes)| bytes).collect();
    seeds.sort();
    let refused: serde_json::Value = serde_json::from_str(include_str!("golden/refused.json")).unwrap();
    for case in refused.as_array().unwrap() {
        seeds.push(from_hex(case["model"].as_str().unwrap()));
    }
    check("onnx", targets::onnx, &seeds, 10, mutations());
}

#[test]
fn configurations() {
    let mut seeds: Vec<_> = PRESETS.iter().map(|(_, text)| text.as_bytes().to_vec()).collect();
    let described = "data: {layout: {emg: emg, joint_angles: q, metadata: {user: subject}}, normalize_emg: train}\n\
                     model: {type: onnx, onnx: mine.onnx, freeze: ['encoder.*']}\n";
    seeds.push(described.into());
    check("configuration", targets::configuration, &seeds, PRESETS.len(), mutations());
}

#[test]
fn manifests_segments_and_checkpoints() {
    let bench = Bench::tiny(&["--recordings", "3", "--seconds", "0.4", "--ik-failures", "0.3"]);
    bench.build(&["--config", "tiny.yaml"]);
    bench.ok("emg-train", &["fit", "--config", "tiny.yaml", "--run", "run", "--set", "training.num_epochs=1"]);
    let stored = files(&bench.path("st"));
    let documents = |is: fn(&Path) -> bool| -> Vec<_> {
        stored.iter().filter(|(path, _)| is(path)).map(|(_, bytes)| targets::document(bytes)).collect()
    };
    let manifests = documents(|path| path.parent().is_some_and(|folder| folder.ends_with("caches")));
    check("manifest", targets::manifest, &manifests, 1, mutations());
    let segments = documents(|path| path.ends_with("segment.json"));
    check("segment", targets::segment, &segments, 1, mutations());
    let checkpoints: Vec<_> = files(&bench.path("run"))
        .into_iter()
        .filter(|(path, _)| path.extension().is_some_and(|e| e == "safetensors"))
        .map(|(_, bytes)| bytes)
        .collect();
    check("checkpoint", targets::checkpoint, &checkpoints, 1, mutations());
}

/// Mutations are left to `cargo fuzz` and to tests/hostile.rs: here the HDF5 library is not in a process of its own.
#[test]
fn recordings() {
    let bench = Bench::new();
    for layout in ["meta", "public", "gzip"] {
        bench.python("make_recordings.py", &[layout, "--layout", layout, "--count", "1", "--rows", "60"]);
    }
    let made = ["meta", "public", "gzip"].map(|folder| bench.path(folder));
    let seeds: Vec<_> = made.iter().flat_map(|folder| files(folder)).map(|(_, bytes)| bytes).collect();
    check("recording", targets::recording, &seeds, 2, 0);
}
