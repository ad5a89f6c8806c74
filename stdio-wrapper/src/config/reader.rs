//! Reads single values. Every mistake results in one message with the variable, the cause and the fix.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use url::Url;

use super::values;

/// Looks up a variable in the wrapper's own environment.
pub(super) type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

/// Reads the values of options, and collects what is wrong with them.
#[derive(Debug, Default)]
pub(super) struct Reader {
    problems: Vec<String>,
}

impl Reader {
    /// The settings, or all problems with them.
    pub(super) fn or_problems<T>(self, settings: T) -> Result<T, Vec<String>> {
        if self.problems.is_empty() { Ok(settings) } else { Err(self.problems) }
    }

    pub(super) fn problem(&mut self, sentence: String) {
        self.problems.push(sentence);
    }

    pub(super) fn address(&mut self, name: &str, text: &str) -> SocketAddr {
        let text = text.trim();
        text.parse().unwrap_or_else(|_| {
            self.problem(format!("{name} is `{text}`, which is not an address with a port. Write it like 127.0.0.1:8080 or [::]:8080."));
            SocketAddr::from(([127, 0, 0, 1], 0))
        })
    }

    pub(super) fn number<N: TryFrom<u64> + Default>(
        &mut self,
        name: &str,
        text: &str,
        range: RangeInclusive<u64>,
    ) -> N {
        let value = text
            .trim()
            .parse()
            .ok()
            .filter(|number| range.contains(number))
            .and_then(|number| N::try_from(number).ok());
        value.unwrap_or_else(|| {
            self.problem(format!(
                "{name} is `{text}`, which is not a number from {} to {}. Set it within that range.",
                range.start(),
                range.end()
            ));
            N::default()
        })
    }

    /// Reads a number, or `None` for `auto`.
    pub(super) fn number_or_auto(
        &mut self,
        name: &str,
        text: &str,
        range: RangeInclusive<u64>,
    ) -> Option<usize> {
        (text.trim() != "auto").then(|| self.number(name, text, range))
    }

    pub(super) fn boolean(&mut self, name: &str, text: &str) -> bool {
        values::boolean(text.trim()).unwrap_or_else(|| {
            self.problem(format!(
                "{name} is `{text}`, which is neither true nor false. Write `true` or `false`."
            ));
            false
        })
    }

    pub(super) fn one_of(&mut self, name: &str, text: &str, choices: &[&'static str]) -> &'static str {
        choices.iter().copied().find(|choice| *choice == text.trim()).unwrap_or_else(|| {
            self.problem(format!(
                "{name} is `{text}`, which is not one of the choices. Write one of: {}.",
                choices.join(", ")
            ));
            choices.first().copied().unwrap_or_default()
        })
    }

    pub(super) fn duration(&mut self, name: &str, text: &str, range: RangeInclusive<Duration>) -> Duration {
        contract::duration::parse(text).filter(|time| range.contains(time)).unwrap_or_else(|| {
            self.problem(format!(
                "{name} is `{text}`, which is not a time from {:?} to {:?}. Write it like 500ms, 30s, 5m or 1h.",
                range.start(),
                range.end()
            ));
            *range.start()
        })
    }

    pub(super) fn size(&mut self, name: &str, text: &str, range: RangeInclusive<u64>) -> usize {
        let value = values::size(text)
            .filter(|size| range.contains(size))
            .and_then(|size| usize::try_from(size).ok());
        value.unwrap_or_else(|| {
            self.problem(format!(
                "{name} is `{text}`, which is not a size from {} to {} bytes. Write it like 64KiB or 16MiB.",
                range.start(),
                range.end()
            ));
            0
        })
    }

    pub(super) fn url(&mut self, name: &str, text: &str) -> Option<Url> {
        let url = Url::parse(text.trim())
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        if url.is_none() {
            let cause = if text.is_empty() {
                "is not set".to_owned()
            } else {
                format!("is `{text}`, which is not an http or https URL")
            };
            self.problem(format!("{name} {cause}, but IDENTITY=assertion needs it. Set it to the full URL."));
        }
        url
    }
}
