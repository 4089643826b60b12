//! The factor on the loss in float16.

use serde::{Deserialize, Serialize};

/// The factor on the loss that keeps small gradients within float16 (Micikevicius and others 2018): halved where a
/// gradient was not finite, doubled after many that were.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    pub scale: f32,
    /// Finite steps since it last changed.
    pub good: u32,
}

impl LossScale {
    const GROWTH_INTERVAL: u32 = 2000;
    const LARGEST: f32 = 16_777_216.0;
    /// Below this it is not the range of float16 that fails.
    pub const SMALLEST: f32 = 1.0 / 16_384.0;

    pub fn new() -> Self {
        Self { scale: 65_536.0, good: 0 }
    }

    pub fn update(&mut self, finite: bool) {
        if !finite {
            *self = Self { scale: (self.scale / 2.0).max(Self::SMALLEST), good: 0 };
        } else if self.good + 1 == Self::GROWTH_INTERVAL {
            *self = Self { scale: (self.scale * 2.0).min(Self::LARGEST), good: 0 };
        } else {
            self.good += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_scale_halves_at_once_and_grows_slowly() {
        let mut scale = LossScale::new();
        scale.update(false);
        assert_eq!(scale.scale, 32_768.0);
        for _ in 0..2000 {
            assert_eq!(scale.scale, 32_768.0);
            scale.update(true);
        }
        assert_eq!(scale, LossScale::new());
    }
}
