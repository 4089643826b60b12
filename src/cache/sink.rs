//! Writes prepared recordings into segments, in order, and publishes each segment when it is full.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use super::build_folder::BuildFolder;
use super::encode::Prepared;
use super::error::CacheError;
use super::key::Key;
use super::plan::Packer;
use super::segment::{SegmentIndex, SegmentRecording, Segments};
use super::settings::SegmentSettings;
use super::store::Store;
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
        let settings = self.settings;
        self.writer(prepared.measured.rows, segments)?.add(prepared, settings)
    }

    /// Takes a recording's rows over from a segment in `folder`.
    pub(crate) fn copy(
        &mut self,
        folder: &Path,
        index: &SegmentIndex,
        recording: &SegmentRecording,
        segments: &mut Segments,
    ) -> Result<(), CacheError> {
        if !self.seen.insert(recording.blake3.clone()) {
            return Ok(());
        }
        self.writer(recording.rows, segments)?.copy(folder, index, recording)
    }

    /// The segment that the next recording of so many rows goes to.
    fn writer(&mut self, rows: u64, segments: &mut Segments) -> Result<&mut SegmentWriter, CacheError> {
        if self.packer.starts_new(self.settings.bytes(rows)) {
            self.publish(segments)?;
        }
        if self.writer.is_none() {
            let folder = self.tmp.fresh("segment");
            self.writer = Some(SegmentWriter::create(folder, self.settings)?);
        }
        Ok(self.writer.as_mut().expect("made above"))
    }

    /// Completes and publishes the segment in progress.
    pub(crate) fn publish(&mut self, segments: &mut Segments) -> Result<(), CacheError> {
        let Some(writer) = self.writer.take().filter(|writer| writer.rows() > 0) else { return Ok(()) };
        let (index, hash, folder) = writer.finish()?;
        let key = index.key();
        let target = self.store.segment_path(&key);
        self.store.publish_folder(&folder, &target)?;
        if folder.exists() {
            self.compare(&folder, &target, &key, &hash)?;
        }
        self.published += 1;
        segments.insert(key, (index, hash));
        Ok(())
    }

    /// Another builder published the segment first: it must be what we have. One that is damaged gives way to ours.
    fn compare(&self, folder: &Path, target: &Path, key: &Key, hash: &Key) -> Result<(), CacheError> {
        let whole = SegmentIndex::read(target, key)
            .and_then(|(index, published)| index.check_lengths(target).map(|()| published));
        match whole {
            Ok(published) if published == *hash => Ok(()),
            Ok(_) => {
                let message =
                    "another builder published different content here; does it run the same version of emg-cache?";
                Err(CacheError::damaged(target, message))
            }
            Err(CacheError::Damaged { .. } | CacheError::File(_)) => {
                let aside = self.tmp.fresh("damaged");
                fs::rename(target, &aside).map_err(CacheError::io(target))?;
                self.store.publish_folder(folder, target)
            }
            Err(error) => Err(error),
        }
    }
}
