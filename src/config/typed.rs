//! From a tree of values to a configuration, with errors that name the key.

use serde_json::Value;

use super::Config;
use super::error::ConfigError;

/// Reads a tree. A key without a value, and a section without keys, are as if they were not there.
///
/// # Errors
/// The first value of a wrong type; `origin` is what the error names, and `at` gives a key's position there.
pub(super) fn typed(tree: &Value, origin: &str, at: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
    let tree = without_nulls(tree);
    check_sections(&tree, origin, at)?;
    serde_path_to_error::deserialize(&tree).map_err(|error| {
        let key = error.path().to_string();
        let place = || at(&general(&key)).unwrap_or_else(|| origin.to_owned());
        let message = error.inner().to_string();
        let expected =
            message.strip_prefix("invalid ").and_then(|rest| rest.rsplit_once(", expected ")).map(|(_, e)| e);
        let found = value_at(&tree, &key);
        let is_negative = found.is_some_and(|value| value.as_i64().is_some_and(|number| number < 0));
        match (expected.and_then(|expected| in_words(expected, is_negative)), found) {
            (Some(expected), Some(found)) => {
                let source = ConfigError::Type { key: key.clone(), expected, found: found.to_string() };
                ConfigError::At { place: place(), source: Box::new(source) }
            }
            _ => ConfigError::Parse { origin: place(), message: format!("{key}: {message}") },
        }
    })
}

/// Fails for a list in place of keys with values, which would be read by position.
fn check_sections(tree: &Value, origin: &str, at: &dyn Fn(&str) -> Option<String>) -> Result<(), ConfigError> {
    let sections = tree.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), value));
    let stages = tree.pointer("/model/tds_stages").and_then(Value::as_array).into_iter().flatten().enumerate();
    let stages = stages.map(|(i, value)| (format!("model.tds_stages[{i}]"), value));
    for (key, value) in sections.chain(stages) {
        if !value.is_object() {
            let place = at(&general(&key)).unwrap_or_else(|| origin.to_owned());
            let source = ConfigError::Type { key, expected: "keys with values", found: value.to_string() };
            return Err(ConfigError::At { place, source: Box::new(source) });
        }
    }
    Ok(())
}

fn without_nulls(tree: &Value) -> Value {
    let Value::Object(sections) = tree else { return tree.clone() };
    let keys = |content: &Value| match content {
        Value::Object(keys) => Value::Object(
            keys.iter().filter(|(_, value)| !value.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect(),
        ),
        other => other.clone(),
    };
    let sections = sections.iter().filter(|(_, content)| !content.is_null());
    Value::Object(sections.map(|(name, content)| (name.clone(), keys(content))).collect())
}

/// serde's names of types, for people.
fn in_words(expected: &str, is_negative: bool) -> Option<&'static str> {
    Some(match expected {
        "usize" | "u64" | "u32" | "u16" | "u8" if is_negative => "a whole number from 0 on",
        "usize" | "u64" | "u32" | "u16" | "u8" | "i64" | "i32" => "a whole number",
        "f64" | "f32" => "a number",
        "a boolean" => "true or false",
        "a string" | "a borrowed string" => "text",
        "path string" | "a path string" => "a path",
        "a sequence" => "a list",
        "a map" => "keys with values",
        other if other.starts_with("struct ") => "keys with values",
        other if other.starts_with("an array of length 2") => "a list of 2",
        other if other.starts_with("an array of length 3") => "a list of 3",
        _ => return None,
    })
}

/// `model.tds_stages[0].channels` as `model.tds_stages[].channels`.
fn general(key: &str) -> String {
    let mut inside = false;
    let keep = |c: &char| {
        inside = (inside && *c != ']') || *c == '[';
        !inside || *c == '['
    };
    key.chars().filter(keep).collect()
}

fn value_at<'t>(tree: &'t Value, key: &str) -> Option<&'t Value> {
    key.split(['.', '[']).try_fold(tree, |value, part| match part.strip_suffix(']') {
        Some(index) => value.get(index.parse::<usize>().ok()?),
        None => value.get(part),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn wrong_types_are_told_in_words() {
        for (tree, expected) in [
            (json!({"training": {"num_epochs": 20.0}}), "training.num_epochs: expected a whole number, found 20.0"),
            (json!({"training": {"num_epochs": "20"}}), "training.num_epochs: expected a whole number, found \"20\""),
            (
                json!({"training": {"num_epochs": -1}}),
                "training.num_epochs: expected a whole number from 0 on, found -1",
            ),
            (json!({"training": {"ema": true}}), "training.ema: expected a number, found true"),
            (json!({"data": {"skip_ik_failures": 1}}), "data.skip_ik_failures: expected true or false, found 1"),
            (json!({"data": {"padding": 1}}), "data.padding: expected a list of 2, found 1"),
            (json!({"model": {"tds_stages": [{"channels": 1.5}]}}), "channels: expected a whole number, found 1.5"),
            (json!({"data": 3}), "data: expected keys with values, found 3"),
            (json!({"training": [1, 3]}), "training: expected keys with values, found [1,3]"),
            (json!({"model": {"tds_stages": [[5, 2]]}}), "model.tds_stages[0]: expected keys with values, found [5,2]"),
        ] {
            let message = typed(&tree, "x.yaml", &|key| Some(format!("<{key}>"))).unwrap_err().to_string();
            assert!(message.contains(expected) && message.starts_with('<'), "{message}");
        }
        assert_eq!(
            typed(&json!({"training": null, "data": {"stride": null}}), "", &|_| None).unwrap(),
            Config::default()
        );
        assert_eq!(general("model.tds_stages[0].channels"), "model.tds_stages[].channels");
    }
}
