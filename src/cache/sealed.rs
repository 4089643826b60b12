//! JSON documents that end with their own digest: a flipped bit anywhere is found when the file is read.
//!
//! The file is the document without its last `}`, then `,"digest":"<BLAKE3 of the whole document>"}` and a newline.

use std::io::Read;
use std::path::Path;

use memmap2::MmapMut;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::CacheError;
use crate::files::open_regular;

const MIDDLE: &str = ",\"digest\":\"";
const END: &str = "\"}\n";
const TAIL: usize = MIDDLE.len() + 64 + END.len();

/// The file's bytes for `document`, which must serialize to a JSON object with at least one member.
pub(crate) fn seal(document: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(document).expect("plain data serializes");
    let digest = blake3::hash(&bytes).to_hex();
    assert_eq!(bytes.pop(), Some(b'}'));
    bytes.extend_from_slice(MIDDLE.as_bytes());
    bytes.extend_from_slice(digest.as_bytes());
    bytes.extend_from_slice(END.as_bytes());
    bytes
}

/// Longest document that is read: 25,253 recordings of a minute take some 60 MB.
const LONGEST: u64 = 2 << 30;

/// Reads a file that is to be unsealed, into memory that goes back to the system at once: many documents of some hundred
/// KiB would leave holes in the heap.
///
/// # Errors
/// The file cannot be read, or is longer than any document of this project.
pub(crate) fn read(path: &Path) -> Result<MmapMut, CacheError> {
    let io = CacheError::io;
    let mut file = open_regular(path).map_err(io(path))?;
    let length = file.metadata().map_err(io(path))?.len();
    if length > LONGEST {
        return Err(CacheError::damaged(path, format!("{length} bytes are more than any document has")));
    }
    let length = length as usize;
    let mut bytes = MmapMut::map_anon(length.max(1)).map_err(io(path))?;
    file.read_exact(&mut bytes[..length]).map_err(io(path))?;
    Ok(bytes)
}

/// Why a document is not the one that was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    #[error("too short to end with its digest")]
    Short,
    #[error("does not end with its digest; `emg-cache repair` rebuilds it from the recordings")]
    NoDigest,
    #[error("does not match its digest; `emg-cache repair` rebuilds it from the recordings")]
    DigestMismatch,
    #[error("unexpected content: {0}")]
    Content(#[from] serde_json::Error),
}

/// Checks the digest and parses the document. Changes the bytes.
///
/// # Errors
/// What is wrong, for a message that names the file.
pub(crate) fn unseal<T: DeserializeOwned>(bytes: &mut [u8]) -> Result<T, SealError> {
    let start = bytes.len().checked_sub(TAIL).ok_or(SealError::Short)?;
    let digest = bytes[start..].strip_prefix(MIDDLE.as_bytes()).and_then(|rest| rest.strip_suffix(END.as_bytes()));
    let digest: Option<[u8; 64]> = digest.and_then(|digits| digits.try_into().ok());
    let digest = digest.ok_or(SealError::NoDigest)?;
    bytes[start] = b'}';
    let document = &bytes[..=start];
    if blake3::hash(document).to_hex().as_bytes() != digest {
        return Err(SealError::DigestMismatch);
    }
    Ok(serde_json::from_slice(document)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn any_flipped_bit_is_found() {
        let document = json!({"a": 1, "b": [1.5, "x"]});
        let sealed = seal(&document);
        assert_eq!(unseal::<Value>(&mut sealed.clone()).unwrap(), document);
        let whole: Value = serde_json::from_slice(&sealed).unwrap();
        assert_eq!(whole["digest"].as_str().unwrap().len(), 64);
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal::<Value>(&mut damaged).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(unseal::<Value>(&mut sealed[..length].to_vec()).is_err(), "length {length}");
        }
    }
}
