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
    if residency == Residency::Host || (residency == Residency::Auto && provider == Provider::Cpu) {
        return Ok(None);
    }
    let resident = Resident::new(&gather.index, gather.shape);
    let (bytes, widest) = (bytes(&resident, gather), gather.shape.channels.max(gather.shape.joints) as u64);
    // On the CPU nobody counts.
    let free = provider.free_memory()?.unwrap_or(u64::MAX);
    let most = if provider == Provider::Cpu { u64::MAX } else { MOST_ELEMENTS / widest };
    if residency == Residency::Auto {
        return Ok((bytes <= free / SHARE && resident.rows() <= most).then_some(resident));
    }
    let (expected, found) = if resident.rows() > most {
        (format!("at most {most} rows, which is what the library can count,"), resident.rows().to_string())
    } else if bytes > free {
        (format!("at most {} MiB, the device's free memory,", free >> 20), format!("{} MiB", bytes >> 20))
    } else {
        return Ok(Some(resident));
    };
    let message = format!(
        "training.data_residency is device: expected {expected} of the training split, found {found}; leave it at auto \
         or set it to host"
    );
    Err(TrainError::Usage(message))
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
        false => learner.write_rows(&block, gather.shape),
    })?;
    Ok(Some(bytes(resident, gather)))
}
