//! The settings of the log.

use contract::log_filter::LogFilter;
use serde::Deserialize;

use super::{Environment, Problems};

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for human readers.
    Text,
    /// One JSON object in each line.
    Json,
}

/// The format and filter of the log.
#[derive(Debug, Clone)]
pub struct Observability {
    /// The format of log lines (`LOG_FORMAT`: `text` or `json`, default `text`).
    pub format: LogFormat,
    /// The events that are logged (`RUST_LOG`, default `info`).
    pub filter: LogFilter,
}

#[derive(Default, Deserialize)]
struct Raw {
    log_format: Option<String>,
    rust_log: Option<String>,
}

pub(super) fn read(environment: &Environment, problems: &mut Problems) -> Observability {
    let raw: Raw = environment.concern(problems);
    let format = match raw.log_format.as_deref() {
        None | Some("text") => LogFormat::Text,
        Some("json") => LogFormat::Json,
        Some(other) => {
            problems.add("LOG_FORMAT", format_args!("{other:?} is not a log format; write text or json"));
            LogFormat::Text
        }
    };
    let filter = raw.rust_log.as_deref().map_or(Ok(LogFilter::default()), LogFilter::parse);
    let filter = filter.unwrap_or_else(|error| {
        problems.add("RUST_LOG", error);
        LogFilter::default()
    });
    Observability { format, filter: filter.without_noise() }
}
