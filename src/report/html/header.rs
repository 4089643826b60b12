//! The top of a page: the figures of its run, or of its runs side by side.

use maud::{Markup, html};
use serde_json::Value;

use super::{ReportedRun, colour, val_loss};
use crate::config::{Difference, differences};
use crate::report::quantity;
use crate::train::Evaluation;

/// Title and figures of one run.
pub(super) fn header(title: &str, runs: &[ReportedRun]) -> Markup {
    html! {
        h1 { (title) }
        @if let [run] = runs {
            @let epochs = run.epochs.len();
            p {
                (run.config.model.architecture()) ", " (epochs) @if epochs == 1 { " epoch in " } @else { " epochs in " }
                (quantity::duration(run.seconds()))
            }
            @if let Err(reason) = &run.gallery { p { "No evaluation: " (reason) } }
            div.tiles {
                @if let Some(evaluation) = run.evaluation() { (evaluation_tiles(evaluation)) }
                @if let Some(best) = run.best_epoch() {
                    (tile(&format!("{:.4}", val_loss(best).unwrap_or(f64::NAN)), &format!("best validation loss, epoch {}", best.epoch)))
                }
            }
        }
    }
}

fn tile(value: &str, what: &str) -> Markup {
    html! { div.tile { b { (value) } span { (what) } } }
}

fn evaluation_tiles(evaluation: &Evaluation) -> Markup {
    let own = &evaluation.metrics;
    let error = format!("mean absolute error, {} split; {}", evaluation.split, against_mean_predictor(evaluation));
    html! {
        (tile(&format!("{:.2}°", own.mae_deg), &error))
        (tile(&format!("{:.2}°", own.rmse_deg), "root mean squared error"))
        (tile(&format!("{:.3}", own.r2), "R²"))
        @if let Some((over, std)) = evaluation.over_users.as_ref().and_then(|over| Some((over, over.mae_deg.std?))) {
            (tile(&format!("{:.2} ± {std:.2}°", over.mae_deg.mean), &format!("mean absolute error over {} users", over.users)))
        }
    }
}

/// How the error compares with that of predicting the training angles' mean everywhere.
fn against_mean_predictor(evaluation: &Evaluation) -> String {
    let (own, mean) = (evaluation.metrics.mae_deg, evaluation.mean_predictor.mae_deg);
    let percent = (1.0 - own / mean) * 100.0;
    let side = if percent < 0.0 { "above" } else { "below" };
    format!("{:.0} % {side} the mean predictor ({mean:.2}°)", percent.abs())
}

/// The runs' figures, the best run first, and what of their configuration differs.
pub(super) fn comparison(runs: &[ReportedRun]) -> Markup {
    let order = ranking(runs);
    let best = order.first().copied().filter(|r| error(&runs[*r]).is_some());
    html! {
        section {
            h2 { "Runs" }
            p { "Sorted by mean absolute error; the best run is marked with ★." }
            div.wide { table {
                thead { tr {
                    th { "run" } th { "model" } th.number { "epochs" } th.number { "best val loss" } th.number { "mae °" }
                    th.number { "rmse °" } th.number { "R²" } th.number { "jerk rad/s³" } th.number { "time" }
                } }
                tbody { @for r in &order { (row(runs, *r, best == Some(*r))) } }
            } }
            @for run in runs { @if let Err(reason) = &run.gallery { p { (run.name) ": no evaluation: " (reason) } } }
            (configurations(runs))
        }
    }
}

/// What runs are ordered by: the evaluated error, else the validation loss.
fn error(run: &ReportedRun) -> Option<f64> {
    run.metrics().map(|metrics| metrics.mae_deg)
}

fn ranking(runs: &[ReportedRun]) -> Vec<usize> {
    let key = |r: usize| {
        let loss = runs[r].best_epoch().and_then(val_loss);
        [error(&runs[r]), loss].map(|value| value.unwrap_or(f64::INFINITY))
    };
    let mut order: Vec<_> = (0..runs.len()).collect();
    order.sort_by(|a, b| {
        let (a, b) = (key(*a), key(*b));
        a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1]))
    });
    order
}

fn row(runs: &[ReportedRun], r: usize, is_best: bool) -> Markup {
    let run = &runs[r];
    let metrics = run.metrics();
    let figure = |value: Option<f64>, digits: usize| value.map(|value| format!("{value:.digits$}")).unwrap_or_default();
    html! {
        tr.best[is_best] {
            td { span.key style=(colour(r)) {} (run.name) @if is_best { " ★" } }
            td { (run.config.model.architecture()) }
            td.number { (run.epochs.len()) }
            td.number { (figure(run.best_epoch().and_then(val_loss), 4)) }
            td.number { (figure(metrics.map(|metrics| metrics.mae_deg), 2)) }
            td.number { (figure(metrics.map(|metrics| metrics.rmse_deg), 2)) }
            td.number { (figure(metrics.map(|metrics| metrics.r2), 3)) }
            td.number { (metrics.map(|metrics| quantity::significant(metrics.smoothness.jerk)).unwrap_or_default()) }
            td.number { (quantity::duration(run.seconds())) }
        }
    }
}

fn configurations(runs: &[ReportedRun]) -> Markup {
    let differing = differing_keys(runs);
    html! {
        h3 { "Configuration differences" }
        @if differing.is_empty() { p { "None." } } @else { div.wide { table {
            thead { tr { th { "key" } @for (r, run) in runs.iter().enumerate() { th { span.key style=(colour(r)) {} (run.name) } } } }
            tbody { @for (key, values) in differing { tr { td { code { (key) } } @for value in values { td { code { (value) } } } } } }
        } } }
    }
}

/// Keys that differ between any two runs, with each run's value.
fn differing_keys(runs: &[ReportedRun]) -> Vec<(String, Vec<String>)> {
    let first = &runs[0].config;
    let mut keys: Vec<(String, Vec<Value>)> = Vec::new();
    for (r, run) in runs.iter().enumerate().skip(1) {
        for Difference { key, here, there } in differences(first, &run.config, 2) {
            let known = keys.iter().position(|(other, _)| *other == key);
            let i = known.unwrap_or_else(|| {
                keys.push((key, vec![here; runs.len()]));
                keys.len() - 1
            });
            keys[i].1[r] = there;
        }
    }
    keys.sort_by(|a, b| a.0.cmp(&b.0));
    keys.into_iter().map(|(key, values)| (key, values.iter().map(ToString::to_string).collect())).collect()
}
