//! Tests of clients that the operator has added: machines with client credentials, and resource servers that
//! introspect tokens.

use std::time::Duration;

use auth_service::domain::account::{Group, Username};
use auth_service::domain::client::{ClientId, ClientKeys, GrantType, OperatorTerms};
use auth_service::domain::resource::ResourceUri;
use auth_service::operator::{Command, Credentials, NewClient, Reply};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use super::app::{ISSUER, RESOURCE, TestApp, Tokens, error_code};
use super::operator::ask;

pub(crate) fn resource(text: &str) -> ResourceUri {
    ResourceUri::well_formed(text).unwrap()
}

pub(crate) fn new_client(name: &str) -> NewClient {
    NewClient {
        name: Username::try_from(name.to_owned()).unwrap(),
        credentials: Credentials::Secret,
        grant_types: vec![],
        redirect_uris: vec![],
        scope: None,
        groups: vec![],
        terms: OperatorTerms::default(),
    }
}

fn machine(name: &str) -> NewClient {
    NewClient {
        grant_types: vec![GrantType::ClientCredentials],
        groups: vec![Group::try_from("robots".to_owned()).unwrap()],
        terms: OperatorTerms { resources: vec![resource(RESOURCE)], ..OperatorTerms::default() },
        ..new_client(name)
    }
}

fn resource_server(name: &str, serves: &str) -> NewClient {
    NewClient {
        terms: OperatorTerms { serves: vec![resource(serves)], ..OperatorTerms::default() },
        ..new_client(name)
    }
}

/// Adds a client, and returns its identifier and secret.
pub(crate) async fn enter(app: &TestApp, new: NewClient) -> (String, String) {
    match ask(app, Command::AddClient(new)).await {
        Reply::ClientAdded { id, secret } => (id.to_string(), secret.unwrap_or_default()),
        other => panic!("{other:?}"),
    }
}

async fn credentials(app: &TestApp, (id, secret): &(String, String), more: &[(&str, &str)]) -> Response {
    let form: Vec<_> =
        [("grant_type", "client_credentials")].into_iter().chain(more.iter().copied()).collect();
    let request = app.http.post(format!("{}/token", app.public)).basic_auth(id, Some(secret));
    request.form(&form).send().await.unwrap()
}

pub(crate) async fn introspect(app: &TestApp, (id, secret): &(String, String), token: &str) -> Value {
    let request = app.http.post(format!("{}/introspect", app.public)).basic_auth(id, Some(secret));
    let response = request.form(&[("token", token)]).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["cache-control"], "no-store");
    response.json().await.unwrap()
}

pub(crate) fn claims(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

#[actix_web::test]
async fn a_machine_gets_a_token_for_itself_that_passes_the_check() {
    let app = TestApp::start().await;
    let bot = enter(&app, machine("backup-bot")).await;
    let response = credentials(&app, &bot, &[]).await;
    assert_eq!(
        (response.status(), &response.headers()["cache-control"]),
        (StatusCode::OK, &"no-store".parse().unwrap())
    );
    let body: Value = response.json().await.unwrap();
    assert!(body.get("refresh_token").is_none() && body["token_type"] == "Bearer", "{body}");
    let token = body["access_token"].as_str().unwrap();
    let claims = claims(token);
    assert_eq!(
        (&claims["sub"], &claims["client_id"], &claims["aud"]),
        (&json!(bot.0), &json!(bot.0), &json!([RESOURCE]))
    );
    let passed = app.check_token(token).await;
    assert_eq!(passed.status(), StatusCode::OK);
    assert_eq!(passed.headers()["x-auth-username"], "backup-bot");
    assert_eq!(passed.headers()["x-auth-groups"], "robots");
    // Access ends when the token expires and when the client is deleted.
    app.wait(Duration::from_secs(3600));
    assert_eq!(app.check_token(token).await.status(), StatusCode::UNAUTHORIZED);
    let token =
        Tokens::of(credentials(&app, &bot, &[("resource", RESOURCE), ("scope", "mcp")]).await).await.access;
    assert_eq!(app.check_token(&token).await.status(), StatusCode::OK);
    let id = ClientId::try_from(bot.0.clone()).unwrap();
    assert!(matches!(ask(&app, Command::DeleteClient { id }).await, Reply::Done));
    assert_eq!(app.check_token(&token).await.status(), StatusCode::UNAUTHORIZED);
    // The client's name can be used again.
    enter(&app, machine("backup-bot")).await;
}

#[actix_web::test]
async fn a_machine_gives_its_token_back() {
    let app = TestApp::start().await;
    let bot = enter(&app, machine("bot")).await;
    let (one, other) = (
        Tokens::of(credentials(&app, &bot, &[]).await).await.access,
        Tokens::of(credentials(&app, &bot, &[]).await).await.access,
    );
    let revoke = app.http.post(format!("{}/revoke", app.public)).basic_auth(&bot.0, Some(&bot.1));
    assert_eq!(revoke.form(&[("token", &one)]).send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(app.check_token(&one).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(app.check_token(&other).await.status(), StatusCode::OK);
}

#[actix_web::test]
async fn a041_a033_a_machine_gets_no_more_than_the_operator_gave_it() {
    let app = TestApp::start().await;
    let bot = enter(&app, NewClient { scope: Some("mcp:read".parse().unwrap()), ..machine("bot") }).await;
    assert_eq!(credentials(&app, &bot, &[]).await.json::<Value>().await.unwrap()["scope"], "mcp:read");
    for (name, value, error) in [
        ("resource", "https://other.example/mcp", "invalid_target"),
        ("resource", "https://mcp.example", "invalid_target"),
        ("resource", "https://mcp.example/mcp-other", "invalid_target"),
        ("resource", "https://evil.example/mcp", "invalid_target"),
        ("scope", "mcp", "invalid_scope"),
        ("scope", " ", "invalid_scope"),
        ("scope", "a\"b", "invalid_scope"),
    ] {
        assert_eq!(
            error_code(credentials(&app, &bot, &[(name, value)]).await).await,
            error,
            "{name}={value}"
        );
    }
    let wrong = (bot.0.clone(), "mgk_wrong".to_owned());
    assert_eq!(credentials(&app, &wrong, &[]).await.status(), StatusCode::UNAUTHORIZED);
    // A client that registers itself cannot get the grant type of machines.
    let metadata = json!({ "redirect_uris": ["https://app.example/cb"], "grant_types": ["authorization_code", "client_credentials"] });
    let registered: Value = app.register(&metadata).await.json().await.unwrap();
    assert_eq!(registered["grant_types"], json!(["authorization_code"]));
    let text = |name: &str| registered[name].as_str().unwrap().to_owned();
    let impostor = (text("client_id"), text("client_secret"));
    assert_eq!(error_code(credentials(&app, &impostor, &[]).await).await, "unauthorized_client");
    let public = app.client().await;
    let form = [("grant_type", "client_credentials"), ("client_id", &public)];
    assert_eq!(error_code(app.token(&form).await).await, "unauthorized_client");
    // Nobody can log in to the account of a machine with any password.
    let mut browser = app.browser();
    let page = browser.open("/login").await;
    for password in ["!", "", &bot.1] {
        let answer = browser.submit(&page, &[("username", "bot"), ("password", password)]).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
    }
    let username = Username::try_from("bot".to_owned()).unwrap();
    assert!(matches!(ask(&app, Command::ResetUser { username }).await, Reply::Refused(_)));
}

#[actix_web::test]
async fn a_machine_proves_itself_by_a_key() {
    let app = TestApp::start().await;
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let public = URL_SAFE_NO_PAD.encode(pair.public_key_raw());
    let keys =
        ClientKeys::Inline(json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "1", "x": public }] }));
    let bot = enter(&app, NewClient { credentials: Credentials::Keys(keys), ..machine("bot") }).await.0;
    let now = app.state.now().0;
    let assertion_until = |exp: u64, jti: &str| {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some("1".to_owned());
        let claims = json!({ "iss": bot, "sub": bot, "aud": ISSUER, "exp": exp, "iat": now, "jti": jti });
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ed_der(&pair.serialize_der())).unwrap()
    };
    let assertion = |jti: &str| assertion_until(now + 60, jti);
    let ask_with = async |assertion: String| {
        app.token(&[
            ("grant_type", "client_credentials"),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_assertion", &assertion),
        ])
        .await
    };
    let token = Tokens::of(ask_with(assertion("a")).await).await.access;
    assert_eq!(app.check_token(&token).await.status(), StatusCode::OK);
    assert_eq!(error_code(ask_with(assertion("a")).await).await, "invalid_client");
    // A huge number in an untrusted assertion must not cause an overflow.
    assert_eq!(error_code(ask_with(assertion_until(u64::MAX, "b")).await).await, "invalid_client");
}

#[actix_web::test]
async fn an_operator_is_told_what_a_client_lacks() {
    let app = TestApp::start().await;
    app.person("ana").await;
    for new in [
        new_client("nothing"),
        machine("ana"),
        NewClient { terms: OperatorTerms::default(), ..machine("nowhere") },
        NewClient { credentials: Credentials::None, ..machine("public") },
        NewClient { credentials: Credentials::None, ..resource_server("public", RESOURCE) },
        NewClient { grant_types: vec![GrantType::AuthorizationCode], ..new_client("nowhere") },
    ] {
        assert!(matches!(ask(&app, Command::AddClient(new)).await, Reply::Refused(_)));
    }
}

#[actix_web::test]
async fn grants_that_are_off_are_neither_announced_nor_given() {
    let app = TestApp::start_with(&[("ADDITIONAL_GRANTS", "none")]).await;
    let bot = enter(&app, machine("bot")).await;
    assert_eq!(error_code(credentials(&app, &bot, &[]).await).await, "unsupported_grant_type");
    let announced = async |app: &TestApp| -> Value {
        let url = format!("{}/.well-known/oauth-authorization-server", app.public);
        app.http.get(url).send().await.unwrap().json().await.unwrap()
    };
    assert_eq!(
        announced(&app).await["grant_types_supported"],
        json!(["authorization_code", "refresh_token"])
    );
    let default = announced(&TestApp::start().await).await;
    assert_eq!(
        default["grant_types_supported"],
        json!(["authorization_code", "refresh_token", "client_credentials"])
    );
    assert_eq!(default["introspection_endpoint"], format!("{ISSUER}/introspect"));
}

#[actix_web::test]
async fn a065_a_client_learns_about_its_own_tokens_and_its_own_resources_only() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let tokens = app.tokens(&client).await;
    let bot = enter(&app, machine("bot")).await;
    let server = enter(&app, resource_server("server", RESOURCE)).await;
    let neighbour = enter(&app, resource_server("neighbour", "https://mcp.example/mcp-other")).await;
    let inactive = json!({ "active": false });

    let known = introspect(&app, &server, &tokens.access).await;
    assert_eq!(
        (&known["active"], &known["client_id"], &known["aud"]),
        (&json!(true), &json!(client), &json!([RESOURCE]))
    );
    assert_eq!(
        (&known["scope"], &known["token_type"], &known["iss"]),
        (&json!("mcp"), &json!("Bearer"), &json!(ISSUER))
    );
    assert_eq!(known["groups"], json!(["staff", "ops"]));
    for name in ["sub", "username", "jti", "exp", "iat"] {
        assert!(!known[name].is_null(), "{name}");
    }
    // A refresh token is active only for its own client. The response is the same for tokens of other clients and
    // for invalid tokens.
    assert_eq!(introspect(&app, &server, &tokens.refresh).await, inactive);
    assert_eq!(introspect(&app, &neighbour, &tokens.access).await, inactive);
    assert_eq!(introspect(&app, &bot, &tokens.access).await, inactive);
    assert_eq!(introspect(&app, &server, "mgr_x").await, inactive);
    assert_eq!(introspect(&app, &server, &format!("{}x", tokens.access)).await, inactive);
    let own = Tokens::of(credentials(&app, &bot, &[]).await).await.access;
    assert_eq!(introspect(&app, &bot, &own).await["sub"], bot.0);
    assert_eq!(introspect(&app, &server, &own).await["username"], "bot");

    // Without client authentication, the endpoint discloses nothing. This applies to public clients as well.
    for form in
        [vec![("token", tokens.access.as_str())], vec![("token", &tokens.access), ("client_id", &client)]]
    {
        let response = app.http.post(format!("{}/introspect", app.public)).form(&form).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    }
    let wrong = app.http.post(format!("{}/introspect", app.public)).basic_auth(&server.0, Some("mgk_wrong"));
    let wrong = wrong.form(&[("token", &tokens.access)]).send().await.unwrap();
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    assert!(wrong.headers().contains_key("www-authenticate"));
    let get =
        app.http.get(format!("{}/introspect?token={}", app.public, tokens.access)).send().await.unwrap();
    assert!(!get.status().is_success());

    // Revoked and expired tokens are inactive.
    app.refresh(&client, &tokens.refresh).await;
    let revoked = [("token", tokens.access.as_str()), ("client_id", &client)];
    app.http.post(format!("{}/revoke", app.public)).form(&revoked).send().await.unwrap();
    assert_eq!(introspect(&app, &server, &tokens.access).await, inactive);
    app.wait(Duration::from_secs(3600));
    assert_eq!(introspect(&app, &server, &own).await, inactive);
}

#[actix_web::test]
async fn a_confidential_client_looks_at_its_own_refresh_token() {
    let app = TestApp::start().await;
    let metadata = json!({ "redirect_uris": [super::app::REDIRECT], "token_endpoint_auth_method": "client_secret_post" });
    let registered: Value = app.register(&metadata).await.json().await.unwrap();
    let text = |name: &str| registered[name].as_str().unwrap().to_owned();
    let own = (text("client_id"), text("client_secret"));
    let code = app.code(&own.0).await;
    let form = [
        ("grant_type", "authorization_code"),
        ("client_id", &own.0),
        ("client_secret", &own.1),
        ("code", &code),
        ("code_verifier", super::app::VERIFIER),
    ];
    let tokens = Tokens::of(app.token(&form).await).await;
    let known = introspect(&app, &own, &tokens.refresh).await;
    assert!(
        known["active"] == true && known["exp"].as_u64().unwrap() > app.state.now().0 + 86_400,
        "{known}"
    );
    let form = [
        ("grant_type", "refresh_token"),
        ("client_id", &own.0),
        ("client_secret", &own.1),
        ("refresh_token", &tokens.refresh),
    ];
    let next = Tokens::of(app.token(&form).await).await;
    assert_eq!(
        introspect(&app, &own, &tokens.refresh).await["active"],
        false,
        "the token has already been used"
    );
    assert_eq!(introspect(&app, &own, &next.refresh).await["active"], true);
}

#[actix_web::test]
async fn an_answer_can_be_had_signed() {
    let app = TestApp::start().await;
    let tokens = app.tokens(&app.client().await).await;
    let server = enter(&app, resource_server("server", RESOURCE)).await;
    let request = app.http.post(format!("{}/introspect", app.public)).basic_auth(&server.0, Some(&server.1));
    let request =
        request.header("accept", "application/token-introspection+jwt").form(&[("token", &tokens.access)]);
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/token-introspection+jwt");
    let jwt = response.text().await.unwrap();
    assert_eq!(jsonwebtoken::decode_header(&jwt).unwrap().typ.as_deref(), Some("token-introspection+jwt"));
    let verified: Value = app.state.keys.verify("token-introspection+jwt", &jwt).unwrap();
    assert_eq!((&verified["iss"], &verified["aud"]), (&json!(ISSUER), &json!(server.0)));
    assert!(verified["token_introspection"]["active"] == true && verified.get("sub").is_none());
    // The introspection response is not an access token.
    assert_eq!(app.check_token(&jwt).await.status(), StatusCode::UNAUTHORIZED);
}
