//! Whatever bytes a recording has: no panic, no endless loop, no allocation that its header makes up.
//!
//! Runs what a worker and its parent do with a file, in one process, so that the fuzzer sees both:
//! `scripts/setup && cargo fuzz run recording -- -rss_limit_mb=4096 -timeout=20` (with `RUSTC_BOOTSTRAP=1` on a stable
//! toolchain). Seeds: the files that tests/python/make_recordings.py writes. What the HDF5 library itself does wrong
//! shows here as a crash; in emg-cache it stays in a child process.

#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use emg_pipeline::config::DataConfig;
use emg_pipeline::recording::{Hdf5, Reader, TableLayout, quiet};
use libfuzzer_sys::fuzz_target;

fn reader() -> &'static (Reader, PathBuf) {
    static READER: OnceLock<(Reader, PathBuf)> = OnceLock::new();
    READER.get_or_init(|| {
        quiet();
        let layout = TableLayout {
            layout: DataConfig::default().resolved_layout().expect("the default layout"),
            emg_channels: 16,
            joint_angles: 20,
            angles_may_miss: false,
            sample_rate: 2000.0,
            chunk_cache: 1 << 20,
        };
        let path = PathBuf::from(format!("/dev/shm/emg-fuzz-{}.hdf5", std::process::id()));
        (Reader::new(layout, Hdf5::InProcess), path)
    })
}

fuzz_target!(|bytes: &[u8]| {
    let (reader, path) = reader();
    std::fs::write(path, bytes).expect("room for the input");
    if let Ok(recording) = reader.open(&path.clone().into()) {
        let mut rows = 0;
        let result = recording.visit_hashed(&mut |first, block| {
            assert_eq!(first, rows);
            rows += block.len() as u64;
            let failure = recording.failure();
            failure.for_each(&recording.angles(), block, |_, _| ());
            block.for_each_magnitude(&recording.emg(), |_, _| ());
            Ok(())
        });
        assert!(result.is_err() || rows == recording.rows());
    }
});
