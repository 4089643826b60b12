//! `emg-cache info`: what a cache holds, for people and as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use emg_pipeline::cache::{Access, Cache, Key, Manifest, ManifestRecording, Split, Store};
use emg_pipeline::report;
use emg_pipeline::say;
use emg_pipeline::statistics::Moments;
use serde_json::{Value, json};

pub(crate) fn info(store: &Store, key: &str, plot: Option<&Path>, json: bool) -> Result<ExitCode> {
    let cache = Cache::open(store.root(), &store.resolve(key)?, &Access::default())?;
    if let Some(path) = plot {
        report::draw_cache(&cache, path)?;
    }
    if json {
        say!("{}", serde_json::to_string_pretty(&full(&cache))?);
    } else {
        print(&cache);
    }
    Ok(ExitCode::SUCCESS)
}

/// Total size in bytes of the segments that these caches use, each counted once; unreadable manifests are ignored.
pub(crate) fn bytes_of(store: &Store, keys: &[Key]) -> u64 {
    let manifests = keys.iter().filter_map(|key| Manifest::read(store, key).ok());
    let segments: BTreeMap<_, _> =
        manifests.flat_map(|manifest| manifest.segments).map(|segment| (segment.key, segment.bytes)).collect();
    segments.values().sum()
}

fn windows(manifest: &Manifest) -> Value {
    let [train, val, test] = manifest.windows;
    json!({ "train": train, "val": val, "test": test })
}

/// A cache in `list --json`.
pub(crate) fn brief(key: &Key, manifest: &Manifest) -> Value {
    let bytes: u64 = manifest.segments.iter().map(|segment| segment.bytes).sum();
    json!({ "key": key, "recordings": manifest.recordings.len(), "bytes": bytes, "windows": windows(manifest) })
}

fn statistics(moments: &Moments) -> Value {
    json!({ "n": moments.n, "mean": moments.mean, "std": moments.std() })
}

fn full(cache: &Cache) -> Value {
    let manifest = cache.manifest();
    let recordings: Vec<_> = cache
        .recordings()
        .map(|recording| {
            let (listed, content) = (recording.listed, recording.content);
            json!({
                "name": listed.name,
                "path": listed.path,
                "blake3": listed.blake3,
                "split": listed.split,
                "user": listed.user,
                "session": listed.session,
                "stage": listed.stage,
                "side": listed.side,
                "generalization": listed.generalization,
                "labels": listed.labels,
                "segment": manifest.segments[listed.segment].key,
                "first_row": content.first_row,
                "rows": content.rows,
                "valid_runs": content.valid_runs,
                "time_gaps": content.time_gaps,
                "unmeasured_joints": content.unmeasured_joints,
                "statistics": {
                    "emg": statistics(&content.emg),
                    "joint_angles": statistics(&content.joint_angles),
                },
            })
        })
        .collect();
    let segments: Vec<_> =
        manifest.segments.iter().map(|segment| json!({ "key": segment.key, "bytes": segment.bytes })).collect();
    json!({
        "key": cache.key(),
        "format": manifest.format,
        "normalizer": manifest.normalizer,
        "settings": manifest.settings,
        "recordings": recordings,
        "windows": windows(manifest),
        "segments": segments,
        "warnings": cache.warnings(),
    })
}

fn print(cache: &Cache) {
    let (manifest, settings) = (cache.manifest(), &cache.manifest().settings);
    let bytes = manifest.segments.iter().map(|segment| segment.bytes).sum();
    say!("key         {}", cache.key());
    say!(
        "segments    {} ({}), {}, EMG normalized by {}, angles by {}",
        manifest.segments.len(),
        report::bytes(bytes),
        settings.dtype,
        settings.normalize_emg,
        settings.normalize_angles
    );
    say!(
        "rows        {} EMG channels, {} joint angles at {} Hz",
        settings.emg_channels,
        settings.joint_angles_channels,
        settings.sample_rate
    );
    say!(
        "windows     {} rows, stride {}; evaluation {} rows, stride {}",
        settings.window_size,
        settings.stride,
        settings.eval_window,
        settings.eval_stride
    );
    say!(
        "{:<12}{:>10}{:>8}{:>8}{:>12}{:>10}{:>12}",
        "split",
        "recordings",
        "users",
        "stages",
        "length",
        "IK failed",
        "windows"
    );
    for split in Split::ALL {
        line(cache, split.name(), |of| of == split, manifest.window_count(split));
    }
    line(cache, "all", |_| true, manifest.windows.iter().sum());
    for warning in cache.warnings() {
        say!("warning: {warning}");
    }
}

/// Prints a line of the table for the recordings whose split is `wanted`.
fn line(cache: &Cache, name: &str, wanted: impl Fn(Split) -> bool, windows: u64) {
    let members = || cache.recordings().filter(|recording| wanted(recording.listed.split));
    let rows: u64 = members().map(|recording| recording.content.rows).sum();
    let valid: u64 = members().flat_map(|r| &r.content.valid_runs).map(|(_, length)| length).sum();
    let distinct = |label: fn(&ManifestRecording) -> Option<&String>| {
        members().filter_map(|recording| label(recording.listed)).collect::<BTreeSet<_>>().len()
    };
    say!(
        "{name:<12}{:>10}{:>8}{:>8}{:>12}{:>9.1}%{windows:>12}",
        members().count(),
        distinct(|recording| recording.user.as_ref()),
        distinct(|recording| recording.stage.as_ref()),
        report::hours(rows, cache.manifest().settings.sample_rate),
        if rows == 0 { 0.0 } else { 100.0 * (rows - valid) as f64 / rows as f64 },
    );
}
