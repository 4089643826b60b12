//! The type of keys: the BLAKE3 of everything that determines a content, as 64 hexadecimal digits.

use std::fmt;
use std::io::BufWriter;

use serde::{Deserialize, Serialize};

use super::error::CacheError;

/// A segment's, cache's or recording's key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key([u8; 32]);

impl Key {
    /// The key of `content`, which serializes to the same JSON everywhere (structs in field order, no maps
    /// with random order, no floats that are not exact).
    pub fn of(content: &impl Serialize) -> Self {
        let mut hasher = BufWriter::with_capacity(1 << 14, blake3::Hasher::new());
        serde_json::to_writer(&mut hasher, content).expect("plain data serializes");
        hasher.into_inner().expect("a hasher takes everything").finalize().into()
    }

    /// Parses a whole key.
    ///
    /// # Errors
    /// [`CacheError::BadKey`].
    pub fn parse(text: &str) -> Result<Self, CacheError> {
        let bad = || CacheError::BadKey { given: text.to_owned() };
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(bad());
        }
        blake3::Hash::from_hex(text).map(Self::from).map_err(|_| bad())
    }
}

impl From<blake3::Hash> for Key {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl TryFrom<String> for Key {
    type Error = CacheError;

    fn try_from(text: String) -> Result<Self, CacheError> {
        Self::parse(&text)
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.to_string()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
