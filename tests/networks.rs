//! Networks that people use, and random ones, trained beside PyTorch: every parameter after one step, and the exported
//! model, or a refusal (tests/python/check_networks.py says which).

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A process that checks some of them, with PyTorch, which scripts/setup --test fetches.
fn check(args: &[&str]) -> Child {
    python("check_networks.py", args)
}

/// A script with PyTorch.
fn python(script: &str, args: &[&str]) -> Child {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packages = ["torch", "python"].map(|name| root.join(".tools").join(name).display().to_string());
    assert!(Path::new(&packages[0]).is_dir(), "run scripts/setup --test first");
    Command::new("python3")
        .arg(root.join("tests/python").join(script))
        .arg(env!("CARGO_BIN_EXE_emg-train"))
        .args(args)
        .env("PYTHONPATH", packages.join(":"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What they print; they must succeed.
fn finish(children: Vec<Child>) -> String {
    let mut all = String::new();
    let mut failed = false;
    for child in children {
        let output = child.wait_with_output().unwrap();
        all += &String::from_utf8_lossy(&output.stdout);
        failed |= !output.status.success();
    }
    assert!(!failed, "{all}");
    all
}

/// How many networks had that outcome, of all processes.
fn count(counts: &str, outcome: &str) -> usize {
    let entries = counts.lines().flat_map(|line| line.split(", "));
    entries.filter_map(|entry| entry.strip_suffix(outcome)?.trim().parse::<usize>().ok()).sum()
}

#[test]
fn the_zoo_trains_as_in_pytorch_or_is_refused() {
    let counts = finish(vec![check(&["zoo", "0/2"]), check(&["zoo", "1/2"])]);
    println!("{counts}");
    // Of 84 networks by three exporters: all by the newer one train, and most by the older one.
    assert!(count(&counts, "trains as in PyTorch") >= 160, "{counts}");
    assert!(count(&counts, "not exported") + count(&counts, "lost by the exporter") <= 12, "{counts}");
}

/// The messages for what PyTorch writes and what cannot be trained as it is, and `model.batch_norm`.
#[test]
fn refusals_of_exported_networks_say_why() {
    assert!(finish(vec![python("check_refusals.py", &[])]).starts_with("ok: "));
}

/// EMG_NETWORKS: how many (default 200).
#[test]
fn random_networks_train_as_in_pytorch_or_are_refused() {
    let networks: usize = std::env::var("EMG_NETWORKS").map_or(200, |number| number.parse().unwrap());
    let half = networks / 2;
    let (first, second) = (half.to_string(), (networks - half).to_string());
    let counts = finish(vec![check(&["random", "0", &first]), check(&["random", &first, &second])]);
    println!("{counts}");
    assert!(count(&counts, "trains as in PyTorch") >= half, "{counts}");
}
