//! The schema for other readers: JSON Schema for editors, Markdown tables for people.

use schemars::schema_for;
use serde_json::{Map, Value};

use super::Config;

/// The configuration's JSON Schema.
pub fn json_schema() -> Value {
    let mut schema = schema_for!(Config).to_value();
    schema["title"] = "Configuration of emg-cache and emg-train".into();
    schema
}

/// A Markdown table of the keys of `what`: a section, `layout` or `tds_stages`.
///
/// # Panics
/// There are no such keys.
pub fn markdown_table(what: &str) -> String {
    let schema = json_schema();
    let properties = properties(&schema, what);
    let mut table = String::from("| key | default | |\n|---|---|---|\n");
    for (key, property) in properties {
        let text = property["description"]
            .as_str()
            .unwrap_or_default()
            .replace('\n', " ")
            .replace("\\[", "[")
            .replace("\\]", "]");
        let (text, told) = told_default(&text);
        let default = told.unwrap_or_else(|| default_of(property));
        let words = words(&schema, property);
        let words = if words.is_empty() { String::new() } else { format!(" One of {}.", words.join(", ")) };
        table += &format!("| `{key}` | {default} | {text}{words} |\n");
    }
    table
}

fn properties<'a>(schema: &'a Value, what: &str) -> &'a Map<String, Value> {
    let definition = match what {
        "layout" => "Layout",
        "tds_stages" => "TdsStage",
        section => {
            let reference = schema["properties"][section]["$ref"].as_str().expect("a section");
            reference.rsplit('/').next().expect("a reference")
        }
    };
    schema["$defs"][definition]["properties"].as_object().expect("a struct")
}

/// Splits `(default: ..)` off a text; returns the rest and the default.
fn told_default(text: &str) -> (String, Option<String>) {
    match text.split_once(" (default: ") {
        Some((before, rest)) => {
            let (default, after) = rest.split_once(')').unwrap_or((rest, ""));
            (format!("{before}{after}"), Some(default.trim_matches('`').to_owned()))
        }
        None => (text.to_owned(), None),
    }
}

fn default_of(property: &Value) -> String {
    match &property["default"] {
        Value::Null => "none".into(),
        Value::String(word) => word.clone(),
        // Stages have a table of their own.
        Value::Array(list) if list.iter().any(Value::is_object) => "below".into(),
        Value::Number(number) if number.as_f64().is_some_and(|n| n > 0.0 && n < 1e-2) => {
            format!("{:e}", number.as_f64().unwrap_or(0.0))
        }
        other => other.to_string().replace(',', ", "),
    }
}

/// The words that a value may be.
fn words(schema: &Value, property: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let options = property["anyOf"].as_array().into_iter().flatten();
    for option in std::iter::once(property).chain(options) {
        let reference = option["$ref"].as_str().and_then(|path| path.rsplit('/').next());
        let definition = reference.map_or(option, |name| &schema["$defs"][name]);
        let parts = definition["anyOf"]
            .as_array()
            .into_iter()
            .flatten()
            .chain(definition["oneOf"].as_array().into_iter().flatten());
        for part in std::iter::once(definition).chain(parts) {
            found.extend(part["enum"].as_array().into_iter().flatten().map(word));
            found.extend(part.get("const").map(word));
        }
    }
    found.dedup();
    found
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
