//! What the keys of caches and segments cover.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::key::Key;
use super::settings::{CacheSettings, FORMAT, SegmentSettings};
use super::split::Split;

/// A recording in a cache's key.
pub(crate) struct KeyedRecording<'a> {
    pub(crate) name: &'a str,
    /// Of its contents.
    pub(crate) blake3: &'a Key,
    pub(crate) split: Split,
    /// Its user, session, stage, side and generalization.
    pub(crate) labels: [Option<&'a str>; 5],
    /// Other labels, by their names.
    pub(crate) others: &'a BTreeMap<String, String>,
}

impl Serialize for KeyedRecording<'_> {
    /// A list of four, and of five only where there are other labels: there were none in the first keys.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { name, blake3, split, labels, others } = self;
        if others.is_empty() {
            (name, blake3, split, labels).serialize(serializer)
        } else {
            (name, blake3, split, labels, others).serialize(serializer)
        }
    }
}

/// The key of a cache. It covers logical content only, so that equal caches in different stores, whose segments may be
/// packed differently, have equal keys.
pub(crate) fn cache_key<'a>(
    normalizer: u32,
    settings: &CacheSettings,
    recordings: impl Iterator<Item = KeyedRecording<'a>>,
) -> Key {
    #[derive(Serialize)]
    struct Content<'a> {
        kind: &'static str,
        format: u32,
        normalizer: u32,
        settings: &'a CacheSettings,
        recordings: Vec<KeyedRecording<'a>>,
    }
    Key::of(&Content { kind: "cache", format: FORMAT, normalizer, settings, recordings: recordings.collect() })
}

/// The key of the segment that revision `normalizer` of the normalizer makes of recordings of these contents in this
/// order.
pub(crate) fn segment_key(normalizer: u32, settings: &SegmentSettings, recordings: &[Key]) -> Key {
    #[derive(Serialize)]
    struct Content<'a> {
        kind: &'static str,
        format: u32,
        normalizer: u32,
        settings: &'a SegmentSettings,
        recordings: &'a [Key],
    }
    Key::of(&Content { kind: "segment", format: FORMAT, normalizer, settings, recordings })
}
