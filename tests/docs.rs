//! The documentation names everything there is.

use emg_pipeline::config::{self, Config};

fn read(path: &str) -> String {
    std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// README and everything in docs/.
fn pages() -> Vec<String> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let pages = names.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}"));
    std::iter::once("README.md".to_owned()).chain(pages).collect()
}

fn all() -> Vec<String> {
    pages().iter().map(|page| read(page)).collect()
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
    let docs = all().join("\n");
    for (program, commands) in [
        (
            env!("CARGO_BIN_EXE_emg-cache"),
            &["synth", "build", "list", "info", "verify", "repair", "explain", "compact", "gc"][..],
        ),
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
    for command in [
        "synth",
        "build",
        "list",
        "info",
        "verify",
        "repair",
        "explain",
        "compact",
        "pin",
        "unpin",
        "gc",
        "completions",
        "man",
    ] {
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
fn links_lead_somewhere() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for page in pages() {
        let text = read(&page);
        let folder = root.join(&page).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
            let target = if path.is_empty() { root.join(&page) } else { folder.join(path) };
            assert!(target.exists(), "{page}: {link}");
            if let Some(anchor) = anchor {
                let heading = |line: &str| {
                    let words = line.trim_start_matches('#').trim().to_lowercase();
                    words
                        .chars()
                        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
                        .collect::<String>()
                        .replace(' ', "-")
                };
                let text = std::fs::read_to_string(&target).unwrap();
                let found = text.lines().filter(|line| line.starts_with('#')).any(|line| heading(line) == anchor);
                assert!(found, "{page}: {link}");
            }
        }
    }
}

/// What docs/troubleshooting.md quotes is what the programs, or the library, say.
#[test]
fn messages_of_the_troubleshooting_are_in_the_code() {
    let mut code = String::new();
    let mut folders = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                code += &std::fs::read_to_string(path).unwrap();
            }
        }
    }
    // Texts go on over lines.
    let code = code.replace("\\\n", " ").split_whitespace().collect::<Vec<_>>().join(" ");
    let others = ["is `cmake` not installed?", "failed to execute command", "Failed to allocate memory"];
    let text = read("docs/troubleshooting.md");
    let mut quoted = 0;
    for line in text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| message")) {
        let cell = line.split(" | ").next().unwrap().trim_start_matches("| ");
        let quotes = cell.split("``").flat_map(|part| part.split('`').skip(1).step_by(2)).collect::<Vec<_>>();
        for piece in quotes.iter().flat_map(|quote| quote.split("..")).map(str::trim) {
            if piece.len() < 4 || others.iter().any(|other| other.contains(piece)) {
                continue;
            }
            assert!(code.contains(piece), "no program says {piece:?}: {line}");
            quoted += 1;
        }
    }
    assert!(quoted > 40, "{quoted}");
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
