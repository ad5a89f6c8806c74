//! `auth-service doctor`: prints the findings about a running service.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::json;
use url::Url;

use auth_service::config::Config;
use auth_service::doctor::{self, Examination, Finding, Outcome, PATIENCE};
use auth_service::domain::clock::{Clock, SystemClock};
use contract::causes::in_one_line;
use contract::files::{MAX_SETTING_LEN, read_regular};
use contract::printing::{Reader, print_error, print_line};

use super::arguments::unreadable;

/// Options of the examination.
#[derive(Args)]
pub(crate) struct Doctor {
    /// The URL that users enter in their MCP clients, such as <https://mcp.example.com/mcp>.
    #[arg(value_parser = whole_url)]
    url: Url,
    /// Print only one JSON document with all findings.
    #[arg(long)]
    json: bool,
    /// PEM file of certificates to trust in addition to the system's.
    #[arg(long, value_name = "FILE", env = "EXTRA_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// Time limit for a response, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = PATIENCE.as_secs())]
    patience: u64,
    /// Examine from outside only, even if the service's settings are in the environment.
    #[arg(long)]
    outside_only: bool,
}

/// Runs the examination. The exit code is 0 if there are no problems, 1 if there are, and 2 if the
/// examination failed.
pub(crate) async fn run(asked: Doctor) -> ExitCode {
    match examine(asked).await {
        Ok(code) => code,
        Err(error) => {
            print_error(format_args!("auth-service: {}", in_one_line(error.as_ref())));
            ExitCode::from(2)
        }
    }
}

async fn examine(asked: Doctor) -> anyhow::Result<ExitCode> {
    let as_json = asked.json;
    // The examination continues even if its findings are no longer read, because it must delete the client that it
    // registers, and because the exit code shows the result.
    let mut printed = Ok(Reader::Present);
    let mut progress = |finding: &Finding| {
        if !as_json && matches!(printed, Ok(Reader::Present)) {
            printed = print_line(line(finding));
        }
    };
    let url = asked.url.to_string();
    let findings = doctor::examine(&examination(asked)?, &mut progress).await?;
    printed?;
    let count = |outcome| findings.iter().filter(|finding| finding.outcome == outcome).count();
    let (problems, warnings) = (count(Outcome::Problem), count(Outcome::Warning));
    let unexamined = count(Outcome::Unexamined);
    if as_json {
        print_line(
            json!({ "url": url, "problems": problems, "warnings": warnings, "unexamined": unexamined, "findings": findings }),
        )?;
    } else {
        let (problems, warnings) = (counted(problems, "problem"), counted(warnings, "warning"));
        let fine = counted(count(Outcome::Fine), "check");
        print_line(format_args!("{problems}, {warnings}, {unexamined} not examined, {fine} passed"))?;
    }
    Ok(if problems == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Parses a URL that includes its scheme. If the scheme is missing, the library's error does not say so, or the library
/// mistakes the host for the scheme (`localhost:8080/mcp`).
fn whole_url(text: &str) -> Result<Url, String> {
    let example = "write the whole URL, such as https://mcp.example.com/mcp";
    if text.is_empty() {
        return Err(example.to_owned());
    }
    if text.contains("://") {
        return Url::parse(text).map_err(|error| format!("{error}; {example}"));
    }
    let host = text.split(['/', ':']).next().unwrap_or_default();
    let scheme = if matches!(host, "localhost" | "127.0.0.1" | "[") { "http" } else { "https" };
    match Url::parse(&format!("{scheme}://{text}")) {
        Ok(url) => Err(format!("it has no scheme; write {url}")),
        Err(_) => Err(format!("it is not a URL; {example}")),
    }
}

/// A number with its noun in singular or plural, such as `2 checks`.
pub(super) fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn examination(asked: Doctor) -> anyhow::Result<Examination> {
    let extra_roots = asked
        .ca_file
        .map(|path| {
            read_regular(&path, MAX_SETTING_LEN)
                .map_err(|error| unreadable(&path, &error).context("--ca-file"))
        })
        .transpose()?;
    let is_set =
        |name: &str| std::env::var_os(name).or_else(|| std::env::var_os(format!("{name}_FILE"))).is_some();
    let needed = if asked.outside_only { &[][..] } else { &["ISSUER", "PROTECTED_HOSTS"] };
    let unset: Vec<_> = needed.iter().copied().filter(|name| !is_set(name)).collect();
    let settings = if unset.is_empty() && !asked.outside_only {
        Some(
            Config::from_variables(std::env::vars())
                .context("to examine without the settings, use --outside-only")?,
        )
    } else {
        None
    };
    Ok(Examination {
        url: asked.url,
        extra_roots,
        settings,
        unset,
        now: SystemClock.now(),
        patience: Duration::from_secs(asked.patience.max(1)),
    })
}

fn line(finding: &Finding) -> String {
    let mark = match finding.outcome {
        Outcome::Fine => "ok       ",
        Outcome::Warning => "WARNING  ",
        Outcome::Problem => "PROBLEM  ",
        Outcome::Unexamined => "unknown  ",
    };
    let mut text = format!("{mark}{}: {}", finding.check, finding.what);
    for (name, part) in [("means", finding.meaning), ("fix", finding.fix)] {
        if let Some(part) = part {
            text.extend(["\n           ", name, ": ", part]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_scheme_is_answered_with_the_url_to_write() {
        for (text, fix) in [
            ("mcp.example.com", "it has no scheme; write https://mcp.example.com/"),
            ("mcp.example.com/mcp", "it has no scheme; write https://mcp.example.com/mcp"),
            ("mcp.example.com:8443/mcp", "it has no scheme; write https://mcp.example.com:8443/mcp"),
            ("localhost:8080/mcp", "it has no scheme; write http://localhost:8080/mcp"),
            ("[::1]:8080/mcp", "it has no scheme; write http://[::1]:8080/mcp"),
            ("", "write the whole URL, such as https://mcp.example.com/mcp"),
            ("/mcp x", "it is not a URL; write the whole URL, such as https://mcp.example.com/mcp"),
            ("https://", "empty host; write the whole URL, such as https://mcp.example.com/mcp"),
        ] {
            assert_eq!(whole_url(text).unwrap_err(), fix, "{text:?}");
        }
        assert_eq!(whole_url("https://mcp.example.com/mcp").unwrap().path(), "/mcp");
    }
}
