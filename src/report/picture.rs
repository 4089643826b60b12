//! A picture of a cache: EMG and angles of a stretch, channel statistics, valid runs.

use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::cache::{Cache, CacheError, CacheRecording};
use crate::files::replace_named_file;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// What can go wrong with a picture.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("{path}: the picture cannot be written: {message}")]
    Write { path: std::path::PathBuf, message: String },
}

const SIZE: (u32, u32) = (1400, 1100);
const TITLE: (&str, u32) = ("sans-serif", 20);
const SMALL: (&str, u32) = ("sans-serif", 13);
/// Seconds of EMG and angles.
const STRETCH: f64 = 2.0;
/// Points per line: more than the picture has columns.
const POINTS: usize = 1500;
/// Recordings whose valid runs are shown.
const RUNS_OF: usize = 40;

/// Draws the cache to an SVG file.
///
/// # Errors
/// A damaged segment, or a file that cannot be written.
pub fn draw_cache(cache: &Cache, path: &Path) -> Result<(), PictureError> {
    let Some(shown) = cache.recordings().max_by_key(|recording| recording.content.rows) else { return Ok(()) };
    let stretch = Stretch::read(cache, &shown)?;
    let write = |error: Box<dyn std::error::Error + Send + Sync>| PictureError::Write {
        path: path.to_owned(),
        message: error.to_string(),
    };
    let mut text = String::new();
    draw(cache, &shown, &stretch, &mut text).map_err(write)?;
    replace_named_file(path, text.as_bytes()).map_err(|error| write(error.into()))
}

fn draw(cache: &Cache, shown: &CacheRecording<'_>, stretch: &Stretch, text: &mut String) -> Drawn {
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let areas = root.split_evenly((2, 2));
    let name = &shown.listed.name;
    let normalized = cache.manifest().settings.normalize_emg == crate::config::Normalize::Recording;
    let units = if normalized { "standard deviations" } else { "as recorded" };
    traces(&areas[0], &format!("EMG of {name}, {units}"), "channel", &stretch.emg, stretch)?;
    traces(&areas[1], "joint angles, degrees", "joint", &stretch.degrees, stretch)?;
    statistics(&areas[2], cache)?;
    runs(&areas[3], cache)?;
    root.present()?;
    Ok(())
}

/// Rows of the recording that is shown, from its longest valid run.
struct Stretch {
    /// Seconds of the first row.
    start: f64,
    rate: f64,
    /// By column.
    emg: Vec<Vec<f32>>,
    degrees: Vec<Vec<f32>>,
}

impl Stretch {
    fn read(cache: &Cache, shown: &CacheRecording<'_>) -> Result<Self, CacheError> {
        let settings = &cache.manifest().settings;
        let longest = shown.content.valid_runs.iter().copied().max_by_key(|run| run.1);
        let (first, length) = longest.unwrap_or((0, shown.content.rows));
        let rows = length.min((STRETCH * settings.sample_rate) as u64) as usize;
        let segment = cache.segment(shown.segment);
        let (channels, joints) = (settings.emg_channels, settings.joint_angles_channels);
        let (mut emg, mut angles) = (vec![0.0; rows * channels], vec![0.0; rows * joints]);
        segment.copy_emg(shown.content.first_row + first, &mut emg)?;
        segment.copy_joint_angles(shown.content.first_row + first, &mut angles)?;
        let columns =
            |values: &[f32], n: usize| (0..n).map(|c| values[c..].iter().step_by(n).copied().collect()).collect();
        angles.iter_mut().for_each(|angle| *angle = angle.to_degrees());
        let (rate, start) = (settings.sample_rate, first as f64 / settings.sample_rate);
        Ok(Self { start, rate, emg: columns(&emg, channels), degrees: columns(&angles, joints) })
    }
}

/// Columns over time, one above the other.
fn traces(area: &Area<'_>, title: &str, what: &str, columns: &[Vec<f32>], stretch: &Stretch) -> Drawn {
    let finite = || columns.iter().flatten().filter(|value| value.is_finite());
    let centres: Vec<_> = columns.iter().map(|column| middle(column)).collect();
    let spread =
        columns.iter().zip(&centres).flat_map(|(column, centre)| column.iter().map(move |v| (v - centre).abs()));
    let spread = spread.filter(|value| value.is_finite()).fold(0.0f32, f32::max).max(1e-6);
    let rows = columns.first().map_or(0, Vec::len);
    let end = stretch.start + rows as f64 / stretch.rate;
    let mut chart = ChartBuilder::on(area)
        .caption(title, TITLE)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(50)
        .build_cartesian_2d(stretch.start..end.max(stretch.start + 1e-3), -1.0..columns.len() as f64)?;
    let (low, high) = finite().fold((f32::MAX, f32::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
    chart
        .configure_mesh()
        .disable_y_mesh()
        .x_desc("seconds")
        .y_desc(format!("{what} (values {low:.3} to {high:.3})"))
        .label_style(SMALL)
        .light_line_style(TRANSPARENT)
        .y_labels(columns.len().min(20) + 1)
        .y_label_formatter(&|value| format!("{value:.0}"))
        .draw()?;
    let step = rows.div_ceil(POINTS).max(1);
    for (i, (column, centre)) in columns.iter().zip(&centres).enumerate() {
        let point = |row: usize| {
            let at = stretch.start + row as f64 / stretch.rate;
            (at, i as f64 + f64::from((column[row] - centre) / spread) * 0.9)
        };
        // Dark enough for white paper, and neighbours far apart in hue.
        let colour = HSLColor((i as f64 * 0.382) % 1.0, 0.8, 0.36);
        let points = (0..rows).step_by(step).filter(|row| column[*row].is_finite()).map(point);
        chart.draw_series(LineSeries::new(points, colour.stroke_width(1)))?;
    }
    Ok(())
}

fn middle(column: &[f32]) -> f32 {
    let finite: Vec<_> = column.iter().copied().filter(|value| value.is_finite()).collect();
    finite.iter().sum::<f32>() / finite.len().max(1) as f32
}

/// Mean and standard deviation of each channel over the training recordings.
fn statistics(area: &Area<'_>, cache: &Cache) -> Drawn {
    let moments = &cache.manifest().train_emg;
    let std = moments.std();
    let reach = moments.mean.iter().zip(&std).map(|(mean, std)| mean.abs() + std).fold(1e-12, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .caption("EMG as recorded, training split: mean ± one standard deviation", TITLE)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(80)
        .build_cartesian_2d(-0.5..moments.mean.len() as f64 - 0.5, -reach..reach)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_desc("channel")
        .label_style(SMALL)
        .light_line_style(TRANSPARENT)
        .x_labels(moments.mean.len().min(32))
        .x_label_formatter(&|value| format!("{value:.0}"))
        .y_label_formatter(&|value| {
            if (0.1..1e5).contains(&reach) { format!("{value:.2}") } else { format!("{value:.1e}") }
        })
        .draw()?;
    for (i, (mean, std)) in moments.mean.iter().zip(&std).enumerate() {
        let at = i as f64;
        let constant = moments.constant_columns().contains(&i);
        let colour = if constant { RED.to_rgba() } else { RGBColor(104, 148, 214).to_rgba() };
        let bar = [(at - 0.3, mean - std.max(reach / 400.0)), (at + 0.3, mean + std.max(reach / 400.0))];
        chart.draw_series([Rectangle::new(bar, colour.filled()), mean_line(at, *mean)])?;
    }
    Ok(())
}

fn mean_line(at: f64, mean: f64) -> Rectangle<(f64, f64)> {
    Rectangle::new([(at - 0.3, mean), (at + 0.3, mean)], BLACK.stroke_width(2))
}

/// Valid stretches of each recording over its time, the rest in red.
fn runs(area: &Area<'_>, cache: &Cache) -> Drawn {
    let rate = cache.manifest().settings.sample_rate;
    let shown: Vec<_> = cache.recordings().take(RUNS_OF).collect();
    let longest = shown.iter().map(|r| r.content.rows).max().unwrap_or(1) as f64 / rate;
    let of =
        if cache.recordings().len() > RUNS_OF { format!(", the first {RUNS_OF} recordings") } else { String::new() };
    let mut chart = ChartBuilder::on(area)
        .caption(format!("valid rows (blue) and failed ones (red){of}"), TITLE)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(50)
        .build_cartesian_2d(0.0..longest, -0.5..shown.len() as f64 - 0.5)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .x_desc("seconds")
        .y_desc("recording")
        .label_style(SMALL)
        .light_line_style(TRANSPARENT)
        .y_label_formatter(&|value| format!("{value:.0}"))
        .draw()?;
    for (i, recording) in shown.iter().enumerate() {
        let bar = |rows: Range<u64>, colour: RGBAColor| {
            let (from, to) = (rows.start as f64 / rate, rows.end as f64 / rate);
            Rectangle::new([(from, i as f64 - 0.35), (to, i as f64 + 0.35)], colour.filled())
        };
        chart.draw_series([bar(0..recording.content.rows, RGBColor(214, 39, 40).to_rgba())])?;
        let valid = &recording.content.valid_runs;
        chart.draw_series(
            valid.iter().map(|(start, length)| bar(*start..start + length, RGBColor(104, 148, 214).to_rgba())),
        )?;
    }
    Ok(())
}
