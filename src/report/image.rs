//! A window's predicted angles against the true ones, as a PNG: a small chart for each joint.

use font8x8::UnicodeFonts;
use plotters::prelude::*;

use crate::train::Example;

/// An image and its size in pixels.
#[derive(Debug, Clone)]
pub(super) struct Png {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) bytes: Vec<u8>,
}

/// Pixels of a joint's chart, and charts side by side: emg2pose has four joints for each finger.
const CHART: (u32, u32) = (240, 120);
const COLUMNS: u32 = 4;
/// Pixels for the names above, and between charts.
const HEADER: u32 = 18;
const MARGIN: i32 = 4;

const TRUE: RGBColor = RGBColor(40, 44, 52);
const PREDICTED: RGBColor = RGBColor(224, 100, 30);

/// Draws true angles dark and predicted ones orange, rows that failed left out; `None` for a window without a valid row.
pub(super) fn draw(window: &Example, names: &[String], rate: f64) -> Option<Png> {
    let joints = names.len() as u32;
    let (width, height) = (COLUMNS.min(joints) * CHART.0, joints.div_ceil(COLUMNS) * CHART.1 + HEADER);
    let mut pixels = vec![255; (width * height * 3) as usize];
    let seconds = window.mask.len() as f64 / rate;
    let title = format!(
        "{} from {:.1} s, {seconds:.2} s: true: black, predicted: orange; degrees",
        window.recording,
        window.first_row as f64 / rate
    );
    text(&mut pixels, width, (MARGIN as u32, 5), &title);
    for (i, name) in names.iter().enumerate() {
        let corner = (i as u32 % COLUMNS * CHART.0, HEADER + i as u32 / COLUMNS * CHART.1);
        let range = chart(&mut pixels, (width, height), corner, window, i, names.len())?;
        text(&mut pixels, width, (corner.0 + 8, corner.1 + 4), &format!("{name} {:.0}..{:.0}", range.0, range.1));
    }
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    // Flat colours compress best as they are.
    encoder.set_filter(png::Filter::NoFilter);
    let mut writer = encoder.write_header().ok()?;
    writer.write_image_data(&pixels).ok()?;
    writer.finish().ok()?;
    Some(Png { width, height, bytes })
}

/// One joint's lines; gives the range of its angles in degrees.
fn chart(
    pixels: &mut [u8],
    size: (u32, u32),
    corner: (u32, u32),
    window: &Example,
    joint: usize,
    joints: usize,
) -> Option<(f64, f64)> {
    let rows = window.mask.len();
    let degrees = |values: &[f32], row: usize| f64::from(values[row * joints + joint]).to_degrees();
    let valid = || (0..rows).filter(|row| window.mask[*row] > 0.0);
    let all = valid().flat_map(|row| [degrees(&window.target, row), degrees(&window.prediction, row)]);
    let (low, high) = all.filter(|v| v.is_finite()).fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return None;
    }
    let top = 18;
    let (left, right) = (corner.0 as i32 + MARGIN, (corner.0 + CHART.0) as i32 - MARGIN);
    let (upper, lower) = (corner.1 as i32 + top, (corner.1 + CHART.1) as i32 - MARGIN);
    let scale = f64::from(lower - upper - 4) / (high - low).max(1.0);
    let point = |row: usize, value: f64| {
        let x = left + (row as f64 * f64::from(right - left) / rows.max(2) as f64) as i32;
        (x, lower - 2 - ((value.clamp(low, high) - low) * scale) as i32)
    };
    let area = BitMapBackend::with_buffer(pixels, size).into_drawing_area();
    area.draw(&Rectangle::new([(left, upper), (right, lower)], RGBColor(225, 228, 232))).ok()?;
    for (values, colour) in [(&window.target, TRUE), (&window.prediction, PREDICTED)] {
        for run in window.mask.chunk_by(|a, b| (*a > 0.0) == (*b > 0.0)).scan(0, |first, run| {
            let start = *first;
            *first += run.len();
            Some((start, run))
        }) {
            let (start, mask) = run;
            if mask[0] > 0.0 {
                let points: Vec<_> = (start..start + mask.len()).map(|row| point(row, degrees(values, row))).collect();
                area.draw(&PathElement::new(points, colour.stroke_width(2))).ok()?;
            }
        }
    }
    area.present().ok()?;
    Some((low, high))
}

/// Letters of 8 x 8 pixels.
fn text(pixels: &mut [u8], width: u32, (x, y): (u32, u32), text: &str) {
    for (i, letter) in text.chars().enumerate() {
        let rows = font8x8::BASIC_FONTS.get(letter).unwrap_or_default();
        for (dy, bits) in rows.iter().enumerate() {
            for dx in (0..8).filter(|bit| bits >> bit & 1 == 1) {
                let column = x as usize + 8 * i + dx;
                let at = ((y as usize + dy) * width as usize + column) * 3;
                if column < width as usize && at + 3 <= pixels.len() {
                    pixels[at..at + 3].copy_from_slice(&[TRUE.0, TRUE.1, TRUE.2]);
                }
            }
        }
    }
}
