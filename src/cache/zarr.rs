//! The Zarr v3 side of a segment: metadata, and the shard index behind the rows.
//!
//! Each array is one shard of uncompressed inner chunks, whole rows each, in order, so the shard file is the
//! row-major matrix (padded with zero rows to whole inner chunks) followed by the index: (offset, length) as
//! little-endian u64 per inner chunk, then the CRC-32C of these bytes. Source: Zarr v3 specification, codec
//! `sharding_indexed`. zarrs' own sharding encoder leaves out chunks equal to the fill value, which would
//! break the flat matrix, so rows are written directly and zarrs describes them.

use std::sync::Arc;

use zarrs::array::{ArrayBuilder, ArrayMetadata, FillValue, data_type};
use zarrs::group::GroupBuilder;
use zarrs::storage::store::MemoryStore;

use crate::config::Dtype;

/// Rows per inner chunk.
const INNER_ROWS: u64 = 8192;
/// Bytes of one index entry.
const ENTRY: u64 = 16;
const CHECKSUM: u64 = 4;

/// Lengths of the parts of a shard of `rows` rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShardShape {
    rows: u64,
    columns: u64,
    dtype: Dtype,
}

impl ShardShape {
    pub(crate) fn new(rows: u64, columns: usize, dtype: Dtype) -> Self {
        Self { rows, columns: columns as u64, dtype }
    }

    pub(crate) fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub(crate) fn element_bytes(&self) -> u64 {
        self.dtype.bytes() as u64
    }

    pub(crate) fn row_bytes(&self) -> u64 {
        self.columns * self.element_bytes()
    }

    fn inner_chunks(&self) -> u64 {
        self.rows.div_ceil(INNER_ROWS)
    }

    /// Bytes of the matrix with its padding.
    pub(crate) fn data_bytes(&self) -> u64 {
        (self.inner_chunks() * INNER_ROWS).saturating_mul(self.row_bytes())
    }

    /// Zero bytes after the last row.
    pub(crate) fn padding_bytes(&self) -> u64 {
        self.data_bytes() - self.rows.saturating_mul(self.row_bytes())
    }

    /// Bytes of the shard file.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.data_bytes().saturating_add(self.inner_chunks() * ENTRY + CHECKSUM)
    }

    /// The index that stands behind the matrix.
    pub(crate) fn index(&self) -> Vec<u8> {
        let chunk_bytes = INNER_ROWS * self.row_bytes();
        let entries = (0..self.inner_chunks()).flat_map(|i| [i * chunk_bytes, chunk_bytes]);
        let mut index: Vec<u8> = entries.flat_map(u64::to_le_bytes).collect();
        index.extend(crc32c::crc32c(&index).to_le_bytes());
        index
    }
}

/// zarr.json of the segment's group.
pub(crate) fn group_metadata() -> Vec<u8> {
    let group = GroupBuilder::new().build(Arc::new(MemoryStore::new()), "/").expect("a plain group");
    let mut text = serde_json::to_string_pretty(group.metadata()).expect("metadata serializes");
    text.push('\n');
    text.into_bytes()
}

/// zarr.json of an array in one shard.
pub(crate) fn array_metadata(shape: ShardShape, columns_are: &'static str) -> Vec<u8> {
    let ShardShape { rows, columns, dtype } = shape;
    let (data_type, fill) = match dtype {
        Dtype::Float32 => (data_type::float32(), FillValue::from(0.0f32)),
        Dtype::Float16 => (data_type::float16(), FillValue::from(half::f16::ZERO)),
    };
    let padded = rows.div_ceil(INNER_ROWS) * INNER_ROWS;
    let array = ArrayBuilder::new(vec![rows, columns], vec![padded, columns], data_type, fill)
        .subchunk_shape(vec![INNER_ROWS, columns])
        .dimension_names(["time", columns_are].into())
        .build(Arc::new(MemoryStore::new()), "/array")
        .expect("a valid array description");
    let ArrayMetadata::V3(metadata) = array.metadata() else { unreachable!("ArrayBuilder builds Zarr v3") };
    let mut text = serde_json::to_string_pretty(metadata).expect("metadata serializes");
    text.push('\n');
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn metadata_is_pinned_so_that_a_new_zarrs_does_not_change_stores() {
        let array: Value =
            serde_json::from_slice(&array_metadata(ShardShape::new(10_000, 16, Dtype::Float32), "channel")).unwrap();
        let little = json!({"name": "bytes", "configuration": {"endian": "little"}});
        let expected = json!({
            "zarr_format": 3, "node_type": "array", "shape": [10_000, 16], "data_type": "float32",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [16_384, 16]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0.0,
            "codecs": [{"name": "sharding_indexed", "configuration": {
                "chunk_shape": [8192, 16],
                "codecs": [little],
                "index_codecs": [little, {"name": "crc32c"}],
                "index_location": "end"}}],
            "dimension_names": ["time", "channel"]});
        assert_eq!(array, expected);
        let group: Value = serde_json::from_slice(&group_metadata()).unwrap();
        assert_eq!(group, json!({"zarr_format": 3, "node_type": "group"}));
    }

    /// What we write row by row, zarrs reads as the array.
    #[test]
    fn zarrs_reads_our_shards() {
        let folder = tempfile::tempdir().unwrap();
        for rows in [1u64, 8191, 8192, 8193, 20_000] {
            let shape = ShardShape::new(rows, 3, Dtype::Float32);
            let values: Vec<f32> = (0..rows * 3).map(|i| if i < 30_000 { 0.0 } else { i as f32 }).collect();
            let mut bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            bytes.resize(shape.data_bytes() as usize, 0);
            bytes.extend(shape.index());
            let root = folder.path().join(rows.to_string());
            std::fs::create_dir_all(root.join("emg/c/0")).unwrap();
            std::fs::write(root.join("emg/zarr.json"), array_metadata(shape, "channel")).unwrap();
            std::fs::write(root.join("emg/c/0/0"), bytes).unwrap();
            let store = Arc::new(zarrs::filesystem::FilesystemStore::new(&root).unwrap());
            let array = zarrs::array::Array::open(store, "/emg").unwrap();
            let read: Vec<f32> = array.retrieve_array_subset(&array.subset_all()).unwrap();
            assert_eq!(read, values, "{rows}");
        }
    }

    #[test]
    fn shard_lengths() {
        let shape = ShardShape::new(8193, 2, Dtype::Float32);
        assert_eq!(shape.data_bytes(), 2 * 8192 * 8);
        assert_eq!(shape.padding_bytes(), 8191 * 8);
        assert_eq!(shape.index().len() as u64, 2 * 16 + 4);
        assert_eq!(shape.file_bytes(), 2 * 8192 * 8 + 36);
    }
}
