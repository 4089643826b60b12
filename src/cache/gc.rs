//! Garbage collection. Planning is separate from execution, so that a plan can be shown without being carried out.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::error::CacheError;
use super::key::Key;
use super::manifest::Manifest;
use super::store::{Store, bytes_below};
use crate::files::sync_folder;

/// Minimum age of what is removed: a running build may be about to use anything younger.
const GRACE: Duration = Duration::from_secs(24 * 3600);

/// What would be removed, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removal {
    pub path: PathBuf,
    pub bytes: u64,
    pub why: &'static str,
    #[serde(skip)]
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Manifest(Key),
    Segment(Key),
    Unfinished,
}

/// What `gc` would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GcPlan {
    /// In the order of removal: unfinished builds, then manifests, then the segments they named.
    pub removals: Vec<Removal>,
    /// Why something that seems unused is kept.
    pub warnings: Vec<String>,
}

/// Plans to remove segments that no manifest names, builds in progress that ended long ago and, with `unpinned`,
/// manifests without a pin. Nothing younger than 24 hours by its modification time is removed, but for builds of this
/// machine whose process has ended.
///
/// # Errors
/// The store cannot be read.
pub fn plan_gc(store: &Store, unpinned: bool) -> Result<GcPlan, CacheError> {
    let mut plan = GcPlan::default();
    for path in store.dead_builds() {
        let why = "an unfinished build whose process has ended, or that has not changed for a day";
        plan.removals.push(Removal { bytes: bytes_below(&path), path, why, kind: Kind::Unfinished });
    }
    let pins: HashSet<_> = store.pins()?.into_iter().collect();
    let mut needed = HashSet::new();
    let mut unreadable = 0;
    for key in store.cache_keys()? {
        let path = store.manifest_path(&key);
        if unpinned && !pins.contains(&key) && is_old(&path) {
            let why = "an unpinned cache";
            plan.removals.push(Removal { bytes: bytes_below(&path), path, why, kind: Kind::Manifest(key) });
            continue;
        }
        match Manifest::read(store, &key) {
            Ok(manifest) => needed.extend(manifest.segments.into_iter().map(|segment| segment.key)),
            Err(error) => {
                unreadable += 1;
                plan.warnings.push(error.to_string());
            }
        }
    }
    if unreadable > 0 {
        plan.warnings.push(format!(
            "all segments are kept: {unreadable} manifests that cannot be read may use them (`emg-cache repair` rebuilds them)"
        ));
    } else {
        for key in store.segment_keys()?.into_iter().filter(|key| !needed.contains(key)) {
            let path = store.segment_path(&key);
            if is_old(&path) && is_old(&path.join("segment.json")) {
                let why = "a segment that no cache uses";
                plan.removals.push(Removal { bytes: bytes_below(&path), path, why, kind: Kind::Segment(key) });
            }
        }
    }
    Ok(plan)
}

/// Carries a plan out. A segment is moved aside first; if a manifest that names it was published meanwhile, it is put
/// back. Gives what was removed.
///
/// # Errors
/// Something cannot be removed; what was not reached stays.
pub fn run_gc(store: &Store, plan: &GcPlan) -> Result<Vec<Removal>, CacheError> {
    // Made when it is needed: a builder's folder clears others away.
    let mut aside = None;
    let mut removed = Vec::new();
    for removal in &plan.removals {
        let gone = match &removal.kind {
            // A pin may have been set since.
            Kind::Manifest(key) if store.pins()?.contains(key) => false,
            Kind::Manifest(_) => absent_is_fine(fs::remove_file(&removal.path), &removal.path)?,
            Kind::Unfinished => absent_is_fine(fs::remove_dir_all(&removal.path), &removal.path)?,
            Kind::Segment(key) => {
                let aside = match &mut aside {
                    Some(aside) => aside,
                    none => none.insert(store.folder()?),
                };
                remove_segment(store, key, &aside.path)?
            }
        };
        if gone {
            removed.push(removal.clone());
        }
    }
    Ok(removed)
}

fn remove_segment(store: &Store, key: &Key, aside: &Path) -> Result<bool, CacheError> {
    let (path, aside) = (store.segment_path(key), aside.join(key.to_string()));
    if is_named(store, key)? || !absent_is_fine(fs::rename(&path, &aside), &path)? {
        return Ok(false);
    }
    // Whatever goes wrong from here on, the segment goes back.
    let named = sync_folder(path.parent().expect("segments lie in a folder"))
        .map_err(CacheError::from)
        .and_then(|()| is_named(store, key));
    if !matches!(named, Ok(false)) {
        let back = fs::rename(&aside, &path);
        // A builder that missed it may have built it again.
        if back.is_err() && !path.join("segment.json").is_file() {
            let message = format!("is still needed, but could not be moved back from {}", aside.display());
            // The folder must outlive this process.
            let kept = store.root().join("tmp").join(format!("kept-{key}"));
            let _ = fs::rename(&aside, kept);
            return Err(CacheError::damaged(&path, message));
        }
        return named.map(|_| false);
    }
    fs::remove_dir_all(&aside).map_err(CacheError::io(&aside))?;
    Ok(true)
}

/// Whether a manifest names the segment, or may: one that cannot be read.
fn is_named(store: &Store, key: &Key) -> Result<bool, CacheError> {
    let names = |cache: &Key| match Manifest::read(store, cache) {
        Ok(manifest) => manifest.segments.iter().any(|segment| segment.key == *key),
        Err(_) => store.manifest_path(cache).exists(),
    };
    Ok(store.cache_keys()?.iter().any(names))
}

/// Whether the file existed.
fn absent_is_fine(result: std::io::Result<()>, path: &Path) -> Result<bool, CacheError> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(CacheError::io(path)(error)),
    }
}

fn is_old(path: &Path) -> bool {
    let modified = fs::symlink_metadata(path).and_then(|stat| stat.modified());
    modified.is_ok_and(|modified| SystemTime::now().duration_since(modified).is_ok_and(|age| age > GRACE))
}
