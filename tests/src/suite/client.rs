//! The clients of the suite, and the codes and tokens that they receive.

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::browser;
use crate::gate::Answer;

use super::skip;
use super::target::{Target, parameter};

/// The redirect URI. No program listens there, because the browser of the suite stops at the redirect.
pub(super) const REDIRECT_URI: &str = "http://127.0.0.1:9/issuer-suite";
pub(super) const VERIFIER: &str = "issuer-suite-code-verifier-0123456789-abcdefghijk";
pub(super) const STATE: &str = "a state/with = odd & characters % ü";

/// Two public clients. The second one represents any other client.
#[derive(Debug)]
pub(super) struct Clients {
    pub(super) first: Option<PublicClient>,
    pub(super) other: Option<PublicClient>,
}

#[derive(Debug, Clone)]
pub(super) struct PublicClient {
    pub(super) id: String,
    pub(super) redirect_uri: String,
}

/// A successful response from the token endpoint, and its tokens.
#[derive(Debug, Clone)]
pub(super) struct Issued {
    pub(super) answer: Answer,
    pub(super) access: String,
    pub(super) refresh: Option<String>,
}

pub(super) fn challenge() -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER))
}

pub(super) fn metadata(name: &str) -> Value {
    json!({
        "client_name": name,
        "redirect_uris": [REDIRECT_URI],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
    })
}

impl Clients {
    pub(super) async fn of(target: &Target) -> Self {
        let first = match &target.options.client_id {
            Some(id) => {
                let redirect_uri = target.options.redirect_uri.clone();
                let redirect_uri = redirect_uri.unwrap_or_else(|| REDIRECT_URI.to_owned());
                Some(PublicClient { id: id.clone(), redirect_uri })
            }
            None => register(target, "Issuer suite").await.ok(),
        };
        Self { first, other: register(target, "Issuer suite, another client").await.ok() }
    }

    pub(super) fn first(&self) -> Result<&PublicClient> {
        match &self.first {
            Some(client) => Ok(client),
            None => skip("there is no client: none can register, and --client-id is not given"),
        }
    }

    pub(super) fn other(&self) -> Result<&PublicClient> {
        match &self.other {
            Some(client) => Ok(client),
            None => skip("there is no second client: none can register"),
        }
    }
}

async fn register(target: &Target, name: &str) -> Result<PublicClient> {
    let url = target.endpoint("registration_endpoint")?;
    let answer = Answer::read(target.http.post(url).json(&metadata(name)).send().await?).await?;
    ensure!(answer.status == 201, "{answer:?}");
    let id = answer.json()?["client_id"].as_str().context("no client_id")?.to_owned();
    Ok(PublicClient { id, redirect_uri: REDIRECT_URI.to_owned() })
}

impl PublicClient {
    /// The parameters of a valid authorization request. `replaced` contains parameters to replace, or to omit if
    /// the value is empty.
    pub(super) fn request(&self, target: &Target, replaced: &[(&str, &str)]) -> Vec<(String, String)> {
        let challenge = challenge();
        let resource = target.options.resource.clone().unwrap_or_default();
        let good = [
            ("response_type", "code"),
            ("client_id", &self.id),
            ("redirect_uri", &self.redirect_uri),
            ("state", STATE),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
            ("resource", &resource),
        ];
        let kept = good.iter().filter(|(name, _)| !replaced.iter().any(|(other, _)| other == name));
        kept.chain(replaced)
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    /// The response to that request in a browser without cookies.
    pub(super) async fn ask(&self, target: &Target, replaced: &[(&str, &str)]) -> Result<Answer> {
        let owned = self.request(target, replaced);
        let pairs: Vec<_> = owned.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        target.authorize(&pairs).await
    }

    /// The response to that request in the browser in which the user might be logged in.
    pub(super) async fn ask_in_browser(&self, target: &Target, replaced: &[(&str, &str)]) -> Result<Answer> {
        let endpoint = target.endpoint("authorization_endpoint")?;
        let url = Url::parse_with_params(endpoint, self.request(target, replaced))?;
        Answer::read(target.browser.get(url).header("accept", "text/html").send().await?).await
    }

    /// The parameters of the redirect to the client, after login and consent.
    pub(super) async fn allowed(&self, target: &Target) -> Result<Vec<(String, String)>> {
        let Some(person) = &target.options.person else {
            return skip("no user logs in: --user and --password are not given");
        };
        let url =
            Url::parse_with_params(target.endpoint("authorization_endpoint")?, self.request(target, &[]))?;
        let end = browser::authorize_in(&target.browser, url, &self.redirect_uri, person).await?;
        Ok(end.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    pub(super) async fn code(&self, target: &Target) -> Result<String> {
        let pairs = self.allowed(target).await?;
        Ok(parameter(&pairs, "code").with_context(|| format!("no code: {pairs:?}"))?.to_owned())
    }

    /// Redeems `code`. `replaced` contains parameters to replace, or to omit if the value is empty.
    pub(super) async fn redeem(
        &self,
        target: &Target,
        code: &str,
        replaced: &[(&str, &str)],
    ) -> Result<Answer> {
        let resource = target.options.resource.clone().unwrap_or_default();
        let good = [
            ("grant_type", "authorization_code"),
            ("client_id", &self.id),
            ("code", code),
            ("redirect_uri", &self.redirect_uri),
            ("code_verifier", VERIFIER),
            ("resource", &resource),
        ];
        let kept = good.iter().filter(|(name, _)| !replaced.iter().any(|(other, _)| other == name));
        let form: Vec<_> = kept.chain(replaced).filter(|(_, value)| !value.is_empty()).copied().collect();
        target.token(&form).await
    }

    pub(super) async fn tokens(&self, target: &Target) -> Result<Issued> {
        let code = self.code(target).await?;
        Issued::of(self.redeem(target, &code, &[]).await?)
    }

    /// Sends a refresh request with these additional parameters.
    pub(super) async fn refresh(
        &self,
        target: &Target,
        token: &str,
        more: &[(&str, &str)],
    ) -> Result<Answer> {
        let form = [("grant_type", "refresh_token"), ("client_id", &self.id), ("refresh_token", token)];
        let form: Vec<_> = form.iter().chain(more).copied().collect();
        target.token(&form).await
    }
}

impl Issued {
    pub(super) fn of(answer: Answer) -> Result<Self> {
        ensure!(answer.status == 200, "no tokens: {} {}", answer.status, answer.body);
        let body = answer.json()?;
        let access = body["access_token"].as_str().context("no access_token")?.to_owned();
        let refresh = body["refresh_token"].as_str().map(str::to_owned);
        Ok(Self { answer, access, refresh })
    }

    pub(super) fn refresh(&self) -> Result<&str> {
        match &self.refresh {
            Some(token) => Ok(token),
            None => skip("no refresh token was issued"),
        }
    }
}
