//! What can be wrong with a configuration.

use std::path::PathBuf;

use super::user_path::UserPathError;

/// What can be wrong with a configuration. All of these are usage errors (exit code 2).
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read configuration {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{origin}: invalid configuration: {message}")]
    Parse { origin: String, message: String },
    #[error("{origin}: unknown key `{key}`{}", suggestion.as_ref().map(|s| format!("; did you mean `{s}`?")).unwrap_or_default())]
    UnknownKey { origin: String, key: String, suggestion: Option<String> },
    #[error("--set {given}: expected SECTION.KEY=VALUE")]
    BadSet { given: String },
    #[error("{key}: expected {expected}, found {found}")]
    Invalid { key: &'static str, expected: String, found: String },
    #[error("{key}: expected {expected}, found {found}")]
    Type { key: String, expected: &'static str, found: String },
    #[error("{key}: {source}")]
    Path { key: &'static str, source: UserPathError },
    #[error("{place}: {source}")]
    At { place: String, source: Box<ConfigError> },
}

impl ConfigError {
    /// The key whose value is wrong.
    pub(super) fn key(&self) -> Option<&'static str> {
        match self {
            Self::Invalid { key, .. } => Some(key),
            _ => None,
        }
    }

    /// Adds the position of an unknown key, if `at` knows it.
    pub(super) fn with_origin(self, at: &dyn Fn(&str) -> Option<String>) -> Self {
        match self {
            Self::UnknownKey { origin, key, suggestion } => {
                Self::UnknownKey { origin: at(&key).unwrap_or(origin), key, suggestion }
            }
            other => other,
        }
    }
}
