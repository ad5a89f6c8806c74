//! The log filter: which events are logged.

use std::fmt;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{Directive, LevelFilter};

/// A filter in the syntax of [`EnvFilter`] whose parts were all recognized: `info`, `info,hyper=debug`,
/// `[request]=trace`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

/// The part of the setting that was not recognized. Its `Display` text is a sentence for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoLogFilter(String);

impl fmt::Display for NoLogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a log level. Write trace, debug, info, warn, error or off, or target=level, for example info,hyper=debug.",
            self.0
        )
    }
}

impl std::error::Error for NoLogFilter {}

impl Default for LogFilter {
    /// Logs everything from the level `info` on, except the start messages from the HTTP server, because the
    /// programs log the same information themselves.
    fn default() -> Self {
        Self("info,actix_server=warn".to_owned())
    }
}

impl LogFilter {
    /// Parses a comma-separated list of directives.
    ///
    /// # Errors
    /// Fails if a directive cannot be parsed, or is a single word that is not a level. The library treats an
    /// unknown word as a target, and logs only the events of that target. Therefore a misspelt level would result
    /// in an empty log.
    pub fn parse(text: &str) -> Result<Self, NoLogFilter> {
        // The library itself does not accept spaces after a comma.
        let directives: Vec<&str> =
            text.split(',').map(str::trim).filter(|directive| !directive.is_empty()).collect();
        let is_understood = |directive: &str| {
            let is_word = !directive.contains(['=', '[']) && !directive.contains("::");
            if is_word {
                directive.parse::<LevelFilter>().is_ok()
            } else {
                directive.parse::<Directive>().is_ok()
            }
        };
        if directives.is_empty() {
            return Err(NoLogFilter(text.to_owned()));
        }
        match directives.iter().find(|directive| !is_understood(directive)) {
            Some(directive) => Err(NoLogFilter((*directive).to_owned())),
            None => Ok(Self(directives.join(","))),
        }
    }

    /// Sets the level of a target, unless the filter already mentions this target.
    #[must_use]
    pub fn with_default(self, target: &str, level: LevelFilter) -> Self {
        if self.0.contains(target) { self } else { Self(format!("{},{target}={level}", self.0)) }
    }

    /// The filter for the library.
    pub fn to_env_filter(&self) -> EnvFilter {
        EnvFilter::new(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_would_silence_the_log_by_mistake_is_refused() {
        for (text, part) in [
            ("inof", "inof"),
            ("loud", "loud"),
            ("info,auth_service", "auth_service"),
            ("foo=[[", "foo=[["),
            ("warn, foo=inof", "foo=inof"),
            ("info,[request", "[request"),
            (" , ", " , "),
        ] {
            let problem = LogFilter::parse(text).unwrap_err();
            assert_eq!(problem, NoLogFilter(part.to_owned()), "{text}");
            let told = problem.to_string();
            assert!(told.contains(&format!("{part:?}")) && told.contains("target=level"), "{told}");
        }
    }

    #[test]
    fn levels_targets_modules_and_spans_are_filters() {
        for text in [
            "info",
            "WARN",
            "off",
            "off,audit=info",
            "info,actix_server=warn",
            "auth_service::ops=debug",
            "auth_service::ops",
            "[request]",
            "info,[request{path=/mcp}]=trace",
            "auth_service[request]=debug",
        ] {
            assert_eq!(LogFilter::parse(text), Ok(LogFilter(text.to_owned())), "{text}");
        }
        assert_eq!(LogFilter::parse(" info , hyper=debug,").unwrap().0, "info,hyper=debug");
    }

    #[test]
    fn a_default_gives_way_to_what_is_said_of_its_target() {
        let with = |text| LogFilter::parse(text).unwrap().with_default("actix_server", LevelFilter::WARN).0;
        assert_eq!(with("info"), "info,actix_server=warn");
        assert_eq!(with("info,actix_server=debug"), "info,actix_server=debug");
    }
}
