//! What the keys of caches and segments cover.

use serde::Serialize;

use super::key::Key;
use super::settings::{CacheSettings, FORMAT, SegmentSettings};
use super::split::Split;

/// A recording in a cache's key: name, BLAKE3 of its contents, split, and its user, session, stage, side and
/// generalization.
pub(crate) type KeyedRecording<'a> = (&'a str, &'a Key, Split, [Option<&'a str>; 5]);

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
