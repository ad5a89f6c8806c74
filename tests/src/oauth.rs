//! A small OAuth client: registration, authorization code with PKCE and `resource`, and refresh.

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::browser::{Person, authorize};
use crate::gate::{Answer, Gate};
use crate::setup::ACCOUNT;

/// The redirect URI of the test clients. No program listens there, because the test browser stops at the redirect.
pub const REDIRECT_URI: &str = "http://127.0.0.1:9/callback";

/// The PKCE code verifier of all tests, with at least 43 characters (RFC 7636 §4.1). It need not be secret.
const VERIFIER: &str = "a-code-verifier-that-every-test-uses-0123456789-abc";

fn redemption<'a>(
    client: &'a Registration,
    code: &'a str,
    resource: &'a str,
) -> [(&'static str, &'a str); 6] {
    [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", REDIRECT_URI),
        ("client_id", &client.client_id),
        ("code_verifier", VERIFIER),
        ("resource", resource),
    ]
}

/// A client that has registered itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Registration {
    /// The identifier from the registration response.
    pub client_id: String,
}

/// The tokens in a response from the token endpoint.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// The access token, for requests to the resource.
    pub access_token: String,
    /// The refresh token, for requests to the token endpoint.
    pub refresh_token: String,
}

impl Tokens {
    fn read(answer: &Answer) -> Result<Self> {
        ensure!(answer.status == 200, "the token endpoint returned {answer:?}");
        let body = answer.json()?;
        let field = |name: &str| {
            body[name].as_str().map(str::to_owned).with_context(|| format!("no {name} in {}", answer.body))
        };
        Ok(Self { access_token: field("access_token")?, refresh_token: field("refresh_token")? })
    }
}

impl Gate {
    /// Registers a public client (RFC 7591).
    pub async fn register(&self) -> Result<Registration> {
        self.register_as("a test").await
    }

    /// Registers a public client with this name. Two registrations with the same metadata result in the same
    /// client.
    pub async fn register_as(&self, name: &str) -> Result<Registration> {
        let metadata = json!({
            "client_name": name,
            "redirect_uris": [REDIRECT_URI],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": "none",
        });
        let response = self.http.post(self.endpoint("register")).json(&metadata).send().await?;
        let answer = Answer::read(response).await?;
        ensure!(answer.status == 201, "the registration endpoint returned {answer:?}");
        let client_id = answer.json()?["client_id"].as_str().context("no client_id")?.to_owned();
        Ok(Registration { client_id })
    }

    /// The authorization URL that a client opens in the browser.
    pub fn authorization_url(&self, client: &Registration, resource: &str) -> Url {
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER));
        let query = [
            ("response_type", "code"),
            ("client_id", &client.client_id),
            ("redirect_uri", REDIRECT_URI),
            ("state", "state-of-a-test"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
            ("resource", resource),
        ];
        Url::parse_with_params(&self.endpoint("authorize"), query).expect("the issuer is a URL")
    }

    /// Logs a user in and allows the request. Returns the authorization code.
    pub async fn code(&self, client: &Registration, person: &Person, resource: &str) -> Result<String> {
        self.code_from(self.authorization_url(client, resource), person).await
    }

    async fn code_from(&self, url: Url, person: &Person) -> Result<String> {
        let callback = authorize(url, REDIRECT_URI, person).await?;
        let parameter = |name: &str| {
            callback.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        };
        ensure!(parameter("state").as_deref() == Some("state-of-a-test"), "the state changed: {callback}");
        ensure!(parameter("iss").as_deref() == Some(self.issuer.as_str()), "another issuer: {callback}");
        parameter("code").with_context(|| format!("no code in {callback}"))
    }

    /// Exchanges an authorization code for tokens.
    pub async fn redeem(&self, client: &Registration, code: &str, resource: &str) -> Result<Tokens> {
        Tokens::read(&self.token_endpoint(&redemption(client, code, resource)).await?)
    }

    /// Redeems a code with a DPoP proof (RFC 9449 §5). Returns the response from the token endpoint, with any
    /// status.
    pub async fn redeem_proving(
        &self,
        client: &Registration,
        code: &str,
        resource: &str,
        proof: &str,
    ) -> Result<Answer> {
        let request = self.http.post(self.endpoint("token")).header("dpop", proof);
        Answer::read(request.form(&redemption(client, code, resource)).send().await?).await
    }

    /// Exchanges a refresh token for new tokens.
    pub async fn refresh(&self, client: &Registration, refresh_token: &str) -> Result<Tokens> {
        let form = [
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh_token),
            ("client_id", &client.client_id),
        ];
        Tokens::read(&self.token_endpoint(&form).await?)
    }

    /// Sends a form to the token endpoint. Returns the response, with any status.
    pub async fn token_endpoint(&self, form: &[(&str, &str)]) -> Result<Answer> {
        Answer::read(self.http.post(self.endpoint("token")).form(form).send().await?).await
    }

    /// Registers a client, logs in, allows the request and gets tokens.
    pub async fn log_in_as(&self, person: &Person, resource: &str) -> Result<(Registration, Tokens)> {
        let client = self.register().await?;
        let code = self.code(&client, person, resource).await?;
        let tokens = self.redeem(&client, &code, resource).await?;
        Ok((client, tokens))
    }

    /// Tokens for this stack's MCP server, issued to the account that every stack has.
    pub async fn log_in(&self) -> Tokens {
        self.log_in_for(&self.mcp_url).await
    }

    /// Tokens for a different resource, issued to the account that every stack has.
    pub async fn log_in_for(&self, resource: &str) -> Tokens {
        let person = Person::new(ACCOUNT.0, ACCOUNT.1);
        match self.log_in_as(&person, resource).await {
            Ok((_, tokens)) => tokens,
            Err(error) => panic!("no tokens for {resource}: {error:#}"),
        }
    }

    /// Tokens with exactly this scope, issued to the account that every stack has.
    pub async fn log_in_with_scope(&self, resource: &str, scope: &str) -> Result<Tokens> {
        let client = self.register().await?;
        let mut url = self.authorization_url(&client, resource);
        url.query_pairs_mut().append_pair("scope", scope);
        let code = self.code_from(url, &Person::new(ACCOUNT.0, ACCOUNT.1)).await?;
        self.redeem(&client, &code, resource).await
    }
}
