//! Prints results on stdout for people to read.

use std::collections::BTreeMap;
use std::path::Path;

use emg_pipeline::metrics::{OverUsers, Spread};
use emg_pipeline::predict::Int8Report;
use emg_pipeline::report;
use emg_pipeline::say;
use emg_pipeline::train::{Evaluation, FitSummary, GradientChecks, Throughput};

use crate::args::Derivatives;

/// Prints how training ended and where its files are.
pub(crate) fn fit(summary: &FitSummary, run: &Path, metrics: &Path, seconds: f64) {
    let folder = metrics.parent().unwrap_or(Path::new("")).display();
    say!("run         {}", run.display());
    say!("checkpoint  {}", summary.best_checkpoint.display());
    if let Some(model) = &summary.model {
        say!("model       {}", model.display());
    }
    say!("metrics     {} (and .csv); tensorboard --logdir {folder}", metrics.display());
    say!("next        emg-train report {run}; emg-train eval {run}", run = run.display());
    if let Some(best) = summary.best {
        say!("best {} {best:.6} in {} epochs, {}", summary.monitor, summary.epochs, report::duration(seconds));
    }
}

/// Labels that every evaluation groups by.
pub(crate) const ALWAYS_GROUPED: [&str; 3] = ["user", "stage", "generalization"];

pub(crate) fn evaluation(evaluation: &Evaluation, by: &[String], derivatives: Derivatives) {
    let (metrics, mean) = (&evaluation.metrics, &evaluation.mean_predictor);
    say!("{} split: {} windows, {} valid rows", evaluation.split, evaluation.windows, metrics.rows);
    say!(
        "loss {:.6}  mae {:.3} deg  rmse {:.3} deg  r2 {:.4}",
        evaluation.loss,
        metrics.mae_deg,
        metrics.rmse_deg,
        metrics.r2
    );
    say!("mean predictor: mae {:.3} deg  rmse {:.3} deg", mean.mae_deg, mean.rmse_deg);
    if let Some(over) = &evaluation.over_users {
        say!("{}", spread(over));
    }
    for parts in [&metrics.mae_deg_per_finger, &metrics.mae_deg_per_group].into_iter().flatten() {
        let parts: Vec<_> = parts.iter().map(|(name, mae)| format!("{name} {mae:.2}")).collect();
        say!("mae deg: {}", parts.join("  "));
    }
    let (smooth, units) = (
        &metrics.smoothness,
        match derivatives {
            Derivatives::Si => ["rad/s", "rad/s2", "rad/s3"],
            Derivatives::Emg2pose => ["", "(emg2pose)", "(emg2pose)"],
        },
    );
    say!(
        "predicted velocity {} {}  acceleration {} {}  jerk {} {}",
        report::significant(smooth.velocity),
        units[0],
        report::significant(smooth.acceleration),
        units[1],
        report::significant(smooth.jerk),
        units[2]
    );
    for what in by {
        let groups = match what.as_str() {
            "user" => Some(&evaluation.by_user),
            "stage" => Some(&evaluation.by_stage),
            "generalization" => Some(&evaluation.by_generalization),
            label => evaluation.by_label.get(label),
        };
        for group in groups.into_iter().flatten() {
            let over = group.over_users.as_ref().filter(|over| over.users > 1).map_or(String::new(), spread);
            let own = &group.metrics;
            say!(
                "{what} {}: {} windows  mae {:.3} deg  rmse {:.3} deg  r2 {:.4}  {over}",
                group.name,
                group.windows,
                own.mae_deg,
                own.rmse_deg,
                own.r2
            );
        }
    }
}

fn spread(over: &OverUsers) -> String {
    let text = |of: Spread| {
        let std = of.std.map_or(String::new(), |std| format!(" ± {std:.3}"));
        format!("{:.3}{std} deg", of.mean)
    };
    format!("over {} users: mae {}  rmse {}", over.users, text(over.mae_deg), text(over.rmse_deg))
}

/// Gradients beside differences of the loss.
pub(crate) fn gradient_checks(checked: &GradientChecks) {
    let widest = checked.checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    for check in &checked.checks {
        let verdict = match check.error > checked.tolerance {
            true if checked.stops_gradients => "  differs",
            true => "  WRONG",
            false => "",
        };
        say!("gradient of {:widest$}  off by {:.1e}{verdict}", check.name, check.error);
    }
    if checked.stops_gradients {
        say!(
            "the model stops gradients by detach(), which differences of the loss do not know: some differ for this reason"
        );
    }
    let precision = if checked.float64 { "float64" } else { "float32: ONNX Runtime lacks an operator in float64" };
    let (wrong, all, tolerance) = (checked.wrong().count(), checked.checks.len(), checked.tolerance);
    say!(
        "check      {} of {all} gradients agree with differences of the loss to {tolerance:.0e} ({precision})",
        all - wrong
    );
}

pub(crate) fn throughput(result: &Throughput) {
    let bytes = |value: f64| report::bytes(value as u64);
    say!("first batch in memory {:.1} ms after start", result.first_batch_ms);
    say!(
        "{:.0} windows/s, {}/s ({} batches of {} in {:.2} s)",
        result.windows_per_second,
        bytes(result.bytes_per_second),
        result.batches,
        bytes(result.batch_bytes as f64),
        result.seconds
    );
    if let Some(memcpy) = result.memcpy_bytes_per_second {
        say!("plain copy {}/s: loading is {:.2} x as fast", bytes(memcpy), result.bytes_per_second / memcpy);
    }
    if let Some(gap) = result.epoch_gap_ms {
        say!("first batch of an epoch {gap:.2} ms later than others");
    }
    if let Some(anonymous) = result.anonymous_bytes {
        say!("anonymous memory {}", bytes(anonymous as f64));
    }
}

/// What was quantized, and what it costs.
pub(crate) fn int8(report: &Int8Report) -> String {
    let counts = |nodes: &BTreeMap<String, usize>| {
        nodes.iter().map(|(operator, count)| format!("{count} {operator}")).collect::<Vec<_>>().join(", ")
    };
    let Int8Report { layers, calibration_windows, compared_windows, split, mae_deg, float32_mae_deg, difference_deg } =
        report;
    let rest = match layers.float32.is_empty() {
        true => String::new(),
        false => format!("; {} stay float32", counts(&layers.float32)),
    };
    let error = match (mae_deg, float32_mae_deg) {
        (Some(int8), Some(float32)) => format!("mae {int8:.3} deg (float32: {float32:.3}), "),
        _ => String::new(),
    };
    let comparison = match difference_deg {
        Some(difference) => {
            format!("over {compared_windows} {split} windows {error}angles differ by {difference:.3} deg on average")
        }
        None => format!("not compared: no {split} window has a pose to start from"),
    };
    format!("int8: {}{rest}; calibrated on {calibration_windows} windows; {comparison}", counts(&layers.int8))
}
