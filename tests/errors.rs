//! What the programs say when something is wrong, word for word. After a change that was meant, look at the difference
//! and run `INSTA_UPDATE=always cargo test --test errors`.

mod common;

use std::fmt::Write;

use common::{Bench, stderr};

#[test]
fn errors_of_emg_cache() {
    let bench = Bench::new();
    bench.ok("emg-cache", &["synth", "data", "--recordings", "3", "--seconds", "0.5"]);
    bench.ok("emg-cache", &["synth", "narrow", "--recordings", "1", "--seconds", "0.5", "--channels", "8"]);
    bench.ok("emg-cache", &["synth", "slow", "--recordings", "1", "--seconds", "0.5", "--rate", "1000"]);
    std::fs::create_dir(bench.path("text")).unwrap();
    std::fs::write(bench.path("text/notes.hdf5"), "not HDF5").unwrap();
    std::fs::create_dir(bench.path("empty")).unwrap();
    std::fs::create_dir(bench.path("foreign")).unwrap();
    std::fs::write(bench.path("foreign/thesis.tex"), "").unwrap();
    let whole = std::fs::read(bench.path("data/synth-00000_left.hdf5")).unwrap();
    std::fs::create_dir(bench.path("cut")).unwrap();
    std::fs::write(bench.path("cut/half.hdf5"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(bench.path("bad.yaml"), "data:\n  stride: many\n").unwrap();
    let window = ["--set", "data.window_size=50", "--set", "data.stride=25"];
    let build = |more: &[&'static str]| [&["build"], &window[..], more].concat();
    let (key, _) = bench.build(&[&window[..], &["--store", "st", "data"]].concat());
    let manifest = bench.path("st/caches").join(format!("{key}.json"));
    let cases = [
        build(&["missing"]),
        build(&["empty"]),
        build(&["text"]),
        build(&["cut"]),
        build(&["narrow"]),
        build(&["slow"]),
        build(&["--store", "foreign", "data"]),
        build(&["--set", "data.layout={emg: emg, joint_angles: angles}", "data"]),
        build(&["--set", "data.layout={emgs: emg}", "data"]),
        build(&["--set", "data.layout=emg2qwerty", "data"]),
        build(&["--set", "data.windowsize=3", "data"]),
        build(&["--set", "data.stride=0", "data"]),
        build(&["--set", "stride", "data"]),
        build(&["--config", "bad.yaml", "data"]),
        build(&["--config", "nowhere.yaml", "data"]),
        build(&["--set", "data.window_size=5000", "data"]),
        vec!["build"],
        vec!["build", "--part", "3/2", "data"],
        vec!["list", "--store", "nowhere"],
        vec!["info", "0123456789", "--store", "st"],
        vec!["info", "xyz", "--store", "st"],
        vec!["unpin", key.as_str(), "--store", "st"],
        vec!["repair", "0123456789", "--store", "st", "data"],
    ];
    let mut text = String::new();
    let mut record = |args: &[&str]| {
        let output = bench.run("emg-cache", args);
        // Progress is not an error.
        let said = stderr(&output);
        let said = said.lines().filter(|line| !["hash ", "cache ", "verify "].iter().any(|p| line.starts_with(p)));
        let said = said.collect::<Vec<_>>().join("\n");
        let said = said.replace(bench.path("").to_str().unwrap(), "FOLDER/").replace(&key, "KEY");
        let args = args.join(" ").replace(&key, "KEY");
        let code = output.status.code().unwrap();
        assert_ne!(code, 0, "{args}");
        writeln!(text, "$ emg-cache {args}\n{said}\n[exit code {code}]\n").unwrap();
    };
    cases.iter().for_each(|args| record(args));
    let bytes = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, &bytes[1..]).unwrap();
    record(&["info", &key, "--store", "st"]);
    record(&["repair", &key, "--store", "st", "data"]);
    insta::assert_snapshot!("emg-cache", text);
}
