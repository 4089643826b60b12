//! Where prepared recordings end: segments, filled in order and published when full.

use std::collections::HashSet;

use super::build::Segments;
use super::encode::Prepared;
use super::error::CacheError;
use super::keys::Key;
use super::plan::Packer;
use super::segment::SegmentIndex;
use super::settings::SegmentSettings;
use super::store::{BuildFolder, Store};
use super::writer::SegmentWriter;

/// Takes prepared recordings in order and fills segments with them.
pub(crate) struct SegmentSink<'a> {
    store: &'a Store,
    tmp: &'a BuildFolder,
    settings: &'a SegmentSettings,
    packer: Packer,
    seen: HashSet<Key>,
    writer: Option<SegmentWriter>,
    /// Segments published so far.
    pub(crate) published: usize,
}

impl<'a> SegmentSink<'a> {
    pub(crate) fn new(store: &'a Store, tmp: &'a BuildFolder, settings: &'a SegmentSettings, limit: u64) -> Self {
        Self { store, tmp, settings, packer: Packer::new(limit), seen: HashSet::new(), writer: None, published: 0 }
    }

    pub(crate) fn add(&mut self, prepared: &Prepared, segments: &mut Segments) -> Result<(), CacheError> {
        if !self.seen.insert(prepared.blake3.clone()) {
            return Ok(());
        }
        if self.packer.starts_new(self.settings.bytes(prepared.measured.rows)) {
            self.publish(segments)?;
        }
        if self.writer.is_none() {
            let folder = self.tmp.path.join(format!("segment-{:016x}", rand::random::<u64>()));
            self.writer = Some(SegmentWriter::create(folder, self.settings)?);
        }
        self.writer.as_mut().expect("made above").add(prepared, self.settings)
    }

    /// Completes and publishes the segment in progress.
    pub(crate) fn publish(&mut self, segments: &mut Segments) -> Result<(), CacheError> {
        let Some(writer) = self.writer.take().filter(|writer| writer.rows() > 0) else { return Ok(()) };
        let (index, hash, folder) = writer.finish()?;
        let key = index.key();
        let target = self.store.segment_path(&key);
        self.store.publish_folder(&folder, &target)?;
        self.published += 1;
        // Whoever published it, it must be what we have.
        let (_, published) = SegmentIndex::read(&target, &key)?;
        if published != hash {
            let message = "published by another builder with other content; is its emg-cache of the same version?";
            return Err(CacheError::damaged(&target, message));
        }
        segments.insert(key, (index, hash));
        Ok(())
    }
}
