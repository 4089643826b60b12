//! Reading: preset or file, then `--set` overrides, then types, then [validation](super::validate).

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value};

use super::Config;
use super::error::ConfigError;
use super::keys::check_keys;
use super::place::places;
use super::typed::typed;
use super::user_path::user_path;
use crate::files::read_regular;

/// Built-in presets by name, compiled from `configs/`.
pub const PRESETS: [(&str, &str); 9] = [
    ("default", include_str!("../../configs/default.yaml")),
    ("low_memory", include_str!("../../configs/low_memory.yaml")),
    ("high_performance", include_str!("../../configs/high_performance.yaml")),
    ("quick_demo", include_str!("../../configs/quick_demo.yaml")),
    ("tracking_vemg2pose", include_str!("../../configs/tracking_vemg2pose.yaml")),
    ("regression_vemg2pose", include_str!("../../configs/regression_vemg2pose.yaml")),
    ("tracking_emg2pose", include_str!("../../configs/tracking_emg2pose.yaml")),
    ("regression_emg2pose", include_str!("../../configs/regression_emg2pose.yaml")),
    ("neuropose", include_str!("../../configs/neuropose.yaml")),
];

/// Keys of the reference system that have no meaning here.
const IGNORED: [&str; 3] = ["model.encoder_features", "model.decoder_hidden", "model.decoder_layers"];

/// A loaded configuration, and which keys were set explicitly.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    /// Dotted keys set by a file or `--set` (a preset's own keys are not among them).
    pub explicit: BTreeSet<String>,
    pub warnings: Vec<String>,
}

/// Loads `source` (a preset's name or a YAML file; none: preset `default`) and applies `sets` (`section.key=value`).
///
/// # Errors
/// [`ConfigError`], naming the key, what was expected and what was found.
pub fn load(source: Option<&str>, sets: &[String]) -> Result<Loaded, ConfigError> {
    let source = source.unwrap_or("default");
    let preset = PRESETS.iter().find(|(name, _)| *name == source);
    match preset {
        Some((name, text)) => parse_text(&format!("preset {name}"), text, true, sets),
        // Also what a shell passes as a pipe.
        None => {
            let text = std::fs::read_to_string(source).map_err(|error| missing_file(Path::new(source), error))?;
            parse_text(source, &text, false, sets)
        }
    }
}

/// Loads a YAML file that this program wrote, whatever its name, and applies `sets`.
///
/// # Errors
/// As [`load`].
pub fn load_file(path: &Path, sets: &[String]) -> Result<Loaded, ConfigError> {
    let text = read_regular(path).and_then(|bytes| String::from_utf8(bytes).map_err(std::io::Error::other));
    parse_text(&path.display().to_string(), &text.map_err(|error| missing_file(path, error))?, false, sets)
}

/// Parses YAML and applies `sets`; `origin` is what errors name.
///
/// # Errors
/// As [`load`].
pub fn parse(origin: &str, text: &str, sets: &[String]) -> Result<Loaded, ConfigError> {
    parse_text(origin, text, false, sets)
}

fn parse_text(origin: &str, text: &str, is_preset: bool, sets: &[String]) -> Result<Loaded, ConfigError> {
    let parse = |message: String| ConfigError::Parse { origin: origin.to_owned(), message };
    let mut tree = yaml_tree(text).map_err(parse)?;
    let here = |(line, column)| format!("{origin}:{line}:{column}");
    let at = |key: &str| places(text).get(key).map(|place| here(place.key));
    let value_at = |key: &str| places(text).get(key).map(|place| here(place.value.unwrap_or(place.key)));
    check_keys(&tree, origin).map_err(|error| error.with_origin(&at))?;
    // The file's own values first, so that an error is not blamed on --set.
    typed(&tree, origin, &value_at)?;
    let mut explicit = BTreeSet::new();
    if !is_preset {
        collect_keys(&tree, &mut explicit);
    }
    for given in sets {
        explicit.insert(apply_set(&mut tree, given)?);
    }
    let mut config = typed(&tree, origin, &value_at)?;
    resolve_paths(&mut config)?;
    // What --set says is not in the file.
    let set = |key: &str| sets.iter().any(|set| set.split('=').next() == Some(key));
    config.validate().map_err(|error| match error.key().filter(|key| !set(key)).and_then(&at) {
        Some(place) => ConfigError::At { place, source: Box::new(error) },
        None => error,
    })?;
    let warnings = IGNORED
        .iter()
        .filter(|key| explicit.contains(**key))
        .map(|key| format!("{key} is accepted for compatibility and ignored"))
        .collect();
    Ok(Loaded { config, explicit, warnings })
}

/// The names of all presets, in a sentence.
pub fn preset_names() -> String {
    PRESETS.map(|(name, _)| name).join(", ")
}

fn missing_file(path: &Path, source: std::io::Error) -> ConfigError {
    let source = match source.kind() {
        std::io::ErrorKind::NotFound => std::io::Error::new(
            source.kind(),
            format!("no such file, and no preset of that name (presets: {})", preset_names()),
        ),
        _ => source,
    };
    ConfigError::Read { path: path.to_owned(), source }
}

/// Parses YAML to a tree of sections; an empty text is an empty tree.
fn yaml_tree(text: &str) -> Result<Value, String> {
    match serde_saphyr::from_str::<Option<Value>>(text).map_err(|error| plain(&error))? {
        None => Ok(Value::Object(Map::new())),
        Some(tree @ Value::Object(_)) => Ok(tree),
        Some(_) => Err("expected the sections data, model, training and logging".into()),
    }
}

/// The parser's message without advice to programmers.
fn plain(error: &serde_saphyr::Error) -> String {
    error.to_string().replace(", set DuplicateKeyPolicy in Options if acceptable", "")
}

fn collect_keys(tree: &Value, into: &mut BTreeSet<String>) {
    for (section, content) in tree.as_object().into_iter().flatten() {
        for (key, value) in content.as_object().into_iter().flatten() {
            if !value.is_null() {
                into.insert(format!("{section}.{key}"));
            }
        }
    }
}

/// Applies one `section.key=value`; the value is YAML. Returns the key.
fn apply_set(tree: &mut Value, given: &str) -> Result<String, ConfigError> {
    let bad = || ConfigError::BadSet { given: given.to_owned() };
    let (path, text) = given.split_once('=').ok_or_else(bad)?;
    let (section, key) = path.split_once('.').ok_or_else(bad)?;
    let value: Value = serde_saphyr::from_str(text)
        .map_err(|error| ConfigError::Parse { origin: format!("--set {given}"), message: error.to_string() })?;
    let override_tree = serde_json::json!({ section: { key: value } });
    let origin = format!("--set {given}");
    check_keys(&override_tree, &origin)?;
    typed(&override_tree, &origin, &|_| None)?;
    if !tree[section].is_object() {
        tree[section] = Value::Object(Map::new());
    }
    tree[section][key] = value;
    Ok(path.to_owned())
}

/// Replaces a `~` at the start of paths by the home folder.
fn resolve_paths(config: &mut Config) -> Result<(), ConfigError> {
    let (data, logging) = (&mut config.data, &mut config.logging);
    for (key, path) in [
        ("data.dataset_path", &mut data.dataset_path),
        ("data.store", &mut data.store),
        ("model.onnx", &mut config.model.onnx),
        ("logging.checkpoint_dir", &mut logging.checkpoint_dir),
        ("logging.log_dir", &mut logging.log_dir),
    ] {
        if let Some(path) = path {
            *path = user_path(path.as_os_str()).map_err(|source| ConfigError::Path { key, source })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Normalize, Shuffle};

    fn set(given: &str) -> Result<Config, ConfigError> {
        load(None, &[given.to_owned()]).map(|loaded| loaded.config)
    }

    #[test]
    fn every_preset_loads_and_the_published_ones_do_not_normalize() {
        for (name, _) in PRESETS {
            let config = load(Some(name), &[]).unwrap().config;
            let published = config.model.kind.map(|kind| kind.to_string());
            let expected = match published.as_deref() {
                Some(kind) => {
                    assert_eq!(kind, name);
                    (Normalize::None, Normalize::None)
                }
                None => (Normalize::Recording, Normalize::Train),
            };
            assert_eq!((config.data.emg_normalization(), config.data.angle_normalization()), expected, "{name}");
        }
    }

    #[test]
    fn an_unknown_key_suggests_the_nearest() {
        let message = set("data.window_sise=3").unwrap_err().to_string();
        assert!(message.contains("data.window_size"), "{message}");
        let message = set("training.lerning_rate=3").unwrap_err().to_string();
        assert!(message.contains("training.learning_rate"), "{message}");
        let message = set("modle.type=lstm").unwrap_err().to_string();
        assert!(message.contains("`model`"), "{message}");
    }

    #[test]
    fn errors_in_a_file_name_it_and_point_at_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.yaml");
        std::fs::write(&path, "data:\n  window_size: 100\n  stride: many\n").unwrap();
        let message = load(path.to_str(), &[]).unwrap_err().to_string();
        assert!(message.contains("mine.yaml:3:11: data.stride: expected a whole number"), "{message}");
        std::fs::write(&path, "model:\n  tds_stages:\n  - {in_conv_kernal: 5}\n").unwrap();
        let message = load(path.to_str(), &[]).unwrap_err().to_string();
        assert!(message.contains("in_conv_kernel") && message.contains("mine.yaml:3:6: "), "{message}");
        for (text, place, told) in [
            ("data:\n  stride: 1\n  windowsize: 3\n", "mine.yaml:3:3: ", "did you mean `data.window_size`?"),
            ("data:\n  stride: 1\n  stride: 2\n", "line 3 column 3", "duplicate mapping key: stride\n"),
            ("trainin: {}\n", "mine.yaml:1:1: ", "did you mean `training`?"),
            ("data: {layout: {emg: a, joint_angels: b}}", "mine.yaml:1:25: ", "`data.layout.joint_angles`"),
            ("model:\n  dropout: 2\n", "mine.yaml:2:3: ", "model.dropout: expected 0 <= dropout < 1, found 2"),
            ("training:\n  device_memory_limit: 5\n", "mine.yaml:2:3: ", "at least 67108864 (64 MiB), found 5"),
        ] {
            std::fs::write(&path, text).unwrap();
            let message = load(path.to_str(), &[]).unwrap_err().to_string();
            assert!(message.contains(place) && message.contains(told), "{message}");
        }
        let message = load(path.to_str(), &["training.data_residency=auto".into(), "model.dropout=3".into()]);
        assert!(message.unwrap_err().to_string().starts_with("model.dropout: expected"));
        let message = load(Some("nowhere.yaml"), &[]).unwrap_err().to_string();
        assert!(message.contains("quick_demo"), "{message}");
    }

    #[test]
    fn explicit_keys_are_those_of_file_and_sets_not_of_a_preset() {
        assert!(load(Some("quick_demo"), &[]).unwrap().explicit.is_empty());
        let loaded = load(Some("quick_demo"), &["data.stride=7".into()]).unwrap();
        assert_eq!(loaded.explicit.into_iter().collect::<Vec<_>>(), ["data.stride"]);
    }

    #[test]
    fn shorthands_and_words() {
        let config = load(None, &["data.shuffle=false".into(), "data.eval_window=".into()]).unwrap().config;
        assert_eq!(config.data.shuffle, Shuffle::Off);
        assert_eq!(config.data.eval_window, None);
        assert!(set("data.shuffle=perhaps").is_err());
    }
}
