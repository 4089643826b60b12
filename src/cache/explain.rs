//! Why a cache has its own key: the parts that differ from the most similar cache in the store.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::error::CacheError;
use super::key::Key;
use super::manifest::{Manifest, ManifestRecording};
use super::settings::CacheSettings;
use super::store::Store;
use crate::config::{self, Difference as Found};

/// How a cache differs from the most similar one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    pub key: Key,
    /// The cache with the fewest differences.
    pub nearest: Key,
    pub differences: Vec<Difference>,
}

/// One part of the key that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// A setting's configuration key, or `recording NAME`.
    pub what: String,
    pub here: Value,
    pub there: Value,
}

/// Compares cache `key` with every other of the store. `None` if there is no other.
///
/// # Errors
/// The cache's manifest cannot be read. Other damaged manifests are passed over.
pub fn explain(store: &Store, key: &Key) -> Result<Option<Explanation>, CacheError> {
    let here = Manifest::read(store, key)?;
    let others = store.cache_keys()?.into_iter().filter(|other| other != key);
    let compared = others.filter_map(|other| {
        let there = Manifest::read(store, &other).ok()?;
        Some((other, differences(&here, &there)))
    });
    let nearest = compared.min_by_key(|(other, differences)| (differences.len(), other.clone()));
    Ok(nearest.map(|(nearest, differences)| Explanation { key: key.clone(), nearest, differences }))
}

fn differences(here: &Manifest, there: &Manifest) -> Vec<Difference> {
    let mut found: Vec<_> = config::differences(&here.settings, &there.settings, 1)
        .into_iter()
        .map(|Found { key, here, there }| Difference { what: CacheSettings::config_key(&key), here, there })
        .collect();
    if here.normalizer != there.normalizer {
        let (here, there) = (here.normalizer.into(), there.normalizer.into());
        found.push(Difference { what: "normalizer".into(), here, there });
    }
    let (a, b) = (by_name(here), by_name(there));
    for name in a.keys().chain(b.keys().filter(|name| !a.contains_key(*name))) {
        let (here, there) = (a.get(name), b.get(name));
        if here != there {
            let value = |recordings: Option<&Vec<Value>>| match recordings.map(Vec::as_slice) {
                None => Value::Null,
                Some([one]) => one.clone(),
                Some(several) => several.to_vec().into(),
            };
            let (mut here, mut there) = (value(here), value(there));
            keep_differing(&mut here, &mut there);
            found.push(Difference { what: format!("recording {name}"), here, there });
        }
    }
    found
}

/// What of each recording is part of the key.
fn by_name(manifest: &Manifest) -> BTreeMap<&str, Vec<Value>> {
    let mut names: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for recording in &manifest.recordings {
        let ManifestRecording { blake3, split, user, session, stage, side, generalization, labels, .. } = recording;
        names.entry(&recording.name).or_default().push(serde_json::json!({
            "blake3": blake3, "split": split, "user": user, "session": session, "stage": stage, "side": side,
            "generalization": generalization, "labels": labels,
        }));
    }
    names
}

/// Drops what two objects have in common.
fn keep_differing(a: &mut Value, b: &mut Value) {
    if let (Some(a), Some(b)) = (a.as_object_mut(), b.as_object_mut()) {
        let same: Vec<_> =
            a.iter().filter(|(name, value)| b.get(*name) == Some(value)).map(|(n, _)| n.clone()).collect();
        for name in same {
            a.remove(&name);
            b.remove(&name);
        }
    }
}
