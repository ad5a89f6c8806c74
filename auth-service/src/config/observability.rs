//! What is told to operators.

use serde::Deserialize;

use super::{Environment, Problems};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Logging.
#[derive(Debug, Clone)]
pub struct Observability {
    /// `LOG_FORMAT`, `text` or `json`; text.
    pub format: LogFormat,
    /// `RUST_LOG`, `info,actix_server=warn`: which events, in the syntax of `tracing_subscriber::EnvFilter`.
    pub filter: String,
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
            problems.add("LOG_FORMAT", format_args!("{other:?} is not a log format; it may be text or json"));
            LogFormat::Text
        }
    };
    Observability { format, filter: raw.rust_log.unwrap_or_else(|| "info,actix_server=warn".to_owned()) }
}
