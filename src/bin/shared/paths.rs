//! Paths on the command line.

use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use emg_pipeline::config::user_path;

/// Parses a path as [`user_path`] does.
pub(super) fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().try_map(|text| user_path(&text))
}
