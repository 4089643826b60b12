//! Where the rows of the training split lie: on the host, which gathers every batch, or where the steps compute.

use super::error::TrainError;
use super::learner::Learner;
use crate::config::{Config, Residency};
use crate::dataset::{Gather, Resident};
use crate::runtime::Provider;
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
    let resident = Resident::new(&gather.index, gather.shape);
    let free = provider.free_memory()?;
    let (bytes, widest) = (bytes(&resident, gather), gather.shape.channels.max(gather.shape.joints) as u64);
    let most = MOST_ELEMENTS / widest;
    let refuse = |expected: String, found: String| {
        let message = format!(
            "training.data_residency is device: expected {expected} of the training split's rows, found {found}; \
             leave it at auto or set it to host"
        );
        Err(TrainError::Usage(message))
    };
    match config.training.data_residency {
        Residency::Host => Ok(None),
        Residency::Auto => {
            let fits = free.is_some_and(|free| bytes <= free / SHARE) && resident.rows() <= most;
            Ok(fits.then_some(resident))
        }
        Residency::Device if resident.rows() > most => refuse(format!("at most {most}"), resident.rows().to_string()),
        Residency::Device if free.is_some_and(|free| bytes > free) => {
            let free = free.unwrap_or_default() >> 20;
            refuse(format!("at most {free} MiB, the device's free memory,"), format!("{} MiB", bytes >> 20))
        }
        Residency::Device => Ok(Some(resident)),
    }
}

/// What the step graph is told of them.
pub(super) fn described(gather: &Gather, config: &Config) -> Option<ResidentRows> {
    let resident = gather.resident.as_ref()?;
    Some(ResidentRows { rows: resident.rows(), rolled: config.data.rotation > 0 })
}

/// Copies the split's rows to where the step gathers them from; gives their bytes. Nothing if they stay on the host.
///
/// # Errors
/// A segment is damaged; the library's.
pub(super) fn upload(learner: &mut Learner, gather: &Gather) -> Result<Option<u64>, TrainError> {
    let Some(resident) = &gather.resident else { return Ok(None) };
    resident.copy(&gather.index, gather.shape, |block| learner.write_rows(&block, gather.shape))?;
    Ok(Some(bytes(resident, gather)))
}
