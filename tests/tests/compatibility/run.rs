//! Runs one client with one server. The client reports events as lines of JSON, and this module acts as the user
//! and visits the URLs in the events.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::Stack;
use tests::browser::{Person, authorize_in, browser};
use tests::process::Process;
use tests::setup::ACCOUNT;
use url::Url;

use crate::programs::Client;

/// The time limit for a client's whole run.
const MAX_DURATION: Duration = Duration::from_secs(240);

/// The results that a client reported.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) revision: String,
    pub(crate) signed_in: bool,
    pub(crate) stepped_up: bool,
    /// The scopes that each login requested.
    pub(crate) scopes: Vec<String>,
    /// `ok`, `none` or `failed` for each feature.
    pub(crate) features: BTreeMap<String, String>,
    /// The whole output, for a failure message.
    pub(crate) story: String,
}

impl Seen {
    fn of(output: &str) -> Self {
        let events = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut seen = Self { story: output.to_owned(), ..Self::default() };
        for event in events {
            let text = |name: &str| event[name].as_str().map(str::to_owned);
            if let Some(revision) = text("revision") {
                seen.revision = revision;
            }
            if text("visit").is_some() {
                seen.scopes.push(text("scope").unwrap_or_default());
            }
            if let (Some(feature), Some(verdict)) = (text("check"), text("verdict")) {
                seen.features.insert(feature, verdict);
            }
            seen.signed_in |= event["signed_in"] == true;
            seen.stepped_up |= event["stepped_up"] == true;
        }
        seen
    }

    /// How many of these features worked, and how many the server has.
    pub(crate) fn count(&self, features: &[&str]) -> (usize, usize) {
        let verdicts = features.iter().filter_map(|feature| self.features.get(*feature));
        verdicts.fold((0, 0), |(worked, had), verdict| match verdict.as_str() {
            "ok" => (worked + 1, had + 1),
            "none" => (worked, had),
            _ => (worked, had + 1),
        })
    }

    /// The features with this verdict, in alphabetical order.
    pub(crate) fn with(&self, verdict: &str) -> Vec<&str> {
        let found = self.features.iter().filter(|(_, found)| *found == verdict);
        found.map(|(feature, _)| feature.as_str()).collect()
    }
}

/// Runs a client through the edge of this stack: login, every feature, and step-up.
pub(crate) async fn whole_story(stack: &Stack, client: Client, work: &Path) -> Seen {
    let mut command = client.command(work);
    command.env("MCP_URL", &stack.mcp_url).env("SIGN_IN", "1");
    let seen = reported_by(&mut command, work).await;
    if !seen.story.contains("\"done\"") {
        println!("{}", stack.logs());
    }
    seen
}

/// Runs a client to its end, and visits the URLs that it reports.
pub(crate) async fn reported_by(command: &mut Command, work: &Path) -> Seen {
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let directory = tempfile::tempdir_in(work).unwrap();
    let mut process = Process::start("client", command, directory.path());
    let deadline = Instant::now() + MAX_DURATION;
    // The user stays logged in, so that a step-up asks only for the new scopes.
    let browser = browser().unwrap();
    let mut visited = 0;
    loop {
        let ended = process.ended().is_some();
        let output = process.output();
        // A last line without a line feed can be incomplete.
        let whole = output.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let visits: Vec<Value> = whole
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|event| event["visit"].is_string())
            .collect();
        for visit in &visits[visited..] {
            sit_before(&browser, visit).await;
        }
        visited = visits.len();
        if ended || Instant::now() > deadline {
            return Seen::of(&output);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Logs in, allows the request, and follows the redirect to the client.
async fn sit_before(browser: &reqwest::Client, visit: &Value) {
    let url = Url::parse(visit["visit"].as_str().unwrap()).unwrap();
    let redirect_uri = visit["redirect_uri"].as_str().unwrap();
    let person = Person::new(ACCOUNT.0, ACCOUNT.1);
    let callback = match authorize_in(browser, url, redirect_uri, &person).await {
        Ok(callback) => callback,
        Err(error) => return println!("the user gives up: {error:#}"),
    };
    // Some clients start to listen only after they have reported the URL, so the redirect is retried for a while.
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = reqwest::get(callback.clone()).await {
        if !error.is_connect() || Instant::now() > deadline {
            return println!("the client did not respond to the browser: {error}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
