//! Positions of the keys in a YAML text, so that an error can point at them.

use std::collections::HashMap;

use granit_parser::{Event, Parser};

/// A mapping or list that is open.
enum Open {
    List(String),
    /// `key`: the one whose value comes next.
    Mapping {
        path: String,
        key: Option<String>,
    },
}

impl Open {
    /// The path of the value that comes next.
    fn next(&self) -> String {
        match self {
            Self::List(path) => format!("{path}[]"),
            Self::Mapping { path, key } => below(path, key.as_deref().unwrap_or_default()),
        }
    }
}

fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Where a key and its value begin: line and column, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) key: (usize, usize),
    pub(super) value: Option<(usize, usize)>,
}

/// Places of each key by its path, e.g. `data.stride` or `model.tds_stages[].channels` (the first of that
/// name). A text that cannot be parsed gives what comes before the error.
pub(super) fn places(text: &str) -> HashMap<String, Place> {
    let mut places: HashMap<String, Place> = HashMap::new();
    let mut open: Vec<Open> = Vec::new();
    for event in Parser::new_from_str(text) {
        let Ok((event, span)) = event else { break };
        let path = open.last().map_or(String::new(), Open::next);
        let at = (span.start.line(), span.start.col() + 1);
        let is_key = matches!((&event, open.last()), (Event::Scalar(..), Some(Open::Mapping { key: None, .. })));
        if let Some(place) = places.get_mut(&path).filter(|_| !is_key) {
            place.value.get_or_insert(at);
        }
        match event {
            Event::MappingStart(..) => open.push(Open::Mapping { path, key: None }),
            Event::SequenceStart(..) => open.push(Open::List(path)),
            Event::MappingEnd | Event::SequenceEnd => {
                open.pop();
                end_value(&mut open);
            }
            Event::Scalar(word, ..) => match open.last_mut() {
                Some(Open::Mapping { path, key: awaited @ None }) => {
                    places.entry(below(path, &word)).or_insert(Place { key: at, value: None });
                    *awaited = Some(word.into_owned());
                }
                _ => end_value(&mut open),
            },
            Event::Alias(_) => end_value(&mut open),
            _ => {}
        }
    }
    places
}

/// The value of the innermost mapping's key has come.
fn end_value(open: &mut [Open]) {
    if let Some(Open::Mapping { key, .. }) = open.last_mut() {
        *key = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_at_any_depth() {
        let text = "data:\n  stride: 3\n  layout: {emg: a, metadata: {user: b}}\nmodel:\n  tds_stages:\n  - {channels: 1}\n  - channels: 2\n    \
                    num_blocks: 3\n  dropout: 0\ntraining: {seed: 1,\n  ema: 2}\n";
        let places = places(text);
        for (key, place) in [
            ("data", (1, 1)),
            ("data.stride", (2, 3)),
            ("data.layout", (3, 3)),
            ("data.layout.emg", (3, 12)),
            ("data.layout.metadata.user", (3, 31)),
            ("model.tds_stages[].channels", (6, 6)),
            ("model.tds_stages[].num_blocks", (8, 5)),
            ("model.dropout", (9, 3)),
            ("training.ema", (11, 3)),
        ] {
            assert_eq!(places.get(key).map(|found| found.key), Some(place), "{key}: {places:?}");
        }
        for (key, place) in [("data.stride", (2, 11)), ("data.layout", (3, 11)), ("training.ema", (11, 8))] {
            assert_eq!(places[key].value, Some(place), "{key}: {places:?}");
        }
    }
}
