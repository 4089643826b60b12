//! Running the programs and the Python peers in a folder of the test's own.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use emg_pipeline::ports::{self, Named, Values};
use serde_json::Value;

/// What a batch of rows brings to a step.
pub(crate) fn batch<'a>(emg: &'a [f32], joint_angles: &'a [f32], mask: &'a [f32]) -> [Named<'a>; 3] {
    [(ports::EMG, Values::F32(emg)), (ports::JOINT_ANGLES, Values::F32(joint_angles)), (ports::MASK, Values::F32(mask))]
}

/// A temporary folder with a store in it, and the memo beside it.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// With the recordings that `emg-cache synth data` makes of these options, and [`TINY`] as tiny.yaml.
    pub(crate) fn tiny(synth: &[&str]) -> Self {
        let bench = Self::new();
        bench.ok("emg-cache", &[&["synth", "data"], synth].concat());
        std::fs::write(bench.path("tiny.yaml"), TINY).unwrap();
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command of emg-cache or emg-train, run in the folder.
    pub(crate) fn command(&self, program: &str) -> Command {
        let path = match program {
            "emg-cache" => env!("CARGO_BIN_EXE_emg-cache"),
            _ => env!("CARGO_BIN_EXE_emg-train"),
        };
        let mut command = Command::new(path);
        command
            .current_dir(self.folder.path())
            .env("XDG_CACHE_HOME", self.path("cache-home"))
            .env_remove("EMG_STORE")
            .env_remove("RUST_LOG");
        command
    }

    pub(crate) fn run(&self, program: &str, args: &[&str]) -> Output {
        self.command(program).args(args).output().unwrap()
    }

    /// Runs a program that must succeed; gives its stdout.
    pub(crate) fn ok(&self, program: &str, args: &[&str]) -> String {
        let output = self.run(program, args);
        assert!(output.status.success(), "{program} {args:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a program that must fail with `code`; gives its stderr.
    pub(crate) fn fails(&self, program: &str, code: i32, args: &[&str]) -> String {
        let output = self.run(program, args);
        assert_eq!(output.status.code(), Some(code), "{program} {args:?}: {}", stderr(&output));
        stderr(&output)
    }

    /// Builds a cache; gives its key and what was said on stderr.
    pub(crate) fn build(&self, args: &[&str]) -> (String, String) {
        let output = self.run("emg-cache", &[&["build"], args].concat());
        assert!(output.status.success(), "build {args:?}: {}", stderr(&output));
        (String::from_utf8_lossy(&output.stdout).trim().to_owned(), stderr(&output))
    }

    pub(crate) fn json(&self, program: &str, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(program, args)).unwrap()
    }

    /// Runs a script of tests/python with the packages that scripts/setup --test fetched.
    pub(crate) fn python(&self, script: &str, args: &[&str]) -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let packages = root.join(".tools/python");
        assert!(packages.is_dir(), "run scripts/setup --test first");
        let output = Command::new("python3")
            .arg(root.join("tests/python").join(script))
            .args(args)
            .current_dir(self.folder.path())
            .env("PYTHONPATH", packages)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{script} {args:?}:\n{stdout}{}", stderr(&output));
        stdout
    }

    /// Checks a cache of the store `st` against h5py, numpy and zarr-python.
    pub(crate) fn check_cache(&self, key: &str, dataset: &str) {
        let info = self.ok("emg-cache", &["info", key, "--store", "st", "--json"]);
        std::fs::write(self.path("info.json"), info).unwrap();
        self.python("check_cache.py", &["st", "info.json", dataset]);
    }
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A small model that trains in seconds, with everything in it that a large one has.
pub(crate) const TINY: &str = "
data:
  dataset_path: data
  window_size: 200
  stride: 100
  normalize_emg: recording
  normalize_angles: train
  store: st
model:
  tds_stages:
  - {in_conv_kernel: 5, in_conv_stride: 4, num_blocks: 1, channels: 4, feature_width: 4, kernel_width: 5}
  decoder_hidden_size: 16
  dropout: 0.2
training:
  num_epochs: 4
  batch_size: 8
  learning_rate: 0.005
  warmup_epochs: 1
  num_workers: 2
";

/// A run's checkpoint.
pub(crate) fn checkpoint(bench: &Bench, run: &str, name: &str) -> Vec<u8> {
    std::fs::read(bench.path(run).join(format!("checkpoints/{name}.safetensors"))).unwrap()
}

/// State vectors by name.
pub(crate) fn tensors(checkpoint: &[u8]) -> Vec<(String, Vec<u8>)> {
    let file = safetensors::SafeTensors::deserialize(checkpoint).unwrap();
    let mut tensors: Vec<_> = file.tensors().into_iter().map(|(name, view)| (name, view.data().to_vec())).collect();
    tensors.sort();
    tensors
}

/// All files below `folder`, sorted, with their bytes.
pub(crate) fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    paths(folder).into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// All files below `folder`, sorted; some may be gone already.
pub(crate) fn paths(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// tests/golden/make_published.py's `noise`: SplitMix64 of number x 2^32 + element, as 24 bits in [-0.5, 0.5).
pub(crate) fn noise(number: u64, elements: usize) -> impl Iterator<Item = f32> {
    (0..elements as u64).map(move |i| {
        let mut z = ((number << 32) + i).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 40) as f32 / 16_777_216.0 - 0.5
    })
}

/// The bytes that hexadecimal digits stand for.
pub(crate) fn from_hex(digits: &str) -> Vec<u8> {
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.as_bytes().as_chunks::<2>().0.iter().map(byte).collect()
}
