//! Finds keys that the schema does not have, and suggests the nearest key that it has.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::error::ConfigError;
use super::reference::json_schema;

static SCHEMA: LazyLock<Value> = LazyLock::new(json_schema);

/// Fails on the first key of `tree`, at any depth, that the schema does not have.
pub(super) fn check_keys(tree: &Value, origin: &str) -> Result<(), ConfigError> {
    check(tree, &SCHEMA, &[], origin)
}

fn check(value: &Value, schema: &Value, path: &[&str], origin: &str) -> Result<(), ConfigError> {
    if let (Value::Array(list), Some(items)) = (value, resolved(schema).get("items")) {
        let Some((last, before)) = path.split_last() else { return Ok(()) };
        let list_name = format!("{last}[]");
        let inner = [before, &[&list_name]].concat();
        return list.iter().try_for_each(|value| check(value, items, &inner, origin));
    }
    let (Value::Object(given), Some(known)) = (value, properties(schema)) else { return Ok(()) };
    for (key, value) in given {
        let own = [path, &[key]].concat();
        let Some(schema) = known.get(key) else {
            let key = own.join(".");
            let suggestion = nearest(&key, candidates(known, path));
            return Err(ConfigError::UnknownKey { origin: origin.to_owned(), key, suggestion });
        };
        check(value, schema, &own, origin)?;
    }
    Ok(())
}

/// Full names of the keys that could be meant instead of one below `path`; for a section's key, the keys of all
/// sections.
fn candidates(known: &Map<String, Value>, path: &[&str]) -> Vec<String> {
    let below = |path: &[&str], known: &Map<String, Value>| -> Vec<String> {
        known.keys().map(|key| [path, &[key]].concat().join(".")).collect()
    };
    match path {
        [_] => {
            let sections = properties(&SCHEMA).into_iter().flatten();
            sections
                .flat_map(|(name, of)| properties(of).map(|known| below(&[name], known)).unwrap_or_default())
                .collect()
        }
        path => below(path, known),
    }
}

/// The definition that a part of the schema refers to.
fn resolved(schema: &Value) -> &Value {
    let reference = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next());
    reference.map_or(schema, |name| &SCHEMA["$defs"][name])
}

/// The keys of an object; of a choice, those of the first object in it. `None` for what has no fixed keys.
fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    let schema = resolved(schema);
    let choices = ["anyOf", "oneOf"].iter().filter_map(|kind| schema[*kind].as_array()).flatten();
    schema["properties"].as_object().or_else(|| choices.into_iter().find_map(properties))
}

/// The candidate that is closest in spelling, if any is close: the last part of a key counts most.
fn nearest(key: &str, candidates: Vec<String>) -> Option<String> {
    let last = |text: &str| text.rsplit('.').next().unwrap_or(text).to_owned();
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&last(key), &last(&candidate)), candidate))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
