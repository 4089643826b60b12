//! The documentation names everything there is.

use emg_pipeline::config::Config;

fn read(path: &str) -> String {
    std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn every_configuration_key_is_documented() {
    let text = read("docs/configuration.md");
    let config = serde_json::to_value(Config::default()).unwrap();
    for (section, keys) in config.as_object().unwrap() {
        let part = text.split(&format!("## {section}\n")).nth(1).unwrap().split("\n## ").next().unwrap();
        for key in keys.as_object().unwrap().keys() {
            assert!(part.contains(&format!("| `{key}` |")), "{section}.{key}");
        }
    }
}

#[test]
fn every_field_of_a_layout_is_documented() {
    let text = read("docs/configuration.md");
    let layout = serde_json::to_value(Config::default().data.resolved_layout().unwrap()).unwrap();
    for field in layout.as_object().unwrap().keys().map(String::as_str).chain(["metadata"]) {
        assert!(text.split("### Layouts").nth(1).unwrap().contains(&format!("| `{field}` |")), "{field}");
    }
}

/// What `--help` lists, the documentation has.
#[test]
fn every_option_is_documented() {
    let docs = ["README.md", "docs/sharing.md", "docs/configuration.md", "docs/models.md", "docs/training.md"];
    let docs = docs.map(read).join("\n");
    for (program, commands) in [
        (env!("CARGO_BIN_EXE_emg-cache"), &["build", "info", "verify", "repair", "explain", "gc"][..]),
        (env!("CARGO_BIN_EXE_emg-train"), &["fit", "eval", "export", "bench-data", "doctor"]),
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
    for command in ["fit", "eval", "export", "bench-data", "doctor"] {
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
