//! Parses and writes sizes, booleans, lists and times.

use std::time::Duration;

/// Parses `65536`, `64KiB`, `16MiB` or `1GiB` into bytes. `K`, `M` and `G` mean the same as `KiB`, `MiB` and
/// `GiB`.
pub(super) fn size(text: &str) -> Option<u64> {
    let (digits, unit) = split_unit(text);
    let number: u64 = digits.parse().ok()?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// Writes a size in the form that [`size`] reads.
pub(super) fn size_text(bytes: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = units.into_iter().find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor));
    unit.map_or_else(|| bytes.to_string(), |(unit, factor)| format!("{}{unit}", bytes / factor))
}

/// Writes a time in the form that `contract::duration` reads.
pub(super) fn time_text(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 if time.is_zero() => "0".to_owned(),
        _ if time.subsec_millis() > 0 => format!("{}ms", time.as_millis()),
        _ if seconds.is_multiple_of(3600) => format!("{}h", seconds / 3600),
        _ if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    }
}

/// Parses the usual words for true and false.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// Splits a list at commas. Items are trimmed, and empty items are omitted.
pub(super) fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    (digits, unit.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_units() {
        assert_eq!(size("16MiB"), Some(16 << 20));
        assert_eq!(size("64 k"), Some(64 << 10));
        assert_eq!(size("99999999999999999999"), None);
        assert_eq!(size("1TB"), None);
    }

    #[test]
    fn ranges_are_written_as_they_are_read() {
        assert_eq!(
            [0, 1000, 1024, 3 << 20, 1 << 50].map(size_text),
            ["0", "1000", "1KiB", "3MiB", "1048576GiB"]
        );
        let times = [0, 1, 1500, 90_000, 300_000, 7_200_000].map(|ms| time_text(Duration::from_millis(ms)));
        assert_eq!(times, ["0", "1ms", "1500ms", "90s", "5m", "2h"]);
    }
}
