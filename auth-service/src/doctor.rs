//! `auth-service doctor`: examines a protected service from outside, as a client and as an attacker would, and the
//! settings of the service from inside. It reports what is wrong, what that means and how to fix it.
//!
//! It needs no account, and leaves nothing changed, because it deletes the client that it registers.

mod browser;
mod challenge;
mod discovery;
mod inside;
mod network;
mod raw;
mod reach;
mod registration;
mod spoof;

use std::time::Duration;

use serde::Serialize;
use url::Url;

use crate::config::Config;
use crate::domain::clock::UnixTime;
use crate::domain::visible::is_visible;

use network::Target;

/// Default of [`Examination::patience`], the time limit for a response.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What the doctor examines, and with which settings.
pub struct Examination {
    /// The URL that a user gives to an MCP client.
    pub url: Url,
    /// Certificates in PEM that are trusted in addition to the system's.
    pub extra_roots: Option<Vec<u8>>,
    /// The settings of the service, if the doctor runs on the same machine.
    pub settings: Option<Config>,
    /// The settings that would be needed to examine the service from inside, but are not set.
    pub unset: Vec<&'static str>,
    /// The current time, with which certificates and clocks are compared.
    pub now: UnixTime,
    /// Time limit for a response. A service that does not respond in time is reported as silent, never as
    /// safe.
    pub patience: Duration,
}

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The check found nothing wrong.
    Fine,
    /// The service works but could be better.
    Warning,
    /// Clients fail, or the service is not protected.
    Problem,
    /// This could not be examined, so the result is unknown.
    Unexamined,
}

/// The result of a single check.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// Name of the check, such as `tls` or `challenge`.
    pub check: &'static str,
    /// How serious the finding is.
    pub outcome: Outcome,
    /// What the check has observed.
    pub what: String,
    /// What this means for clients or for security.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meaning: Option<&'static str>,
    /// What the operator should do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<&'static str>,
}

/// Why an examination cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum CannotExamine {
    /// The URL is not the URL of an MCP service.
    #[error("{0} is not the URL of an MCP service; write https://mcp.example.com/mcp")]
    Url(Url),
    /// The HTTP or TLS client could not be created.
    #[error("the HTTPS client cannot be created: {0}")]
    Client(String),
}

/// Collects the findings, and reports each of them as soon as it is made.
pub struct Notes<'p> {
    progress: &'p mut dyn FnMut(&Finding),
    findings: Vec<Finding>,
}

impl Notes<'_> {
    fn add(&mut self, mut finding: Finding) {
        // Many findings quote a response, which can come from any program. Invisible characters could change what a
        // terminal shows.
        finding.what.retain(is_visible);
        (self.progress)(&finding);
        self.findings.push(finding);
    }

    fn fine(&mut self, check: &'static str, what: impl Into<String>) {
        self.add(Finding { check, outcome: Outcome::Fine, what: what.into(), meaning: None, fix: None });
    }

    fn unexamined(&mut self, check: &'static str, what: impl Into<String>, fix: &'static str) {
        let (outcome, fix) = (Outcome::Unexamined, Some(fix));
        self.add(Finding { check, outcome, what: what.into(), meaning: None, fix });
    }

    /// Reports that the edge or auth-service has refused a request from the doctor with 429. This is not a fault of
    /// the deployment, because other programs behind the same address can use up its limit.
    fn limited(&mut self, check: &'static str, request: &str) {
        self.unexamined(
            check,
            format!("{request} gets 429: too many requests have come from this machine's address"),
            "try again in a moment, or run the doctor from another network; REQUESTS_PER_SECOND and REQUESTS_PER_ADDRESS set the limits",
        );
    }

    fn warning(
        &mut self,
        check: &'static str,
        what: impl Into<String>,
        meaning: &'static str,
        fix: &'static str,
    ) {
        let (meaning, fix) = (Some(meaning), Some(fix));
        self.add(Finding { check, outcome: Outcome::Warning, what: what.into(), meaning, fix });
    }

    fn problem(
        &mut self,
        check: &'static str,
        what: impl Into<String>,
        meaning: &'static str,
        fix: &'static str,
    ) {
        let (meaning, fix) = (Some(meaning), Some(fix));
        self.add(Finding { check, outcome: Outcome::Problem, what: what.into(), meaning, fix });
    }
}

/// Runs all checks. `progress` receives each finding as soon as it is made.
pub async fn examine(
    examination: &Examination,
    progress: &mut dyn FnMut(&Finding),
) -> Result<Vec<Finding>, CannotExamine> {
    let target = Target::of(&examination.url, examination.extra_roots.as_deref(), examination.patience)?;
    let mut notes = Notes { progress, findings: Vec::new() };
    let notes = &mut notes;
    let settings = examination.settings.as_ref();
    inside::note_unset(&examination.unset, notes);
    let addresses = match network::resolve(&target, notes).await {
        Some(addresses) if network::connect(&target, examination.now, notes).await => addresses,
        _ => {
            if let Some(settings) = settings {
                inside::readiness(settings.listeners.ops, target.patience, notes).await;
            }
            reach::note_unexamined("the edge cannot be reached", notes);
            return Ok(std::mem::take(&mut notes.findings));
        }
    };
    // If another program responds instead of auth-service, most other checks would fail without naming this cause.
    if let Some(seen) = reach::in_place_of_auth_service(&target).await {
        reach::note_absence(&target, &seen, settings.map(|settings| settings.listeners.ops), notes).await;
        challenge::examine_without_auth_service(&target, notes).await;
        if let Some(settings) = settings {
            inside::examine(&target, settings, None, &addresses, notes).await;
        }
        reach::note_unexamined("auth-service cannot be reached", notes);
        return Ok(std::mem::take(&mut notes.findings));
    }
    // An unavailable store causes many of the problems that are visible from outside, so it is checked first.
    if let Some(settings) = settings {
        inside::readiness(settings.listeners.ops, target.patience, notes).await;
    }
    let answers = challenge::examine(&target, notes).await;
    network::clock(&target, examination.now, notes).await;
    let issuer = discovery::resource(&target, answers.challenge.as_ref(), notes).await;
    browser::examine(&target, &answers, notes).await;
    if let Some(issuer) = &issuer
        && let Some(server) = discovery::server(&target, issuer, notes).await
    {
        registration::examine(&target, &server, notes).await;
    }
    spoof::examine(&target, &answers, notes).await;
    if let Some(settings) = settings {
        inside::examine(&target, settings, issuer.as_deref(), &addresses, notes).await;
    }
    reach::note_service(notes);
    Ok(std::mem::take(&mut notes.findings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_that_quotes_a_response_cannot_change_what_a_terminal_shows() {
        let mut progress = Vec::new();
        let mut note = |finding: &Finding| progress.push(finding.what.clone());
        let mut notes = Notes { progress: &mut note, findings: Vec::new() };
        notes.fine("registration", "refused: \u{202e}drow\u{1b}[2J \u{2066}p\u{e4}ss\u{200b}\nword");
        assert_eq!(notes.findings[0].what, "refused: drow[2J p\u{e4}ssword");
        assert_eq!(progress, ["refused: drow[2J p\u{e4}ssword"]);
    }
}
