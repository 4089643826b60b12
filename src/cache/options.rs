//! The options of a build.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::error::CacheError;
use super::settings::CacheSettings;
use super::split::Assignment;
use crate::config::{Config, OnBad};
use crate::recording::Hdf5;

/// What to build.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    pub settings: CacheSettings,
    /// Files, or folders that are searched recursively.
    pub inputs: Vec<PathBuf>,
    /// Segments are closed before they grow beyond this many bytes.
    pub segment_bytes: u64,
    /// Skip unusable recordings instead of failing.
    pub skip_bad: bool,
    /// Bytes of the HDF5 library's chunk cache.
    pub chunk_cache: usize,
    /// Whether the HDF5 library runs in this process or in children.
    pub hdf5: Hdf5,
    /// Names of metadata.csv's columns, where they differ from emg2pose's.
    pub metadata_columns: BTreeMap<String, String>,
    /// Splits of the recordings that no metadata.csv assigns.
    pub assignment: Assignment,
}

impl BuildOptions {
    /// What `config` asks for; `inputs`: files or folders in the place of `data.dataset_path`.
    ///
    /// # Errors
    /// [`CacheError::NoInput`]: neither names a recording.
    ///
    /// # Panics
    /// The configuration was not validated.
    pub fn new(config: &Config, mut inputs: Vec<PathBuf>, hdf5: Hdf5) -> Result<Self, CacheError> {
        let data = &config.data;
        if inputs.is_empty() {
            inputs.push(data.dataset_path.clone().ok_or(CacheError::NoInput)?);
        }
        Ok(Self {
            settings: CacheSettings::new(config),
            inputs,
            segment_bytes: data.segment_bytes,
            skip_bad: data.on_bad_recording == OnBad::Skip,
            chunk_cache: data.chunk_cache_size,
            hdf5,
            metadata_columns: data.resolved_layout().expect("a validated configuration").metadata,
            assignment: Assignment { ratio: data.split_ratio, by: data.split_by, seed: data.seed },
        })
    }
}
