//! EMG and angles in datasets of their own, put together to rows: EMG as it is stored, angles at the EMG's rate as
//! float64, then the time stamp.
//!
//! Angles of a lower rate are interpolated between the two samples around each row, or the earlier one is held. Where
//! a sample that is needed failed, or none is there any more, the row's angles are NaN: such a row counts as failed.

use serde::{Deserialize, Serialize};

use super::dataset::Dataset;
use super::error::RecordingError;
use super::rows::{Field, Number, Rows};
use super::validity::Validity;
use crate::config::Interpolation;

/// What a joined recording is put together from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Joined {
    pub(crate) emg: Dataset,
    pub(crate) angles: Dataset,
    /// All recorded angles in a sample.
    pub(crate) angle_field: Field,
    pub(crate) time: Option<Dataset>,
    /// Angle samples and EMG rows per second.
    pub(crate) rate: f64,
    pub(crate) sample_rate: f64,
    /// Seconds by which the EMG starts after the angles.
    pub(crate) lead: f64,
    pub(crate) interpolation: Interpolation,
    pub(crate) validity: Validity,
}

/// Reads rows [first, first + n) of a dataset.
pub(crate) type ReadRows<'a> = dyn FnMut(&Dataset, u64, &mut [u8]) -> Result<(), RecordingError> + 'a;

/// Rows that are put together at once.
const BLOCK_ROWS: u64 = 8192;

impl Joined {
    /// Where among the angle samples an EMG row lies. The product is exact, so that rows on a sample are seen to be.
    fn position(&self, row: u64) -> f64 {
        let position = row as f64 * self.rate / self.sample_rate;
        if self.lead == 0.0 {
            return position;
        }
        // Starts are not exact: what is as good as on a sample is on it.
        let position = position + self.lead * self.rate;
        if (position - position.round()).abs() < 1e-3 { position.round() } else { position }
    }

    /// Bytes of a joined row: EMG, angles, time.
    pub(crate) fn row_bytes(&self) -> usize {
        self.emg.row_bytes + 8 * self.angle_field.stored + self.time.as_ref().map_or(0, |time| time.row_bytes)
    }

    /// The angles in a joined row.
    pub(crate) fn joined_angles(&self) -> Field {
        Field { offset: self.emg.row_bytes, number: Number::F64, missing: None, ..self.angle_field.clone() }
    }

    /// Calls `f` with blocks of joined rows, in order.
    pub(crate) fn visit(
        &self,
        read: &mut ReadRows<'_>,
        f: &mut dyn FnMut(u64, Rows<'_>) -> Result<(), RecordingError>,
    ) -> Result<(), RecordingError> {
        let (row_bytes, emg_bytes) = (self.row_bytes(), self.emg.row_bytes);
        let (mut emg, mut time, mut out) = (Vec::new(), Vec::new(), Vec::new());
        let mut angles = Samples::default();
        for first in (0..self.emg.rows).step_by(BLOCK_ROWS as usize) {
            let rows = BLOCK_ROWS.min(self.emg.rows - first);
            emg.resize(rows as usize * emg_bytes, 0);
            read(&self.emg, first, &mut emg)?;
            if let Some(stamps) = &self.time {
                time.resize(rows as usize * stamps.row_bytes, 0);
                read(stamps, first, &mut time)?;
            }
            angles.load(self, read, first, rows)?;
            out.resize(rows as usize * row_bytes, 0);
            let time_bytes = self.time.as_ref().map_or(0, |time| time.row_bytes);
            for (i, row) in out.chunks_exact_mut(row_bytes).enumerate() {
                let (emg_part, rest) = row.split_at_mut(emg_bytes);
                let (angle_part, time_part) = rest.split_at_mut(8 * self.angle_field.stored);
                emg_part.copy_from_slice(&emg[i * emg_bytes..(i + 1) * emg_bytes]);
                angles.at(self, first + i as u64, angle_part.as_chunks_mut::<8>().0);
                time_part.copy_from_slice(&time[i * time_bytes..(i + 1) * time_bytes]);
            }
            f(first, Rows::new(&out, row_bytes))?;
        }
        Ok(())
    }
}

/// The angle samples around some rows.
#[derive(Default)]
struct Samples {
    first: u64,
    bytes: Vec<u8>,
}

impl Samples {
    fn load(&mut self, joined: &Joined, read: &mut ReadRows<'_>, row: u64, rows: u64) -> Result<(), RecordingError> {
        let last = joined.angles.rows - 1;
        self.first = (joined.position(row) as u64).min(last);
        // One more than the last that is needed, in case of rounding.
        let end = (joined.position(row + rows) as u64).saturating_add(2).min(last) + 1;
        self.bytes.resize((end - self.first) as usize * joined.angles.row_bytes, 0);
        read(&joined.angles, self.first, &mut self.bytes)
    }

    /// The angles of one row, as little-endian float64.
    fn at(&self, joined: &Joined, row: u64, out: &mut [[u8; 8]]) {
        let position = joined.position(row);
        let low = position.floor();
        let share = match joined.interpolation {
            Interpolation::Linear => position - low,
            Interpolation::Hold => 0.0,
        };
        let low = if low >= 0.0 { low as u64 } else { u64::MAX };
        let sample = |index: u64| {
            let at = usize::try_from(index.checked_sub(self.first)?).ok()?.checked_mul(joined.angles.row_bytes)?;
            self.bytes.get(at..at.checked_add(joined.angles.row_bytes)?)
        };
        let usable = |index: u64| sample(index).filter(|row| !joined.validity.is_marked(row));
        // Exactly on a sample, or held: the next one does not matter, and the row is what the sample is. What is not finite
        // makes the angles computed from it so, each for itself.
        let pair = if share == 0.0 {
            sample(low).map(|row| (row, row))
        } else {
            usable(low).zip(usable(low.saturating_add(1)))
        };
        let Some((a, b)) = pair else {
            out.fill(f64::NAN.to_le_bytes());
            return;
        };
        // The unit's factor is applied when joined rows are read.
        let field = Field { scale: None, ..joined.angle_field.clone() };
        field.for_each(a, |i, value| out[i] = value.to_le_bytes());
        if share > 0.0 {
            field.for_each(b, |i, next| {
                let value = f64::from_le_bytes(out[i]);
                out[i] = (value + (next - value) * share).to_le_bytes();
            });
        }
    }
}
