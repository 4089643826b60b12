//! How two values of one type differ, key by key.

use serde::Serialize;
use serde_json::Value;

/// A key with two values.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Dotted.
    pub key: String,
    pub here: Value,
    pub there: Value,
}

/// The keys, down to `depth` names, whose values differ, in the order in which they are declared.
///
/// # Panics
/// A value that does not serialize.
pub fn differences<T: Serialize>(here: &T, there: &T, depth: usize) -> Vec<Difference> {
    let tree = |value: &T| serde_json::to_value(value).expect("plain data serializes");
    let mut found = Vec::new();
    compare(&mut found, String::new(), tree(here), tree(there), depth);
    found
}

fn compare(found: &mut Vec<Difference>, key: String, here: Value, there: Value, depth: usize) {
    match (here, there) {
        (Value::Object(here), Value::Object(mut there)) if depth > 0 => {
            let below = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
            for (name, here) in here {
                let there = there.remove(&name).unwrap_or(Value::Null);
                compare(found, below(&name), here, there, depth - 1);
            }
            for (name, there) in there {
                compare(found, below(&name), Value::Null, there, depth - 1);
            }
        }
        (here, there) if here != there => found.push(Difference { key, here, there }),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn differences_are_keys_with_both_values() {
        let mut other = Config::default();
        assert_eq!(differences(&Config::default(), &other, 2), []);
        other.data.padding = [1, 2];
        other.training.clip_value = Some(0.5);
        let found = differences(&Config::default(), &other, 2);
        let keys: Vec<_> = found.iter().map(|difference| difference.key.as_str()).collect();
        assert_eq!(keys, ["data.padding", "training.clip_value"]);
        assert_eq!((&found[1].here, found[1].there.as_f64()), (&Value::Null, Some(0.5)));
    }
}
