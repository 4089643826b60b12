//! An epoch in figures: a line of metrics.jsonl.

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::checkpoint::Partial;
use crate::config::{Mode, MonitoredMetric};

/// What an epoch came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Counts from 1.
    pub epoch: usize,
    pub learning_rate: f64,
    /// Losses and errors.
    #[serde(flatten)]
    pub figures: Figures,
    /// Batches without a single valid row, which changed nothing.
    pub skipped_batches: u64,
    /// Optimizer steps whose gradient was not finite, which changed nothing (`precision: fp16`, `on_nan: skip`).
    #[serde(default)]
    pub skipped_steps: u64,
    pub windows: u64,
    pub train_seconds: f64,
    /// Of these, waiting for batches: much of it says that storage or loader threads are too slow.
    #[serde(default)]
    pub wait_seconds: f64,
    pub val_seconds: f64,
}

/// A figure of one split.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// `train` or `val`.
    pub split: &'static str,
    /// What is measured: `loss`, `mae_deg`, `rmse_deg`.
    pub quantity: &'static str,
    /// `None`: there are no windows to measure it on.
    pub value: Option<f64>,
    /// Of the value; empty for a pure number.
    pub unit: &'static str,
    /// Whether less or more of it is better.
    pub better: Mode,
}

/// Each split's quantities with their units, in the order in which they are written.
const KNOWN: [(&str, &str, &str); 5] = [
    ("train", "loss", ""),
    ("train", "mae_deg", "°"),
    ("val", "loss", ""),
    ("val", "mae_deg", "°"),
    ("val", "rmse_deg", "°"),
];

impl Figure {
    fn new((split, quantity, unit): (&'static str, &'static str, &'static str), value: Option<f64>) -> Self {
        Self { split, quantity, value, unit, better: Mode::Min }
    }

    /// Its key in metrics.jsonl.
    pub fn name(&self) -> String {
        format!("{}_{}", self.split, self.quantity)
    }

    /// Its tag in TensorBoard.
    pub fn tag(&self) -> String {
        format!("{}/{}", self.split, self.quantity)
    }
}

/// Named figures.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures(pub Vec<Figure>);

impl Figures {
    /// Of the sums over both splits; `val`: `None` where it has no windows.
    pub(super) fn new(train: &Partial, val: Option<&Partial>, joints: usize) -> Self {
        let figure = |known: (&'static str, &'static str, &'static str)| {
            let sums = if known.0 == "train" { Some(train) } else { val };
            let value = sums.map(|sums| match known.1 {
                "loss" => sums.mean_loss(),
                "mae_deg" => sums.mae_deg(joints),
                _ => sums.rmse_deg(joints),
            });
            Figure::new(known, value)
        };
        Self(KNOWN.map(figure).into())
    }

    /// The value of a split's quantity, if it was measured.
    pub fn value(&self, split: &str, quantity: &str) -> Option<f64> {
        self.0.iter().find(|figure| figure.split == split && figure.quantity == quantity)?.value
    }

    /// The value of a metric that can be watched.
    pub(super) fn monitored(&self, metric: MonitoredMetric) -> f64 {
        let value = match metric {
            MonitoredMetric::ValLoss => self.value("val", "loss"),
            MonitoredMetric::ValMae => self.value("val", "mae_deg"),
            MonitoredMetric::ValRmse => self.value("val", "rmse_deg"),
            MonitoredMetric::TrainLoss => self.value("train", "loss"),
            MonitoredMetric::TrainMae => self.value("train", "mae_deg"),
        };
        value.unwrap_or(f64::NAN)
    }
}

impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for figure in &self.0 {
            map.serialize_entry(&figure.name(), &figure.value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Figures {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Named;
        impl<'de> Visitor<'de> for Named {
            type Value = Figures;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("figures by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Figures, A::Error> {
                // What was not finite is null, as where there was nothing to measure.
                let (mut values, mut is_there) = (KNOWN.map(|_| None), KNOWN.map(|_| false));
                while let Some(name) = map.next_key::<String>()? {
                    let known = KNOWN.iter().position(|(split, quantity, _)| name == format!("{split}_{quantity}"));
                    match known {
                        Some(i) => (values[i], is_there[i]) = (map.next_value::<Option<f64>>()?, true),
                        None => map.next_value::<serde::de::IgnoredAny>().map(|_| ())?,
                    }
                }
                // Every epoch has these; a line without them is damaged.
                for required in ["loss", "mae_deg"] {
                    let i = KNOWN.iter().position(|(split, quantity, _)| (*split, *quantity) == ("train", required));
                    if i.is_none_or(|i| !is_there[i]) {
                        return Err(serde::de::Error::custom(format_args!("it has no train_{required}")));
                    }
                }
                Ok(Figures(KNOWN.into_iter().zip(values).map(|(known, value)| Figure::new(known, value)).collect()))
            }
        }
        deserializer.deserialize_map(Named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_without_those_of_training_are_damaged() {
        let whole = r#"{"train_loss":1.5,"train_mae_deg":2.0,"val_loss":null,"epoch":3}"#;
        let figures: Figures = serde_json::from_str(whole).unwrap();
        assert_eq!((figures.value("train", "loss"), figures.value("val", "loss")), (Some(1.5), None));
        let infinite =
            Figures::new(&Partial { loss: 1.0, rows: 1.0, absolute: f64::INFINITY, ..Partial::default() }, None, 1);
        let text = serde_json::to_string(&infinite).unwrap();
        assert_eq!(serde_json::from_str::<Figures>(&text).unwrap().value("train", "mae_deg"), None);
        for damaged in ["{}", r#"{"train_loss":1.5,"val_loss":1.0}"#, r#"{"train_loss":"1.5","train_mae_deg":2.0}"#] {
            assert!(serde_json::from_str::<Figures>(damaged).is_err(), "{damaged}");
        }
    }
}
