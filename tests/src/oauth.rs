//! An OAuth client of a few lines: registration, authorization code with PKCE and `resource`, refresh.

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::browser::{Person, authorize};
use crate::gate::{Answer, Gate};
use crate::setup::ACCOUNT;

/// Where the authorization server sends the browser back to. Nobody listens there: the browser of the tests stops at
/// the redirect.
pub const REDIRECT_URI: &str = "http://127.0.0.1:9/callback";

/// 43 characters at least (RFC 7636 §4.1). The same in every test, which is no secret to anyone.
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

/// A registered client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Registration {
    /// `client_id`.
    pub client_id: String,
}

/// What the token endpoint gave.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// For the resource.
    pub access_token: String,
    /// For the token endpoint.
    pub refresh_token: String,
}

impl Tokens {
    fn read(answer: &Answer) -> Result<Self> {
        ensure!(answer.status == 200, "the token endpoint answered {answer:?}");
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

    /// Registers a public client of this name. The same metadata twice is the same client.
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
        ensure!(answer.status == 201, "the registration endpoint answered {answer:?}");
        let client_id = answer.json()?["client_id"].as_str().context("no client_id")?.to_owned();
        Ok(Registration { client_id })
    }

    /// The URL that a client opens in the browser.
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

    /// Login and consent of a person; answers the authorization code.
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

    /// Code for tokens.
    pub async fn redeem(&self, client: &Registration, code: &str, resource: &str) -> Result<Tokens> {
        Tokens::read(&self.token_endpoint(&redemption(client, code, resource)).await?)
    }

    /// The same with a proof of possession (RFC 9449 §5); the token endpoint's answer, whatever it is.
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

    /// Refresh token for new tokens.
    pub async fn refresh(&self, client: &Registration, refresh_token: &str) -> Result<Tokens> {
        let form = [
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh_token),
            ("client_id", &client.client_id),
        ];
        Tokens::read(&self.token_endpoint(&form).await?)
    }

    /// The token endpoint's answer to any form.
    pub async fn token_endpoint(&self, form: &[(&str, &str)]) -> Result<Answer> {
        Answer::read(self.http.post(self.endpoint("token")).form(form).send().await?).await
    }

    /// Registration, login, consent, tokens.
    pub async fn log_in_as(&self, person: &Person, resource: &str) -> Result<(Registration, Tokens)> {
        let client = self.register().await?;
        let code = self.code(&client, person, resource).await?;
        let tokens = self.redeem(&client, &code, resource).await?;
        Ok((client, tokens))
    }

    /// Tokens of the account that every stack has, for this stack's MCP server.
    pub async fn log_in(&self) -> Tokens {
        self.log_in_for(&self.mcp_url).await
    }

    /// The same for another resource.
    pub async fn log_in_for(&self, resource: &str) -> Tokens {
        let person = Person::new(ACCOUNT.0, ACCOUNT.1);
        match self.log_in_as(&person, resource).await {
            Ok((_, tokens)) => tokens,
            Err(error) => panic!("no tokens for {resource}: {error:#}"),
        }
    }

    /// Tokens of the account that every stack has, for a resource, with just this scope.
    pub async fn log_in_with_scope(&self, resource: &str, scope: &str) -> Result<Tokens> {
        let client = self.register().await?;
        let mut url = self.authorization_url(&client, resource);
        url.query_pairs_mut().append_pair("scope", scope);
        let code = self.code_from(url, &Person::new(ACCOUNT.0, ACCOUNT.1)).await?;
        self.redeem(&client, &code, resource).await
    }
}
