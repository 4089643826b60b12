//! Charts over epochs: every figure that a run reports, its learning rate and its speed.

use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, html};
use serde_json::{Value, json};

use super::ReportedRun;
use crate::train::EpochRecord;

/// A chart over epochs.
pub(super) struct Curve {
    title: String,
    unit: &'static str,
    epochs: Vec<usize>,
    series: Vec<Series>,
}

/// A line of a chart.
struct Series {
    name: String,
    /// Which of the page's colours it has.
    colour: usize,
    dashed: bool,
    /// By epoch.
    values: Vec<Option<f64>>,
}

impl Curve {
    pub(super) fn data(&self) -> Value {
        let series: Vec<_> = self
            .series
            .iter()
            .map(|series| json!({ "name": series.name, "colour": series.colour, "dashed": series.dashed, "y": series.values }))
            .collect();
        json!({ "title": self.title, "unit": self.unit, "x": self.epochs, "series": series })
    }
}

/// Title of a quantity.
fn title(quantity: &str) -> String {
    match quantity {
        "loss" => "Loss".into(),
        "mae_deg" => "Mean absolute error".into(),
        "rmse_deg" => "Root mean squared error".into(),
        other => other.replace('_', " "),
    }
}

/// A value of an epoch.
type Pick<'a> = Box<dyn Fn(&EpochRecord) -> Option<f64> + 'a>;

/// The runs' charts, by epoch.
pub(super) fn curves(runs: &[ReportedRun]) -> Vec<Curve> {
    let epochs: BTreeSet<_> = runs.iter().flat_map(|run| run.epochs.iter().map(|epoch| epoch.epoch)).collect();
    let curve = |title: String, unit, lines: Vec<(&str, Pick<'_>)>| {
        let mut series = Vec::new();
        for (r, run) in runs.iter().enumerate() {
            let by_epoch: BTreeMap<_, _> = run.epochs.iter().map(|epoch| (epoch.epoch, epoch)).collect();
            for (line, (name, pick)) in lines.iter().enumerate() {
                let value = |epoch: &usize| by_epoch.get(epoch).and_then(|epoch| pick(epoch)).filter(|v| v.is_finite());
                let values: Vec<_> = epochs.iter().map(value).collect();
                // One run's lines differ in colour; of several runs each has its colour, and training is dashed.
                let (name, colour, dashed) = match runs.len() {
                    1 => ((*name).to_owned(), line, false),
                    _ => (format!("{} {name}", run.name), r, lines.len() > 1 && line + 1 < lines.len()),
                };
                if values.iter().any(Option::is_some) {
                    series.push(Series { name, colour, dashed, values });
                }
            }
        }
        Curve { title, unit, epochs: epochs.iter().copied().collect(), series }
    };
    let figures = runs.iter().flat_map(|run| &run.epochs).flat_map(|epoch| &epoch.figures.0);
    let mut quantities: Vec<(&str, &str)> = Vec::new();
    for figure in figures {
        if !quantities.iter().any(|(quantity, _)| *quantity == figure.quantity) {
            quantities.push((figure.quantity, figure.unit));
        }
    }
    let mut curves = Vec::new();
    for (quantity, unit) in quantities {
        let of = |split: &'static str| -> Pick<'_> { Box::new(move |epoch| epoch.figures.value(split, quantity)) };
        curves.push(curve(title(quantity), unit, vec![("training", of("train")), ("validation", of("val"))]));
    }
    let rate: Pick<'_> = Box::new(|epoch| Some(epoch.learning_rate));
    curves.push(curve("Learning rate".into(), "", vec![("learning rate", rate)]));
    let speed: Pick<'_> = Box::new(|epoch| Some(epoch.windows as f64 / epoch.train_seconds));
    curves.push(curve("Windows per second".into(), "1/s", vec![("training", speed)]));
    curves
}

/// The section with all charts.
pub(super) fn curve_section(curves: &[Curve], several: bool) -> Markup {
    html! {
        section {
            h2 { "Training" }
            @if curves.iter().all(|curve| curve.epochs.is_empty()) { p { "No epoch has finished yet." } } @else {
                p {
                    "Training figures are averages over an epoch, during which the weights change; validation runs at its end."
                    @if several { " Training is dashed." }
                }
                div.two { @for (i, curve) in curves.iter().enumerate() {
                    figure { h3 { (curve.title) } div data-curve=(i) {} }
                } }
            }
        }
    }
}
