//! A run, or several side by side, as one HTML page that needs nothing else: charts by uPlot (MIT), which is inside.

use std::collections::{BTreeMap, BTreeSet};

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::{Value, json};

use super::quantity;
use crate::config::Config;
use crate::metrics::{Metrics, joint_names};
use crate::train::{EpochRecord, Evaluation, Example, Gallery, Group};

/// What a page shows of a run.
#[derive(Debug, Clone)]
pub struct ReportedRun {
    pub name: String,
    pub config: Config,
    pub epochs: Vec<EpochRecord>,
    /// The evaluation, or why there is none.
    pub gallery: Result<Gallery, String>,
    /// Hz.
    pub rate: f64,
    /// Data, environment, versions: names and values.
    pub facts: Vec<(String, String)>,
}

/// Points of a line in a window's chart.
const POINTS: usize = 400;

impl ReportedRun {
    fn evaluation(&self) -> Option<&Evaluation> {
        self.gallery.as_ref().ok().map(|gallery| &gallery.evaluation)
    }

    fn metrics(&self) -> Option<&Metrics> {
        self.evaluation().map(|evaluation| &evaluation.metrics)
    }

    /// The epoch with the lowest validation loss.
    fn best_epoch(&self) -> Option<&EpochRecord> {
        let judged = self.epochs.iter().filter(|epoch| epoch.val_loss.is_some());
        judged.min_by(|a, b| a.val_loss.unwrap_or(f64::INFINITY).total_cmp(&b.val_loss.unwrap_or(f64::INFINITY)))
    }

    fn seconds(&self) -> f64 {
        self.epochs.iter().map(|epoch| epoch.train_seconds + epoch.val_seconds).sum()
    }
}

/// The page.
pub fn report_page(runs: &[ReportedRun]) -> String {
    let title = match runs {
        [one] => one.name.clone(),
        _ => format!("{} runs compared", runs.len()),
    };
    let curves = curves(runs);
    let windows: Vec<_> = runs.iter().enumerate().flat_map(|(r, run)| windows(r, run)).collect();
    let shown: Vec<_> = windows.iter().map(|window| window.data()).collect();
    let data = json!({ "curves": curves.iter().map(Curve::data).collect::<Vec<_>>(), "windows": shown });
    // Nothing in it may end the element that it is in.
    let data = data.to_string().replace('<', "\\u003c");
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                link rel="icon" href="data:,";
                title { (title) " – emg-train report" }
                style { (PreEscaped(include_str!("assets/uPlot.min.css"))) (PreEscaped(include_str!("assets/report.css"))) }
            }
            body {
                main {
                    (header(&title, runs))
                    @if runs.len() > 1 { (comparison(runs)) }
                    (curve_section(&curves))
                    (joint_section(runs))
                    @for (r, run) in runs.iter().enumerate() { (window_section(r, run, runs.len() > 1, &windows)) }
                    (group_sections(runs))
                    @for run in runs { (about(run, runs.len() > 1)) }
                    footer { "Written by emg-train " (env!("CARGO_PKG_VERSION")) "; charts: uPlot (MIT). Drag to zoom, double-click to zoom out." }
                }
                script type="application/json" id="data" { (PreEscaped(data)) }
                script { (PreEscaped(include_str!("assets/uPlot.iife.min.js"))) }
                script { (PreEscaped(include_str!("assets/report.js"))) }
            }
        }
    };
    page.into_string()
}

fn colour(run: usize) -> String {
    format!("background: var(--run-{})", run % 6)
}

fn header(title: &str, runs: &[ReportedRun]) -> Markup {
    let tile = |value: String, what: String| html! { div.tile { b { (value) } span { (what) } } };
    html! {
        h1 { (title) }
        @if let [run] = runs {
            p { (run.config.model.architecture()) ", " (run.epochs.len()) " epochs in " (quantity::duration(run.seconds())) }
            @if let Err(reason) = &run.gallery { p { "No evaluation: " (reason) } }
            div.tiles {
                @if let Some(evaluation) = run.evaluation() {
                    @let (own, mean) = (&evaluation.metrics, &evaluation.mean_predictor);
                    (tile(format!("{:.2}°", own.mae_deg), format!("mean absolute error, {} split", evaluation.split)))
                    (tile(format!("{:.2}°", mean.mae_deg), "of always predicting the mean".into()))
                    (tile(format!("{:.2}°", own.rmse_deg), "root mean squared error".into()))
                    (tile(format!("{:.3}", own.r2), "R²".into()))
                    @if let Some(over) = evaluation.over_users.as_ref().filter(|over| over.users > 1) {
                        (tile(format!("{:.2} ± {:.2}°", over.mae_deg.mean, over.mae_deg.std), format!("over {} users", over.users)))
                    }
                }
                @if let Some(best) = run.best_epoch() {
                    (tile(format!("{:.4}", best.val_loss.unwrap_or(f64::NAN)), format!("best validation loss, epoch {}", best.epoch)))
                }
            }
        }
    }
}

/// The runs' figures, and what of their configuration differs.
fn comparison(runs: &[ReportedRun]) -> Markup {
    let figure =
        |value: Option<f64>, digits: usize| value.map_or("–".to_owned(), |value| format!("{value:.digits$}"));
    let differing = differing_keys(runs);
    html! {
        section {
            h2 { "Runs" }
            div.wide { table {
                thead { tr {
                    th { "run" } th { "model" } th.number { "epochs" } th.number { "best val loss" } th.number { "mae °" }
                    th.number { "rmse °" } th.number { "R²" } th.number { "jerk rad/s³" } th.number { "time" }
                } }
                tbody { @for (r, run) in runs.iter().enumerate() {
                    @let metrics = run.metrics();
                    tr {
                        td { span.key style=(colour(r)) {} (run.name) }
                        td { (run.config.model.architecture()) }
                        td.number { (run.epochs.len()) }
                        td.number { (figure(run.best_epoch().and_then(|epoch| epoch.val_loss), 4)) }
                        td.number { (figure(metrics.map(|metrics| metrics.mae_deg), 2)) }
                        td.number { (figure(metrics.map(|metrics| metrics.rmse_deg), 2)) }
                        td.number { (figure(metrics.map(|metrics| metrics.r2), 3)) }
                        td.number { (figure(metrics.map(|metrics| metrics.smoothness.jerk), 0)) }
                        td.number { (quantity::duration(run.seconds())) }
                    }
                } }
            } }
            @for run in runs { @if let Err(reason) = &run.gallery { p { (run.name) ": no evaluation: " (reason) } } }
            h3 { "Configuration that differs" }
            @if differing.is_empty() { p { "None." } } @else { div.wide { table {
                thead { tr { th { "key" } @for (r, run) in runs.iter().enumerate() { th { span.key style=(colour(r)) {} (run.name) } } } }
                tbody { @for (key, values) in differing { tr { td { code { (key) } } @for value in values { td { code { (value) } } } } } }
            } } }
        }
    }
}

fn differing_keys(runs: &[ReportedRun]) -> Vec<(String, Vec<String>)> {
    let trees: Vec<_> = runs.iter().map(|run| serde_json::to_value(&run.config).unwrap_or_default()).collect();
    let mut keys = BTreeSet::new();
    for (section, content) in trees.iter().filter_map(Value::as_object).flatten() {
        keys.extend(content.as_object().into_iter().flatten().map(|(key, _)| (section.clone(), key.clone())));
    }
    let values = |(section, key): (String, String)| {
        let values: Vec<_> = trees.iter().map(|tree| tree[&section][&key].to_string()).collect();
        let differ = values.iter().any(|value| *value != values[0]);
        differ.then(|| (format!("{section}.{key}"), values))
    };
    keys.into_iter().filter_map(values).collect()
}

/// A chart over epochs.
struct Curve {
    title: &'static str,
    unit: &'static str,
    log: bool,
    epochs: Vec<usize>,
    /// Name, run, whether dashed, values by epoch.
    series: Vec<(String, usize, bool, Vec<Option<f64>>)>,
}

impl Curve {
    fn data(&self) -> Value {
        let series: Vec<_> = self
            .series
            .iter()
            .map(|(name, run, dashed, y)| json!({ "name": name, "run": run, "dashed": dashed, "y": y }))
            .collect();
        json!({ "unit": self.unit, "log": self.log, "x": self.epochs, "series": series })
    }
}

fn curves(runs: &[ReportedRun]) -> Vec<Curve> {
    type Pick = fn(&EpochRecord) -> Option<f64>;
    let several = runs.len() > 1;
    let epochs: BTreeSet<_> = runs.iter().flat_map(|run| run.epochs.iter().map(|epoch| epoch.epoch)).collect();
    let curve = |title, unit, log, picks: &[(&str, bool, Pick)]| {
        let mut series = Vec::new();
        for (r, run) in runs.iter().enumerate() {
            let by_epoch: BTreeMap<_, _> = run.epochs.iter().map(|epoch| (epoch.epoch, epoch)).collect();
            for (name, dashed, pick) in picks {
                let value = |epoch: &usize| by_epoch.get(epoch).and_then(|epoch| pick(epoch)).filter(|v| v.is_finite());
                let y: Vec<_> = epochs.iter().map(value).collect();
                let name = if several { format!("{} {name}", run.name) } else { (*name).to_owned() };
                if y.iter().any(Option::is_some) {
                    series.push((name, r, *dashed, y));
                }
            }
        }
        Curve { title, unit, log, epochs: epochs.iter().copied().collect(), series }
    };
    vec![
        curve("Loss", "", false, &[("training", true, |e| Some(e.train_loss)), ("validation", false, |e| e.val_loss)]),
        curve(
            "Mean absolute error",
            "°",
            false,
            &[("training", true, |e| Some(e.train_mae_deg)), ("validation", false, |e| e.val_mae_deg)],
        ),
        curve("Learning rate", "", false, &[("rate", false, |e| Some(e.learning_rate))]),
        curve("Windows per second", "", false, &[("training", false, |e| Some(e.windows as f64 / e.train_seconds))]),
    ]
}

fn curve_section(curves: &[Curve]) -> Markup {
    html! {
        section {
            h2 { "Training" }
            @if curves[0].epochs.is_empty() { p { "No epoch is done." } } @else {
                p { "By epoch. Training dashed, over the epoch while weights change; validation at its end." }
                div.two { @for (i, curve) in curves.iter().enumerate() {
                    figure { h3 { (curve.title) } div data-curve=(i) {} }
                } }
            }
        }
    }
}

/// Bars of one figure, a bar for each run.
fn bars(values: &[Option<f64>], largest: f64) -> Markup {
    html! {
        @for (run, value) in values.iter().enumerate() {
            @if let Some(value) = value {
                div.bar { i style={ "width: " (format!("{:.1}", 78.0 * value / largest)) "%; " (colour(run)) } {} (format!("{value:.2}")) }
            }
        }
    }
}

/// A table of named figures with bars.
fn bar_table(names: &[String], values: &[Vec<Option<f64>>]) -> Markup {
    let largest = values.iter().flatten().flatten().fold(1e-9, |a: f64, b| a.max(*b));
    html! {
        table.plain { tbody { @for (name, values) in names.iter().zip(values) {
            tr { td { (name) } td.bars { (bars(values, largest)) } }
        } } }
    }
}

fn joint_section(runs: &[ReportedRun]) -> Markup {
    let Some(first) = runs.iter().find_map(ReportedRun::metrics) else { return html! {} };
    let names = joint_names(first.mae_deg_per_joint.len());
    let by_joint: Vec<Vec<_>> = (0..names.len())
        .map(|j| runs.iter().map(|run| run.metrics().and_then(|m| m.mae_deg_per_joint.get(j).copied())).collect())
        .collect();
    type Parts = fn(&Metrics) -> Option<&Vec<(&'static str, f64)>>;
    let parts = |of: Parts| {
        let names: Vec<_> = of(first)?.iter().map(|(name, _)| (*name).to_owned()).collect();
        let value = |run: &ReportedRun, i: usize| of(run.metrics()?)?.get(i).map(|(_, value)| *value);
        let values: Vec<Vec<_>> = (0..names.len()).map(|i| runs.iter().map(|run| value(run, i)).collect()).collect();
        Some((names, values))
    };
    html! {
        section {
            h2 { "Error by joint" }
            p { "Mean absolute error, degrees, over valid rows of the evaluated split." }
            (legend(runs))
            div.two {
                div { h3 { "Joints" } (bar_table(&names, &by_joint)) }
                div {
                    @if let Some((names, values)) = parts(|m| m.mae_deg_per_finger.as_ref()) { h3 { "Fingers" } (bar_table(&names, &values)) }
                    @if let Some((names, values)) = parts(|m| m.mae_deg_per_group.as_ref()) { h3 { "Along the finger" } (bar_table(&names, &values)) }
                    @for run in runs { @if let Some(m) = run.metrics() {
                        h3 { "Smoothness" @if runs.len() > 1 { ", " (run.name) } }
                        p { "Mean |derivative| of the predicted angles: velocity " (format!("{:.2}", m.smoothness.velocity))
                            " rad/s, acceleration " (format!("{:.0}", m.smoothness.acceleration)) " rad/s², jerk "
                            (format!("{:.0}", m.smoothness.jerk)) " rad/s³." }
                    } }
                }
            }
        }
    }
}

fn legend(runs: &[ReportedRun]) -> Markup {
    html! {
        @if runs.len() > 1 { p { @for (r, run) in runs.iter().enumerate() { span.key style=(colour(r)) {} (run.name) "  " } } }
    }
}

/// A window with where its chart's data is.
struct Shown<'a> {
    run: usize,
    kind: &'static str,
    error: f64,
    window: &'a Example,
    rate: f64,
}

fn windows(r: usize, run: &ReportedRun) -> Vec<Shown<'_>> {
    let windows = run.gallery.iter().flat_map(|gallery| &gallery.windows);
    windows.map(|(kind, error, window)| Shown { run: r, kind, error: *error, window, rate: run.rate }).collect()
}

impl Shown<'_> {
    fn joints(&self) -> usize {
        self.window.prediction.len() / self.window.mask.len()
    }

    fn data(&self) -> Value {
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

fn window_section(r: usize, run: &ReportedRun, several: bool, all: &[Shown<'_>]) -> Markup {
    let own = || all.iter().enumerate().filter(|(_, window)| window.run == r);
    html! {
        @if own().next().is_some() {
            section {
                h2 { "Predicted against true angles" @if several { ", " (run.name) } }
                p { span.key style="background: var(--truth)" {} "true (missing where inverse kinematics failed)  "
                    span.key style=(colour(r)) {} "predicted; degrees over seconds of the recording" }
                @for (i, window) in own() {
                    h3 { "The " (window.kind) " window: " (format!("{:.2}°", window.error)) }
                    p { (window.window.recording) " from " (format!("{:.2}", window.window.first_row as f64 / window.rate)) " s, "
                        (format!("{:.2}", window.window.mask.len() as f64 / window.rate)) " s long" }
                    div.windows { @for (joint, name) in joint_names(window.joints()).iter().enumerate() {
                        figure { figcaption { (name) } div data-window=(i) data-joint=(joint) data-name=(name) {} }
                    } }
                }
            }
        }
    }
}

fn group_sections(runs: &[ReportedRun]) -> Markup {
    type Groups = fn(&Evaluation) -> &Vec<Group>;
    let kinds: [(&str, Groups); 3] = [
        ("Error by user", |e| &e.by_user),
        ("Error by stage", |e| &e.by_stage),
        ("Error by generalization", |e| &e.by_generalization),
    ];
    html! { @for (title, of) in kinds { (group_section(title, of, runs)) } }
}

fn group_section(title: &str, of: impl Fn(&Evaluation) -> &Vec<Group>, runs: &[ReportedRun]) -> Markup {
    let groups: Vec<BTreeMap<&str, &Group>> = runs
        .iter()
        .map(|run| run.evaluation().into_iter().flat_map(&of).map(|group| (group.name.as_str(), group)).collect())
        .collect();
    let names: BTreeSet<&str> = groups.iter().flat_map(|groups| groups.keys().copied()).collect();
    let group = |r: usize, name: &str| groups[r].get(name).copied();
    let errors =
        |name: &str| -> Vec<_> { (0..runs.len()).map(|r| group(r, name).map(|g| g.metrics.mae_deg)).collect() };
    let largest = names.iter().flat_map(|name| errors(name)).flatten().fold(1e-9, f64::max);
    // The worst first: they are what one looks for.
    let mut names: Vec<_> = names.into_iter().collect();
    names.sort_by(|a, b| errors(b)[0].unwrap_or(0.0).total_cmp(&errors(a)[0].unwrap_or(0.0)));
    html! {
        @if !names.is_empty() {
            section {
                h2 { (title) }
                (legend(runs))
                div.scroll { table {
                    thead { tr { th { "" } th.number { "windows" } th.bars { "mae °" } th.number { "rmse °" } th.number { "R²" } } }
                    tbody { @for name in &names {
                        @let any = (0..runs.len()).find_map(|r| group(r, name));
                        tr {
                            td { (name) }
                            td.number { @if let Some(any) = any { (any.windows) } }
                            td.bars { (bars(&errors(name), largest)) }
                            td.number { @for r in 0..runs.len() { @if let Some(g) = group(r, name) { div { (format!("{:.2}", g.metrics.rmse_deg)) } } } }
                            td.number { @for r in 0..runs.len() { @if let Some(g) = group(r, name) { div { (format!("{:.3}", g.metrics.r2)) } } } }
                        }
                    } }
                } }
            }
        }
    }
}

fn about(run: &ReportedRun, several: bool) -> Markup {
    html! {
        section {
            h2 { "Data and environment" @if several { ", " (run.name) } }
            table.plain { tbody { @for (name, value) in &run.facts { tr { td { (name) } td { code { (value) } } } } } }
        }
        section { details { summary { "Configuration" @if several { ", " (run.name) } } pre { (run.config.to_yaml()) } } }
    }
}
