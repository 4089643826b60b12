//! Quantities as people read them.

/// e.g. `1.5 GiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// e.g. `2.25 h` of `rows` rows at `rate` Hz.
pub fn hours(rows: u64, rate: f64) -> String {
    let seconds = rows as f64 / rate;
    if seconds < 3600.0 { format!("{:.1} min", seconds / 60.0) } else { format!("{:.2} h", seconds / 3600.0) }
}

/// e.g. `45 s`, `12 min 5 s` or `3 h 20 min`.
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A number to three digits, with groups of thousands: 0.0123, 4.56, 608,000.
pub fn significant(value: f64) -> String {
    if !value.is_finite() || value == 0.0 {
        return value.to_string();
    }
    let magnitude = value.abs().log10().floor() as i32;
    let digits = usize::try_from(2 - magnitude).unwrap_or(0);
    let rounded =
        if magnitude > 2 { (value / 10f64.powi(magnitude - 2)).round() * 10f64.powi(magnitude - 2) } else { value };
    let plain = format!("{rounded:.digits$}");
    let whole = plain.find('.').unwrap_or(plain.len());
    let mut text = String::new();
    for (i, c) in plain.chars().enumerate() {
        if i > 0 && i < whole && (whole - i).is_multiple_of(3) && text != "-" {
            text.push(',');
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn readable() {
        assert_eq!(super::bytes(1023), "1023 B");
        assert_eq!(super::bytes(1536), "1.5 KiB");
        assert_eq!(super::bytes(463 << 30), "463.0 GiB");
        assert_eq!(super::hours(120_000, 2000.0), "1.0 min");
        let durations = [0.4, 59.6, 725.0, 12_000.0].map(super::duration);
        assert_eq!(durations, ["0 s", "1 min 0 s", "12 min 5 s", "3 h 20 min"]);
        assert_eq!(super::hours(14_400_000, 2000.0), "2.00 h");
    }

    #[test]
    fn three_digits_are_shown() {
        for (value, text) in [
            (608_264.428, "608,000"),
            (-1234.5, "-1,230"),
            (12.345, "12.3"),
            (4.0, "4.00"),
            (0.012_345, "0.0123"),
            (0.0, "0"),
        ] {
            assert_eq!(super::significant(value), text);
        }
    }
}
