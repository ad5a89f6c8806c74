//! Tests of client ID metadata documents that are fetched from a real https host on loopback.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::app::{REDIRECT, TestApp, Tokens, VERIFIER, authorize_query, error_code};
use super::document_host::{Answer, DocumentHost};

pub(crate) const PATH: &str = "/oauth/client.json";

pub(crate) fn document(host: &DocumentHost) -> Value {
    json!({ "client_id": host.url(PATH), "client_name": "Documented", "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none" })
}

/// An app whose issuer is on loopback, which therefore also accepts documents from loopback addresses.
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

pub(crate) async fn code(app: &TestApp, id: &str, person: &str) -> String {
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
        page.body.contains("<dd>To use all tools of this service (mcp)</dd>"),
        "the page does not show the scope that the service needs: {}",
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
    // A redirect to the first URI is refused, because its `state` could be confused with the `state` of the
    // response.
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
        (head(&format!("302 Found\r\nLocation: {elsewhere}")), "its status is 302"),
        (head("500 Internal Server Error\r\nContent-Type: application/json"), "its status is 500"),
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
    // A refetch that returns the same content is not a change.
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
    // The document of a known client is fetched again, and so is an unknown document for another client address.
    app.wait(Duration::from_secs(61));
    assert_eq!(authorize(&host.url(PATH), "198.51.100.2").await, StatusCode::SEE_OTHER);
    let mut other = document(&host);
    other["client_id"] = json!(host.url("/other.json"));
    host.put("/other.json", Answer::json(&other, ""));
    assert_eq!(authorize(&host.url("/other.json"), "198.51.100.3").await, StatusCode::SEE_OTHER);
    assert_eq!(
        authorize(&host.url("/other.json"), "203.0.113.9").await,
        StatusCode::SEE_OTHER,
        "the document exists now"
    );
}

#[actix_web::test]
async fn a050_who_exceeds_its_own_limit_gets_429_and_all_together_503() {
    let host = DocumentHost::start().await;
    let app = app(&host, &[]).await;
    let authorize = async |n: usize, from: &str| {
        let url = format!("{}/authorize?{}", app.public, query(&host.url(&format!("/made-up/{from}/{n}"))));
        app.http.get(url).header("x-forwarded-for", from).send().await.unwrap()
    };
    let mut last = authorize(0, "203.0.113.9").await;
    for n in 1..30 {
        last = authorize(n, "203.0.113.9").await;
    }
    assert_eq!(last.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(last.headers()["retry-after"], "10");
    let client = host.url("/made-up/another");
    let form = [("client_id", client.as_str()), ("grant_type", "refresh_token"), ("refresh_token", "x")];
    let request = app.http.post(format!("{}/token", app.public)).header("x-forwarded-for", "203.0.113.9");
    let refused = request.form(&form).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["retry-after"], "10");
    // The client must not discard its tokens.
    assert_eq!(error_code(refused).await, "temporarily_unavailable");
    // The limit of the host applies to all addresses together.
    let mut statuses = Vec::new();
    for n in 0..100 {
        statuses.push(authorize(n, &format!("203.0.113.{}", 10 + n)).await.status());
    }
    assert!(statuses.contains(&StatusCode::SERVICE_UNAVAILABLE), "{statuses:?}");
    assert!(!statuses.contains(&StatusCode::TOO_MANY_REQUESTS), "{statuses:?}");
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

#[actix_web::test]
async fn a_document_that_is_away_for_a_moment_does_not_make_a_client_unknown() {
    let host = DocumentHost::start().await;
    let id = host.url(PATH);
    host.put(PATH, Answer::json(&document(&host), "max-age=60"));
    let app = app(&host, &[]).await;
    let code = code(&app, &id, "ana").await;
    let tokens = Tokens::of(app.token(&redemption(&id, &code)).await).await;
    let away = "503 Service Unavailable\r\nContent-Type: application/json".to_owned();
    host.put(PATH, Answer { head: away, body: "{}".to_owned() });
    app.wait(Duration::from_secs(61));
    // The error must not be `invalid_client`, because clients delete their tokens after that error.
    let refused = app.refresh(&id, &tokens.refresh).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "10");
    let body: Value = refused.json().await.unwrap();
    assert_eq!(body["error"], "temporarily_unavailable");
    assert!(body["error_description"].as_str().unwrap().contains("its status is 503"), "{body}");
    host.put(PATH, Answer::json(&document(&host), "max-age=60"));
    assert_eq!(app.refresh(&id, &tokens.refresh).await.status(), StatusCode::OK);
    // An error that the owner of the document must fix is still reported as `invalid_client`.
    host.put(
        PATH,
        Answer { head: "404 Not Found\r\nContent-Type: application/json".to_owned(), body: "{}".to_owned() },
    );
    app.wait(Duration::from_secs(61));
    assert_eq!(error_code(app.refresh(&id, &tokens.refresh).await).await, "invalid_client");
}
