//! Maintenance of a store: verify, repair, explain, compact, pin, unpin, gc.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use emg_pipeline::cache::{self, CacheError, Compacted, Damage, GcOutcome, Key, Store};
use emg_pipeline::report::{self, BuildProgress};
use emg_pipeline::{note, say};
use serde_json::{Value, json};

use crate::args::ConfigArgs;
use crate::{info, prepare, texts};

pub(crate) fn verify(store: &Store, key: Option<&str>, json: bool) -> Result<ExitCode> {
    let keys = match key {
        Some(key) => vec![store.resolve(key)?],
        None => store.cache_keys()?,
    };
    let progress = BuildProgress::new();
    progress.start(&format!("verify {} caches", keys.len()), info::bytes_of(store, &keys));
    let damage = cache::verify(store, &keys, key.is_none(), &|bytes| cache::Events::advanced(&progress, bytes));
    progress.finish();
    let damage = damage?;
    if json {
        say!("{}", serde_json::to_string_pretty(&damage)?);
    } else {
        damage.iter().for_each(print_damage);
        if damage.is_empty() {
            say!("{} caches, no damage", keys.len());
        }
    }
    Ok(if damage.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_damage(found: &Damage) {
    let block = found.block.map(|block| format!(" block {block}")).unwrap_or_default();
    let recordings = match found.recordings.as_slice() {
        [] => String::new(),
        names => format!("; recordings {}", names.join(", ")),
    };
    say!("{}{block}: {}{recordings}", found.file.display(), found.what);
}

pub(crate) fn repair(key: &str, args: &ConfigArgs, inputs: Vec<PathBuf>) -> Result<ExitCode> {
    let (root, options) = prepare(args, inputs)?;
    // A whole key needs no manifest to be found by, nor a store that can be opened.
    let key = match Key::parse(key) {
        Ok(key) => key,
        Err(_) => Store::open(&root)?.resolve(key)?,
    };
    let progress = BuildProgress::new();
    let repaired = cache::repair(&root, &key, &options, &progress);
    progress.finish();
    let repaired = repaired?;
    if args.json {
        say!("{}", serde_json::to_string_pretty(&json!({ "key": key, "repaired": texts(&repaired) }))?);
        return Ok(ExitCode::SUCCESS);
    }
    for path in &repaired {
        say!("{}", path.display());
    }
    note!("{} files rebuilt", repaired.len());
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn explain(store: &Store, key: &str, json: bool) -> Result<ExitCode> {
    let key = store.resolve(key)?;
    let explanation = cache::explain(store, &key)?;
    if json {
        say!("{}", serde_json::to_string_pretty(&explanation)?);
        return Ok(ExitCode::SUCCESS);
    }
    let Some(explanation) = explanation else {
        say!("the store has no other cache to compare with");
        return Ok(ExitCode::SUCCESS);
    };
    say!("nearest     {}", explanation.nearest);
    for difference in &explanation.differences {
        say!(
            "{}: {} in this cache, {} in the nearest one",
            difference.what,
            value(&difference.here),
            value(&difference.there)
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn value(value: &Value) -> String {
    match value {
        Value::Null => "absent".into(),
        other => other.to_string(),
    }
}

pub(crate) fn compact(store: &Store, key: Option<&str>, segment_bytes: u64, json: bool) -> Result<ExitCode> {
    let keys = match key {
        Some(key) => vec![store.resolve(key)?],
        None => store.cache_keys()?,
    };
    let (mut compacted, mut code) = (Vec::new(), ExitCode::SUCCESS);
    for key in keys {
        let Compacted { segments_before, segments_after } = match cache::compact(store, &key, segment_bytes) {
            Ok(compacted) => compacted,
            Err(error) => {
                note!("error: {key}: {error}");
                code = ExitCode::FAILURE;
                continue;
            }
        };
        if !json {
            say!("{key}  {segments_before} segments, now {segments_after}");
        }
        compacted.push(json!({ "key": key, "segments_before": segments_before, "segments_after": segments_after }));
    }
    if json {
        say!("{}", serde_json::to_string_pretty(&compacted)?);
    }
    Ok(code)
}

pub(crate) fn pin(store: &Store, key: &str, json: bool) -> Result<ExitCode> {
    let key = store.resolve(key)?;
    store.pin(&key)?;
    Ok(pinned(&key, true, json))
}

fn pinned(key: &Key, pinned: bool, json: bool) -> ExitCode {
    if json {
        say!("{}", json!({ "key": key, "pinned": pinned }));
    } else {
        say!("{key}");
    }
    ExitCode::SUCCESS
}

pub(crate) fn unpin(store: &Store, key: &str, json: bool) -> Result<ExitCode> {
    let key = store.resolve(key)?;
    if !store.unpin(&key)? {
        return Err(CacheError::NotPinned { store: store.root().into(), key: key.to_string() }.into());
    }
    Ok(pinned(&key, false, json))
}

pub(crate) fn gc(store: &Store, unpinned: bool, dry_run: bool, json: bool) -> Result<ExitCode> {
    if !dry_run {
        cache::put_back(store);
    }
    let plan = cache::plan_gc(store, unpinned)?;
    let GcOutcome { removed: removals, failed } = if dry_run {
        GcOutcome { removed: plan.removals.clone(), failed: Vec::new() }
    } else {
        cache::run_gc(store, &plan)
    };
    let failed: Vec<_> = failed.iter().map(ToString::to_string).collect();
    let code = if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if json {
        let outcome = json!({ "removed": removals, "failed": failed, "warnings": plan.warnings });
        say!("{}", serde_json::to_string_pretty(&outcome)?);
        return Ok(code);
    }
    for warning in &plan.warnings {
        note!("warning: {warning}");
    }
    let doing = if dry_run { "would remove" } else { "removed" };
    for removal in &removals {
        say!("{doing} {}: {} ({})", removal.path.display(), removal.why, report::bytes(removal.bytes));
    }
    let bytes = removals.iter().map(|removal| removal.bytes).sum();
    say!("{doing} {} of {} entries, {}", removals.len(), plan.removals.len(), report::bytes(bytes));
    failed.iter().for_each(|error| note!("error: cannot remove {error}"));
    Ok(code)
}
