//! Tests of tokens that are issued in exchange for an identity assertion from an enterprise's identity provider
//! (ID-JAG), or for another token (RFC 8693).

use std::time::Duration;

use auth_service::domain::client::{GrantType, OperatorTerms};
use auth_service::operator::{Command, NewClient, Reply};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use super::app::{TestApp, Tokens, error_code};
use super::document_host::{Answer, DocumentHost};
use super::machines::{claims, enter, introspect, new_client, resource};
use super::operator::ask as ask_operator;

const HOST: &str = "http://localhost:8080/mcp";
const ISSUER: &str = "http://localhost:9";
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

struct Provider {
    host: DocumentHost,
    pair: rcgen::KeyPair,
}

impl Provider {
    async fn start() -> Self {
        let host = DocumentHost::start().await;
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let x = URL_SAFE_NO_PAD.encode(pair.public_key_raw());
        let keys = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x }, { "kty": "from the future" }] });
        host.put("/keys", Answer::json(&keys, "max-age=600"));
        let metadata = json!({ "issuer": host.origin, "jwks_uri": host.url("/keys") });
        host.put("/.well-known/openid-configuration", Answer::json(&metadata, "max-age=600"));
        Self { host, pair }
    }

    async fn app(&self, more: &str) -> TestApp {
        let trusted = format!("[[issuer]]\nissuer = \"{}\"\n{more}\n", self.host.origin);
        let ca = self.host.ca.path().to_str().unwrap();
        TestApp::start_with(&[
            ("ISSUER", ISSUER),
            ("PROTECTED_HOSTS", "localhost:8080"),
            ("EXTRA_CA_FILE", ca),
            ("TRUSTED_ISSUERS", &trusted),
        ])
        .await
    }

    fn claims(&self, app: &TestApp, client: &str, jti: &str) -> Value {
        let now = app.state.now().0;
        json!({
            "iss": self.host.origin, "sub": "emp-7", "aud": ISSUER, "client_id": client, "jti": jti, "iat": now,
            "exp": now + 300, "resource": HOST, "scope": "mcp other", "email": "Ana@example.com", "email_verified": true,
        })
    }

    fn sign(&self, typ: &str, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(typ.to_owned());
        header.kid = Some("k".to_owned());
        jsonwebtoken::encode(&header, claims, &EncodingKey::from_ed_der(&self.pair.serialize_der())).unwrap()
    }

    fn id_jag(&self, claims: &Value) -> String {
        self.sign("oauth-id-jag+jwt", claims)
    }
}

async fn bearer(app: &TestApp, (id, secret): &(String, String), assertion: &str) -> Response {
    let request = app.http.post(format!("{}/token", app.public)).basic_auth(id, Some(secret));
    request.form(&[("grant_type", JWT_BEARER), ("assertion", assertion)]).send().await.unwrap()
}

async fn check(app: &TestApp, token: &str) -> Response {
    let request = app.http.post(format!("{}/verify/envoy/mcp", app.edge)).header("host", "localhost:8080");
    request.header("x-edge-secret", super::app::EDGE_SECRET).bearer_auth(token).send().await.unwrap()
}

fn agent() -> NewClient {
    NewClient { grant_types: vec![GrantType::JwtBearer], ..new_client("agent") }
}

#[actix_web::test]
async fn an_employee_is_connected_on_the_word_of_the_enterprise() {
    let provider = Provider::start().await;
    let app = provider.app("email_domains = [\"example.com\"]").await;
    app.person("ana").await;
    let agent = enter(&app, agent()).await;
    let metadata: Value = {
        let url = format!("{}/.well-known/oauth-authorization-server", app.public);
        app.http.get(url).send().await.unwrap().json().await.unwrap()
    };
    assert!(metadata["grant_types_supported"].as_array().unwrap().contains(&json!(JWT_BEARER)));
    assert_eq!(
        metadata["authorization_grant_profiles_supported"],
        json!(["urn:ietf:params:oauth:grant-profile:id-jag"])
    );
    let response = bearer(&app, &agent, &provider.id_jag(&provider.claims(&app, &agent.0, "1"))).await;
    let body: Value = response.json().await.unwrap();
    assert!(body.get("refresh_token").is_none() && body["scope"] == "mcp", "{body}");
    let token = body["access_token"].as_str().unwrap();
    assert_eq!(claims(token)["aud"], json!([HOST]));
    let passed = check(&app, token).await;
    assert_eq!(
        (passed.status(), &passed.headers()["x-auth-username"]),
        (StatusCode::OK, &"ana".parse().unwrap())
    );
    // The email address is needed only the first time. Another person with the same address gets no access to the
    // account.
    let mut known = provider.claims(&app, &agent.0, "2");
    known["email_verified"] = json!(false);
    assert_eq!(bearer(&app, &agent, &provider.id_jag(&known)).await.status(), StatusCode::OK);
    let mut successor = provider.claims(&app, &agent.0, "3");
    successor["sub"] = json!("emp-8");
    assert_eq!(error_code(bearer(&app, &agent, &provider.id_jag(&successor)).await).await, "invalid_grant");
}

#[actix_web::test]
async fn a037_an_assertion_counts_once_for_one_client_in_time() {
    let provider = Provider::start().await;
    let app = provider.app("email_domains = [\"example.com\"]\nscope = \"mcp:read\"").await;
    app.person("ana").await;
    app.person("bob").await;
    let agent = enter(&app, agent()).await;
    let other = enter(
        &app,
        NewClient {
            terms: OperatorTerms { serves: vec![resource(HOST)], ..OperatorTerms::default() },
            ..new_client("other")
        },
    )
    .await;
    let good = provider.claims(&app, &agent.0, "1");
    let now = app.state.now().0;
    for (name, value, error) in [
        ("iss", json!("https://evil.example"), "invalid_grant"),
        ("aud", json!("https://other.example"), "invalid_grant"),
        ("aud", json!([ISSUER, "https://other.example"]), "invalid_grant"),
        ("client_id", json!(other.0), "invalid_grant"),
        ("sub", json!(""), "invalid_grant"),
        ("sub", Value::Null, "invalid_grant"),
        ("jti", Value::Null, "invalid_grant"),
        ("jti", json!(""), "invalid_grant"),
        ("exp", json!(now - 31), "invalid_grant"),
        ("exp", json!(now + 7200), "invalid_grant"),
        ("exp", json!(u64::MAX), "invalid_grant"),
        ("exp", json!("soon"), "invalid_grant"),
        ("iat", json!(now + 60), "invalid_grant"),
        ("nbf", json!(now + 60), "invalid_grant"),
        ("resource", json!("https://evil.example/mcp"), "invalid_target"),
        ("scope", json!("unheard"), "invalid_grant"),
        ("email", json!("ana@evil.example"), "invalid_grant"),
        ("email", json!("ana@evil@example.com"), "invalid_grant"),
        ("email", json!("nobody@example.com"), "invalid_grant"),
        ("email_verified", json!(false), "invalid_grant"),
    ] {
        let mut changed = good.clone();
        changed[name] = value.clone();
        let answer = bearer(&app, &agent, &provider.id_jag(&changed)).await;
        assert_eq!(error_code(answer).await, error, "{name}={value}");
    }
    let stranger = Provider::start().await;
    for forged in [
        provider.sign("JWT", &good),
        provider.sign("at+jwt", &good),
        stranger.id_jag(&good),
        format!(
            "{}.{}.",
            URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"oauth-id-jag+jwt"}"#),
            URL_SAFE_NO_PAD.encode(good.to_string())
        ),
        "x".to_owned(),
    ] {
        assert_eq!(error_code(bearer(&app, &agent, &forged).await).await, "invalid_grant");
    }
    // The server refuses a client that the operator has not allowed, a client that does not authenticate, and a
    // replayed assertion.
    let theirs = provider.id_jag(&provider.claims(&app, &other.0, "2"));
    assert_eq!(error_code(bearer(&app, &other, &theirs).await).await, "invalid_grant");
    let public = app.client().await;
    let theirs = provider.id_jag(&provider.claims(&app, &public, "3"));
    let form = [("grant_type", JWT_BEARER), ("client_id", public.as_str()), ("assertion", &theirs)];
    assert_eq!(error_code(app.token(&form).await).await, "unauthorized_client");
    let assertion = provider.id_jag(&good);
    let first: Value = bearer(&app, &agent, &assertion).await.json().await.unwrap();
    assert_eq!(first["scope"], "mcp:read");
    assert_eq!(error_code(bearer(&app, &agent, &assertion).await).await, "invalid_grant");
    app.wait(Duration::from_secs(320));
    assert_eq!(error_code(bearer(&app, &agent, &assertion).await).await, "invalid_grant");
}

#[actix_web::test]
async fn what_a_client_says_of_its_scope_does_not_narrow_what_the_enterprise_allows() {
    let provider = Provider::start().await;
    let id = provider.host.url("/client.json");
    let x = URL_SAFE_NO_PAD.encode(provider.pair.public_key_raw());
    let document = json!({
        "client_id": id, "client_name": "Agent", "redirect_uris": ["https://agent.example/cb"], "scope": "mcp:read",
        "token_endpoint_auth_method": "private_key_jwt",
        "jwks": { "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x }] },
    });
    provider.host.put("/client.json", Answer::json(&document, "max-age=600"));
    let app = provider.app(&format!("email_domains = [\"example.com\"]\nclients = [\"{id}\"]")).await;
    app.person("ana").await;
    let now = app.state.now().0;
    let ask = async |jti: &str, asserted: Value, asked: &str| -> Value {
        let proof =
            json!({ "iss": id, "sub": id, "aud": ISSUER, "exp": now + 60, "jti": format!("proof {jti}") });
        let mut claims = provider.claims(&app, &id, jti);
        claims["scope"] = asserted;
        let (proof, assertion) = (provider.sign("JWT", &proof), provider.id_jag(&claims));
        let form = [
            ("grant_type", JWT_BEARER),
            ("assertion", &assertion),
            ("scope", asked),
            ("client_assertion", &proof),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
        ];
        let body: Value = app.token(&form).await.json().await.unwrap();
        body["scope"].as_str().map_or(body.clone(), |scope| json!(scope))
    };
    assert_eq!(ask("1", json!("mcp"), "").await, "mcp");
    assert_eq!(ask("2", json!("mcp"), "mcp").await, "mcp");
    assert_eq!(ask("3", json!("mcp:read mcp:write"), "mcp:write unheard_of").await, "mcp:write");
    assert_eq!(
        ask("4", Value::Null, "").await,
        "mcp:read",
        "without a scope in either request, the registered scope applies"
    );
}

#[actix_web::test]
async fn a_scope_beyond_the_operator_s_limit_is_refused_to_an_agent_too() {
    let provider = Provider::start().await;
    let app = provider.app("email_domains = [\"example.com\"]").await;
    app.person("ana").await;
    let limited = NewClient { scope: Some("mcp:read".parse().unwrap()), ..agent() };
    let (id, secret) = enter(&app, limited).await;
    let ask = async |jti: &str, scope: &str| {
        let assertion = provider.id_jag(&provider.claims(&app, &id, jti));
        let request = app.http.post(format!("{}/token", app.public)).basic_auth(&id, Some(&secret));
        let form = [("grant_type", JWT_BEARER), ("assertion", &assertion), ("scope", scope)];
        request.form(&form).send().await.unwrap()
    };
    assert_eq!(error_code(ask("1", "mcp").await).await, "invalid_scope");
    assert_eq!(ask("2", "").await.json::<Value>().await.unwrap()["scope"], "mcp:read");
}

#[actix_web::test]
async fn without_a_mail_domain_accounts_are_linked_by_the_operator() {
    let provider = Provider::start().await;
    let app = provider.app("").await;
    let ana = app.person("ana").await;
    let agent = enter(&app, agent()).await;
    let ask =
        async |jti: &str| bearer(&app, &agent, &provider.id_jag(&provider.claims(&app, &agent.0, jti))).await;
    assert_eq!(error_code(ask("1").await).await, "invalid_grant");
    let (username, issuer) = (ana.username, provider.host.origin.clone());
    let link =
        Command::LinkUser { username: username.clone(), issuer: issuer.clone(), sub: "emp-7".to_owned() };
    assert!(matches!(ask_operator(&app, link).await, Reply::Done));
    let twice =
        Command::LinkUser { username: username.clone(), issuer: issuer.clone(), sub: "emp-8".to_owned() };
    assert!(matches!(ask_operator(&app, twice).await, Reply::Refused(_)));
    assert_eq!(ask("2").await.status(), StatusCode::OK);
    let unlink = || Command::UnlinkUser { username: username.clone(), issuer: issuer.clone() };
    assert!(matches!(ask_operator(&app, unlink()).await, Reply::Done));
    assert!(matches!(ask_operator(&app, unlink()).await, Reply::Refused(_)));
    assert_eq!(error_code(ask("3").await).await, "invalid_grant");
}

async fn exchange(
    app: &TestApp,
    (id, secret): &(String, String),
    token: &str,
    more: &[(&str, &str)],
) -> Response {
    let form: Vec<_> =
        [("grant_type", EXCHANGE), ("subject_token", token), ("subject_token_type", ACCESS_TOKEN)]
            .into_iter()
            .filter(|(name, _)| !more.iter().any(|(other, _)| name == other))
            .chain(more.iter().copied())
            .collect();
    let request = app.http.post(format!("{}/token", app.public)).basic_auth(id, Some(secret));
    request.form(&form).send().await.unwrap()
}

const FRONT: &str = "https://mcp.example/mcp";
const BACK: &str = "https://other.example/mcp";

fn front() -> NewClient {
    let terms = OperatorTerms {
        serves: vec![resource(FRONT)],
        resources: vec![resource(BACK)],
        pushes_requests: false,
    };
    NewClient { grant_types: vec![GrantType::TokenExchange], terms, ..new_client("front") }
}

#[actix_web::test]
async fn a_service_acts_for_the_person_whose_token_it_was_called_with() {
    let app = TestApp::start_with(&[("ADDITIONAL_GRANTS", "token_exchange")]).await;
    let client = app.client().await;
    let tokens = app.tokens(&client).await;
    let front = enter(&app, front()).await;
    let back = NewClient {
        terms: OperatorTerms { serves: vec![resource(BACK)], ..OperatorTerms::default() },
        ..new_client("back")
    };
    let back = enter(&app, back).await;
    app.wait(Duration::from_secs(600));
    let response = exchange(&app, &front, &tokens.access, &[("scope", "mcp:read")]).await;
    assert_eq!(response.status(), StatusCode::OK);
    let body: Value = response.json().await.unwrap();
    assert_eq!((&body["issued_token_type"], &body["scope"]), (&json!(ACCESS_TOKEN), &json!("mcp:read")));
    assert!(body.get("refresh_token").is_none() && body["expires_in"].as_u64().unwrap() <= 3000, "{body}");
    let token = body["access_token"].as_str().unwrap();
    let (old, new) = (claims(&tokens.access), claims(token));
    assert_eq!(
        (&new["sub"], &new["aud"], &new["act"]),
        (&old["sub"], &json!([BACK]), &json!({ "sub": front.0 }))
    );
    assert!(new["exp"].as_u64() <= old["exp"].as_u64());
    assert_eq!(introspect(&app, &back, token).await["act"], json!({ "sub": front.0 }));
    let check = async |host: &str| {
        app.check(reqwest::Method::POST, host, "/mcp").bearer_auth(token).send().await.unwrap().status()
    };
    assert_eq!(check("mcp.example").await, StatusCode::UNAUTHORIZED);
    assert_eq!(check("other.example").await, StatusCode::FORBIDDEN, "mcp:read is too little there");
    // The exchanged token becomes invalid together with the grant from which it was derived.
    let form = [("token", tokens.refresh.as_str()), ("client_id", &client)];
    app.http.post(format!("{}/revoke", app.public)).form(&form).send().await.unwrap();
    assert_eq!(check("other.example").await, StatusCode::UNAUTHORIZED);
    assert_eq!(introspect(&app, &back, token).await, json!({ "active": false }));
}

#[actix_web::test]
async fn a033_a041_an_exchange_widens_nothing() {
    let app = TestApp::start_with(&[("ADDITIONAL_GRANTS", "token_exchange, client_credentials")]).await;
    let client = app.client().await;
    let tokens = app.tokens(&client).await;
    let front = enter(&app, front()).await;
    let other = NewClient {
        terms: OperatorTerms {
            serves: vec![resource(BACK)],
            resources: vec![resource(FRONT)],
            pushes_requests: false,
        },
        ..self::front()
    };
    let other = enter(&app, NewClient { name: "other".to_owned().try_into().unwrap(), ..other }).await;
    for (name, value, error) in [
        ("scope", "mcp admin", "invalid_scope"),
        ("resource", FRONT, "invalid_target"),
        ("resource", "https://evil.example", "invalid_target"),
        ("audience", BACK, "invalid_request"),
        ("actor_token", "x", "invalid_request"),
        ("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token", "invalid_request"),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt", "invalid_request"),
        ("subject_token", tokens.refresh.as_str(), "invalid_grant"),
        ("subject_token", "x", "invalid_grant"),
    ] {
        let answer = exchange(&app, &front, &tokens.access, &[(name, value)]).await;
        assert_eq!(error_code(answer).await, error, "{name}={value}");
    }
    // The server refuses a client that is not in the token's audience, a client without permission to exchange
    // tokens, and a token that is itself the result of an exchange.
    assert_eq!(error_code(exchange(&app, &other, &tokens.access, &[]).await).await, "invalid_grant");
    let form = [("grant_type", EXCHANGE), ("client_id", client.as_str()), ("subject_token", &tokens.access)];
    assert_eq!(error_code(app.token(&form).await).await, "unauthorized_client");
    let once = Tokens::of(exchange(&app, &front, &tokens.access, &[]).await).await.access;
    assert_eq!(error_code(exchange(&app, &other, &once, &[]).await).await, "invalid_grant");
    let off = TestApp::start().await;
    let front = enter(&off, self::front()).await;
    assert_eq!(error_code(exchange(&off, &front, "x", &[]).await).await, "unsupported_grant_type");
}
