//! The documentation names everything there is.

use emg_pipeline::config::{self, Config};

fn read(path: &str) -> String {
    std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Compares a file with what is made of the code; with UPDATE_DOCS set, writes it (scripts/generate-docs).
fn check_generated(path: &str, made: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path), made).unwrap();
    }
    assert!(read(path) == made, "{path} is out of date: run scripts/generate-docs");
}

#[test]
fn the_reference_of_keys_is_the_schemas() {
    let text = read("docs/configuration.md");
    let mut made = String::new();
    for (i, part) in text.split("<!-- generated: ").enumerate() {
        if i == 0 {
            made += part;
            continue;
        }
        let (what, rest) = part.split_once(" -->\n").unwrap();
        let (_, after) = rest.split_once("<!-- end -->").unwrap();
        made += &format!("<!-- generated: {what} -->\n{}<!-- end -->{after}", config::markdown_table(what));
    }
    check_generated("docs/configuration.md", &made);
    let schema = serde_json::to_string_pretty(&config::json_schema()).unwrap() + "\n";
    check_generated("docs/config.schema.json", &schema);
    // Every key of every section is in the tables, and says what it is.
    let config = serde_json::to_value(Config::default()).unwrap();
    for (section, keys) in config.as_object().unwrap() {
        let table = config::markdown_table(section);
        for key in keys.as_object().unwrap().keys() {
            let line = table.lines().find(|line| line.starts_with(&format!("| `{key}` |")));
            assert!(line.is_some_and(|line| line.len() > key.len() + 20), "{section}.{key}: {line:?}");
        }
    }
}

/// What `--help` lists, the documentation has.
#[test]
fn every_option_is_documented() {
    let docs = [
        "README.md",
        "docs/sharing.md",
        "docs/configuration.md",
        "docs/models.md",
        "docs/training.md",
        "docs/guide.md",
    ];
    let docs = docs.map(read).join("\n");
    for (program, commands) in [
        (env!("CARGO_BIN_EXE_emg-cache"), &["build", "info", "verify", "repair", "explain", "gc"][..]),
        (
            env!("CARGO_BIN_EXE_emg-train"),
            &["fit", "eval", "export", "predict", "report", "config", "bench-data", "doctor"],
        ),
    ] {
        for command in commands {
            let help = std::process::Command::new(program).args([command, "--help"]).output().unwrap();
            let help = String::from_utf8(help.stdout).unwrap();
            let options = help.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 2);
            for option in options.map(|word| word.trim_end_matches([',', '.', ':', ')'])).filter(|o| *o != "--help") {
                let name = option.split('=').next().unwrap();
                assert!(docs.contains(name), "{command} {name}");
            }
        }
    }
}

#[test]
fn every_command_is_in_the_readme() {
    let readme = read("README.md");
    for command in ["synth", "build", "list", "info", "verify", "repair", "explain", "pin", "unpin", "gc"] {
        assert!(
            [format!("`emg-cache {command}"), format!("`{command} KEY`")].iter().any(|text| readme.contains(text)),
            "{command}"
        );
    }
    for command in ["fit", "eval", "export", "predict", "report", "config", "bench-data", "doctor"] {
        assert!(readme.contains(&format!("`emg-train {command}")), "{command}");
    }
}

#[test]
fn every_operator_of_a_users_model_is_documented() {
    let text = read("docs/models.md");
    let listed = text.split("\nOperators: ").nth(1).unwrap().split(';').next().unwrap();
    let mut listed: Vec<_> = listed.split(',').map(str::trim).collect();
    let mut known: Vec<_> = emg_pipeline::graph::known_operators().chain(["Constant"]).collect();
    listed.sort_unstable();
    known.sort_unstable();
    assert_eq!(listed, known);
}
