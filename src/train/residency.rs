//! Where the rows of the training split lie: on the host, which gathers every batch, or where the steps compute.

use std::sync::atomic::{AtomicBool, Ordering};

use super::error::TrainError;
use super::learner::Learner;
use crate::config::{Config, Residency};
use crate::dataset::{Gather, Resident};
use crate::runtime::{Provider, RuntimeError};
use crate::step::ResidentRows;

/// ONNX Runtime's CUDA kernel of Gather counts a table's elements in 32 bits.
const MOST_ELEMENTS: u64 = i32::MAX as u64;
/// Share of the free memory, one in so many parts, that `auto` takes: the step needs the rest.
const SHARE: u64 = 4;

/// Bytes of a split's rows: EMG, angles and which rows count.
fn bytes(resident: &Resident, gather: &Gather) -> u64 {
    let columns = gather.shape.channels + gather.shape.joints + 1;
    resident.rows() * (columns * size_of::<f32>()) as u64
}

/// How the split's rows are laid out for the steps of `provider`; `None` where they stay on the host.
///
/// # Errors
/// They were to be there whatever it takes, and there is no room.
pub(super) fn resident(config: &Config, provider: Provider, gather: &Gather) -> Result<Option<Resident>, TrainError> {
    let residency = config.training.data_residency;
    if residency == Residency::Host || (residency == Residency::Auto && !provider.has_own_memory()) {
        return Ok(None);
    }
    let resident = Resident::new(&gather.index, gather.shape);
    // On the CPU nobody counts.
    let room = match provider.free_memory()? {
        Some(free) => Room { free, rows: MOST_ELEMENTS / gather.shape.channels.max(gather.shape.joints) as u64 },
        None => Room { free: u64::MAX, rows: u64::MAX },
    };
    let has = room.has(residency, resident.rows(), bytes(&resident, gather))?;
    Ok(has.then_some(resident))
}

/// How much a device has room for.
struct Room {
    /// Bytes that nobody has taken.
    free: u64,
    /// Rows that the library can count.
    rows: u64,
}

impl Room {
    /// Whether `rows` of so many `bytes` go there; an error where they must, and cannot.
    fn has(&self, residency: Residency, rows: u64, bytes: u64) -> Result<bool, TrainError> {
        let (expected, found) = match residency {
            Residency::Host => return Ok(false),
            Residency::Auto => return Ok(bytes <= self.free / SHARE && rows <= self.rows),
            Residency::Device if rows > self.rows => {
                (format!("at most {} rows (the limit of the library)", self.rows), rows.to_string())
            }
            Residency::Device if bytes > self.free => {
                let free = self.free >> 20;
                (format!("at most {free} MiB (the device's free memory)"), format!("{} MiB", bytes >> 20))
            }
            Residency::Device => return Ok(true),
        };
        Err(TrainError::NoRoom { expected, found })
    }
}

/// Whether rows that `auto` has put with the steps go back to the host after this error.
pub(super) fn goes_back(config: &Config, error: &RuntimeError) -> bool {
    config.training.data_residency == Residency::Auto && matches!(error, RuntimeError::OutOfMemory { .. })
}

/// What the step graph is told of them.
pub(super) fn described(gather: &Gather, config: &Config) -> Option<ResidentRows> {
    let resident = gather.resident.as_ref()?;
    Some(ResidentRows { rows: resident.rows(), rolled: config.data.rotation > 0 })
}

/// Copies the split's rows to where the step gathers them from; gives their bytes. Nothing if they stay on the host.
///
/// # Errors
/// A segment is damaged; the library's; interrupted.
pub(super) fn upload(
    learner: &mut Learner,
    gather: &Gather,
    interrupted: &AtomicBool,
) -> Result<Option<u64>, TrainError> {
    let Some(resident) = &gather.resident else { return Ok(None) };
    resident.copy(&gather.index, gather.shape, |block| match interrupted.load(Ordering::Relaxed) {
        true => Err(TrainError::Interrupted),
        false => learner.write_rows(&block),
    })?;
    Ok(Some(bytes(resident, gather)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_where_there_is_room() {
        let room = Room { free: 800 << 20, rows: 1000 };
        let has = |residency, rows, mebibytes: u64| room.has(residency, rows, mebibytes << 20);
        assert!(!has(Residency::Host, 1, 1).unwrap());
        assert!(has(Residency::Auto, 1000, 200).unwrap());
        assert!(!has(Residency::Auto, 1000, 201).unwrap());
        assert!(!has(Residency::Auto, 1001, 1).unwrap());
        assert!(has(Residency::Device, 1000, 800).unwrap());
        let message = has(Residency::Device, 1001, 1).unwrap_err().to_string();
        assert!(message.contains("expected at most 1000 rows") && message.contains("found 1001;"), "{message}");
        let message = has(Residency::Device, 1, 801).unwrap_err().to_string();
        assert!(message.contains("expected at most 800 MiB") && message.contains("found 801 MiB;"), "{message}");
    }

    #[test]
    fn rows_go_back_only_where_nobody_asked_for_the_device() {
        let full = RuntimeError::OutOfMemory { doing: "running a step", message: "full".into() };
        let other = RuntimeError::Ort { doing: "running a step", message: "broken".into() };
        let config = |residency| {
            let mut config = Config::default();
            config.training.data_residency = residency;
            config
        };
        assert!(goes_back(&config(Residency::Auto), &full));
        assert!(!goes_back(&config(Residency::Auto), &other));
        assert!(!goes_back(&config(Residency::Device), &full));
    }
}
