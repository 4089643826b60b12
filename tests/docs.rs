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
fn every_command_is_in_the_readme() {
    let readme = read("README.md");
    for command in ["synth", "build", "list", "info", "verify"] {
        assert!(
            readme.contains(&format!("`emg-cache {command}")) || readme.contains(&format!("`{command} KEY`")),
            "{command}"
        );
    }
    for command in ["fit", "eval", "export", "doctor"] {
        assert!(readme.contains(&format!("`emg-train {command}")), "{command}");
    }
}
