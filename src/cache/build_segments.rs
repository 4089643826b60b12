//! The segments of a build: those that are published already, folded where they are small, and new ones.

use std::collections::HashSet;
use std::path::PathBuf;

use super::build::Builder;
use super::build_folder::BuildFolder;
use super::encode::{EncodedPools, Prepared};
use super::error::CacheError;
use super::fold::{MOST_SMALL, fold, is_small};
use super::inputs::{Inputs, Usable};
use super::key::Key;
use super::keys::segment_key;
use super::manifest::Manifest;
use super::ordered_map::ordered;
use super::plan::{Wanted, plan};
use super::segment::{SegmentIndex, Segments, contents_of};
use super::settings::NORMALIZER;
use super::sink::SegmentSink;
use super::writer::SegmentWriter;
use crate::recording::RecordingError;

impl Builder<'_> {
    /// Builds segments again that `gc` removed while this build relied on them. Also without locks, it looks for manifests
    /// that name a segment before and after it sets it aside, and here the segments are looked for after the manifest was
    /// published, so one of the two sees the other.
    pub(super) fn restore_removed(&mut self, tmp: &BuildFolder, key: &Key) -> Result<(), CacheError> {
        // A damaged manifest is for Cache::check to report.
        let Ok(manifest) = Manifest::read(self.store, key) else { return Ok(()) };
        for (i, segment) in manifest.segments.iter().enumerate() {
            let target = self.store.segment_path(&segment.key);
            if !target.exists() {
                self.inputs.know_all()?;
                let (_, hash, folder) = self.rebuild(tmp, &manifest, i)?;
                if hash != segment.blake3 {
                    let message = "is missing, and the recordings now give a different one";
                    return Err(CacheError::damaged(&target, message));
                }
                self.store.publish_folder(&folder, &target)?;
                self.segments_written += 1;
            }
        }
        Ok(())
    }

    /// Contents to have in segments, each once, in recording order.
    pub(super) fn wanted(&self, usable: &[Usable<'_>]) -> Vec<(usize, Wanted)> {
        let mut seen = HashSet::new();
        usable
            .iter()
            .filter(|usable| seen.insert(&usable.recording.blake3))
            .map(|usable| {
                let bytes = self.inputs.segment_settings.bytes(usable.rows);
                (usable.index, Wanted { blake3: usable.recording.blake3.clone(), bytes })
            })
            .collect()
    }

    /// Adds to `segments` what is missing there of the wanted contents: published segments first, then new ones.
    pub(super) fn add_segments(
        &mut self,
        tmp: &BuildFolder,
        wanted: &[(usize, Wanted)],
        segments: &mut Segments,
    ) -> Result<(), CacheError> {
        let written: HashSet<_> =
            segments.values().flat_map(|(index, _)| &index.recordings).map(|r| r.blake3.clone()).collect();
        let missing: Vec<_> = wanted.iter().filter(|(_, wanted)| !written.contains(&wanted.blake3)).collect();
        let published = self.published()?;
        let listed = contents_of(&published);
        let contents: Vec<_> = missing.iter().map(|(_, wanted)| wanted.clone()).collect();
        let plan = plan(&contents, &listed, self.inputs.options.segment_bytes);
        let (small, full): (Segments, Segments) = plan
            .kept
            .into_iter()
            .map(|key| (key.clone(), published[&key].clone()))
            .partition(|(_, (index, _))| is_small(index, self.inputs.options.segment_bytes));
        segments.extend(full);
        segments.extend(self.folded(tmp, small, wanted)?);
        for group in plan.new {
            let hashes: Vec<_> = group.iter().map(|i| contents[*i].blake3.clone()).collect();
            let key = segment_key(NORMALIZER, &self.inputs.segment_settings, &hashes);
            // An earlier build may have been stopped between this segment and its manifest.
            match self.read_segment(&key) {
                Ok(segment) => {
                    segments.insert(key, segment);
                }
                Err(_) => {
                    let inputs: Vec<_> = group.iter().map(|i| missing[*i].0).collect();
                    self.write_segments(tmp, &inputs, u64::MAX, segments)?;
                }
            }
        }
        Ok(())
    }

    /// These small segments, or where they are many, the full ones that they were folded into.
    fn folded(
        &mut self,
        tmp: &BuildFolder,
        small: Segments,
        wanted: &[(usize, Wanted)],
    ) -> Result<Segments, CacheError> {
        if small.len() <= MOST_SMALL {
            return Ok(small);
        }
        let contents = wanted.iter().map(|(_, wanted)| &wanted.blake3);
        match fold(self.store, tmp, &small, contents, self.inputs.options.segment_bytes) {
            Ok(folded) => {
                self.segments_written += folded.len();
                Ok(folded)
            }
            // They can be used as they are.
            Err(error) => {
                self.inputs.warnings.push(format!("{} small segments could not be folded: {error}", small.len()));
                Ok(small)
            }
        }
    }

    /// Segments of our settings that published manifests name, as far as they are whole.
    pub(super) fn published(&self) -> Result<Segments, CacheError> {
        let mut segments = Segments::new();
        for cache in self.store.cache_keys()? {
            // A damaged manifest or segment is no reason not to build what is not damaged.
            let Ok(manifest) = Manifest::read(self.store, &cache) else { continue };
            if manifest.normalizer != NORMALIZER || manifest.settings.segment() != self.inputs.segment_settings {
                continue;
            }
            for segment in manifest.segments {
                if segments.contains_key(&segment.key) {
                    continue;
                }
                if let Ok(found) = self.read_segment(&segment.key) {
                    segments.insert(segment.key, found);
                }
            }
        }
        Ok(segments)
    }

    pub(super) fn read_segment(&self, key: &Key) -> Result<(SegmentIndex, Key), CacheError> {
        let folder = self.store.segment_path(key);
        let (index, hash) = SegmentIndex::read(&folder, key)?;
        index.check_lengths(&folder)?;
        Ok((index, hash))
    }

    /// Reads `inputs`, writes them in order into as many segments as they need of `limit` bytes each, and publishes
    /// these.
    pub(super) fn write_segments(
        &mut self,
        tmp: &BuildFolder,
        inputs: &[usize],
        limit: u64,
        segments: &mut Segments,
    ) -> Result<(), CacheError> {
        let settings = self.inputs.segment_settings.clone();
        // A recording without a window is in no cache, so it belongs in no segment.
        let needed: Vec<_> = inputs.iter().map(|i| self.inputs.needed_rows(*i).unwrap_or(0)).collect();
        let skip_failures = self.inputs.options.settings.skip_ik_failures;
        let mut sink = SegmentSink::new(self.store, tmp, &settings, limit);
        self.prepare(inputs, &mut |i, prepared| {
            if prepared.measured.longest(skip_failures) < needed[i] { Ok(()) } else { sink.add(prepared, segments) }
        })?;
        sink.publish(segments)?;
        self.segments_written += sink.published;
        self.inputs.save();
        Ok(())
    }

    /// Reads `inputs` on all cores and gives each, in order and with its position, to `take`. What cannot be used is
    /// only remembered.
    pub(super) fn prepare(
        &mut self,
        inputs: &[usize],
        take: &mut dyn FnMut(usize, &Prepared) -> Result<(), CacheError>,
    ) -> Result<(), CacheError> {
        self.inputs.announce("cache", inputs);
        let (mut learned, encoded) = (Vec::new(), EncodedPools::default());
        {
            let this = &self.inputs;
            let produce = |i: usize| {
                this.read(inputs[i]).map(|(r, key, m)| Prepared::new(r, key, m, &this.segment_settings, &encoded))
            };
            let threads = Inputs::threads();
            ordered(inputs.len(), threads, threads + 1, produce, |i, prepared| {
                let input = &this.list[inputs[i]];
                let mut scanned = match prepared {
                    Ok(prepared) => {
                        let expected = input.known.as_ref().map(|(key, _)| key);
                        if expected.is_some_and(|key| *key != prepared.blake3) {
                            return Err(CacheError::from(RecordingError::Changed { path: input.found.place.label() }));
                        }
                        take(i, &prepared)?;
                        let Prepared { recording, blake3, measured, .. } = prepared;
                        Ok((recording, blake3, measured))
                    }
                    Err(error) if input.known.is_some() => return Err(error.into()),
                    Err(error) => Err(error),
                };
                this.events.advanced(input.bytes());
                learned.push((inputs[i], this.finding(inputs[i], &mut scanned)?));
                Ok(())
            })?;
        }
        self.inputs.learn(learned);
        Ok(())
    }

    /// Writes segment `i` of a manifest anew, in a folder under `tmp/`. All inputs must be known. Gives its index, the
    /// BLAKE3 of its segment.json, and the folder.
    pub(super) fn rebuild(
        &mut self,
        tmp: &BuildFolder,
        manifest: &Manifest,
        i: usize,
    ) -> Result<(SegmentIndex, Key, PathBuf), CacheError> {
        let segment = &manifest.segments[i];
        let mut seen = HashSet::new();
        let contents: Vec<_> = manifest
            .recordings
            .iter()
            .filter(|recording| recording.segment == i && seen.insert(&recording.blake3))
            .map(|recording| recording.blake3.clone())
            .collect();
        let damaged = |message: &str| CacheError::damaged(&self.store.segment_path(&segment.key), message);
        if manifest.normalizer != NORMALIZER {
            return Err(damaged(
                "cannot be rebuilt: an earlier version wrote its rows in another way; build the cache again",
            ));
        }
        if segment_key(NORMALIZER, &self.inputs.segment_settings, &contents) != segment.key {
            return Err(damaged(
                "cannot be rebuilt: it holds more than this cache's recordings, or other settings were given",
            ));
        }
        let by_hash = self.inputs.by_hash();
        let inputs = contents.iter().map(|content| by_hash.get(content).copied()).collect::<Option<Vec<_>>>();
        let inputs = inputs.ok_or_else(|| damaged("cannot be rebuilt: a recording is not among the inputs"))?;
        let folder = tmp.fresh("segment");
        let settings = self.inputs.segment_settings.clone();
        let mut writer = SegmentWriter::create(folder, &settings)?;
        self.prepare(&inputs, &mut |_, prepared| writer.add(prepared, &settings))?;
        writer.finish()
    }
}
