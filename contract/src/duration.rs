//! Parses durations in settings, such as `500ms` or `2h`.

use std::time::Duration;

/// Parses `500ms`, `90s`, `15m`, `1h` or `30d`. A number without a unit is in seconds.
pub fn parse(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.strip_prefix(digits)?;
    let number: u64 = digits.trim_end().parse().ok()?;
    if unit == "ms" {
        return Some(Duration::from_millis(number));
    }
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        for (text, seconds) in
            [("90", 90), (" 90s ", 90), ("15m", 900), ("15 m", 900), ("1h", 3600), ("30d", 2_592_000)]
        {
            assert_eq!(parse(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse("500ms"), Some(Duration::from_millis(500)));
        for text in
            ["", "h", "-1s", "1.5h", "1w", "1H", "+ 1", "99999999999999999999d", "999999999999999999d"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
