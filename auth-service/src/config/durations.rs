//! Reads durations such as `90s`, `15m`, `1h` and `30d` as whole seconds. A number without a unit is in
//! seconds.

use std::time::Duration;

use contract::duration::parse;

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
        Some(duration) if duration.subsec_nanos() > 0 => problems.add(
            variable,
            format_args!("{text:?} is not a whole number of seconds; write it as 90s, 15m, 1h or 30d"),
        ),
        Some(duration) if (least..=most).contains(&duration) => return duration,
        Some(_) => problems.add(
            variable,
            format_args!(
                "{text:?} is out of range; write a time from {} to {} seconds",
                least.as_secs(),
                most.as_secs()
            ),
        ),
        None => problems
            .add(variable, format_args!("{text:?} is not a duration; write it as 90s, 15m, 1h or 30d")),
    }
    default
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_whole_seconds_and_in_its_range() {
        let read = |text: &str| {
            let mut problems = Problems::default();
            let [default, least, most] = [60, 1, 3600].map(Duration::from_secs);
            let read = read("A_TTL", Some(text.to_owned()), default, least, most, &mut problems);
            (problems == Problems::default()).then_some(read.as_secs())
        };
        assert_eq!([read("15m"), read("1000ms"), read("1h")], [Some(900), Some(1), Some(3600)]);
        assert_eq!([read("500ms"), read("1500ms"), read("2h"), read("soon"), read("0")], [None; 5]);
    }
}
