//! Conformance and attack checks for any OAuth authorization server that serves MCP clients. The checks use only
//! what is visible from outside.
//!
//! Each check names the section of the specification that requires it, or the number of the attack in
//! `docs/attacks.md`. A check that is not possible, for example because of a missing login or endpoint, is skipped
//! with a reason.

mod authorization;
mod client;
mod documents;
mod grants;
mod registration;
mod resource;
mod target;
mod token;

use std::fmt;

use anyhow::Result;
use serde::Serialize;

use crate::browser::Person;

pub use target::Target;

/// Information that cannot be discovered from outside.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The user to log in. Without one, checks that need a code are skipped.
    pub person: Option<Person>,
    /// The URL of an MCP server behind this issuer, for `resource` and for checks of the resource itself.
    pub resource: Option<String>,
    /// A public client, for issuers without dynamic registration.
    pub client_id: Option<String>,
    /// The redirect URI of that client.
    pub redirect_uri: Option<String>,
}

/// The outcome of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", content = "reason", rename_all = "lowercase")]
pub enum Outcome {
    /// The issuer follows the rule.
    Pass,
    /// The issuer breaks the rule, for this reason.
    Fail(String),
    /// The check was not possible, for this reason.
    Skip(String),
}

/// A check and its outcome.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// The source of the rule, such as `RFC 8414 §3.3` or `attack 26`.
    pub source: &'static str,
    /// The rule that the check tests.
    pub rule: &'static str,
    /// The outcome of the check.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// All checks of a run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// The checks in the order in which they were run.
    pub checks: Vec<Check>,
}

/// The error of a skipped check, with the reason.
#[derive(Debug)]
struct Skipped(String);

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skipped {}

fn skip<T>(reason: impl Into<String>) -> Result<T> {
    Err(Skipped(reason.into()).into())
}

impl Report {
    async fn check(
        &mut self,
        source: &'static str,
        rule: &'static str,
        made: impl Future<Output = Result<()>>,
    ) {
        let outcome = match made.await {
            Ok(()) => Outcome::Pass,
            Err(error) => match error.downcast::<Skipped>() {
                Ok(Skipped(reason)) => Outcome::Skip(reason),
                Err(error) => Outcome::Fail(format!("{error:#}")),
            },
        };
        self.checks.push(Check { source, rule, outcome });
    }

    /// The numbers of checks that passed, that failed, and that were skipped.
    pub fn counts(&self) -> [usize; 3] {
        let count = |wanted: fn(&Outcome) -> bool| self.checks.iter().filter(|c| wanted(&c.outcome)).count();
        [
            count(|outcome| matches!(outcome, Outcome::Pass)),
            count(|outcome| matches!(outcome, Outcome::Fail(_))),
            count(|outcome| matches!(outcome, Outcome::Skip(_))),
        ]
    }

    /// The rules of the checks that failed.
    pub fn failed(&self) -> Vec<&'static str> {
        let failed = self.checks.iter().filter(|check| matches!(check.outcome, Outcome::Fail(_)));
        failed.map(|check| check.rule).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|check| check.source.chars().count()).max().unwrap_or_default();
        for Check { source, rule, outcome } in &self.checks {
            let (word, reason) = match outcome {
                Outcome::Pass => ("pass", None),
                Outcome::Fail(reason) => ("FAIL", Some(reason)),
                Outcome::Skip(reason) => ("skip", Some(reason)),
            };
            writeln!(f, "{word}  {source:width$}  {rule}")?;
            if let Some(reason) = reason {
                let line: String =
                    reason.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
                writeln!(f, "      {:width$}    {line}", "")?;
            }
        }
        let [passed, failed, skipped] = self.counts();
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// Runs all checks.
///
/// # Errors
/// Returns an error if there is nothing to check, because the issuer cannot be reached or has no metadata.
pub async fn run(issuer: &str, options: Options) -> Result<Report> {
    let mut report = Report::default();
    let target = Target::find(issuer, options).await?;
    documents::check(&target, &mut report).await;
    registration::check(&target, &mut report).await;
    let clients = client::Clients::of(&target).await;
    authorization::check(&target, &clients, &mut report).await;
    token::check(&target, &clients, &mut report).await;
    grants::check(&target, &clients, &mut report).await;
    resource::check(&target, &clients, &mut report).await;
    Ok(report)
}
