//! Garbage collection. Planning is separate from execution, so that a plan can be shown without being carried out.
//!
//! What is removed is set aside first, under `tmp/`, then looked at once more: a build or a pin may have come to need it.
//! Nothing is lost where this is interrupted, because the next build or `gc` puts back whatever is set aside.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::build_folder::{DeadBuild, dead_builds, doom, is_older, remove_doomed, remove_entry};
use super::error::CacheError;
use super::key::Key;
use super::manifest::Manifest;
use super::segment::INDEX_FILE;
use super::store::{Store, bytes_below};
use crate::files::{FileError, sync_folder};

/// Minimum age of what is removed: a running build may be about to use anything younger.
const GRACE: Duration = Duration::from_secs(24 * 3600);

/// Begin the names of what is set aside under `tmp/`; the second is that of earlier versions.
const ASIDE: [&str; 2] = ["removed-", "kept-"];

/// What would be removed, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removal {
    #[serde(serialize_with = "crate::files::as_text")]
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcPlan {
    /// In the order of removal: unfinished builds, then manifests, then the segments they named.
    pub removals: Vec<Removal>,
    /// Why something that seems unused is kept.
    pub warnings: Vec<String>,
    /// When it was made, by the file server's clock.
    now: SystemTime,
    /// Whether that is so, rather than by this machine's.
    is_certain: bool,
}

/// What `gc` did.
#[derive(Debug, Default)]
pub struct GcOutcome {
    pub removed: Vec<Removal>,
    /// What could not be removed, with the reason.
    pub failed: Vec<CacheError>,
}

/// Plans to remove segments that no manifest names, builds in progress that ended long ago and, with `unpinned`,
/// manifests without a pin. Nothing younger than 24 hours by its modification time is removed, but for builds of this
/// machine whose process has ended.
///
/// # Errors
/// The store cannot be read.
pub fn plan_gc(store: &Store, unpinned: bool) -> Result<GcPlan, CacheError> {
    let time = store.now();
    let now = time.unwrap_or_else(SystemTime::now);
    let mut plan = GcPlan { removals: Vec::new(), warnings: Vec::new(), now, is_certain: time.is_some() };
    if !plan.is_certain {
        plan.warnings.push("ages are by this machine's clock: the store cannot be written to, to learn its own".into());
    }
    for DeadBuild { path, .. } in dead_builds(&store.tmp(), now) {
        let why = "an unfinished build whose process has ended, or that has not changed for a day";
        plan.removals.push(Removal { bytes: bytes_below(&path), path, why, kind: Kind::Unfinished });
    }
    let pins: HashSet<_> = store.pins()?.into_iter().collect();
    let mut needed = HashSet::new();
    let mut unreadable = 0;
    for key in store.cache_keys()? {
        let path = store.manifest_path(&key);
        if unpinned && !pins.contains(&key) && plan.is_known(is_old(&path, now)) {
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
            if plan.is_known(is_old_segment(&path, now)) {
                let why = "a segment that no cache uses";
                plan.removals.push(Removal { bytes: bytes_below(&path), path, why, kind: Kind::Segment(key) });
            }
        }
    }
    Ok(plan)
}

impl GcPlan {
    /// Whether something is known to be old enough; where that cannot be told, a warning says so.
    fn is_known(&mut self, old: Result<bool, FileError>) -> bool {
        old.unwrap_or_else(|error| {
            self.warnings.push(format!("kept, because its age is not known: {error}"));
            false
        })
    }
}

/// Carries a plan out, as far as it still holds: what was pinned, renewed or named by a manifest since stays. What cannot
/// be removed does not keep the rest from being removed.
pub fn run_gc(store: &Store, plan: &GcPlan) -> GcOutcome {
    let mut outcome = GcOutcome::default();
    if !plan.is_certain {
        let message =
            "nothing was removed: the file server's time cannot be learned, because nothing can be written here";
        outcome.failed.push(CacheError::damaged(store.root(), message));
        return outcome;
    }
    let mut dead = dead_builds(&store.tmp(), plan.now);
    for removal in &plan.removals {
        let gone = match &removal.kind {
            Kind::Manifest(key) => remove_manifest(store, key, plan.now),
            Kind::Segment(key) => remove_segment(store, key, plan.now),
            Kind::Unfinished => match dead.iter().position(|build| build.path == removal.path) {
                Some(i) => if_there(dead.swap_remove(i).remove(), &removal.path)
                    .map(|removed| removed.is_some())
                    .map_err(CacheError::from),
                None => Ok(false),
            },
        };
        match gone {
            Ok(true) => outcome.removed.push(removal.clone()),
            Ok(false) => {}
            Err(error) => outcome.failed.push(error),
        }
    }
    outcome
}

fn remove_manifest(store: &Store, key: &Key, now: SystemTime) -> Result<bool, CacheError> {
    let _held = store.exclude();
    let path = store.manifest_path(key);
    let aside = aside(store, &format!("{key}.json"));
    let is_wanted = |at: &Path| -> Result<bool, CacheError> {
        Ok(store.pins()?.contains(key) || !is_old(at, now).unwrap_or(false))
    };
    if is_wanted(&path)? || !set_aside(&path, &aside)? {
        return Ok(false);
    }
    // A pin may have been set, or a build may have renewed it.
    if !matches!(is_wanted(&aside), Ok(false)) {
        return give_back(&aside, &path).map(|()| false);
    }
    Ok(if_there(fs::remove_file(&aside), &path)?.is_some())
}

fn remove_segment(store: &Store, key: &Key, now: SystemTime) -> Result<bool, CacheError> {
    let held = store.exclude();
    let (path, aside) = (store.segment_path(key), aside(store, &key.to_string()));
    if !is_old_segment(&path, now).unwrap_or(false) || is_named(store, key)? || !set_aside(&path, &aside)? {
        return Ok(false);
    }
    // Whatever goes wrong from here on, the segment goes back.
    let named = sync_folder(path.parent().expect("segments lie in a folder"))
        .map_err(CacheError::from)
        .and_then(|()| is_named(store, key));
    if !matches!(named, Ok(false)) {
        give_back(&aside, &path)?;
        return named.map(|_| false);
    }
    // From here on it is not put back by others.
    let Some(doomed) = if_there(doom(&aside), &path)? else { return Ok(false) };
    drop(held);
    Ok(if_there(remove_doomed(&doomed), &path)?.is_some())
}

fn aside(store: &Store, name: &str) -> PathBuf {
    store.tmp().join(format!("{}{name}", ASIDE[0]))
}

/// Whether an entry of `tmp/` with this name is something published that was set aside.
pub(super) fn is_set_aside(name: &str) -> bool {
    published_name(name).is_some()
}

/// The name that something set aside had: a key, with `.json` for a manifest.
fn published_name(name: &str) -> Option<&str> {
    let name = ASIDE.iter().find_map(|prefix| name.strip_prefix(prefix))?;
    Key::parse(name.strip_suffix(".json").unwrap_or(name)).is_ok().then_some(name)
}

/// Moves something published to `aside`; false if it is not there.
fn set_aside(path: &Path, aside: &Path) -> Result<bool, CacheError> {
    fs::create_dir_all(aside.parent().expect("in tmp")).map_err(CacheError::io(path))?;
    Ok(if_there(fs::rename(path, aside), path)?.is_some())
}

/// Moves it back, unless it is there again.
fn give_back(aside: &Path, path: &Path) -> Result<(), CacheError> {
    match fs::rename(aside, path) {
        Err(error) if !path.exists() => {
            let message = format!("is still needed, but could not be moved back from {}: {error}", aside.display());
            Err(CacheError::damaged(path, message))
        }
        _ => Ok(()),
    }
}

/// Puts back what a `gc` that was interrupted had set aside, wherever it is missing: what nobody needs, the next one
/// removes again.
pub fn put_back(store: &Store) {
    let entries: Vec<_> = fs::read_dir(store.tmp()).into_iter().flatten().flatten().collect();
    let aside =
        entries.iter().filter_map(|entry| Some((entry, published_name(entry.file_name().to_str()?)?.to_owned())));
    let aside: Vec<_> = aside.collect();
    if aside.is_empty() {
        return;
    }
    let _held = store.exclude();
    for (entry, name) in aside {
        let folder = if name.ends_with(".json") { "caches" } else { "segments" };
        let path = store.root().join(folder).join(name);
        if !path.exists() {
            let _ = give_back(&entry.path(), &path);
        } else if path.is_dir() {
            // A build made it again meanwhile.
            let _ = remove_entry(&entry.path());
        } else {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether a manifest names the segment, or may.
fn is_named(store: &Store, key: &Key) -> Result<bool, CacheError> {
    Ok(store.cache_keys()?.iter().any(|cache| Manifest::may_name(store, cache, key)))
}

/// What was done with a file, or `None` if it was not there.
fn if_there<T>(result: std::io::Result<T>, path: &Path) -> Result<Option<T>, FileError> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::at(path)(error)),
    }
}

/// Whether what is at `path` is old enough to be removed; false where there is nothing.
fn is_old(path: &Path, now: SystemTime) -> Result<bool, FileError> {
    let stat = if_there(fs::symlink_metadata(path), path)?;
    Ok(stat.is_some_and(|stat| is_older(&stat, now, GRACE)))
}

/// As [`is_old`], for a segment and its index; a segment without one is as old as its folder.
fn is_old_segment(path: &Path, now: SystemTime) -> Result<bool, FileError> {
    let index = path.join(INDEX_FILE);
    Ok(is_old(path, now)?
        && if_there(fs::symlink_metadata(&index), &index)?.is_none_or(|stat| is_older(&stat, now, GRACE)))
}
