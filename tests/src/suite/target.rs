//! The issuer under test, with its metadata and with requests to it.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::header::LOCATION;
use serde_json::Value;
use url::Url;

use crate::browser::browser;
use crate::gate::Answer;

use super::{Options, skip};

/// An issuer whose metadata was found.
#[derive(Debug)]
pub struct Target {
    /// The issuer identifier, as it was given.
    pub issuer: String,
    pub(super) metadata: Value,
    pub(super) options: Options,
    pub(super) http: reqwest::Client,
    /// The user's browser. All checks share one login, because servers slow down repeated logins.
    pub(super) browser: reqwest::Client,
}

/// The well-known URL with `name` between the host and the path of `url` (RFC 8414 §3.1, RFC 9728 §3.1).
pub(super) fn well_known(url: &str, name: &str) -> Result<String> {
    let url = Url::parse(url).with_context(|| format!("{url} is not a URL"))?;
    let path = url.path().trim_end_matches('/');
    Ok(format!("{}/.well-known/{name}{path}", url.origin().ascii_serialization()))
}

impl Target {
    pub(super) async fn find(issuer: &str, options: Options) -> Result<Self> {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(30))
            .build()?;
        for name in ["oauth-authorization-server", "openid-configuration"] {
            let answer = Answer::read(http.get(well_known(issuer, name)?).send().await?).await?;
            if answer.status == 200 {
                let metadata = answer.json()?;
                return Ok(Self { issuer: issuer.to_owned(), metadata, options, http, browser: browser()? });
            }
        }
        bail!("{issuer} has no authorization server metadata (RFC 8414)")
    }

    /// A member of the metadata, if it is a string.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.metadata[name].as_str()
    }

    /// The strings in a member of the metadata that is a list.
    pub(super) fn list(&self, name: &str) -> Vec<&str> {
        self.metadata[name].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// The URL of an endpoint. If the metadata does not contain it, the check is skipped.
    pub(super) fn endpoint(&self, name: &str) -> Result<&str> {
        match self.text(name) {
            Some(url) => Ok(url),
            None => skip(format!("no {name} is announced")),
        }
    }

    pub(super) async fn get(&self, url: &str) -> Result<Answer> {
        Answer::read(self.http.get(url).send().await?).await
    }

    pub(super) async fn post(&self, url: &str, form: &[(&str, &str)]) -> Result<Answer> {
        Answer::read(self.http.post(url).form(form).send().await?).await
    }

    pub(super) async fn token(&self, form: &[(&str, &str)]) -> Result<Answer> {
        self.post(self.endpoint("token_endpoint")?, form).await
    }

    /// The response from the authorization endpoint to a browser that opens it with these parameters.
    pub(super) async fn authorize(&self, parameters: &[(&str, &str)]) -> Result<Answer> {
        let url = Url::parse_with_params(self.endpoint("authorization_endpoint")?, parameters)?;
        Answer::read(self.http.get(url).header("accept", "text/html").send().await?).await
    }
}

/// The parameters of the redirect, if the response redirects to `redirect_uri`.
pub(super) fn callback(answer: &Answer, redirect_uri: &str) -> Option<Vec<(String, String)>> {
    let location = answer.headers.get(LOCATION)?.to_str().ok()?;
    let url = location.starts_with(redirect_uri).then(|| Url::parse(location).ok())??;
    Some(url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
}

/// Checks that the response is an OAuth error (RFC 6749 §5.2) with one of these codes and statuses.
pub(super) fn expect_error(answer: &Answer, statuses: &[u16], codes: &[&str]) -> Result<()> {
    ensure!(statuses.contains(&answer.status), "status {}, not {statuses:?}: {}", answer.status, answer.body);
    let code = answer.json()?["error"].as_str().map(str::to_owned).unwrap_or_default();
    ensure!(codes.contains(&code.as_str()), "error {code:?}, not {codes:?}");
    Ok(())
}

/// The value of a query parameter.
pub(super) fn parameter<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}
