//! `auth-service doctor`: looks at a protected service from outside, as a client and as an attacker would, and at our
//! own settings from inside. Says what is wrong, what that means and how to mend it.
//!
//! It needs no account and changes nothing: the client that it registers it deletes again.

mod browser;
mod challenge;
mod discovery;
mod inside;
mod network;
mod raw;
mod registration;
mod spoof;

use std::time::Duration;

use serde::Serialize;
use url::Url;

use crate::config::Config;
use crate::domain::clock::UnixTime;

use network::Target;

/// How long an answer may take, for [`Examination::patience`].
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What to look at.
pub struct Examination {
    /// The URL that a person pastes into an MCP client.
    pub url: Url,
    /// PEM of certificates to trust beside the system's.
    pub extra_roots: Option<Vec<u8>>,
    /// The settings of the service, where this is the machine that it runs on.
    pub settings: Option<Config>,
    /// The present second.
    pub now: UnixTime,
    /// How long an answer may take. What does not answer by then is said to be silent, never to be safe.
    pub patience: Duration,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it must be.
    Fine,
    /// Works, but could be better; or could not be looked at.
    Warning,
    /// Clients fail, or a door is open.
    Problem,
}

/// The result of one check.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// Which check: `tls`, `challenge`, …
    pub check: &'static str,
    /// How bad it is.
    pub outcome: Outcome,
    /// What was seen.
    pub what: String,
    /// What follows from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meaning: Option<&'static str>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<&'static str>,
}

/// Why an examination could not even begin.
#[derive(Debug, thiserror::Error)]
pub enum CannotExamine {
    /// The URL.
    #[error("{0} is not the URL of an MCP service; write https://mcp.example.com/mcp")]
    Url(Url),
    /// No HTTP or TLS client.
    #[error("no HTTPS client can be made: {0}")]
    Client(String),
}

/// All findings, told one by one as they come up.
pub struct Notes<'p> {
    progress: &'p mut dyn FnMut(&Finding),
    findings: Vec<Finding>,
}

impl Notes<'_> {
    fn add(&mut self, finding: Finding) {
        (self.progress)(&finding);
        self.findings.push(finding);
    }

    fn fine(&mut self, check: &'static str, what: impl Into<String>) {
        self.add(Finding { check, outcome: Outcome::Fine, what: what.into(), meaning: None, fix: None });
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

/// Looks at everything; `progress` hears each finding at once.
pub async fn examine(
    examination: &Examination,
    progress: &mut dyn FnMut(&Finding),
) -> Result<Vec<Finding>, CannotExamine> {
    let target = Target::of(&examination.url, examination.extra_roots.as_deref(), examination.patience)?;
    let mut notes = Notes { progress, findings: Vec::new() };
    if let Some(addresses) = network::resolve(&target, &mut notes).await
        && network::connect(&target, examination.now, &mut notes).await
    {
        let challenged = challenge::examine(&target, &mut notes).await;
        network::clock(&target, examination.now, &mut notes).await;
        let issuer = discovery::resource(&target, challenged.as_ref(), &mut notes).await;
        browser::examine(&target, &mut notes).await;
        if let Some(issuer) = &issuer
            && let Some(server) = discovery::server(&target, issuer, &mut notes).await
        {
            registration::examine(&target, &server, &mut notes).await;
        }
        spoof::examine(&target, challenged.as_ref(), &mut notes).await;
        if let Some(settings) = &examination.settings {
            inside::examine(&target, settings, issuer.as_deref(), &addresses, &mut notes).await;
        }
    }
    Ok(notes.findings)
}
