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
    /// Logs everything from the level `info` on, except what [`LogFilter::without_noise`] leaves out.
    fn default() -> Self {
        Self("info".to_owned()).without_noise()
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

    /// Leaves out events of libraries that do not help operators, unless the filter mentions their target.
    ///
    /// What the HTTP server's messages at startup say is also logged by the programs themselves. Its messages about
    /// individual connections are often at the level ERROR, but any client can cause any number of them, for example by
    /// sending a request before it has read the response to the previous one.
    ///
    /// The Redis client `fred` repeats an outage for each of its connections, without saying what the outage means. The
    /// programs log every outage themselves.
    #[must_use]
    pub fn without_noise(self) -> Self {
        self.with_default("actix_server", LevelFilter::WARN)
            .with_default("actix_http", LevelFilter::OFF)
            .with_default("fred", LevelFilter::OFF)
    }

    fn with_default(self, target: &str, level: LevelFilter) -> Self {
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
    fn noise_is_left_out_unless_its_target_is_mentioned() {
        let without = |text| LogFilter::parse(text).unwrap().without_noise().0;
        assert_eq!(without("debug"), "debug,actix_server=warn,actix_http=off,fred=off");
        assert_eq!(without("info,actix_server=debug"), "info,actix_server=debug,actix_http=off,fred=off");
        assert_eq!(without("actix_http=trace,info"), "actix_http=trace,info,actix_server=warn,fred=off");
        assert_eq!(without("fred=warn"), "fred=warn,actix_server=warn,actix_http=off");
        assert_eq!(LogFilter::default().0, without("info"));
    }
}
