//! Tests of `/token` with authorization codes and refresh tokens.

use std::time::Duration;

use auth_service::domain::grant_id::GrantId;
use auth_service::domain::refresh_token::{Line, LineKey, RefreshToken};
use auth_service::store::Change;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::app::{ISSUER, REDIRECT, RESOURCE, TestApp, Tokens, VERIFIER, authorize_query, error_code};

fn claims(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

#[actix_web::test]
async fn a_code_becomes_tokens_of_rfc_9068() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let response = app.redeem(&client, &app.code(&client).await).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["cache-control"], "no-store");
    let body: Value = response.json().await.unwrap();
    assert_eq!(
        (&body["token_type"], &body["expires_in"], &body["scope"]),
        (&json!("Bearer"), &json!(3595), &json!("mcp")),
        "the client must refresh before the token expires"
    );
    let claims = claims(body["access_token"].as_str().unwrap());
    assert_eq!(claims["iss"], ISSUER);
    assert_eq!(claims["aud"], json!([RESOURCE]));
    assert_eq!(claims["client_id"], client);
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 3600);
    for name in ["sub", "jti", "gid", "scope"] {
        assert!(claims[name].is_string(), "{name}");
    }
}

#[actix_web::test]
async fn a026_code_replay_is_refused_and_revokes_what_was_issued() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let code = app.code(&client).await;
    let tokens = Tokens::of(app.redeem(&client, &code).await).await;
    assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::OK);
    assert_eq!(error_code(app.redeem(&client, &code).await).await, "invalid_grant");
    assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(error_code(app.refresh(&client, &tokens.refresh).await).await, "invalid_grant");
}

#[actix_web::test]
async fn a026_who_could_not_have_redeemed_a_used_code_ends_nothing() {
    for app in TestApp::on_both_stores(&[]).await {
        let client = app.client().await;
        let other = app.client_with(&["https://other-app.example/cb"]).await;
        let mut browser = app.browser_of("ana").await;
        let query = authorize_query(&client, &[]);
        let code = browser.allow(&query).await;
        let tokens = Tokens::of(app.redeem(&client, &code).await).await;
        let good = [
            ("grant_type", "authorization_code"),
            ("client_id", &client),
            ("code", &code),
            ("code_verifier", VERIFIER),
            ("redirect_uri", REDIRECT),
        ];
        for (name, value) in [
            ("client_id", other.as_str()),
            ("code_verifier", "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXl"),
            ("code_verifier", ""),
            ("redirect_uri", "https://app.example/cb2"),
        ] {
            let form: Vec<_> =
                good.iter().filter(|(key, _)| *key != name).copied().chain([(name, value)]).collect();
            assert_eq!(app.token(&form).await.status(), StatusCode::BAD_REQUEST, "{name}={value}");
            assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::OK, "{name}={value}");
        }
        // The consent is remembered until a replay shows that another party has the code.
        let again = browser.open(&format!("/authorize?{query}")).await;
        assert!(again.parameter("code").is_some(), "{}", again.body);
        assert_eq!(error_code(app.redeem(&client, &code).await).await, "invalid_grant");
        assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::UNAUTHORIZED);
        let again = browser.open(&format!("/authorize?{query}")).await;
        assert!(again.body.contains("Allow an application"), "{}", again.body);
    }
}

#[actix_web::test]
async fn a027_of_many_redemptions_at_once_one_at_most_succeeds() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let code = app.code(&client).await;
    let answers = join_all((0..32).map(|_| app.redeem(&client, &code))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status() == StatusCode::OK).count(), 1);
}

#[actix_web::test]
async fn a028_a029_a033_a_wrong_redemption_is_refused_and_burns_nothing() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let other = app.client_with(&["https://other-app.example/cb"]).await;
    let query = authorize_query(&client, &[("scope", "mcp:read")]);
    let code = app.browser_of("ana").await.allow(&query).await;
    let good = [
        ("grant_type", "authorization_code"),
        ("client_id", &client),
        ("code", &code),
        ("code_verifier", VERIFIER),
        ("redirect_uri", REDIRECT),
    ];
    for (name, value, expected) in [
        ("client_id", other.as_str(), "invalid_grant"),
        ("code_verifier", "", "invalid_request"),
        ("code_verifier", "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXl", "invalid_grant"),
        ("redirect_uri", "https://app.example/cb2", "invalid_grant"),
        ("resource", "https://other.example/mcp", "invalid_target"),
        ("resource", "https://mcp.example", "invalid_target"),
        ("scope", "mcp", "invalid_scope"),
        ("grant_type", "password", "unsupported_grant_type"),
        ("code", "mgc_x", "invalid_grant"),
        ("client_secret", "x", "invalid_client"),
        ("client_id", "unknown", "invalid_client"),
    ] {
        let form: Vec<_> =
            good.iter().filter(|(key, _)| *key != name).copied().chain([(name, value)]).collect();
        assert_eq!(error_code(app.token(&form).await).await, expected, "{name}={value}");
    }
    let doubled: Vec<_> = good.into_iter().chain([("code", "x")]).collect();
    assert_eq!(error_code(app.token(&doubled).await).await, "invalid_request");
    assert_eq!(app.redeem(&client, &code).await.status(), StatusCode::OK);
}

#[actix_web::test]
async fn a_code_lasts_a_minute() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let code = app.code(&client).await;
    app.wait(Duration::from_secs(60));
    assert_eq!(error_code(app.redeem(&client, &code).await).await, "invalid_grant");
}

#[actix_web::test]
async fn a032_parallel_and_repeated_refresh_gets_one_and_the_same_successor() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let tokens = app.tokens(&client).await;
    let mut successors = std::collections::HashSet::new();
    for _ in 0..5 {
        for answer in join_all((0..32).map(|_| app.refresh(&client, &tokens.refresh))).await {
            assert_eq!(answer.status(), StatusCode::OK);
            successors.insert(Tokens::of(answer).await.refresh);
        }
        app.wait(Duration::from_secs(19));
    }
    assert_eq!(successors.len(), 1);
    let live = successors.into_iter().next().unwrap();
    assert_eq!(app.refresh(&client, &live).await.status(), StatusCode::OK);
}

#[actix_web::test]
async fn a031_reuse_after_the_grace_or_after_the_successor_was_used_revokes_the_grant() {
    let app = TestApp::start().await;
    let client = app.client().await;
    // An old token is reused after its successor has been used.
    let first = app.tokens(&client).await;
    let second = Tokens::of(app.refresh(&client, &first.refresh).await).await;
    let third = Tokens::of(app.refresh(&client, &second.refresh).await).await;
    assert_eq!(error_code(app.refresh(&client, &first.refresh).await).await, "invalid_grant");
    assert_eq!(error_code(app.refresh(&client, &third.refresh).await).await, "invalid_grant");
    assert_eq!(app.check_token(&third.access).await.status(), StatusCode::UNAUTHORIZED);
    // An old token is reused after the grace period.
    let first = app.tokens(&client).await;
    let second = Tokens::of(app.refresh(&client, &first.refresh).await).await;
    app.wait(Duration::from_secs(121));
    assert_eq!(error_code(app.refresh(&client, &first.refresh).await).await, "invalid_grant");
    assert_eq!(error_code(app.refresh(&client, &second.refresh).await).await, "invalid_grant");
}

#[actix_web::test]
async fn a033_a034_a_refresh_by_another_client_or_for_more_is_refused_and_changes_nothing() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let other = app.client_with(&["https://other-app.example/cb"]).await;
    let query = authorize_query(&client, &[("scope", "mcp:read mcp:write")]);
    let code = app.browser_of("ana").await.allow(&query).await;
    let tokens = Tokens::of(app.redeem(&client, &code).await).await;
    assert_eq!(error_code(app.refresh(&other, &tokens.refresh).await).await, "invalid_grant");
    let form = |name: &'static str, value: &'static str| {
        [
            ("grant_type", "refresh_token"),
            ("client_id", &client),
            ("refresh_token", &tokens.refresh),
            (name, value),
        ]
    };
    assert_eq!(error_code(app.token(&form("scope", "mcp")).await).await, "invalid_scope");
    assert_eq!(
        error_code(app.token(&form("resource", "https://other.example/mcp")).await).await,
        "invalid_target"
    );
    let narrowed = app.token(&form("scope", "mcp:read")).await;
    assert_eq!(narrowed.json::<Value>().await.unwrap()["scope"], "mcp:read");
}

#[actix_web::test]
async fn a_token_may_be_for_a_part_of_the_host_that_was_allowed_and_for_no_more() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let whole = "https://mcp.example";
    let query = authorize_query(&client, &[("resource", whole)]);
    let code = app.browser_of("ana").await.allow(&query).await;
    // In the authorization request, the client used the resource from the metadata of the whole host. In the token
    // request, it uses the URL that it calls.
    let response = app.redeem(&client, &code).await;
    assert_eq!(response.status(), StatusCode::OK);
    let tokens = Tokens::of(response).await;
    assert_eq!(claims(&tokens.access)["aud"], json!([RESOURCE]));
    let refresh = async |resource: &str| {
        let form = [
            ("grant_type", "refresh_token"),
            ("client_id", &client),
            ("refresh_token", &tokens.refresh),
            ("resource", resource),
        ];
        app.token(&form).await
    };
    for resource in ["https://mcp.example/mcp", "https://mcp.example/mcp/", whole, "https://mcp.example/"] {
        let body: Value = refresh(resource).await.json().await.unwrap();
        let audience = json!([resource.trim_end_matches('/')]);
        assert_eq!(claims(body["access_token"].as_str().unwrap())["aud"], audience, "{resource}");
    }
    for resource in ["https://other.example/mcp", "https://other.example", "https://mcp.example.evil.example"]
    {
        assert_eq!(error_code(refresh(resource).await).await, "invalid_target", "{resource}");
    }
}

#[actix_web::test]
async fn a_grant_that_is_not_refreshed_ends() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let tokens = app.tokens(&client).await;
    app.wait(Duration::from_secs(90 * 86_400));
    assert_eq!(error_code(app.refresh(&client, &tokens.refresh).await).await, "invalid_grant");
    app.state.store.sweep(app.state.now()).await.unwrap();
    assert_eq!(error_code(app.refresh(&client, &tokens.refresh).await).await, "invalid_grant");
}

#[actix_web::test]
async fn a035_a036_confidential_clients_authenticate_in_one_way() {
    let app = TestApp::start().await;
    let metadata =
        json!({ "redirect_uris": [REDIRECT], "grant_types": ["authorization_code", "refresh_token"] });
    let client: Value = app.register(&metadata).await.json().await.unwrap();
    let (id, secret) = (client["client_id"].as_str().unwrap(), client["client_secret"].as_str().unwrap());
    let mut browser = app.browser_of("ana").await;
    let code = browser.allow(&authorize_query(id, &[])).await;
    let post = |authorization: Option<String>, body: Vec<(&'static str, String)>| {
        let form: Vec<_> = [
            ("grant_type", "authorization_code".to_owned()),
            ("code", code.clone()),
            ("code_verifier", VERIFIER.to_owned()),
        ]
        .into_iter()
        .chain(body)
        .collect();
        let request = app.http.post(format!("{}/token", app.public)).form(&form);
        authorization.map_or_else(
            || request.try_clone().unwrap(),
            |value| request.try_clone().unwrap().header("authorization", value),
        )
    };
    let basic = |text: String| Some(format!("Basic {}", STANDARD.encode(text)));
    for (authorization, body, status) in [
        (None, vec![("client_id", id.to_owned())], 401),
        (None, vec![("client_id", id.to_owned()), ("client_secret", format!("{secret}x"))], 401),
        (None, vec![("client_id", id.to_owned()), ("client_secret", String::new())], 401),
        (basic(format!("{id}:")), vec![], 401),
        (basic(format!("{id}:wrong")), vec![], 401),
        (basic(id.to_owned()), vec![], 401),
        (Some("Basic !!!".to_owned()), vec![], 401),
        (Some("Bearer x".to_owned()), vec![], 401),
        (basic(format!("{id}:{secret}")), vec![("client_secret", secret.to_owned())], 400),
        (basic(format!("{id}:{secret}")), vec![("client_id", "other".to_owned())], 401),
    ] {
        let response = post(authorization.clone(), body).send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{authorization:?}");
        let challenged = response.headers().contains_key("www-authenticate");
        assert_eq!(challenged, status == 401 && authorization.is_some());
    }
    let response = post(basic(format!("{id}:{secret}")), vec![]).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let tokens = Tokens::of(response).await;
    // A client with a secret can also send the secret in the body.
    let form = [
        ("grant_type", "refresh_token"),
        ("client_id", id),
        ("client_secret", secret),
        ("refresh_token", &tokens.refresh),
    ];
    assert_eq!(app.token(&form).await.status(), StatusCode::OK);
    // A public client must not send a secret in the body or in a header.
    let public = app.client().await;
    let held = app.tokens(&public).await.refresh;
    let form = [("grant_type", "refresh_token"), ("refresh_token", held.as_str())];
    let pretended = [("client_id", public.as_str()), ("client_secret", secret)];
    let in_body: Vec<_> = form.into_iter().chain(pretended).collect();
    assert_eq!(error_code(app.token(&in_body).await).await, "invalid_client");
    let request =
        app.http.post(format!("{}/token", app.public)).basic_auth(&public, Some(secret)).form(&form);
    assert_eq!(error_code(request.send().await.unwrap()).await, "invalid_client");
    assert_eq!(
        app.refresh(&public, &held).await.status(),
        StatusCode::OK,
        "the refused requests have used up the token"
    );
}

#[actix_web::test]
async fn a041_a_grant_outside_the_registered_ones_is_refused() {
    let app =
        TestApp::start_with(&[("ADDITIONAL_GRANTS", "client_credentials, device_code, token_exchange")])
            .await;
    let device = "urn:ietf:params:oauth:grant-type:device_code";
    for (registered, others) in [
        ("authorization_code", ["refresh_token", "client_credentials", device]),
        (device, ["authorization_code", "refresh_token", "client_credentials"]),
    ] {
        let metadata = json!({
            "redirect_uris": [REDIRECT], "grant_types": [registered], "token_endpoint_auth_method": "none",
            "response_types": if registered == device { json!([]) } else { json!(["code"]) },
        });
        let client: Value = app.register(&metadata).await.json().await.unwrap();
        let id = client["client_id"].as_str().unwrap();
        for other in others {
            let form = [("grant_type", other), ("client_id", id), ("code", "x"), ("refresh_token", "x")];
            assert_eq!(
                error_code(app.token(&form).await).await,
                "unauthorized_client",
                "{registered} {other}"
            );
        }
    }
}

#[actix_web::test]
async fn a034_a_refresh_carries_the_groups_of_now() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let mut browser = app.browser_of("ana").await;
    let code = browser.allow(&authorize_query(&client, &[])).await;
    let tokens = Tokens::of(app.redeem(&client, &code).await).await;
    assert_eq!(claims(&tokens.access)["groups"], json!(["staff", "ops"]));
    let name = "ana".to_owned().try_into().unwrap();
    let ana = app.state.store.account_named(&name).await.unwrap().unwrap();
    assert_eq!(app.state.store.set_account_groups(&ana.subject, &[]).await.unwrap(), Change::Changed);
    // Both the old and the new token now give access, but without the groups.
    assert_eq!(app.check_token(&tokens.access).await.headers()["x-auth-groups"], "");
    let renewed = Tokens::of(app.refresh(&client, &tokens.refresh).await).await;
    assert!(
        matches!(&claims(&renewed.access)["groups"], Value::Null)
            || claims(&renewed.access)["groups"] == json!([])
    );
    assert_eq!(app.check_token(&renewed.access).await.headers()["x-auth-groups"], "");
}

#[actix_web::test]
async fn a038_a039_other_methods_and_content_types_are_refused() {
    let app = TestApp::start().await;
    let url = format!("{}/token", app.public);
    assert_eq!(app.http.get(&url).send().await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
    for content_type in ["application/json", "multipart/form-data; boundary=x", "text/plain"] {
        let response = app
            .http
            .post(&url)
            .header("content-type", content_type)
            .body("grant_type=authorization_code")
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(error_code(response).await, "invalid_request");
    }
}

#[actix_web::test]
async fn a041_a_client_without_the_refresh_grant_gets_no_refresh_token() {
    let app = TestApp::start().await;
    let metadata = json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none", "grant_types": ["authorization_code"] });
    let client: Value = app.register(&metadata).await.json().await.unwrap();
    let id = client["client_id"].as_str().unwrap();
    let tokens = app.tokens(id).await;
    assert_eq!(tokens.refresh, "");
    assert_eq!(error_code(app.refresh(id, "mgr_x").await).await, "unauthorized_client");
}

#[actix_web::test]
async fn a030_a_code_injected_into_another_session_does_not_fit_its_verifier() {
    let app = TestApp::start().await;
    let client = app.client().await;
    // Eve's code was requested with her own code challenge. Ana's client redeems the code with Ana's code
    // verifier.
    let mut eve = app.browser_of("eve").await;
    let code = eve
        .allow(&authorize_query(
            &client,
            &[("code_challenge", "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU")],
        ))
        .await;
    assert_eq!(error_code(app.redeem(&client, &code).await).await, "invalid_grant");
}

#[actix_web::test]
async fn a066_a_client_gives_back_its_own_grant_and_no_other() {
    let app = TestApp::start().await;
    let (client, other) = (app.client().await, app.client_with(&["https://other-app.example/cb"]).await);
    let revoke = async |client: &str, token: &str| {
        let form = [("client_id", client), ("token", token), ("token_type_hint", "unheard_of")];
        app.http.post(format!("{}/revoke", app.public)).form(&form).send().await.unwrap().status()
    };
    let tokens = app.tokens(&client).await;
    for token in [&tokens.refresh, &tokens.access, "garbage"] {
        assert_eq!(revoke(&other, token).await, StatusCode::OK);
    }
    assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::OK);
    assert_eq!(revoke("unknown", &tokens.refresh).await, StatusCode::UNAUTHORIZED);
    assert_eq!(revoke(&client, "").await, StatusCode::BAD_REQUEST);
    assert_eq!(revoke(&client, &tokens.refresh).await, StatusCode::OK);
    assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::UNAUTHORIZED);
    let again = app.tokens(&client).await;
    assert_eq!(revoke(&client, &again.access).await, StatusCode::OK);
    assert_eq!(error_code(app.refresh(&client, &again.refresh).await).await, "invalid_grant");
}

/// Every access token contains the identifier of its grant. A forged refresh token with that identifier is
/// refused, and does not revoke the grant.
#[actix_web::test]
async fn a031_a034_a_forged_refresh_token_that_names_a_grant_ends_nothing() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let tokens = app.tokens(&client).await;
    let grant: GrantId = serde_json::from_value(claims(&tokens.access)["gid"].clone()).unwrap();
    assert_eq!(RefreshToken::parse(&tokens.refresh).unwrap().presented().grant(), &grant);
    for number in [0, 1, u32::MAX] {
        let line = Line { key: LineKey::new([7; 32]), number };
        let forged = RefreshToken::new(&grant, &line, [7; 32]);
        assert_eq!(error_code(app.refresh(&client, forged.expose()).await).await, "invalid_grant");
        let form = [("token", forged.expose()), ("client_id", &client)];
        let revoked = app.http.post(format!("{}/revoke", app.public)).form(&form).send().await.unwrap();
        assert_eq!(revoked.status(), StatusCode::OK, "the response for an unknown token");
    }
    assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::OK);
    assert_eq!(app.refresh(&client, &tokens.refresh).await.status(), StatusCode::OK);
}

/// A check refuses a longer token, so its client would refresh endlessly.
#[actix_web::test]
async fn a033_no_access_token_is_issued_that_checks_refuse_for_its_length() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let tokens = app.tokens(&client).await;
    let refresh = async |token: &str, resources: usize| {
        let resource = format!("{RESOURCE}/{}", "x".repeat(1900));
        let mut form =
            vec![("grant_type", "refresh_token"), ("client_id", &*client), ("refresh_token", token)];
        form.extend((0..resources).map(|_| ("resource", &*resource)));
        app.token(&form).await
    };
    let refused = refresh(&tokens.refresh, 4).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    let body: Value = refused.json().await.unwrap();
    assert_eq!(body["error"], "invalid_request");
    assert!(body["error_description"].as_str().unwrap().contains("more than 8192 bytes"), "{body}");
    // The refusal did not use up the refresh token, so this request does not count as reuse.
    let answer = refresh(&tokens.refresh, 1).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let next = Tokens::of(answer).await;
    assert_eq!(app.refresh(&client, &next.refresh).await.status(), StatusCode::OK);
}
