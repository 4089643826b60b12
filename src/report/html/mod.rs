//! Shows a run, or several side by side, on one self-contained HTML page. Charts are drawn by uPlot (MIT), which is
//! embedded.

mod curves;
mod header;
mod windows;

use std::collections::{BTreeMap, BTreeSet};

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::json;

use self::curves::{Curve, curve_section, curves};
use self::header::{comparison, header};
use self::windows::{window_section, windows};
use super::quantity;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::train::{EpochRecord, Evaluation, Gallery, Group};

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

impl ReportedRun {
    fn evaluation(&self) -> Option<&Evaluation> {
        self.gallery.as_ref().ok().map(|gallery| &gallery.evaluation)
    }

    fn metrics(&self) -> Option<&Metrics> {
        self.evaluation().map(|evaluation| &evaluation.metrics)
    }

    /// The epoch with the lowest validation loss.
    fn best_epoch(&self) -> Option<&EpochRecord> {
        let judged = self.epochs.iter().filter_map(|epoch| Some((epoch, val_loss(epoch)?)));
        judged.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(epoch, _)| epoch)
    }

    fn seconds(&self) -> f64 {
        self.epochs.iter().map(|epoch| epoch.train_seconds + epoch.val_seconds).sum()
    }
}

/// An epoch's loss on the validation windows, if there are any.
fn val_loss(epoch: &EpochRecord) -> Option<f64> {
    epoch.figures.value("val", "loss")
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
                    (curve_section(&curves, runs.len() > 1))
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
    let Some((shown, first)) = runs.iter().find_map(|run| Some((run, run.metrics()?))) else { return html! {} };
    let names = shown.config.data.joint_names();
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
            p { "Mean absolute error in degrees over the valid rows of the evaluated split." }
            (legend(runs))
            div.two {
                div { h3 { "Joints" } (bar_table(&names, &by_joint)) }
                div {
                    @if let Some((names, values)) = parts(|m| m.mae_deg_per_finger.as_ref()) { h3 { "Fingers" } (bar_table(&names, &values)) }
                    @if let Some((names, values)) = parts(|m| m.mae_deg_per_group.as_ref()) { h3 { "Along the finger" } (bar_table(&names, &values)) }
                    @for run in runs { @if let Some(m) = run.metrics() {
                        h3 { "Smoothness" @if runs.len() > 1 { ", " (run.name) } }
                        p { "Mean absolute derivatives of the predicted angles: velocity "
                            (quantity::significant(m.smoothness.velocity)) " rad/s, acceleration "
                            (quantity::significant(m.smoothness.acceleration)) " rad/s², jerk "
                            (quantity::significant(m.smoothness.jerk)) " rad/s³." }
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
    // The worst come first: readers look for them.
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
