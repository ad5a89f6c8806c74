//! Tests of tokens that are bound to a key (RFC 9449), at the token endpoint and in the check.

use std::time::Duration;

use auth_service::domain::clock::{Random, UnixTime};
use auth_service::keys::seal::SystemRandomSource;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::header::WWW_AUTHENTICATE;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::app::{ISSUER, REDIRECT, RESOURCE, TestApp, VERIFIER, authorize_query, error_code};

const TOKEN_URL: &str = "https://auth.example/token";

/// A client's Ed25519 key.
pub(crate) struct Key(Ed25519KeyPair);

impl Key {
    pub(crate) fn new() -> Self {
        Self(Ed25519KeyPair::generate().unwrap())
    }

    fn x(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0.public_key().as_ref())
    }

    fn thumbprint(&self) -> String {
        let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, self.x());
        URL_SAFE_NO_PAD.encode(Sha256::digest(members))
    }

    /// A proof with a new `jti`. The claims in `more` are added to the default claims or replace them.
    fn proof(&self, now: UnixTime, method: &str, url: &str, more: &Value) -> String {
        let jti = URL_SAFE_NO_PAD.encode(SystemRandomSource.bytes().unwrap());
        let mut claims = json!({ "jti": jti, "htm": method, "htu": url, "iat": now.0 });
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let header = json!({ "typ": "dpop+jwt", "alg": "EdDSA", "jwk": { "kty": "OKP", "crv": "Ed25519", "x": self.x() } });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(self.0.sign(signed.as_bytes()).as_ref()))
    }

    pub(crate) fn for_token_endpoint(&self, app: &TestApp) -> String {
        self.proof(app.state.now(), "POST", TOKEN_URL, &json!({}))
    }

    pub(crate) fn for_call(&self, app: &TestApp, token: &str) -> String {
        self.proof(app.state.now(), "POST", RESOURCE, &json!({ "ath": ath(token) }))
    }
}

fn ath(token: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(token))
}

impl TestApp {
    async fn token_with(&self, proof: Option<&str>, form: &[(&str, &str)]) -> Response {
        let mut request = self.http.post(format!("{}/token", self.public)).form(form);
        if let Some(proof) = proof {
            request = request.header("dpop", proof);
        }
        request.send().await.unwrap()
    }

    async fn redeem_with(&self, proof: Option<&str>, client: &str, code: &str) -> Response {
        let form = [
            ("grant_type", "authorization_code"),
            ("client_id", client),
            ("code", code),
            ("code_verifier", VERIFIER),
            ("redirect_uri", REDIRECT),
            ("resource", RESOURCE),
        ];
        self.token_with(proof, &form).await
    }

    async fn refresh_with(&self, proof: Option<&str>, client: &str, token: &str) -> Response {
        let form = [("grant_type", "refresh_token"), ("client_id", client), ("refresh_token", token)];
        self.token_with(proof, &form).await
    }

    /// An access token and a refresh token that are bound to `key`.
    async fn bound(&self, client: &str, key: &Key) -> (String, String) {
        let code = self.code(client).await;
        let body = issued(self.redeem_with(Some(&key.for_token_endpoint(self)), client, &code).await).await;
        assert_eq!(body["token_type"], "DPoP");
        (text(&body, "access_token"), text(&body, "refresh_token"))
    }

    async fn call(&self, scheme: &str, token: &str, proof: Option<&str>) -> Response {
        let mut request = self.check(Method::POST, "mcp.example", "/mcp?query=is-left-out");
        request = request.header("authorization", format!("{scheme} {token}"));
        if let Some(proof) = proof {
            request = request.header("dpop", proof);
        }
        request.send().await.unwrap()
    }
}

async fn issued(response: Response) -> Value {
    assert_eq!(response.status(), StatusCode::OK, "{}", response.text().await.unwrap());
    response.json().await.unwrap()
}

fn text(body: &Value, name: &str) -> String {
    body[name].as_str().unwrap().to_owned()
}

#[track_caller]
fn assert_challenged(response: &Response, error: &str) {
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let challenge = response.headers()[WWW_AUTHENTICATE].to_str().unwrap();
    assert!(challenge.starts_with(&format!("DPoP error=\"{error}\"")), "{challenge}");
    assert!(
        challenge.contains("algs=\"EdDSA ES256 RS256 PS256\"") && challenge.contains("resource_metadata=")
    );
}

#[actix_web::test]
async fn a_client_that_proves_its_key_gets_tokens_that_work_with_it() {
    let app = TestApp::start().await;
    let (client, key) = (app.client().await, Key::new());
    let (access, refresh) = app.bound(&client, &key).await;
    let claims: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(access.split('.').nth(1).unwrap()).unwrap()).unwrap();
    assert_eq!(claims["cnf"]["jkt"], key.thumbprint());
    for _ in 0..3 {
        let answer = app.call("DPoP", &access, Some(&key.for_call(&app, &access))).await;
        assert_eq!(answer.status(), StatusCode::OK);
    }
    let renewed =
        issued(app.refresh_with(Some(&key.for_token_endpoint(&app)), &client, &refresh).await).await;
    assert_eq!(renewed["token_type"], "DPoP");
    let access = text(&renewed, "access_token");
    let answer = app.call("dpop", &access, Some(&key.for_call(&app, &access))).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let metadata: Value = app
        .http
        .get(format!("{}/.well-known/oauth-authorization-server", app.public))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(metadata["issuer"], ISSUER);
    assert_eq!(metadata["dpop_signing_alg_values_supported"], json!(["EdDSA", "ES256", "RS256", "PS256"]));
}

#[actix_web::test]
async fn a068_a_stolen_bound_token_opens_nothing() {
    let app = TestApp::start().await;
    let (client, key, thief) = (app.client().await, Key::new(), Key::new());
    let (access, refresh) = app.bound(&client, &key).await;
    // The token is refused as a bearer token, without a proof, and with a proof by the thief's key.
    assert_challenged(&app.call("Bearer", &access, None).await, "invalid_token");
    assert_challenged(
        &app.call("Bearer", &access, Some(&key.for_call(&app, &access))).await,
        "invalid_token",
    );
    assert_challenged(&app.call("DPoP", &access, None).await, "invalid_token");
    assert_challenged(
        &app.call("DPoP", &access, Some(&thief.for_call(&app, &access))).await,
        "invalid_token",
    );
    // The refresh token of a public client is bound as well.
    for proof in [None, Some(thief.for_token_endpoint(&app))] {
        let answer = app.refresh_with(proof.as_deref(), &client, &refresh).await;
        assert_eq!(error_code(answer).await, "invalid_grant");
    }
    issued(app.refresh_with(Some(&key.for_token_endpoint(&app)), &client, &refresh).await).await;
}

#[actix_web::test]
async fn a068_a_proof_is_for_one_request_with_one_token() {
    let app = TestApp::start().await;
    let (client, key) = (app.client().await, Key::new());
    let (access, _) = app.bound(&client, &key).await;
    let now = app.state.now();
    let with = |method: &str, url: &str, more: Value| key.proof(now, method, url, &more);
    let ath = json!({ "ath": ath(&access) });
    for (proof, what) in [
        (with("GET", RESOURCE, ath.clone()), "htm"),
        (with("POST", "https://mcp.example/other", ath.clone()), "htu path"),
        (with("POST", "https://other.example/mcp", ath.clone()), "htu host"),
        (with("POST", "http://mcp.example/mcp", ath.clone()), "htu scheme"),
        (with("POST", RESOURCE, json!({})), "no ath"),
        (with("POST", RESOURCE, json!({ "ath": self::ath("another token") })), "ath"),
        (key.proof(UnixTime(now.0 - 301), "POST", RESOURCE, &ath), "iat too old"),
        (key.proof(UnixTime(now.0 + 301), "POST", RESOURCE, &ath), "iat ahead"),
        ("not a proof".to_owned(), "malformed"),
    ] {
        let answer = app.call("DPoP", &access, Some(&proof)).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{what}");
        assert_challenged(&answer, "invalid_dpop_proof");
    }
    // A request with two proofs is refused.
    let two = app
        .check(Method::POST, "mcp.example", "/mcp")
        .header("authorization", format!("DPoP {access}"))
        .header("dpop", key.for_call(&app, &access))
        .header("dpop", key.for_call(&app, &access));
    assert_eq!(two.send().await.unwrap().status(), StatusCode::BAD_REQUEST);
}

#[actix_web::test]
async fn a068_a_proof_that_comes_twice_is_refused_by_every_replica() {
    let one = TestApp::start().await;
    let two = one.replica(&[]).await;
    let (client, key) = (one.client().await, Key::new());
    let (access, _) = one.bound(&client, &key).await;
    let proof = key.for_call(&one, &access);
    assert_eq!(one.call("DPoP", &access, Some(&proof)).await.status(), StatusCode::OK);
    assert_challenged(&one.call("DPoP", &access, Some(&proof)).await, "invalid_dpop_proof");
    assert_challenged(&two.call("DPoP", &access, Some(&proof)).await, "invalid_dpop_proof");
    // The proof is also refused after its `jti` has been deleted, because the proof has expired by then.
    one.wait(Duration::from_secs(302));
    assert_challenged(&two.call("DPoP", &access, Some(&proof)).await, "invalid_dpop_proof");
    // If many calls with the same proof run concurrently, only one succeeds.
    let proof = key.for_call(&one, &access);
    let calls = (0..16).map(|n| if n % 2 == 0 { &one } else { &two }.call("DPoP", &access, Some(&proof)));
    let passed = futures_util::future::join_all(calls).await;
    assert_eq!(passed.iter().filter(|answer| answer.status() == StatusCode::OK).count(), 1);
    // A proof can be used only once at the token endpoint as well.
    let code = one.code(&client).await;
    let proof = key.for_token_endpoint(&one);
    let first = issued(one.redeem_with(Some(&proof), &client, &code).await).await;
    let again = two.refresh_with(Some(&proof), &client, &text(&first, "refresh_token")).await;
    assert_eq!(error_code(again).await, "invalid_dpop_proof");
}

#[actix_web::test]
async fn a068_a_bad_proof_uses_no_code_up_and_binds_nothing() {
    let app = TestApp::start().await;
    let (client, key) = (app.client().await, Key::new());
    let code = app.code(&client).await;
    let elsewhere = key.proof(app.state.now(), "POST", RESOURCE, &json!({}));
    for proof in [elsewhere.as_str(), "x", ""] {
        let answer = app.redeem_with(Some(proof), &client, &code).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        assert_eq!(error_code(answer).await, "invalid_dpop_proof");
    }
    issued(app.redeem_with(Some(&key.for_token_endpoint(&app)), &client, &code).await).await;
    // A proof does not make a bearer token a bound token.
    let bearer = app.tokens(&client).await.access;
    assert_challenged(&app.call("DPoP", &bearer, Some(&key.for_call(&app, &bearer))).await, "invalid_token");
    assert_eq!(app.call("Bearer", &bearer, None).await.status(), StatusCode::OK);
}

#[actix_web::test]
async fn a068_a_code_is_bound_to_the_key_that_it_was_asked_with() {
    let app = TestApp::start().await;
    let (client, key, thief) = (app.client().await, Key::new(), Key::new());
    let mut browser = app.browser_of("ana").await;
    let code = browser.allow(&authorize_query(&client, &[("dpop_jkt", &key.thumbprint())])).await;
    for proof in [None, Some(thief.for_token_endpoint(&app))] {
        let answer = app.redeem_with(proof.as_deref(), &client, &code).await;
        assert_eq!(error_code(answer).await, "invalid_grant");
    }
    issued(app.redeem_with(Some(&key.for_token_endpoint(&app)), &client, &code).await).await;
}

#[actix_web::test]
async fn a_client_may_bind_itself_to_binding() {
    let app = TestApp::start().await;
    let metadata = json!({
        "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none", "dpop_bound_access_tokens": true,
    });
    let registered: Value = app.register(&metadata).await.json().await.unwrap();
    assert_eq!(registered["dpop_bound_access_tokens"], true);
    let client = text(&registered, "client_id");
    assert_ne!(client, app.client_with(&[REDIRECT]).await);
    let code = app.code(&client).await;
    assert_eq!(error_code(app.redeem_with(None, &client, &code).await).await, "invalid_dpop_proof");
    issued(app.redeem_with(Some(&Key::new().for_token_endpoint(&app)), &client, &code).await).await;
}

#[actix_web::test]
async fn a068_with_nonces_a_proof_cannot_be_made_in_advance() {
    let app = TestApp::start_with(&[("DPOP", "nonce")]).await;
    let (client, key) = (app.client().await, Key::new());
    let code = app.code(&client).await;
    let without = app.redeem_with(Some(&key.for_token_endpoint(&app)), &client, &code).await;
    let nonce = without.headers()["dpop-nonce"].to_str().unwrap().to_owned();
    assert_eq!(error_code(without).await, "use_dpop_nonce");
    let proof = |method: &str, url: &str, more: Value| {
        let mut claims = more;
        claims["nonce"] = json!(nonce);
        key.proof(app.state.now(), method, url, &claims)
    };
    let body =
        issued(app.redeem_with(Some(&proof("POST", TOKEN_URL, json!({}))), &client, &code).await).await;
    let access = text(&body, "access_token");
    let plain = app.call("DPoP", &access, Some(&key.for_call(&app, &access))).await;
    assert_challenged(&plain, "use_dpop_nonce");
    assert!(plain.headers().contains_key("dpop-nonce"));
    let good = proof("POST", RESOURCE, json!({ "ath": ath(&access) }));
    assert_eq!(app.call("DPoP", &access, Some(&good)).await.status(), StatusCode::OK);
    app.wait(Duration::from_secs(301));
    let stale = proof("POST", RESOURCE, json!({ "ath": ath(&access) }));
    assert_challenged(&app.call("DPoP", &access, Some(&stale)).await, "use_dpop_nonce");
}

#[actix_web::test]
async fn without_dpop_nothing_is_announced_and_nothing_bound() {
    let app = TestApp::start_with(&[("DPOP", "off")]).await;
    let (client, key) = (app.client().await, Key::new());
    let code = app.code(&client).await;
    let body = issued(app.redeem_with(Some(&key.for_token_endpoint(&app)), &client, &code).await).await;
    assert_eq!(body["token_type"], "Bearer");
    let url = format!("{}/.well-known/oauth-authorization-server", app.public);
    let metadata: Value = app.http.get(url).send().await.unwrap().json().await.unwrap();
    assert!(metadata.get("dpop_signing_alg_values_supported").is_none());
}

#[actix_web::test]
async fn a_client_that_sends_too_many_proofs_gets_429() {
    let (app, key) = (TestApp::start().await, Key::new());
    let client = app.client().await;
    let (access, _) = app.bound(&client, &key).await;
    let client = client.try_into().unwrap();
    for account in app.state.store.accounts().await.unwrap() {
        while app.state.account_rate.admit_proof(&account.subject, &client).is_ok() {}
    }
    let refused = app.call("DPoP", &access, Some(&key.for_call(&app, &access))).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers().contains_key("retry-after"));
    // With a challenge, the client would request a new token.
    assert!(!refused.headers().contains_key("www-authenticate"));
}

#[actix_web::test]
async fn a084_a_proof_takes_room_in_the_store_only_with_a_request_that_is_good() {
    let app = TestApp::start().await;
    let (client, key) = (app.client().await, Key::new());
    let code = app.code(&client).await;
    let proof = key.for_token_endpoint(&app);
    // Any client can send these requests, and none of them uses up the proof.
    for form in [
        vec![("client_id", client.as_str()), ("grant_type", "x")],
        vec![("client_id", client.as_str()), ("grant_type", "refresh_token"), ("refresh_token", "mgr_x")],
        vec![("client_id", client.as_str()), ("grant_type", "authorization_code"), ("code", "mgc_x")],
        vec![
            ("client_id", client.as_str()),
            ("grant_type", "authorization_code"),
            ("code", code.as_str()),
            ("code_verifier", "x"),
        ],
    ] {
        assert_eq!(app.token_with(Some(&proof), &form).await.status(), StatusCode::BAD_REQUEST);
    }
    let tokens = issued(app.redeem_with(Some(&proof), &client, &code).await).await;
    // The successful request has used up the proof.
    let again = app.refresh_with(Some(&proof), &client, &text(&tokens, "refresh_token")).await;
    assert_eq!(error_code(again).await, "invalid_dpop_proof");
}
