//! Windows with their predicted and true angles.

use maud::{Markup, html};
use serde_json::{Value, json};

use super::{ReportedRun, colour};
use crate::train::Example;

/// Points of a line in a window's chart.
const POINTS: usize = 400;

/// A window with where its chart's data is.
pub(super) struct Shown<'a> {
    run: usize,
    kind: &'static str,
    error: f64,
    window: &'a Example,
    rate: f64,
}

/// The windows that a run shows.
pub(super) fn windows(r: usize, run: &ReportedRun) -> Vec<Shown<'_>> {
    let windows = run.gallery.iter().flat_map(|gallery| &gallery.windows);
    windows.map(|(kind, error, window)| Shown { run: r, kind, error: *error, window, rate: run.rate }).collect()
}

impl Shown<'_> {
    fn joints(&self) -> usize {
        self.window.prediction.len() / self.window.mask.len()
    }

    pub(super) fn data(&self) -> Value {
        let (rows, joints) = (self.window.mask.len(), self.joints());
        let picked: Vec<_> = (0..rows).step_by(rows.div_ceil(POINTS)).collect();
        let seconds = |row: &usize| (self.window.first_row + *row as u64) as f64 / self.rate;
        let x: Vec<_> = picked.iter().map(|row| (seconds(row) * 1e4).round() / 1e4).collect();
        let degrees = |values: &[f32], valid: bool| -> Vec<Vec<Option<f64>>> {
            let value = |row: usize, joint: usize| {
                let degrees = f64::from(values[row * joints + joint]).to_degrees();
                (degrees.is_finite() && (valid || self.window.mask[row] > 0.0))
                    .then(|| (degrees * 100.0).round() / 100.0)
            };
            (0..joints).map(|joint| picked.iter().map(|row| value(*row, joint)).collect()).collect()
        };
        json!({
            "run": self.run, "x": x, "truth": degrees(&self.window.target, false),
            "predicted": degrees(&self.window.prediction, true),
        })
    }
}

/// The section of a run's windows.
pub(super) fn window_section(r: usize, run: &ReportedRun, several: bool, all: &[Shown<'_>]) -> Markup {
    let own = || all.iter().enumerate().filter(|(_, window)| window.run == r);
    html! {
        @if own().next().is_some() {
            section {
                h2 { "Predicted and true angles" @if several { ", " (run.name) } }
                p { span.key style="background: var(--truth)" {} "true (missing where inverse kinematics failed)  "
                    span.key style=(colour(r)) {} "predicted; angles in degrees over time in seconds" }
                @for (i, window) in own() {
                    h3 { "The " (window.kind) " window: " (format!("{:.2}°", window.error)) }
                    p { (window.window.recording) " from " (format!("{:.2}", window.window.first_row as f64 / window.rate)) " s, "
                        (format!("{:.2}", window.window.mask.len() as f64 / window.rate)) " s long" }
                    div.windows { @for (joint, name) in run.config.data.joint_names().iter().enumerate() {
                        figure { figcaption { (name) } div data-window=(i) data-joint=(joint) data-name=(name) {} }
                    } }
                }
            }
        }
    }
}
