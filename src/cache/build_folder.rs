//! Folders of builds in progress under `tmp/`, and which of them belong to no living process.
//!
//! A build holds a lock on the file `lease` in its folder, and renews the file's time every minute. Times are compared
//! with each other only, as the file server gives them: clocks of machines differ. A lock that can be had proves a build
//! dead only where all who might hold it use the same kernel's locks on a local disk. Anywhere else a lock may be one
//! machine's or one mount's, so the lease must be a day old, too.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use rustix::fs::{Timespec, Timestamps};

use super::error::CacheError;
use crate::files::{Lock, try_lock};

const LEASE_FILE: &str = "lease";
const RENEWAL: Duration = Duration::from_secs(60);
/// Without renewal for so long, a build of another machine is taken for dead.
const EXPIRY: Duration = Duration::from_secs(24 * 3600);
/// Begins the names of folders that nobody needs.
const DELETING: &str = "deleting-";

/// A build's own folder under `tmp/`; removed with what is left in it when dropped.
#[derive(Debug)]
pub(crate) struct BuildFolder {
    pub(crate) path: PathBuf,
    /// When it was made, by the file server's clock.
    pub(super) made: SystemTime,
    lease: Option<Lease>,
}

/// A lock on a file, and a thread that renews the file's time.
#[derive(Debug)]
struct Lease {
    _file: File,
    stop: Option<Sender<()>>,
    renewal: Option<JoinHandle<()>>,
}

impl BuildFolder {
    /// Makes a folder in `tmp`, which is made if there is none.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub(super) fn make(tmp: &Path) -> Result<Self, CacheError> {
        loop {
            // Earlier versions judge by the process what has no such beginning.
            let name = format!("build-{}-{}-{:016x}", owner(), std::process::id(), rand::random::<u64>());
            let path = tmp.join(name);
            fs::create_dir_all(&path).map_err(CacheError::io(&path))?;
            match Self::claim(&path) {
                Ok(Some(folder)) => return Ok(folder),
                failed => {
                    let _ = fs::remove_dir_all(&path);
                    failed?;
                }
            }
        }
    }

    /// Locks a folder that was just made; `None` if another process took it for a dead build's.
    fn claim(path: &Path) -> Result<Option<Self>, CacheError> {
        let at = path.join(LEASE_FILE);
        let file = match File::create_new(&at) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            result => result.map_err(CacheError::io(&at))?,
        };
        let stat = file.metadata().map_err(CacheError::io(&at))?;
        let is_there = || fs::metadata(&at).is_ok_and(|found| (found.dev(), found.ino()) == (stat.dev(), stat.ino()));
        if try_lock(&file) == Lock::Taken || !is_there() {
            return Ok(None);
        }
        // Who comes by another mount may see other locks.
        let _ = (&file).write_all(seen_as(&file).unwrap_or_default().as_bytes());
        let made = stat.modified().map_err(CacheError::io(&at))?;
        Ok(Some(Self { path: path.to_owned(), made, lease: Some(Lease::renewing(file)) }))
    }

    /// A path in the folder that nothing has yet.
    pub(crate) fn fresh(&self, what: &str) -> PathBuf {
        self.path.join(format!("{what}-{:016x}", rand::random::<u64>()))
    }
}

impl Drop for BuildFolder {
    fn drop(&mut self) {
        // Closed first: NFS keeps a file that is removed while it is open under another name.
        self.lease = None;
        let _ = remove_entry(&self.path);
    }
}

/// Removes an entry of `tmp/`.
pub(super) fn remove_entry(path: &Path) -> std::io::Result<()> {
    remove_doomed(&doom(path)?)
}

/// Gives an entry of `tmp/` a name by which anybody removes it, if this process is killed before [`remove_doomed`] did.
pub(super) fn doom(path: &Path) -> std::io::Result<PathBuf> {
    let doomed = path.with_file_name(format!("{DELETING}{:016x}", rand::random::<u64>()));
    fs::rename(path, &doomed)?;
    Ok(doomed)
}

pub(super) fn remove_doomed(path: &Path) -> std::io::Result<()> {
    // A link is removed, not what it leads to.
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

impl Lease {
    /// Without a thread, where none can be started, what is written in the folder has to show that the build lives.
    fn renewing(file: File) -> Self {
        let (stop, stopped) = channel();
        let renew = |file: File| {
            move || {
                while stopped.recv_timeout(RENEWAL) == Err(RecvTimeoutError::Timeout) {
                    let _ = touch(&file);
                }
            }
        };
        let renewal = file.try_clone().and_then(|file| std::thread::Builder::new().spawn(renew(file))).ok();
        Self { _file: file, stop: Some(stop), renewal }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(renewal) = self.renewal.take() {
            let _ = renewal.join();
        }
    }
}

/// Sets a file's times to now, by the file server's clock.
pub(super) fn touch(file: &File) -> rustix::io::Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    rustix::fs::futimens(file, &Timestamps { last_access: now, last_modification: now })
}

/// A folder that no living process needs, locked against being looked at by two at once.
#[derive(Debug)]
pub(super) struct DeadBuild {
    pub(super) path: PathBuf,
    lease: Option<File>,
}

impl DeadBuild {
    /// Removes it.
    ///
    /// # Errors
    /// Something in it cannot be removed.
    pub(super) fn remove(self) -> std::io::Result<()> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(DELETING) {
            return remove_doomed(&self.path);
        }
        let doomed = doom(&self.path)?;
        // Closed first, for NFS; now nobody takes it for a build's folder any more.
        drop(self.lease);
        remove_doomed(&doomed).inspect_err(|_| {
            // So that it is listed by its name again.
            let _ = fs::rename(&doomed, &self.path);
        })
    }
}

/// What in `tmp` no living process needs, by a clock that says `now`.
pub(super) fn dead_builds(tmp: &Path, now: SystemTime) -> Vec<DeadBuild> {
    let entries = fs::read_dir(tmp).into_iter().flatten().flatten();
    entries.filter_map(|entry| dead(entry.path(), &entry.file_name().to_string_lossy(), now)).collect()
}

fn dead(path: PathBuf, name: &str, now: SystemTime) -> Option<DeadBuild> {
    if super::gc::is_set_aside(name) {
        return None;
    }
    if name.starts_with(DELETING) {
        return Some(DeadBuild { path, lease: None });
    }
    if !is_of_build(name) {
        return None;
    }
    // Behind a link there may be anything.
    let is_folder = fs::symlink_metadata(&path).is_ok_and(|stat| stat.is_dir());
    let lease = is_folder.then(|| open_lease(&path.join(LEASE_FILE))).flatten();
    let is_dead = match lease.as_ref().map(try_lock) {
        Some(Lock::Taken) => false,
        Some(Lock::Held) => {
            let is_proof = |lease| is_local(lease) && is_seen_alike(lease);
            is_of_this_system(name) && lease.as_ref().is_some_and(is_proof) || has_expired(&path, now)
        }
        // Where nothing has a lock, and for folders of earlier versions.
        Some(Lock::Unavailable) | None => has_expired(&path, now),
    };
    is_dead.then_some(DeadBuild { path, lease })
}

fn open_lease(path: &Path) -> Option<File> {
    // Some file systems lock only what may be written to; another user's file may be read only.
    let open = |write: bool| {
        let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
        let file = OpenOptions::new().read(true).write(write).custom_flags(flags).open(path).ok()?;
        file.metadata().is_ok_and(|stat| stat.is_file()).then_some(file)
    };
    open(true).or_else(|| open(false))
}

/// `<host>-<boot id>`, for people and for [`is_of_this_system`].
fn owner() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{}-{}", plain(&host), boot_id())
}

fn plain(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).collect()
}

/// Of the running kernel, which all its containers share; empty where it is unknown.
fn boot_id() -> String {
    plain(&fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default())
}

fn is_of_this_system(name: &str) -> bool {
    let boot = boot_id();
    !boot.is_empty() && name.rsplit('-').nth(2) == Some(&boot)
}

/// Whether a name is one that builds give, now or in earlier versions: `[build-]HOST-BOOT-PID-RANDOM`.
fn is_of_build(name: &str) -> bool {
    let mut parts = name.rsplit('-');
    let is_hex = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    parts.next().is_some_and(is_hex) && parts.next().is_some_and(|pid| pid.parse::<u32>().is_ok()) && parts.count() >= 2
}

/// The file system of a file as this process sees it.
fn seen_as(file: &File) -> Option<String> {
    let kind = rustix::fs::fstatfs(file).ok()?.f_type;
    Some(format!("{} {kind}", file.metadata().ok()?.dev()))
}

/// Whether the builder saw the same file system: through another one (overlayfs, a mount of an own NFS export), its lock
/// is not seen.
fn is_seen_alike(lease: &File) -> bool {
    let mut text = String::new();
    let read = lease.take(100).read_to_string(&mut text);
    read.is_ok() && seen_as(lease).as_deref() == Some(&text)
}

/// Whether the file lies on a disk or in memory of this machine, whose locks this kernel keeps, all of them.
fn is_local(file: &File) -> bool {
    // linux/magic.h: ext2 to ext4, XFS, Btrfs, tmpfs, ramfs, F2FS, ZFS, overlayfs, bcachefs, exFAT, FAT, NTFS.
    const LOCAL: [u64; 12] = [
        0xef53,
        0x5846_5342,
        0x9123_683e,
        0x0102_1994,
        0x8584_58f6,
        0xf2f5_2010,
        0x2fc1_2fc1,
        0x794c_7630,
        0xca45_1a4e,
        0x2011_bab0,
        0x4d44,
        0x7366_746e,
    ];
    rustix::fs::fstatfs(file).is_ok_and(|stat| LOCAL.contains(&((stat.f_type as u64) & 0xffff_ffff)))
}

/// Whether nothing at or below `path` changed for a day.
fn has_expired(path: &Path, now: SystemTime) -> bool {
    let Ok(stat) = fs::symlink_metadata(path) else { return false };
    is_older(&stat, now, EXPIRY)
        && (!stat.is_dir()
            || fs::read_dir(path).is_ok_and(|mut dir| dir.all(|e| e.is_ok_and(|e| has_expired(&e.path(), now)))))
}

/// Whether what `stat` is of was last modified longer ago than `age`.
pub(super) fn is_older(stat: &fs::Metadata, now: SystemTime, age: Duration) -> bool {
    stat.modified().is_ok_and(|modified| now.duration_since(modified).is_ok_and(|since| since > age))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn names(tmp: &Path, now: SystemTime) -> Vec<String> {
        let name = |dead: DeadBuild| dead.path.file_name().unwrap().to_string_lossy().into_owned();
        let mut names: Vec<_> = dead_builds(tmp, now).into_iter().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn only_builds_without_a_living_process_are_dead() {
        let folder = tempfile::tempdir().unwrap();
        let tmp = folder.path();
        let alive = BuildFolder::make(tmp).unwrap();
        let seen = fs::read(alive.path.join(LEASE_FILE)).unwrap();
        let made = |name: &str| {
            fs::create_dir(tmp.join(name)).unwrap();
            fs::write(tmp.join(name).join(LEASE_FILE), &seen).unwrap();
        };
        // A user's own; behind a link; killed; of another machine; of a version without leases, whose process is gone or
        // in another container.
        fs::create_dir(tmp.join("my-notes")).unwrap();
        let (victim, link) = (tempfile::tempdir().unwrap(), tmp.join(format!("host-{}-1-1", boot_id())));
        fs::write(victim.path().join(LEASE_FILE), &seen).unwrap();
        std::os::unix::fs::symlink(victim.path(), &link).unwrap();
        let killed = format!("build-othername-{}-1-0", boot_id());
        made(&killed);
        made("host-otherboot-1-0");
        fs::create_dir(tmp.join(format!("{}-4194305-0", owner()))).unwrap();
        fs::create_dir(tmp.join("deleting-0")).unwrap();
        fs::create_dir(tmp.join(format!("removed-{}", "0".repeat(64)))).unwrap();
        let local = is_local(&open_lease(&alive.path.join(LEASE_FILE)).unwrap());
        let expected = if local { vec![killed, "deleting-0".to_owned()] } else { vec!["deleting-0".to_owned()] };
        assert_eq!(names(tmp, alive.made), expected);
        // A day later, by the file server's clock; what is locked lives all the same.
        assert_eq!(names(tmp, alive.made + 2 * DAY).len(), 5);
        for dead in dead_builds(tmp, alive.made + 2 * DAY) {
            dead.remove().unwrap();
        }
        assert!(fs::symlink_metadata(&link).is_err() && victim.path().join(LEASE_FILE).exists());
        assert_eq!(fs::read_dir(tmp).unwrap().count(), 3);
        drop(alive);
        assert_eq!(fs::read_dir(tmp).unwrap().count(), 2);
    }

    #[test]
    fn a_renewed_lease_keeps_a_folder_of_another_machine() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("host-otherboot-1-0");
        fs::create_dir(&path).unwrap();
        let lease = File::create(path.join(LEASE_FILE)).unwrap();
        let old = SystemTime::now() - 3 * DAY;
        for file in [&lease, &File::open(&path).unwrap()] {
            file.set_modified(old).unwrap();
        }
        let now = SystemTime::now();
        assert_eq!(names(folder.path(), now).len(), 1);
        touch(&lease).unwrap();
        assert!(names(folder.path(), now).is_empty());
    }
}
