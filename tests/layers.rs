//! The layers of docs/architecture.md: each uses only those below it, and `unsafe` stays where it is said to be.

use std::path::{Path, PathBuf};

/// From the top down; the ground floor's files may use each other.
const FLOORS: [&str; 13] = [
    "report",
    "predict",
    "train",
    "step",
    "runtime",
    "model",
    "graph",
    "dataset",
    "metrics",
    "cache",
    "recording",
    "config",
    "ground floor",
];
const GROUND: [&str; 7] = ["digest", "files", "ports", "random", "startup", "statistics", "units"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn floor(module: &str) -> Option<usize> {
    let name = if GROUND.contains(&module) { "ground floor" } else { module };
    FLOORS.iter().position(|floor| *floor == name)
}

/// All Rust files below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A file's code without comments and without its tests.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

/// The modules of the library that a file names as `crate::module`.
fn uses(code: &str) -> Vec<String> {
    let names = code.split("crate::").skip(1);
    let word = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut modules = Vec::new();
    for rest in names {
        if let Some(list) = rest.strip_prefix('{') {
            // `use crate::{a::{b, c}, d}`: every name behind a brace or a comma at the outermost depth.
            let (mut depth, mut outermost) = (1, String::new());
            for c in list.chars() {
                depth += i32::from(c == '{') - i32::from(c == '}');
                match depth {
                    0 => break,
                    1 => outermost.push(c),
                    _ => {}
                }
            }
            modules.extend(outermost.split(',').map(|part| word(part.trim())));
        } else {
            modules.push(word(rest));
        }
    }
    modules
}

#[test]
fn every_module_uses_only_what_lies_below_it() {
    let src = root().join("src");
    let (mut looked, mut wrong) = (0, Vec::new());
    for path in sources(&src) {
        let relative = path.strip_prefix(&src).unwrap();
        let first = relative.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
        let Some(own) = floor(first.trim_end_matches(".rs")) else {
            assert!(["bin", "lib.rs"].contains(&first.as_str()), "{first} is no floor");
            continue;
        };
        for module in uses(&code(&path)) {
            // Macros and what lib.rs itself declares are no floors.
            let Some(other) = floor(&module) else { continue };
            looked += 1;
            if other < own {
                wrong.push(format!("{}: {module} lies above {}", relative.display(), FLOORS[own]));
            }
        }
    }
    assert!(looked > 200, "{looked} uses");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What climbs out of a floor by `super::` names its module as `crate::..` instead, where the test above sees it.
#[test]
fn no_path_leaves_a_floor_by_super() {
    let src = root().join("src");
    for path in sources(&src) {
        let relative = path.strip_prefix(&src).unwrap();
        if relative.starts_with("bin") || relative.components().count() == 1 {
            continue;
        }
        let depth = relative.components().count() - usize::from(relative.ends_with("mod.rs"));
        let code = code(&path);
        let mut climbed = 0;
        // One piece for each `super::`; an empty one follows another directly.
        for piece in code.split("super::").skip(1) {
            climbed += 1;
            assert!(climbed < depth, "{}: a path leaves its floor by super::", relative.display());
            climbed = if piece.is_empty() { climbed } else { 0 };
        }
    }
}

#[test]
fn the_documented_layers_are_these() {
    let text = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let listed: Vec<_> = text
        .split("```")
        .nth(1)
        .unwrap()
        .lines()
        .filter_map(|line| {
            line.strip_prefix("  ")?.split_whitespace().next().map(|word| word.trim_end_matches('/').to_owned())
        })
        .collect();
    let expected: Vec<_> = FLOORS[..FLOORS.len() - 1].iter().copied().chain(GROUND.map(|_| "")).collect();
    assert_eq!(listed[..FLOORS.len() - 1], expected[..FLOORS.len() - 1]);
    let mut ground: Vec<_> = listed[FLOORS.len() - 1..].iter().map(|name| name.trim_end_matches(".rs")).collect();
    ground.sort_unstable();
    assert_eq!(ground, GROUND);
    for name in FLOORS[..FLOORS.len() - 1].iter().chain(&GROUND) {
        let path = root().join("src").join(name);
        assert!(path.is_dir() || path.with_extension("rs").is_file(), "there is no {name}");
    }
}

#[test]
fn unsafe_code_is_where_the_documentation_says() {
    const ALLOWED: [&str; 3] = ["cache", "recording", "runtime"];
    let src = root().join("src");
    for path in sources(&src) {
        let relative = path.strip_prefix(&src).unwrap();
        let first = relative.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
        let words = code(&path);
        let is_unsafe = words.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe");
        assert!(!is_unsafe || ALLOWED.contains(&first.as_str()), "{}: unsafe", relative.display());
    }
}

#[test]
fn libraries_stay_in_their_rooms() {
    for (library, floor) in [
        ("ort", "runtime"),
        ("cudarc", "runtime"),
        ("hdf5", "recording"),
        ("hdf5_sys", "recording"),
        ("memmap2", "cache"),
        ("zarrs", "cache"),
    ] {
        let src = root().join("src");
        for path in sources(&src) {
            let relative = path.strip_prefix(&src).unwrap();
            let inside = relative.starts_with(floor);
            let (code, prefix) = (code(&path), format!("{library}::"));
            let mut places = code.match_indices(&prefix).map(|(at, _)| code[..at].chars().next_back());
            let named = places.any(|before| !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':'));
            assert!(inside || !named, "{}: names {library}", relative.display());
        }
    }
}
