//! The manifest: which recordings a cache has, in which segments, in which splits, under which settings.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::CacheError;
use super::key::Key;
use super::keys::{KeyedRecording, cache_key};
use super::sealed;
use super::segment::{SegmentIndex, SegmentRecording, Segments};
use super::settings::{CacheSettings, check_version};
use super::split::{Assignment, Candidate, Split};
use super::store::Store;
use crate::statistics::{Moments, without_slack};

/// caches/<key>.json.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: u32,
    pub normalizer: u32,
    pub settings: CacheSettings,
    /// By name, then hash: the order in which windows are numbered.
    #[serde(deserialize_with = "without_slack")]
    pub recordings: Vec<ManifestRecording>,
    pub segments: Vec<SegmentRef>,
    /// Statistics of the training split, merged in recording order.
    pub train_emg: Moments,
    pub train_joint_angles: Moments,
    /// Windows of train, val and test.
    pub windows: [u64; 3],
    /// How splits were assigned that no metadata.csv gives; not part of the key, which covers the splits themselves.
    /// `None` in manifests of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned: Option<Assigned>,
}

/// Recordings whose splits were assigned at random.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assigned {
    pub recordings: usize,
    pub assignment: Assignment,
}

/// A recording of a cache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestRecording {
    pub name: String,
    /// Relative to the input it was found in.
    pub path: String,
    pub blake3: Key,
    pub split: Split,
    pub user: Option<String>,
    pub session: Option<String>,
    pub stage: Option<String>,
    pub side: Option<String>,
    pub generalization: Option<String>,
    /// What the other columns of metadata.csv say, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Index into the manifest's segments.
    pub segment: usize,
}

/// A segment of a cache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentRef {
    pub key: Key,
    /// BLAKE3 of its segment.json.
    pub blake3: Key,
    /// Bytes of its files beside segment.json.
    pub bytes: u64,
}

impl SegmentRef {
    /// Those of a manifest, in its order.
    pub(super) fn of(segments: &Segments) -> Vec<Self> {
        let segment = |(key, (index, hash)): (&Key, &(SegmentIndex, Key))| Self {
            key: key.clone(),
            blake3: hash.clone(),
            bytes: index.bytes(),
        };
        segments.iter().map(segment).collect()
    }
}

/// What a manifest says of all its recordings together.
pub(crate) struct Totals {
    pub(crate) train_emg: Moments,
    pub(crate) train_joint_angles: Moments,
    pub(crate) windows: [u64; 3],
}

impl Totals {
    /// Of recordings in recording order.
    pub(crate) fn of<'a>(
        settings: &CacheSettings,
        recordings: impl Iterator<Item = (Split, &'a SegmentRecording)>,
    ) -> Self {
        let (train_emg, train_joint_angles) =
            (Moments::new(settings.emg_channels), Moments::new(settings.joint_angles_channels));
        let mut totals = Self { train_emg, train_joint_angles, windows: [0; 3] };
        for (split, content) in recordings {
            totals.windows[split as usize] += settings.count_windows(split, content.rows, &content.valid_runs);
            if split == Split::Train {
                totals.train_emg.merge(&content.emg);
                totals.train_joint_angles.merge(&content.joint_angles);
            }
        }
        totals
    }
}

impl ManifestRecording {
    /// A label by its name: `user`, `session`, `stage`, `side`, `generalization`, or another column of metadata.csv.
    pub fn label(&self, name: &str) -> Option<&str> {
        match name {
            "user" => self.user.as_deref(),
            "session" => self.session.as_deref(),
            "stage" => self.stage.as_deref(),
            "side" => self.side.as_deref(),
            "generalization" => self.generalization.as_deref(),
            other => self.labels.get(other).map(String::as_str),
        }
    }

    /// What a cache's key covers of the recording.
    pub(crate) fn keyed(&self) -> KeyedRecording<'_> {
        let labels = [&self.user, &self.session, &self.stage, &self.side, &self.generalization];
        let labels = labels.map(Option::as_deref);
        KeyedRecording { name: &self.name, blake3: &self.blake3, split: self.split, labels, others: &self.labels }
    }
}

impl Manifest {
    pub fn key(&self) -> Key {
        cache_key(self.normalizer, &self.settings, self.recordings.iter().map(ManifestRecording::keyed))
    }

    pub fn window_count(&self, split: Split) -> u64 {
        self.windows[split as usize]
    }

    /// Whether random assignment by this rule gives the recordings the splits that they have; `None` if that cannot be
    /// known, because it is not said which splits a metadata.csv gave.
    pub fn is_assigned_by(&self, assignment: &Assignment) -> Option<bool> {
        let all = self.recordings.len();
        match &self.assigned {
            Some(assigned) if assigned.recordings == 0 || assigned.assignment == *assignment => return Some(true),
            Some(assigned) if assigned.recordings < all => return Some(false),
            _ => {}
        }
        let candidate = |recording: &ManifestRecording| {
            let ManifestRecording { name, blake3, user, session, .. } = recording.clone();
            Candidate { name, blake3, user, session }
        };
        let candidates: Vec<_> = self.recordings.iter().map(candidate).collect();
        let splits = assignment.assign(&candidates).ok()?;
        let same = splits.iter().zip(&self.recordings).all(|(split, recording)| *split == recording.split);
        if same || self.assigned.is_some() { Some(same) } else { None }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        sealed::seal(self)
    }

    /// Reads and checks the manifest of cache `key`.
    ///
    /// # Errors
    /// The manifest is missing, damaged, or does not match its name.
    pub fn read(store: &Store, key: &Key) -> Result<Self, CacheError> {
        let path = store.manifest_path(key);
        let manifest = Self::parse(&path, &mut sealed::read(&path)?)?;
        if manifest.key() != *key {
            return Err(CacheError::damaged(&path, format!("is the cache {}, not {key}", manifest.key())));
        }
        Ok(manifest)
    }

    /// Whether cache `key` names a segment, or may: its manifest is there, but cannot be read.
    pub(super) fn may_name(store: &Store, key: &Key, segment: &Key) -> bool {
        match Self::read(store, key) {
            Ok(manifest) => manifest.segments.iter().any(|named| named.key == *segment),
            Err(_) => store.manifest_path(key).exists(),
        }
    }

    /// Parses and checks the bytes of a manifest, which change; `path` is what errors name.
    ///
    /// # Errors
    /// Damaged, of a later version, or in contradiction with itself.
    pub fn parse(path: &Path, bytes: &mut [u8]) -> Result<Self, CacheError> {
        let manifest: Self = sealed::unseal(bytes).map_err(|error| CacheError::damaged(path, error))?;
        manifest.check().map_err(|message| CacheError::damaged(path, message))?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        check_version(self.format, self.normalizer)?;
        if let Some(recording) = self.recordings.iter().find(|recording| recording.segment >= self.segments.len()) {
            return Err(format!("recording {} names a segment that does not exist", recording.name));
        }
        if !self.recordings.is_sorted_by(|a, b| (&a.name, &a.blake3) <= (&b.name, &b.blake3)) {
            return Err("recordings are not in order".into());
        }
        let distinct: HashSet<_> = self.segments.iter().map(|segment| &segment.key).collect();
        if distinct.len() != self.segments.len() {
            return Err("a segment is named twice".into());
        }
        let settings = &self.settings;
        let sizes = [settings.window_size, settings.stride, settings.eval_window, settings.eval_stride];
        if sizes.iter().any(|size| !(1..=10_000_000).contains(size)) || settings.padding.iter().any(|p| *p > 10_000_000)
        {
            return Err(format!("impossible windows {sizes:?} with padding {:?}", settings.padding));
        }
        let widths =
            [(&self.train_emg, settings.emg_channels), (&self.train_joint_angles, settings.joint_angles_channels)];
        if widths.iter().any(|(moments, n)| !moments.has_columns(*n)) {
            return Err("the training statistics have the wrong number of columns".into());
        }
        Ok(())
    }

    /// Warnings about the data: risks of leakage that are not errors.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut by_hash: HashMap<&Key, &str> = HashMap::new();
        let mut splits: HashMap<&str, HashSet<Split>> = HashMap::new();
        for recording in &self.recordings {
            if let Some(first) = by_hash.insert(&recording.blake3, &recording.name) {
                warnings.push(format!("`{first}` and `{}` have the same content", recording.name));
            }
            if let Some(user) = &recording.user {
                splits.entry(user).or_default().insert(recording.split);
            }
        }
        let shared = splits.values().filter(|splits| splits.len() > 1).count();
        if shared > 0 {
            warnings.push(format!("{shared} of {} users are in several splits", splits.len()));
        }
        warnings
    }
}
