//! What a file is that is no HDF5 file, by its first bytes.

use std::os::unix::fs::FileExt;

use super::place::Place;
use crate::files::open_regular;

/// Beginnings of files that are taken for recordings by mistake, and what to do.
const KNOWN: [(&[u8], &str); 8] = [
    (b"MATLAB 5.0", "a MATLAB 5 file; save it with -v7.3"),
    (b"version https://git-lfs", "a Git LFS pointer; run `git lfs pull`"),
    (b"/annex/objects", "a git-annex pointer; run `git annex get`"),
    (b"\x1f\x8b", "a gzip file; unpack it"),
    (b"PK\x03\x04", "a zip file; unpack it"),
    (b"\xfd7zXZ", "an xz file; unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstd file; unpack it"),
    (b"<", "an HTML or XML page, perhaps of a failed download"),
];

/// What the file is, if that is plain to see.
pub(super) fn what_else(place: &Place) -> Option<&'static str> {
    let file = open_regular(&place.path).ok()?;
    let mut first = [0; 64];
    let bytes = file.read_at(&mut first, place.offset()).ok()?;
    if bytes == 0 || place.member.as_ref().is_some_and(|member| member.bytes == 0) {
        return Some("an empty file");
    }
    KNOWN.into_iter().find(|(beginning, _)| first.starts_with(beginning)).map(|(_, what)| what)
}
