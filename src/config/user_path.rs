//! Paths as users write them, in configurations and on command lines.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

/// Why a text is not the path of a file or folder.
#[derive(Debug, thiserror::Error)]
pub enum UserPathError {
    #[error("{path}: storage of the kind {scheme}:// is not supported; expected a path of a mounted file system")]
    Storage { path: PathBuf, scheme: String },
    #[error("{path}: the home folder is not known, because HOME is not set")]
    NoHome { path: PathBuf },
    #[error(
        "{path}: only one's own home folder can be written as ~; write the whole path (or ./~.. for a file of this name)"
    )]
    OtherHome { path: PathBuf },
}

/// A path as a user writes it: a `~` at its start is the home folder, as in shells, also where no shell has seen it.
///
/// # Errors
/// `~name`, a home folder that is not known, or a URL.
pub fn user_path(text: &OsStr) -> Result<PathBuf, UserPathError> {
    let path = Path::new(text);
    if let Some(scheme) = path.to_str().and_then(scheme) {
        return Err(UserPathError::Storage { path: path.to_owned(), scheme: scheme.to_owned() });
    }
    let mut parts = path.components();
    match parts.next() {
        Some(Component::Normal(first)) if first.as_encoded_bytes().starts_with(b"~") => {
            if first != "~" {
                // Such names exist, above all of backup files.
                let exists = std::fs::symlink_metadata(path).is_ok();
                let other = || UserPathError::OtherHome { path: path.to_owned() };
                return if exists { Ok(path.to_owned()) } else { Err(other()) };
            }
            let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
            let home = home.ok_or_else(|| UserPathError::NoHome { path: path.to_owned() })?;
            Ok(Path::new(&home).join(parts.as_path()))
        }
        _ => Ok(path.to_owned()),
    }
}

/// The scheme of a URL.
fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once("://")?;
    let is_word = |c: char| c.is_ascii_alphanumeric() || "+.-".contains(c);
    (scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(is_word)).then_some(scheme)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_is_found_and_urls_are_refused() {
        let home = std::env::var("HOME").unwrap();
        let path = |text: &str| user_path(OsStr::new(text)).map_err(|error| error.to_string());
        assert_eq!(path("~").unwrap(), Path::new(&home));
        assert_eq!(path("~/a/b").unwrap(), Path::new(&home).join("a/b"));
        for plain in ["a/~", "./~", "/x", "..", "a:b", "c:/d", "://x", "1://x", ""] {
            assert_eq!(path(plain).unwrap(), Path::new(plain));
        }
        for (url, scheme) in [("s3://bucket/x", "s3://"), ("file:///x", "file://"), ("abfs+x://y", "abfs+x://")] {
            assert!(path(url).unwrap_err().contains(scheme), "{url}");
        }
        assert!(path("~somebody/x").unwrap_err().contains("home folder"));
    }
}
