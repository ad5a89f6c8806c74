//! Client ID metadata documents, from a real https host on loopback.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::app::{REDIRECT, TestApp, Tokens, VERIFIER, authorize_query, error_code};
use super::document_host::{Answer, DocumentHost};

pub(crate) const PATH: &str = "/oauth/client.json";

pub(crate) fn document(host: &DocumentHost) -> Value {
    json!({ "client_id": host.url(PATH), "client_name": "Documented", "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none" })
}

/// An app on loopback, where documents may be on loopback too.
pub(crate) async fn app(host: &DocumentHost, more: &[(&str, &str)]) -> TestApp {
    let ca = host.ca.path().to_str().unwrap();
    let own =
        [("ISSUER", "http://localhost:9"), ("PROTECTED_HOSTS", "localhost:8080"), ("EXTRA_CA_FILE", ca)];
    let settings: Vec<_> = own.iter().chain(more).copied().collect();
    TestApp::start_with(&settings).await
}

pub(crate) fn query(id: &str) -> String {
    authorize_query(id, &[("resource", "http://localhost:8080/mcp")])
}

async fn code(app: &TestApp, id: &str, person: &str) -> String {
    app.browser_of(person).await.allow(&query(id)).await
}

pub(crate) fn redemption<'a>(id: &'a str, code: &'a str) -> [(&'static str, &'a str); 5] {
    [
        ("grant_type", "authorization_code"),
        ("client_id", id),
        ("code", code),
        ("code_verifier", VERIFIER),
        ("redirect_uri", REDIRECT),
    ]
}

#[actix_web::test]
async fn a_client_connects_by_its_document_and_is_fetched_once() {
    let host = DocumentHost::start().await;
    host.put(PATH, Answer::json(&document(&host), "max-age=600"));
    let app = app(&host, &[]).await;
    let id = host.url(PATH);
    let code = code(&app, &id, "ana").await;
    let response = app.token(&redemption(&id, &code)).await;
    assert_eq!(response.status(), StatusCode::OK);
    let tokens = Tokens::of(response).await;
    let allowed = app
        .http
        .post(format!("{}/verify/envoy/mcp", app.edge))
        .header("host", "localhost:8080")
        .header("x-edge-secret", super::app::EDGE_SECRET)
        .bearer_auth(&tokens.access)
        .send()
        .await
        .unwrap();
    assert_eq!(allowed.status(), StatusCode::OK);
    assert_eq!(app.refresh(&id, &tokens.refresh).await.status(), StatusCode::OK);
    assert_eq!(host.requests(PATH), 1);
    app.wait(Duration::from_secs(601));
    app.browser().open(&format!("/authorize?{}", query(&id))).await;
    assert_eq!(host.requests(PATH), 2);
}

#[actix_web::test]
async fn the_scope_in_a_document_is_what_the_client_asks_for_by_default_and_no_ceiling() {
    let host = DocumentHost::start().await;
    let mut limited = document(&host);
    limited["scope"] = json!("mcp:read unheard_of");
    host.put(PATH, Answer::json(&limited, "max-age=600"));
    let app = app(&host, &[]).await;
    let id = host.url(PATH);
    let code = code(&app, &id, "ana").await;
    let token: Value = app.token(&redemption(&id, &code)).await.json().await.unwrap();
    assert_eq!(token["scope"], "mcp");
    let silent = query(&id).replace("scope=mcp&", "");
    let mut browser = app.browser_of("bob").await;
    let page = browser.follow(&format!("/authorize?{silent}")).await;
    assert!(
        page.body.contains("<dd>mcp: to use all tools of what is named above</dd>"),
        "what the service needs comes with it: {}",
        page.body
    );
}

#[actix_web::test]
async fn a_document_with_members_that_say_nothing_is_a_client_like_any_other() {
    let host = DocumentHost::start().await;
    let mut odd = document(&host);
    for name in [
        "logo_uri",
        "client_uri",
        "policy_uri",
        "scope",
        "token_endpoint_auth_method",
        "application_type",
        "jwks_uri",
    ] {
        odd[name] = json!("");
    }
    for name in ["grant_types", "response_types", "dpop_bound_access_tokens", "contacts", "client_secret"] {
        odd[name] = Value::Null;
    }
    // One of its products is no client of ours: an answer could be mistaken there.
    odd["redirect_uris"] = json!(["https://app.example/cb?state=x", REDIRECT]);
    host.put(PATH, Answer::json(&odd, "max-age=600"));
    let app = app(&host, &[]).await;
    let id = host.url(PATH);
    code(&app, &id, "ana").await;
    let query = authorize_query(
        &id,
        &[("resource", "http://localhost:8080/mcp"), ("redirect_uri", "https://app.example/cb?state=x")],
    );
    let page = app.browser().open(&format!("/authorize?{query}")).await;
    assert_eq!((page.status, page.location), (StatusCode::BAD_REQUEST, None));
}

#[actix_web::test]
async fn documents_are_announced_as_hosted_clients_expect() {
    let announced = async |app: &TestApp| -> Value {
        app.http
            .get(format!("{}/.well-known/oauth-authorization-server", app.public))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap()
    };
    let on = announced(&TestApp::start().await).await;
    assert_eq!(on["client_id_metadata_document_supported"], true);
    assert!(on["token_endpoint_auth_methods_supported"].as_array().unwrap().contains(&json!("none")));
    let off = announced(&TestApp::start_with(&[("CLIENT_METADATA_DOCUMENTS", "off")]).await).await;
    assert_eq!(off["client_id_metadata_document_supported"], false);
}

#[actix_web::test]
async fn a051_bad_documents_are_refused_shown_to_the_person_and_never_cached() {
    let host = DocumentHost::start().await;
    let app = app(&host, &[]).await;
    let good = document(&host);
    let with = |name: &str, value: Value| {
        let mut changed = good.clone();
        changed[name] = value;
        Answer::json(&changed, "max-age=600")
    };
    let elsewhere = host.url("/elsewhere");
    let head = |head: &str| Answer { head: head.to_owned(), body: good.to_string() };
    host.put("/elsewhere", Answer::json(&good, ""));
    for (answer, reason) in [
        (with("client_id", json!("https://evil.example/c")), "client_id is not the URL"),
        (with("client_secret", json!("s")), "client secret"),
        (with("redirect_uris", json!(["javascript:alert(1)"])), "redirect_uris"),
        (with("padding", json!("x".repeat(6000))), "more than 5120 bytes"),
        (head("200 OK\r\nContent-Type: text/html"), "Content-Type"),
        (head("200 OK\r\nContent-Type: text/plain; charset=utf-8"), "Content-Type"),
        (head(&format!("302 Found\r\nLocation: {elsewhere}")), "answered 302"),
        (head("500 Internal Server Error\r\nContent-Type: application/json"), "answered 500"),
        (head("200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip"), "not a JSON object"),
    ] {
        let answer = if reason == "not a JSON object" {
            Answer { body: "\u{1f}\u{8b}bomb".to_owned(), ..answer }
        } else {
            answer
        };
        host.put(PATH, answer);
        let page = app.browser().open(&format!("/authorize?{}", query(&host.url(PATH)))).await;
        assert_eq!((page.status, page.location.as_deref()), (StatusCode::BAD_REQUEST, None));
        assert!(page.body.contains(reason), "{reason} in {}", page.body);
    }
    assert_eq!(host.requests("/elsewhere"), 0);
    host.put(PATH, Answer::json(&good, ""));
    let page = app.browser().open(&format!("/authorize?{}", query(&host.url(PATH)))).await;
    assert_eq!(page.status, StatusCode::SEE_OTHER);
}

#[actix_web::test]
async fn a051_a_document_that_changed_between_authorize_and_token_is_noticed() {
    let host = DocumentHost::start().await;
    host.put(PATH, Answer::json(&document(&host), "max-age=60"));
    let app = app(&host, &[("CODE_TTL", "10m")]).await;
    let id = host.url(PATH);
    let code = code(&app, &id, "ana").await;
    let mut changed = document(&host);
    changed["redirect_uris"] = json!(["https://other.example/cb"]);
    host.put(PATH, Answer::json(&changed, ""));
    app.wait(Duration::from_secs(61));
    assert_eq!(error_code(app.token(&redemption(&id, &code)).await).await, "invalid_grant");
}

#[actix_web::test]
async fn a016_a_document_that_changed_is_asked_about_again() {
    let host = DocumentHost::start().await;
    host.put(PATH, Answer::json(&document(&host), "max-age=60"));
    let app = app(&host, &[]).await;
    let id = host.url(PATH);
    let mut browser = app.browser_of("ana").await;
    browser.allow(&query(&id)).await;
    let link = format!("/authorize?{}", query(&id));
    assert!(browser.open(&link).await.parameter("code").is_some());
    // The same content, served anew, is no change.
    app.wait(Duration::from_secs(61));
    assert!(browser.open(&link).await.parameter("code").is_some());
    assert_eq!(host.requests(PATH), 2);
    for (name, value) in [
        ("client_name", json!("Somebody else")),
        ("redirect_uris", json!([REDIRECT, "https://evil.example/cb"])),
        ("jwks_uri", json!("https://keys.example/jwks")),
    ] {
        let mut changed = document(&host);
        changed[name] = value;
        if name == "jwks_uri" {
            changed["token_endpoint_auth_method"] = json!("private_key_jwt");
        }
        host.put(PATH, Answer::json(&changed, "max-age=60"));
        app.wait(Duration::from_secs(61));
        let page = browser.open(&link).await;
        assert_eq!((page.status, &page.location), (StatusCode::OK, &None), "{name}");
        assert!(!page.body.contains("You allowed it before"), "{name}");
        browser.submit(&page, &[("decision", "allow")]).await;
    }
}

#[actix_web::test]
async fn a034_what_a_document_with_keys_was_given_is_worth_nothing_once_it_has_none() {
    let host = DocumentHost::start().await;
    let signer = Signer::new();
    let id = host.url(PATH);
    let mut with_keys = document(&host);
    with_keys["token_endpoint_auth_method"] = json!("private_key_jwt");
    with_keys["jwks"] = signer.jwks();
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
    // Whoever allows the client as it is now gets it going again.
    let code = app.browser_of("eve").await.allow(&query(&id)).await;
    let tokens = Tokens::of(app.token(&redemption(&id, &code)).await).await;
    assert_eq!(app.refresh(&id, &tokens.refresh).await.status(), StatusCode::OK);
}

#[actix_web::test]
async fn a049_nobody_is_sent_inside_by_a_deployment_on_the_internet() {
    let host = DocumentHost::start().await;
    host.put(PATH, Answer::json(&document(&host), ""));
    let ca = host.ca.path().to_str().unwrap();
    let app = TestApp::start_with(&[("EXTRA_CA_FILE", ca)]).await;
    let port = host.origin.rsplit(':').next().unwrap();
    for id in [
        host.url(PATH),
        format!("https://127.0.0.1:{port}{PATH}"),
        format!("https://[::1]:{port}{PATH}"),
        format!("https://[::ffff:127.0.0.1]:{port}{PATH}"),
        "https://169.254.169.254/latest/meta-data".to_owned(),
        "https://[fd00:ec2::254]/x".to_owned(),
        "https://10.0.0.1/x".to_owned(),
    ] {
        let page = app.browser().open(&format!("/authorize?{}", authorize_query(&id, &[]))).await;
        assert_eq!(page.status, StatusCode::BAD_REQUEST);
        assert!(
            page.body.contains("public internet") || page.body.contains("normal form"),
            "{id}: {}",
            page.body
        );
    }
    assert_eq!(host.requests(PATH), 0);
}

#[actix_web::test]
async fn an_operator_decides_whose_documents_are_welcome() {
    let host = DocumentHost::start().await;
    host.put(PATH, Answer::json(&document(&host), ""));
    for (settings, welcome) in [
        (vec![("CLIENT_METADATA_HOSTS", "localhost")], true),
        (vec![("CLIENT_METADATA_HOSTS", "claude.ai, *.example.com")], false),
        (vec![("CLIENT_METADATA_BLOCKED_HOSTS", "localhost")], false),
        (vec![("CLIENT_METADATA_DOCUMENTS", "off")], false),
    ] {
        let app = app(&host, &settings).await;
        let page = app.browser().open(&format!("/authorize?{}", query(&host.url(PATH)))).await;
        assert_eq!(page.status == StatusCode::SEE_OTHER, welcome, "{settings:?}");
    }
}

/// A client with an Ed25519 key of its own.
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

#[actix_web::test]
async fn a037_a_client_with_keys_authenticates_by_an_assertion_made_for_us_now_and_once() {
    let host = DocumentHost::start().await;
    let signer = Signer::new();
    let id = host.url(PATH);
    let mut with_keys = document(&host);
    with_keys["token_endpoint_auth_method"] = json!("private_key_jwt");
    with_keys["jwks_uri"] = json!(host.url("/jwks.json"));
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
    // All of them ours (RFC 7523 §3, RFC 9126 §2): the assertion counts, and what is refused is the code.
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
    // The client rotates its key; we look again when the old set does not fit.
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

/// A redemption by a client that has keys at the host, and that has been used before.
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
        let mut with_keys = document(&host);
        with_keys["token_endpoint_auth_method"] = json!("private_key_jwt");
        with_keys["jwks_uri"] = json!(host.url("/jwks.json"));
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

    /// Somebody's assertion in the client's name, with a key that is not there.
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
    // Its host is away for a while, and strangers send what makes us look for a new key.
    keyed.host.put("/jwks.json", Answer { head: "503 Service Unavailable".to_owned(), body: String::new() });
    for n in 0..80 {
        let refused =
            keyed.send(&keyed.forged(n), &[("grant_type", "refresh_token"), ("refresh_token", "x")]).await;
        assert_eq!(error_code(refused).await, "invalid_client");
    }
    assert_eq!(keyed.redeem("bob").await, StatusCode::OK);
    assert!(keyed.host.requests("/jwks.json") < 20, "{}", keyed.host.requests("/jwks.json"));
}

#[actix_web::test]
async fn a050_made_up_paths_do_not_keep_a_hosts_clients_away() {
    let host = DocumentHost::start().await;
    host.put(PATH, Answer::json(&document(&host), "max-age=60"));
    let app = app(&host, &[]).await;
    let authorize = async |id: &str, from: &str| {
        let url = format!("{}/authorize?{}", app.public, query(id));
        app.http.get(url).header("x-forwarded-for", from).send().await.unwrap().status()
    };
    assert_eq!(authorize(&host.url(PATH), "198.51.100.1").await, StatusCode::SEE_OTHER);
    for n in 0..80 {
        authorize(&host.url(&format!("/made-up/{n}")), "203.0.113.9").await;
    }
    // One that is known is fetched anew, and one that nobody has named before is fetched for somebody else.
    app.wait(Duration::from_secs(61));
    assert_eq!(authorize(&host.url(PATH), "198.51.100.2").await, StatusCode::SEE_OTHER);
    let mut other = document(&host);
    other["client_id"] = json!(host.url("/other.json"));
    host.put("/other.json", Answer::json(&other, ""));
    assert_eq!(authorize(&host.url("/other.json"), "198.51.100.3").await, StatusCode::SEE_OTHER);
    assert_eq!(
        authorize(&host.url("/other.json"), "203.0.113.9").await,
        StatusCode::SEE_OTHER,
        "it is there now"
    );
}

#[actix_web::test]
async fn a050_urls_that_are_refused_count_for_nobody() {
    let host = DocumentHost::start().await;
    host.put(PATH, Answer::json(&document(&host), ""));
    let app = app(&host, &[]).await;
    for n in 0..1300 {
        let url =
            format!("{}/authorize?{}", app.public, query(&format!("https://10.{}.{}.1/x", n / 250, n % 250)));
        assert_eq!(app.http.get(url).send().await.unwrap().status(), StatusCode::BAD_REQUEST);
    }
    let page = app.browser().open(&format!("/authorize?{}", query(&host.url(PATH)))).await;
    assert_eq!(page.status, StatusCode::SEE_OTHER);
}
