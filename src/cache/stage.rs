//! Staging: segments copied from a slow or shared store to local disk, verified on the way, under their own names.
//!
//! The folder may be shared: each user has a folder of their own in it, which nobody else can write to, and which all
//! runs of that user share. A copy in progress is `<key>.part`; it is taken up again where it was left, and renamed once
//! every block has matched its hash. A copy is used again as long as its files' time stamps are those of then. What was
//! used longest ago goes when room is needed: a run that has it open keeps it until it ends.

use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::error::CacheError;
use super::key::Key;
use super::manifest::Manifest;
use super::sealed;
use super::segment::{BLOCK_BYTES, FileBlocks, INDEX_FILE, SegmentIndex};
use super::store::{Store, bytes_below};
use crate::files::{open_regular, read_regular, replace_file, sync_and_close, sync_folder};
use crate::recording::FileStamp;

/// Time stamps of a copy's files when they were last compared with their hashes.
const STAMPS_FILE: &str = "stamps.json";

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Stamps {
    files: Vec<FileStamp>,
}

/// Where to copy segments to.
#[derive(Debug, Clone)]
pub struct Stage {
    folder: PathBuf,
    /// Most bytes that this user's part of the folder may hold.
    limit: u64,
    /// Called with the numbers of segments and bytes that are about to be copied.
    announce: fn(usize, u64),
}

impl Stage {
    pub fn new(folder: PathBuf, limit: u64, announce: fn(usize, u64)) -> Self {
        Self { folder, limit, announce }
    }

    /// Brings a manifest's segments to the folder; gives where each lies, and a lock that keeps others from evicting
    /// them until they are open.
    pub(super) fn bring(
        &self,
        store: &Store,
        manifest: &Manifest,
        indexes: &[SegmentIndex],
    ) -> Result<(Vec<PathBuf>, Option<File>), CacheError> {
        let folder = self.own_folder(store)?;
        let path = folder.join("lock");
        let mut options = File::options();
        let options = options.create(true).truncate(false).write(true).custom_flags(libc::O_NOFOLLOW);
        let lock = options.open(&path).map_err(CacheError::io(&path))?;
        // Where there are no locks, two runs may copy the same blocks, each the right ones.
        let held = lock.lock().is_ok().then_some(lock);
        let keys: Vec<_> = manifest.segments.iter().map(|segment| segment.key.clone()).collect();
        let here = |key: &Key| folder.join(key.to_string());
        let missing: Vec<_> = (0..keys.len()).filter(|i| !is_verified(&here(&keys[*i]), &indexes[*i])).collect();
        self.make_room(&folder, &keys, indexes)?;
        if !missing.is_empty() {
            (self.announce)(missing.len(), missing.iter().map(|i| indexes[*i].bytes()).sum());
        }
        for i in missing {
            copy_segment(&store.segment_path(&keys[i]), &here(&keys[i]), &indexes[i])?;
        }
        for key in &keys {
            // Used now: only the order of eviction depends on it.
            let _ = File::open(here(key)).and_then(|folder| folder.set_modified(SystemTime::now()));
        }
        Ok((keys.iter().map(here).collect(), held))
    }

    fn refuse(&self, message: String) -> CacheError {
        CacheError::Stage { path: self.folder.clone(), message }
    }

    /// This user's folder in the staging folder; both are made if there are none.
    fn own_folder(&self, store: &Store) -> Result<PathBuf, CacheError> {
        let shared = &self.folder;
        if !shared.exists() {
            fs::create_dir_all(shared).map_err(CacheError::io(shared))?;
            // Other users may make folders of their own in it, as in /tmp.
            let _ = fs::set_permissions(shared, fs::Permissions::from_mode(0o1777));
        }
        let canonical = |path: &Path| path.canonicalize().map_err(CacheError::io(path));
        if canonical(shared)?.starts_with(canonical(store.root())?) {
            return Err(self.refuse("the staging folder is inside the store; choose another folder".into()));
        }
        let user = rustix::process::geteuid().as_raw();
        let folder = shared.join(format!("user-{user}"));
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                let message = "the folder is another user's, who has not opened it (chmod 1777); choose another folder";
                return Err(self.refuse(message.into()));
            }
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(CacheError::io(&folder)(error)),
            _ => {}
        }
        let stat = fs::symlink_metadata(&folder).map_err(CacheError::io(&folder))?;
        if !stat.is_dir() || stat.uid() != user {
            return Err(
                self.refuse(format!("{} is not a folder of this user; choose another folder", folder.display()))
            );
        }
        self.adopt(&folder, user);
        Ok(folder)
    }

    /// Moves copies of earlier versions, which lay in the staging folder itself, to the user's folder.
    fn adopt(&self, folder: &Path, user: u32) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let is_own = entry.metadata().is_ok_and(|stat| stat.is_dir() && stat.uid() == user);
            let is_whole = entry.file_name().to_str().is_some_and(|name| Key::parse(name).is_ok());
            if is_own && is_whole {
                let _ = fs::rename(entry.path(), folder.join(entry.file_name()));
            }
        }
    }

    /// Removes what was used longest ago and is not `wanted`, until all that is wanted fits.
    fn make_room(&self, folder: &Path, wanted: &[Key], indexes: &[SegmentIndex]) -> Result<(), CacheError> {
        let needed: u64 = indexes.iter().map(SegmentIndex::bytes).sum();
        if needed > self.limit {
            return Err(self.refuse(format!("the cache needs {needed} bytes, but --stage-bytes is {}", self.limit)));
        }
        let mut others = Vec::new();
        for entry in fs::read_dir(folder).map_err(CacheError::io(folder))?.flatten() {
            // Only what staging made is counted or removed.
            if key_of(&entry).is_some_and(|key| !wanted.contains(&key)) {
                let used = entry.metadata().and_then(|stat| stat.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
                others.push((used, bytes_below(&entry.path()), entry.path()));
            }
        }
        others.sort();
        let mut held = needed + others.iter().map(|(_, bytes, _)| bytes).sum::<u64>();
        let mut failed = None;
        for (_, bytes, path) in others {
            if held <= self.limit {
                break;
            }
            match fs::remove_dir_all(&path) {
                Ok(()) => held -= bytes,
                Err(error) => failed = Some(CacheError::io(&path)(error)),
            }
        }
        failed.filter(|_| held > self.limit).map_or(Ok(()), Err)
    }
}

/// The segment that an entry of the folder is a copy of, whole or in progress.
fn key_of(entry: &fs::DirEntry) -> Option<Key> {
    let name = entry.file_name().into_string().ok()?;
    Key::parse(name.strip_suffix(".part").unwrap_or(&name)).ok()
}

/// Whether a copy is as it was when its blocks were compared with their hashes.
fn is_verified(folder: &Path, index: &SegmentIndex) -> bool {
    let stamps = sealed::read(&folder.join(STAMPS_FILE)).ok().and_then(|mut bytes| sealed::unseal(&mut bytes).ok());
    stamps.is_some_and(|stamps: Stamps| stamps_of(folder, index).is_some_and(|now| now == stamps))
        && index.check_lengths(folder).is_ok()
}

fn stamps_of(folder: &Path, index: &SegmentIndex) -> Option<Stamps> {
    let files = index.files.iter().map(|file| FileStamp::of(&folder.join(&file.path)).ok());
    Some(Stamps { files: files.collect::<Option<_>>()? })
}

fn copy_segment(from: &Path, to: &Path, index: &SegmentIndex) -> Result<(), CacheError> {
    let part = to.with_extension("part");
    // Of one that is there, the blocks that are right are kept.
    if to.exists() && !part.exists() {
        fs::rename(to, &part).map_err(CacheError::io(to))?;
    }
    for file in &index.files {
        copy_file(&from.join(&file.path), &part.join(&file.path), file)?;
    }
    let (json, copy) = (from.join(INDEX_FILE), part.join(INDEX_FILE));
    replace_file(&copy, &read_regular(&json).map_err(CacheError::io(&json))?)?;
    let stamps = stamps_of(&part, index).ok_or_else(|| CacheError::damaged(&part, "changed while it was copied"))?;
    replace_file(&part.join(STAMPS_FILE), &sealed::seal(&stamps))?;
    if to.exists() {
        fs::remove_dir_all(to).map_err(CacheError::io(to))?;
    }
    match fs::rename(&part, to) {
        // Without locks, another run may have been first.
        Err(_) if is_verified(to, index) => {}
        result => result.map_err(CacheError::io(to))?,
    }
    Ok(sync_folder(to.parent().expect("a folder in the staging folder"))?)
}

/// Copies the blocks that the copy does not have yet, each checked against its hash.
fn copy_file(from: &Path, to: &Path, file: &FileBlocks) -> Result<(), CacheError> {
    let parent = to.parent().expect("a file in a folder");
    fs::create_dir_all(parent).map_err(CacheError::io(parent))?;
    let source = open_regular(from).map_err(CacheError::io(from))?;
    let mut options = File::options();
    let options = options.read(true).write(true).create(true).truncate(false).custom_flags(libc::O_NOFOLLOW);
    let copy = options.open(to).map_err(CacheError::io(to))?;
    copy.set_len(file.bytes).map_err(CacheError::io(to))?;
    (0..file.blocks.len()).into_par_iter().try_for_each(|block| {
        let start = block as u64 * BLOCK_BYTES;
        let mut bytes = vec![0; BLOCK_BYTES.min(file.bytes - start) as usize];
        let matches = |bytes: &[u8]| Key::from(blake3::hash(bytes)) == file.blocks[block];
        if copy.read_exact_at(&mut bytes, start).is_ok() && matches(&bytes) {
            return Ok(());
        }
        source.read_exact_at(&mut bytes, start).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => CacheError::damaged(from, "is shorter than its segment says"),
            _ => CacheError::io(from)(error),
        })?;
        if !matches(&bytes) {
            return Err(CacheError::damaged(from, format!("block {block} does not match its hash")));
        }
        copy.write_all_at(&bytes, start).map_err(CacheError::io(to))
    })?;
    sync_and_close(copy).map_err(CacheError::io(to))
}
