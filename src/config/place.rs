//! Where in a YAML text keys stand, so that an error can point at them.

use std::collections::HashMap;

use granit_parser::{Event, Parser};

/// Line and column (from 1) of each key by its path, e.g. `data.stride` or `model.tds_stages[].channels` (the first of that
/// name). A text that cannot be parsed gives what comes before the error.
pub(super) fn places(text: &str) -> HashMap<String, (usize, usize)> {
    let mut places = HashMap::new();
    // For each open mapping or list: its path, and for a mapping the key whose value comes next.
    let mut open: Vec<(String, Option<Option<String>>)> = Vec::new();
    for event in Parser::new_from_str(text) {
        let Ok((event, span)) = event else { break };
        let path = match open.last() {
            None => String::new(),
            Some((path, None)) => format!("{path}[]"),
            Some((path, Some(key))) => match (path.as_str(), key) {
                (_, None) => String::new(),
                ("", Some(key)) => key.clone(),
                (path, Some(key)) => format!("{path}.{key}"),
            },
        };
        let starts_value = matches!(event, Event::Scalar(..) | Event::Alias(_));
        match event {
            Event::MappingStart(..) => open.push((path, Some(None))),
            Event::SequenceStart(..) => open.push((path, None)),
            Event::MappingEnd | Event::SequenceEnd => {
                open.pop();
                end_value(&mut open);
            }
            Event::Scalar(ref key, ..) if matches!(open.last(), Some((_, Some(None)))) => {
                let (parent, awaited) = open.last_mut().expect("just looked at");
                let own = if parent.is_empty() { key.to_string() } else { format!("{parent}.{key}") };
                places.entry(own).or_insert((span.start.line(), span.start.col() + 1));
                *awaited = Some(Some(key.to_string()));
            }
            _ if starts_value => end_value(&mut open),
            _ => {}
        }
    }
    places
}

/// The value of the innermost mapping's key has come.
fn end_value(open: &mut [(String, Option<Option<String>>)]) {
    if let Some((_, Some(key))) = open.last_mut() {
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
            assert_eq!(places.get(key), Some(&place), "{key}: {places:?}");
        }
    }
}
