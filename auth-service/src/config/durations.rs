//! Reads durations such as `90s`, `15m`, `1h` and `30d`. A number without a unit is in seconds.

use std::time::Duration;

use super::Problems;

/// Reads `text`, or returns `default` if there is none. A duration outside `least..=most` is a problem.
pub(super) fn read(
    variable: &str,
    text: Option<String>,
    default: Duration,
    least: Duration,
    most: Duration,
    problems: &mut Problems,
) -> Duration {
    let Some(text) = text else { return default };
    match parse(&text) {
        Some(duration) if (least..=most).contains(&duration) => return duration,
        Some(_) => problems.add(
            variable,
            format_args!(
                "{text} is out of range; it may be {} to {} seconds",
                least.as_secs(),
                most.as_secs()
            ),
        ),
        None => problems
            .add(variable, format_args!("{text:?} is not a duration; write it as 90s, 15m, 1h or 30d")),
    }
    default
}

fn parse(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.strip_prefix(digits)? {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("15m", 900), ("1h", 3600), ("30d", 2_592_000)] {
            assert_eq!(parse(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "h", "1 h", "-1s", "1.5h", "1w", "99999999999999999999d"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
