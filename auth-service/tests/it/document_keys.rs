//! Tests of clients whose metadata documents contain or link to keys for client authentication.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::app::{TestApp, Tokens, error_code};
use super::document_host::{Answer, DocumentHost};
use super::documents::{PATH, app, code, document, query, redemption};

/// An Ed25519 key of a client.
struct Signer {
    key: EncodingKey,
    public: String,
}

impl Signer {
    fn new() -> Self {
        use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
        let document = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        Self {
            key: EncodingKey::from_ed_der(document.as_ref()),
            public: URL_SAFE_NO_PAD.encode(pair.public_key().as_ref()),
        }
    }

    fn jwks(&self) -> Value {
        json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "k1", "use": "sig", "alg": "EdDSA", "x": self.public }] })
    }

    fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some("k1".to_owned());
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }
}

/// A metadata document with `private_key_jwt`, whose keys are in `member`.
fn document_with(host: &DocumentHost, member: &str, keys: Value) -> Value {
    let mut document = document(host);
    document["token_endpoint_auth_method"] = json!("private_key_jwt");
    document[member] = keys;
    document
}

#[actix_web::test]
async fn a034_what_a_document_with_keys_was_given_is_worth_nothing_once_it_has_none() {
    let host = DocumentHost::start().await;
    let signer = Signer::new();
    let id = host.url(PATH);
    let with_keys = document_with(&host, "jwks", signer.jwks());
    host.put(PATH, Answer::json(&with_keys, "max-age=60"));
    let app = app(&host, &[]).await;
    let code = code(&app, &id, "ana").await;
    let now = app.state.now().0;
    let claims = json!({ "iss": id, "sub": id, "aud": "http://localhost:9", "exp": now + 60, "iat": now, "jti": "one" });
    let assertion = signer.sign(&claims);
    let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    let form: Vec<_> = redemption(&id, &code)
        .into_iter()
        .chain([("client_assertion_type", kind), ("client_assertion", assertion.as_str())])
        .collect();
    let tokens = Tokens::of(app.token(&form).await).await;
    host.put(PATH, Answer::json(&document(&host), "max-age=60"));
    app.wait(Duration::from_secs(61));
    assert_eq!(error_code(app.refresh(&id, &tokens.refresh).await).await, "invalid_grant");
    // The changed client can be authorized again.
    let code = app.browser_of("eve").await.allow(&query(&id)).await;
    let tokens = Tokens::of(app.token(&redemption(&id, &code)).await).await;
    assert_eq!(app.refresh(&id, &tokens.refresh).await.status(), StatusCode::OK);
}

#[actix_web::test]
async fn a037_a_client_with_keys_authenticates_by_an_assertion_made_for_us_now_and_once() {
    let host = DocumentHost::start().await;
    let signer = Signer::new();
    let id = host.url(PATH);
    let with_keys = document_with(&host, "jwks_uri", json!(host.url("/jwks.json")));
    host.put(PATH, Answer::json(&with_keys, ""));
    host.put("/jwks.json", Answer::json(&signer.jwks(), ""));
    let app = app(&host, &[("CODE_TTL", "10m")]).await;
    let code = code(&app, &id, "ana").await;
    let now = app.state.now().0;
    let good = json!({ "iss": id, "sub": id, "aud": "http://localhost:9", "exp": now + 60, "iat": now, "jti": "one" });
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        signer.sign(&claims)
    };
    let redeem = async |assertion: &str| {
        let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        let form: Vec<_> = redemption(&id, &code)
            .into_iter()
            .chain([("client_assertion_type", kind), ("client_assertion", assertion)])
            .collect();
        app.token(&form).await
    };
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let hmac = jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        &good,
        &EncodingKey::from_secret(signer.public.as_bytes()),
    )
    .unwrap();
    for (what, assertion) in [
        ("another key", Signer::new().sign(&good)),
        ("alg none", format!("{}.{}.", part(json!({ "alg": "none", "kid": "k1" })), part(good.clone()))),
        ("HS256 with the public key", hmac),
        ("another audience", with("aud", json!("https://evil.example"))),
        ("ours and another audience", with("aud", json!(["http://localhost:9", "https://evil.example"]))),
        ("no audience", with("aud", json!([]))),
        ("another issuer", with("iss", json!("https://evil.example/c"))),
        ("expired", with("exp", json!(now - 31))),
        ("far too long", with("exp", json!(now + 3600))),
        ("no exp", with("exp", Value::Null)),
        ("exp as text", with("exp", json!("9999999999"))),
        ("not yet", with("nbf", json!(now + 100))),
        ("no jti", with("jti", Value::Null)),
        ("garbage", "a.b.c".to_owned()),
    ] {
        let refused = redeem(&assertion).await;
        assert_eq!(
            (refused.status(), error_code(refused).await.as_str()),
            (StatusCode::UNAUTHORIZED, "invalid_client"),
            "{what}"
        );
    }
    assert_eq!(error_code(app.token(&redemption(&id, &code)).await).await, "invalid_client");
    let response = redeem(&signer.sign(&good)).await;
    assert_eq!(response.status(), StatusCode::OK);
    let replayed = redeem(&signer.sign(&good)).await;
    assert_eq!(error_code(replayed).await, "invalid_client");
    // Each of these audiences identifies this server (RFC 7523 §3, RFC 9126 §2). The client authentication
    // succeeds, and only the code is refused.
    let endpoint = |path: &str| format!("http://localhost:9{path}");
    let ours =
        [json!(endpoint("/token")), json!(endpoint("/par")), json!([endpoint(""), endpoint("/token")])];
    for (n, audience) in ours.iter().enumerate() {
        let mut claims = good.clone();
        claims["aud"] = audience.clone();
        claims["jti"] = json!(format!("ours {n}"));
        let assertion = signer.sign(&claims);
        let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        let proof = [("client_assertion_type", kind), ("client_assertion", assertion.as_str())];
        let form: Vec<_> = redemption(&id, "unknown").into_iter().chain(proof).collect();
        assert_eq!(error_code(app.token(&form).await).await, "invalid_grant", "{audience}");
    }
    // The client rotates its key. The key set is fetched again, because the cached one does not contain the new
    // key.
    let rotated = Signer::new();
    let mut set = rotated.jwks();
    set["keys"][0]["kid"] = json!("k2");
    host.put("/jwks.json", Answer::json(&set, ""));
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some("k2".to_owned());
    let mut claims = good.clone();
    claims["jti"] = json!("two");
    let assertion = jsonwebtoken::encode(&header, &claims, &rotated.key).unwrap();
    let refresh = Tokens::of(response).await.refresh;
    let form = [
        ("grant_type", "refresh_token"),
        ("refresh_token", refresh.as_str()),
        ("client_assertion", assertion.as_str()),
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
    ];
    assert_eq!(app.token(&form).await.status(), StatusCode::OK);
}

/// Key identifiers are optional (RFC 7517 §4.5), so several keys can match one assertion.
#[actix_web::test]
async fn every_key_that_fits_is_tried_and_one_without_an_identifier_can_be_replaced() {
    let host = DocumentHost::start().await;
    let [old, new, next] = [Signer::new(), Signer::new(), Signer::new()];
    let id = host.url(PATH);
    host.put(PATH, Answer::json(&document_with(&host, "jwks_uri", json!(host.url("/jwks.json"))), ""));
    let unnamed = |signer: &Signer| json!({ "kty": "OKP", "crv": "Ed25519", "x": signer.public });
    let odd = json!({ "kty": "OKP", "crv": "P-256", "x": old.public });
    host.put("/jwks.json", Answer::json(&json!({ "keys": [odd, unnamed(&old), unnamed(&new)] }), ""));
    let app = app(&host, &[]).await;
    let code = code(&app, &id, "ana").await;
    let now = app.state.now().0;
    let redeem = async |signer: &Signer, jti: &str| {
        let claims = json!({ "iss": id, "sub": id, "aud": "http://localhost:9", "exp": now + 60, "iat": now, "jti": jti });
        let assertion = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &signer.key).unwrap();
        let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        let proof = [("client_assertion_type", kind), ("client_assertion", assertion.as_str())];
        let form: Vec<_> = redemption(&id, &code).into_iter().chain(proof).collect();
        app.token(&form).await
    };
    assert_eq!(error_code(redeem(&next, "of a stranger").await).await, "invalid_client");
    assert_eq!(redeem(&new, "first").await.status(), StatusCode::OK);
    host.put("/jwks.json", Answer::json(&json!({ "keys": [unnamed(&next)] }), ""));
    // The code has already been used. The error `invalid_grant` shows that the client has authenticated.
    assert_eq!(error_code(redeem(&next, "second").await).await, "invalid_grant");
}

/// A client whose keys the document host serves, with the app to which it authenticates.
struct Keyed {
    host: DocumentHost,
    signer: Signer,
    id: String,
    app: TestApp,
}

impl Keyed {
    async fn start() -> Self {
        let (host, signer) = (DocumentHost::start().await, Signer::new());
        let id = host.url(PATH);
        let with_keys = document_with(&host, "jwks_uri", json!(host.url("/jwks.json")));
        host.put(PATH, Answer::json(&with_keys, ""));
        host.put("/jwks.json", Answer::json(&signer.jwks(), ""));
        let app = app(&host, &[]).await;
        Self { host, signer, id, app }
    }

    fn assertion(&self, jti: &str) -> String {
        let now = self.app.state.now().0;
        self.signer.sign(&json!({
            "iss": self.id, "sub": self.id, "aud": "http://localhost:9", "exp": now + 60, "iat": now, "jti": jti,
        }))
    }

    /// An attacker's assertion in the client's name, with an unknown key.
    fn forged(&self, n: usize) -> String {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(format!("forged{n}"));
        let claims = json!({ "iss": self.id, "sub": self.id });
        jsonwebtoken::encode(&header, &claims, &Signer::new().key).unwrap()
    }

    async fn send(&self, assertion: &str, form: &[(&str, &str)]) -> reqwest::Response {
        let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        let form: Vec<_> = form
            .iter()
            .copied()
            .chain([("client_assertion_type", kind), ("client_assertion", assertion)])
            .collect();
        self.app.token(&form).await
    }

    async fn redeem(&self, person: &str) -> StatusCode {
        let code = code(&self.app, &self.id, person).await;
        self.send(&self.assertion(person), &redemption(&self.id, &code)).await.status()
    }
}

#[actix_web::test]
async fn a050_forged_assertions_do_not_take_a_clients_keys_away() {
    let keyed = Keyed::start().await;
    assert_eq!(keyed.redeem("ana").await, StatusCode::OK);
    // The host of the keys is temporarily unavailable, and strangers send assertions that cause lookups of unknown
    // keys.
    keyed.host.put("/jwks.json", Answer { head: "503 Service Unavailable".to_owned(), body: String::new() });
    for n in 0..80 {
        let refused =
            keyed.send(&keyed.forged(n), &[("grant_type", "refresh_token"), ("refresh_token", "x")]).await;
        assert_eq!(error_code(refused).await, "invalid_client");
    }
    assert_eq!(keyed.redeem("bob").await, StatusCode::OK);
    assert!(keyed.host.requests("/jwks.json") < 20, "{}", keyed.host.requests("/jwks.json"));
}
